//! The verdict, for people and for machines.

use std::path::Path;

use serde_json::json;

use crate::checker::Verdict;
use crate::fault::{Fault, told};

/// Name of the file in a run's directory.
const FILE: &str = "verdict.json";

/// Writes the verdict beside the history and shows it; whether everything held.
pub(crate) fn tell(dir: &Path, verdicts: &[Verdict]) -> Result<bool, Fault> {
    let is_good = verdicts.iter().all(|verdict| verdict.is_good);
    let document = json!({"good": is_good, "checkers": verdicts});
    let text = serde_json::to_vec_pretty(&document).expect("documents have text keys");
    let path = dir.join(FILE);
    std::fs::write(&path, text).map_err(told(&format!("{} can't be written", path.display())))?;
    print!("{}", words(verdicts));
    let verdict = if is_good { "GOOD" } else { "BAD" };
    println!("{verdict}: {}", dir.display());
    Ok(is_good)
}

/// A line for each judge, and what it found wrong.
fn words(verdicts: &[Verdict]) -> String {
    let mut text = String::new();
    for Verdict { checker, is_good, figures, problems, problem_count } in verdicts {
        let word = if *is_good { "good" } else { "BAD " };
        text.push_str(&format!("{word} {checker:10} {figures}\n"));
        for problem in problems {
            text.push_str(&format!("       {problem}\n"));
        }
        if *problem_count > problems.len() {
            text.push_str(&format!("       … {problem_count} problems in all\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    // One bad judge makes the whole bad, and what it found is shown.
    #[test]
    fn one_bad_is_bad() {
        let verdict = |is_good: bool| Verdict {
            checker: "lost",
            is_good,
            figures: json!({"acknowledged": 3}),
            problems: if is_good { Vec::new() } else { vec!["r:t: LOST on b-1".to_owned()] },
            problem_count: if is_good { 0 } else { 7 },
        };
        let dir = tempfile::tempdir().unwrap();
        assert!(tell(dir.path(), &[verdict(true), verdict(true)]).unwrap());
        assert!(!tell(dir.path(), &[verdict(true), verdict(false)]).unwrap());
        let shown = words(&[verdict(false)]);
        assert!(
            shown.contains("BAD  lost") && shown.contains("LOST on b-1") && shown.contains("7 problems"),
            "{shown}"
        );
    }
}
