//! Portolan's pure core: vocabulary, metadata commands, decisions.
//!
//! Given equal tables and equal commands every node for ever produces equal bytes: nothing here knows a clock, a random
//! source, a file, a socket, the environment or the order of a hash map. Start at [`vocabulary`] for the words, at
//! [`metadata`] for what is remembered and how it changes, at [`decide`] for the rules.

pub mod decide;
pub mod metadata;
pub mod mutants;
pub mod vocabulary;
