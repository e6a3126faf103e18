//! What came of a run: latencies, bytes and failures, gathered by all clients.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::conversation::Failure;
use crate::cli::error::CliError;
use crate::cli::output::{Column, Printer};

/// Latencies up to an hour, to three digits.
const LATENCY_US_MAX: u64 = 3600 * 1_000_000;
/// Kinds of failures that are told apart.
const FAILURES_MAX: usize = 16;
const TENTHS: u64 = 10;

/// Gathers results while a run is under way.
#[derive(Debug)]
pub(super) struct Tally(Mutex<Results>);

#[derive(Debug)]
struct Results {
    latency_us: Histogram<u64>,
    bytes: u64,
    errors: u64,
    failures: BTreeMap<String, u64>,
    /// Operations that a tenth of the run has; 0 when the run has no count.
    tenth: u64,
    /// When each tenth was done, seconds.
    tenths_s: Vec<f64>,
}

impl Tally {
    /// For a run of `count` operations, or of an unknown number.
    pub(super) fn new(count: u64) -> Tally {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are legal");
        let tenth = if count == u64::MAX { 0 } else { count / TENTHS };
        let (failures, tenths_s) = (BTreeMap::new(), Vec::new());
        Tally(Mutex::new(Results { latency_us, bytes: 0, errors: 0, failures, tenth, tenths_s }))
    }

    /// An operation succeeded: how long it took, how much it moved, how far into the run this was.
    pub(super) fn succeeded(&self, latency: Duration, bytes: u64, elapsed: Duration) {
        let mut results = self.0.lock();
        results.latency_us.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        results.bytes += bytes;
        if results.tenth > 0 && results.latency_us.len().is_multiple_of(results.tenth) {
            results.tenths_s.push(elapsed.as_secs_f64());
        }
    }

    /// An operation failed.
    pub(super) fn failed(&self, failure: &Failure) {
        let mut results = self.0.lock();
        results.errors += 1;
        let text = failure.to_string();
        if results.failures.len() < FAILURES_MAX || results.failures.contains_key(&text) {
            *results.failures.entry(text).or_default() += 1;
        }
    }

    /// How many operations are over, failed ones included.
    pub(super) fn over(&self) -> u64 {
        let results = self.0.lock();
        results.latency_us.len() + results.errors
    }

    /// What came of it.
    pub(super) fn report(&self, elapsed: Duration, described: Value) -> Report {
        let results = self.0.lock();
        let seconds = elapsed.as_secs_f64().max(1e-9);
        let ok = results.latency_us.len();
        let at = |percentile: f64| rounded(results.latency_us.value_at_percentile(percentile) as f64 / 1000.0);
        let mut document = json!({
            "ok": ok,
            "errors": results.errors,
            "seconds": rounded(seconds),
            "ops_s": rounded(ok as f64 / seconds),
            "mb_s": rounded(results.bytes as f64 / seconds / 1e6),
            "bytes": results.bytes,
            "mean_ms": rounded(results.latency_us.mean() / 1000.0),
            "p50_ms": at(50.0),
            "p90_ms": at(90.0),
            "p99_ms": at(99.0),
            "p999_ms": at(99.9),
            "max_ms": rounded(results.latency_us.max() as f64 / 1000.0),
            "error_samples": results.failures,
        });
        if results.tenths_s.len() as u64 == TENTHS {
            document["tenths_s"] = results.tenths_s.iter().map(|at| rounded(*at)).collect();
            document["last_to_first"] = json!(rounded(last_to_first(&results.tenths_s)));
        }
        if let (Value::Object(document), Value::Object(described)) = (&mut document, described) {
            document.extend(described);
        }
        Report(document)
    }
}

/// Rate of the last tenth, as a share of the first one's.
fn last_to_first(tenths_s: &[f64]) -> f64 {
    match tenths_s {
        [first, .., before, last] => first / (last - before).max(1e-9),
        _ => 1.0,
    }
}

fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

/// What came of a run.
#[derive(Clone, Debug)]
pub(super) struct Report(Value);

const COLUMNS: [Column; 16] = [
    ("workload", "workload"),
    ("targets", "targets"),
    ("clients", "clients"),
    ("operations", "ok"),
    ("errors", "errors"),
    ("seconds", "seconds"),
    ("per second", "ops_s"),
    ("MB/s", "mb_s"),
    ("mean ms", "mean_ms"),
    ("p50 ms", "p50_ms"),
    ("p90 ms", "p90_ms"),
    ("p99 ms", "p99_ms"),
    ("p99.9 ms", "p999_ms"),
    ("max ms", "max_ms"),
    ("last tenth / first", "last_to_first"),
    ("own CPU seconds", "client_cpu_s"),
];

impl Report {
    /// Shows it. A run in which nothing succeeded has failed.
    pub(super) fn print(&self, printer: Printer) -> Result<(), CliError> {
        printer.one(&self.0, &COLUMNS)?;
        let samples = self.0["error_samples"].as_object();
        for (text, count) in samples.into_iter().flatten() {
            eprintln!("{count} times: {}", crate::cli::output::safe(text));
        }
        if self.0["ok"] == 0 { Err(CliError::failed("no operation succeeded")) } else { Ok(()) }
    }

    /// Operations that failed, with the first reason.
    pub(super) fn failure(&self) -> Option<String> {
        let (text, _) = self.0["error_samples"].as_object()?.iter().next()?;
        Some(text.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Percentiles, rates and tenths are those of what was put in.
    #[test]
    fn report() {
        let tally = Tally::new(100);
        for step in 1..=100_u64 {
            tally.succeeded(Duration::from_millis(step), 10, Duration::from_millis(10 * step));
        }
        tally.failed(&Failure::Status(503));
        tally.failed(&Failure::Status(503));
        let Report(report) = tally.report(Duration::from_secs(2), json!({"workload": "x"}));
        assert_eq!((report["ok"].as_u64(), report["errors"].as_u64()), (Some(100), Some(2)));
        assert_eq!((report["ops_s"].as_f64(), report["bytes"].as_u64()), (Some(50.0), Some(1000)));
        let close = |name: &str, to: f64| (report[name].as_f64().unwrap() - to).abs() < to * 0.01;
        assert!(close("p50_ms", 50.0) && close("p99_ms", 99.0) && close("max_ms", 100.0), "{report}");
        assert_eq!(report["error_samples"]["the node answers 503"], 2);
        assert_eq!(report["tenths_s"].as_array().map(Vec::len), Some(10));
        assert!(close("last_to_first", 1.0), "{report}");
        assert_eq!(tally.over(), 102);
    }

    // Whatever goes wrong, and however often, takes bounded room.
    #[test]
    fn failures_are_bounded() {
        let tally = Tally::new(u64::MAX);
        (0..1000).for_each(|status| tally.failed(&Failure::Status(status)));
        let Report(report) = tally.report(Duration::from_secs(1), Value::Null);
        assert_eq!(report["error_samples"].as_object().map(serde_json::Map::len), Some(FAILURES_MAX));
        assert!(report.get("tenths_s").is_none());
    }
}
