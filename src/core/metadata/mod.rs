//! What the cluster remembers: commands, their apply, the tables they write.
//!
//! One file per noun holds the whole slice: rows, reads, commands. Never reads a clock, draws a random number or
//! touches a file. Start at [`keys`] for the map of the keyspace, at [`command`] for the list of changes, at [`apply`]
//! for how a log entry becomes writes.

pub mod above;
pub mod absence;
pub mod apply;
pub mod backfill;
pub mod blob;
pub mod census;
pub mod check;
pub mod clock;
pub mod cluster;
pub mod codec;
pub mod command;
pub mod conflict;
pub mod cursor;
pub mod dry_run;
pub mod ended;
pub mod gc;
pub mod gone;
pub mod history;
pub mod idle;
pub mod keys;
pub mod link;
pub mod manifest;
pub mod need;
pub mod node;
pub mod offer;
pub mod outbox;
pub mod parked;
pub mod peer;
pub mod places;
pub mod principal;
pub mod quota;
pub mod referrer;
pub mod region_link;
pub mod register;
pub mod remote;
pub mod replica;
pub mod replication_rules;
pub mod reply;
pub mod repository;
pub mod settings;
pub mod shared;
pub mod sweep;
pub mod tables;
pub mod tag;
pub mod testing;
pub mod untagged;
pub mod upgrade;
pub mod upload;
pub mod usage;
