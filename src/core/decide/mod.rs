//! Decisions: pure functions from what is known to what shall be, with the reason.
//!
//! Nothing here records, waits or asks; the same input gives the same answer on every node, and the answer says why,
//! so that an operator can ask. Start at [`placement`] for where bytes live, at [`policy`] for who may do what, at
//! [`tag_move`] for whether a tag may move, at [`quota`] for how much may be held, at [`replication`] for what another
//! region gets and whose change counts, at [`nearest`] for where a client gets its bytes from, at [`clock_skew`] for
//! whose clock is wrong.

pub mod clock_skew;
pub mod fuse;
pub mod nearest;
pub mod permit;
pub mod placement;
pub mod policy;
pub mod quota;
pub mod replication;
pub mod seal;
pub mod tag_move;
pub mod voters;
