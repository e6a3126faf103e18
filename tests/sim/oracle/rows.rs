//! `Ref ⇒ Link ⇒ Use ⇒ record`, and every other rule of one row about another, after every entry.

use registry_core::metadata::check;

use super::{Invariant, Step};

/// Violations that are told.
const TOLD_MAX: usize = 3;

pub(super) struct Rows;

impl Invariant for Rows {
    fn name(&self) -> &'static str {
        "rows fit together"
    }

    fn entry(&mut self, step: &Step<'_>) -> Result<(), String> {
        // ticks and notes change nothing that another row is about
        if step.writes.len() <= 2 {
            return Ok(());
        }
        let found = check::check(&step.facts.rows, TOLD_MAX).violations;
        if found.is_empty() {
            return Ok(());
        }
        let told: Vec<String> = found.iter().map(|violation| violation.text.clone()).collect();
        Err(format!("after entry {}: {}", step.entry.index, told.join("; ")))
    }
}
