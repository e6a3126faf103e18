//! Replication between regions: which record of a register wins, and what a rule sends where.
//!
//! Pure, and the same on both sides of a link: two regions that hold the same records decide the same. Start at
//! [`rank`] for the one merge rule, at [`rules`] for what is sent.

pub mod rank;
pub mod rules;
