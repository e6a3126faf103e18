//! The verdict, for people and for machines, and a page that shows the whole run.

mod chart;
mod page;
mod series;

use std::path::Path;

use serde_json::json;

use crate::checker::Verdict;
use crate::cluster::Record;
use crate::fault::{Fault, told};
use crate::history::Event;

/// Names of the files in a run's directory.
const FILE: &str = "verdict.json";
const PAGE: &str = "report.html";

/// Writes the verdict beside the history and shows it; whether everything held.
pub(crate) fn tell(dir: &Path, events: &[Event], verdicts: &[Verdict]) -> Result<bool, Fault> {
    let is_good = verdicts.iter().all(|verdict| verdict.is_good);
    let document = json!({"good": is_good, "checkers": verdicts});
    let text = serde_json::to_vec_pretty(&document).expect("documents have text keys");
    let path = dir.join(FILE);
    std::fs::write(&path, text).map_err(told(&format!("{} can't be written", path.display())))?;
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let page = page::page(&name, &Record::options(dir).unwrap_or_default(), events, verdicts);
    let path = dir.join(PAGE);
    std::fs::write(&path, page).map_err(told(&format!("{} can't be written", path.display())))?;
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
        assert!(tell(dir.path(), &[], &[verdict(true), verdict(true)]).unwrap());
        assert!(!tell(dir.path(), &[], &[verdict(true), verdict(false)]).unwrap());
        let shown = words(&[verdict(false)]);
        assert!(
            shown.contains("BAD  lost") && shown.contains("LOST on b-1") && shown.contains("7 problems"),
            "{shown}"
        );
    }
}
