//! What is wrong with a configuration, told all at once.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: the default.
    Default,
    /// A line of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// A variable of the environment.
    Environment(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => out.write_str("default"),
            Origin::File { path, line } => write!(out, "{}:{line}", path.display()),
            Origin::Environment(name) | Origin::Flag(name) => out.write_str(name),
        }
    }
}

/// One thing that is wrong, as a sentence that says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where it stands; the default for what is missing, or wrong only together.
    pub origin: Origin,
    /// The sentence.
    pub text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Default => out.write_str(&self.text),
            Origin::File { .. } | Origin::Environment(_) | Origin::Flag(_) => {
                write!(out, "{}: {}", self.origin, self.text)
            }
        }
    }
}

/// Everything that is wrong; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        let noun = if count == 1 { "mistake" } else { "mistakes" };
        write!(out, "the configuration has {count} {noun}:")?;
        self.0.iter().try_for_each(|mistake| write!(out, "\n  {mistake}"))
    }
}

impl std::error::Error for Mistakes {}

/// The known word that is most like `word`, when one is near enough to be meant.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let known: Vec<&str> = known.into_iter().collect();
    let scored = known.iter().map(|candidate| (strsim::damerau_levenshtein(&word, candidate), *candidate));
    let near = scored.min_by_key(|(distance, _)| *distance).filter(|(distance, near)| *distance <= 1 + near.len() / 4);
    let part =
        || known.iter().copied().find(|known| word.len() >= 4 && (known.contains(&word) || word.contains(known)));
    near.map(|(_, near)| near).or_else(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    // A proposal is made for slips of the finger and for parts of a word, and none out of thin air.
    #[test]
    fn proposes() {
        let known = ["zone", "region", "data_dir", "election_min"];
        let table = [
            ("zoen", Some("zone")),
            ("Zone", Some("zone")),
            ("data-dir", Some("data_dir")),
            ("election", Some("election_min")),
            ("colour", None),
            ("", None),
        ];
        for (word, expected) in table {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
    }
}
