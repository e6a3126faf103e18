//! The world's edge: clocks, randomness, secrets, files, sockets, TLS, logs, metrics, and the wish to stop.
//!
//! Every other room that needs the world asks here, so that a test can put something else in its place. Never decides
//! anything about registries, and never reads configuration: it is handed plain values. Start at the file of the thing
//! you need; each stands alone.

pub mod certs;
pub mod clock;
pub mod crowd;
pub mod files;
pub mod join_token;
pub mod metric_list;
pub mod pacer;
pub mod random;
pub mod reload;
pub mod secret;
pub mod shutdown;
#[cfg(feature = "sim")]
pub mod simulated;
pub mod sockets;
pub mod telemetry;
pub mod threads;
pub mod tls;
pub mod traces;
pub mod traffic;

pub use clock::{Clock, SystemClock};
pub use crowd::Crowd;
pub use secret::Secret;
pub use shutdown::Shutdown;
