//! Decisions: pure functions from what is known to what shall be, with the reason.
//!
//! Never records anything. Start at [`tag_move`].

pub mod permit;
pub mod seal;
pub mod tag_move;
