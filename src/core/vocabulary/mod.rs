//! The words of the product as types: parsed once at the edge, passed typed everywhere else.
//!
//! Never decides, never records. Start at [`digest`] and [`ids`].

pub mod digest;
pub mod ids;
