//! `[trace]`

use crate::config::section::section;

section! {
    /// Traces of requests, sent to a collector by OTLP over gRPC.
    TraceSection "trace"

    /// The collector, as "http://127.0.0.1:4317"; unencrypted, so one on this machine. Left out: no traces.
    endpoint: Option<String> = None;

    /// Of how many requests in a hundred; those that a trusted proxy has begun to trace are traced in any case.
    percent: u8 = 1 => 1..=100;
}
