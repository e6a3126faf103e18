//! Replication between regions: which record of a register wins, what a rule sends where, and whether two regions hold
//! the same.
//!
//! Pure, and the same on both sides of a link: two regions that hold the same records decide the same. Start at
//! [`rank`] for the one merge rule, at [`rules`] and [`tags`] for what is sent, at [`compare`] for what a difference
//! means, at [`shown`] for what a region shows of bytes that it says it has.

pub mod compare;
pub mod rank;
pub mod rules;
pub mod sample;
pub mod shown;
pub mod tags;
