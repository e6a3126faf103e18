//! Logs and metrics.
//!
//! A log line is a sentence that reads alone, with the same facts as dotted fields beside it; the id of a request is a
//! field of its span. Records with target `audit` are written whatever the filter says. Metrics are kept here and
//! rendered by whoever serves `/metrics`; their names carry the unit.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use parking_lot::Mutex;
use tracing::Subscriber;
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use super::files::PRIVATE_FILE_MODE;
use super::metric_list;
use super::traces::{self, TraceError, Tracing};

/// Target of audit records: who did what, when, from where, with which result.
pub const AUDIT: &str = "audit";

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// What is logged, how and where to.
#[derive(Clone, Debug)]
pub struct Logging {
    /// How lines look.
    pub format: LogFormat,
    /// Directives of `tracing_subscriber::EnvFilter`, as `info` or `info,portolan::blob=debug`.
    pub filter: String,
    /// File that audit records are appended to (always JSON); `None`: among the other lines.
    pub audit_file: Option<PathBuf>,
    /// Where traces go; `None`: nowhere.
    pub tracing: Option<Tracing>,
}

/// Why logging could not begin.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter's grammar.
    #[error(
        "log.level = {0:?} is not understood; write \"error\", \"warn\", \"info\", \"debug\" or \"trace\", or one for \
         each part, as \"info,portolan::blob=debug\""
    )]
    Filter(String),
    /// The audit file.
    #[error("audit file {} can't be opened: {source}; make its directory writable for this user", path.display())]
    AuditFile {
        /// As configured.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The collector of traces.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// A process logs once.
    #[error("logging has begun already")]
    Again,
}

/// Begins logging to standard error, and tracing, for the whole process; within a runtime if there is tracing.
///
/// # Errors
/// When the filter is not understood, the audit file can't be opened, the collector is no address, or logging has begun
/// already.
pub fn start_logs(logging: &Logging) -> Result<(), LogError> {
    subscriber(logging, io::stderr)?.try_init().map_err(|_| LogError::Again)
}

/// Checks a filter's grammar.
///
/// # Errors
/// [`LogError::Filter`] with what is wrong.
pub fn check_filter(filter: &str) -> Result<(), LogError> {
    parse_filter(filter).map(drop)
}

fn parse_filter(filter: &str) -> Result<EnvFilter, LogError> {
    let parsed = EnvFilter::builder().parse(filter);
    let parsed = parsed.map_err(|_| LogError::Filter(filter.to_owned()))?;
    if filter.contains(raft::ENGINE_LOG_TARGET) {
        return Ok(parsed);
    }
    // The engine of consensus tells its inner life at "info", in lines of kilobytes, and warns of each heartbeat that a
    // dead node misses, hundreds a second: only to who asks for it by name. What it sends besides it warns of too.
    let is_told = |levels: &[&str]| levels.iter().any(|level| filter.contains(level));
    let mut quiet = Vec::new();
    if is_told(&["info", "debug", "trace"]) {
        quiet.push(format!("{}=warn", raft::ENGINE_LOG_TARGET));
    }
    if is_told(&["warn", "info", "debug", "trace"]) {
        quiet.push(format!("{}::core::heartbeat=error", raft::ENGINE_LOG_TARGET));
    }
    let directive = |text: String| text.parse().expect("a target and a level are a directive");
    Ok(quiet.into_iter().map(directive).fold(parsed, EnvFilter::add_directive))
}

fn subscriber<W>(logging: &Logging, writer: W) -> Result<impl Subscriber + Send + Sync + 'static, LogError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let audit = match &logging.audit_file {
        Some(path) => Some(ReopenedFile::open(path)?),
        None => None,
    };
    let has_file = audit.is_some();
    let audit_directive = format!("{AUDIT}={}", if has_file { "off" } else { "info" });
    let directive = audit_directive.parse().expect("a target and a level are a directive");
    let untraced = format!("{}=off", traces::TARGET).parse().expect("a target and a level are a directive");
    let filter = parse_filter(&logging.filter)?.add_directive(directive).add_directive(untraced);
    let audit = audit.map(|file| json(file).with_filter(filter_fn(|event| event.target() == AUDIT)));
    let main: Box<dyn Layer<Registry> + Send + Sync> = match logging.format {
        LogFormat::Json => json(writer).with_filter(filter).boxed(),
        LogFormat::Text => fmt::layer().with_writer(writer).with_ansi(false).with_filter(filter).boxed(),
    };
    let mut layers = vec![main];
    if let Some(tracing) = &logging.tracing {
        let spans = filter_fn(|seen| seen.is_span() && seen.target() == traces::TARGET);
        layers.push(traces::layer(tracing)?.with_filter(spans).boxed());
    }
    Ok(Registry::default().with(layers).with(audit))
}

fn json<S, W>(writer: W) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    fmt::layer().json().flatten_event(true).with_current_span(true).with_span_list(false).with_writer(writer)
}

/// A file that is opened again when its name points elsewhere, so that a log rotation needs no signal.
struct ReopenedFile {
    path: PathBuf,
    file: Mutex<File>,
}

impl ReopenedFile {
    fn open(path: &Path) -> Result<ReopenedFile, LogError> {
        let opened = open_append(path).map_err(|source| LogError::AuditFile { path: path.to_owned(), source });
        Ok(ReopenedFile { path: path.to_owned(), file: Mutex::new(opened?) })
    }
}

fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(PRIVATE_FILE_MODE).open(path)
}

impl<'w> MakeWriter<'w> for ReopenedFile {
    type Writer = &'w ReopenedFile;

    fn make_writer(&'w self) -> &'w ReopenedFile {
        self
    }
}

impl Write for &ReopenedFile {
    // Called once per record, with the whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut file = self.file.lock();
        let opened = file.metadata()?.ino();
        if std::fs::metadata(&self.path).map(|found| found.ino()).ok() != Some(opened) {
            *file = open_append(&self.path)?;
        }
        file.write_all(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How often the recorder folds what it gathered; without it, memory grows while nobody scrapes.
pub const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// Upper bounds of the buckets of metrics named `…_seconds`.
const SECONDS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];
/// Upper bounds of the buckets of metrics named `…_bytes`.
const BYTES: &[f64] = &[1024.0, 65536.0, 1048576.0, 16777216.0, 134217728.0, 1073741824.0, 10737418240.0];

/// The process's metrics.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl std::fmt::Debug for Metrics {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Metrics")
    }
}

impl Metrics {
    /// Makes this the recorder of the `metrics` macros for the whole process; `labels` stand on every metric.
    /// `None` when there is one already. Whoever starts it calls [`Metrics::upkeep`] every [`METRICS_UPKEEP`].
    pub fn start(labels: &[(&str, &str)]) -> Option<Metrics> {
        let recorder = builder(labels).build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).ok()?;
        metric_list::describe();
        Some(Metrics(handle))
    }

    /// Folds what was gathered since the last time.
    pub fn upkeep(&self) {
        self.0.run_upkeep();
    }

    /// All metrics in the Prometheus text format (`text/plain; version=0.0.4`).
    pub fn render(&self) -> String {
        process_gauges();
        self.0.render()
    }
}

fn builder(labels: &[(&str, &str)]) -> PrometheusBuilder {
    let builder =
        labels.iter().fold(PrometheusBuilder::new(), |builder, (name, value)| builder.add_global_label(*name, *value));
    let buckets = [("_seconds", SECONDS), ("_bytes", BYTES)];
    buckets.into_iter().fold(builder, |builder, (suffix, bounds)| {
        let matcher = Matcher::Suffix(suffix.to_owned());
        builder.set_buckets_for_metric(matcher, bounds).expect("the bounds are not empty")
    })
}

/// What the kernel says of this process. A figure that can't be read stays as it was.
fn process_gauges() {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).ok();
    let pages = read("statm").and_then(|text| text.split(' ').nth(1)?.parse::<f64>().ok());
    if let (Some(pages), Ok(page_bytes)) = (pages, u32::try_from(rustix::param::page_size())) {
        metrics::gauge!("process_resident_memory_bytes").set(pages * f64::from(page_bytes));
    }
    // Fields after the command's name, which may itself hold spaces and brackets: proc_pid_stat(5), fields 14 and 15.
    let ticks = read("stat").and_then(|text| {
        let fields: Vec<f64> = text.rsplit(')').next()?.split(' ').filter_map(|field| field.parse().ok()).collect();
        Some(fields.get(10)? + fields.get(11)?)
    });
    if let (Some(ticks), Ok(per_second)) = (ticks, u32::try_from(rustix::param::clock_ticks_per_second())) {
        metrics::gauge!("process_cpu_seconds").set(ticks / f64::from(per_second));
    }
    if let Ok(Ok(open)) = std::fs::read_dir("/proc/self/fd").map(|dir| u32::try_from(dir.count())) {
        metrics::gauge!("process_open_fds").set(f64::from(open));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(logging: &Logging) -> Vec<serde_json::Value> {
        let lines = Lines::default();
        let writer = lines.clone();
        tracing::subscriber::with_default(subscriber(logging, move || writer.clone()).unwrap(), || {
            let _request = tracing::info_span!("request", request.id = "r-1").entered();
            tracing::debug!("hidden");
            tracing::info!(repository.name = "a/b", "pushed a/b");
            tracing::info!(target: AUDIT, principal = "root", "put manifest");
        });
        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    // A line is an object with the sentence, its fields and the request's id; the filter holds, but not for audit.
    #[test]
    fn json_lines() {
        let logging = Logging { format: LogFormat::Json, filter: "info".into(), audit_file: None, tracing: None };
        let lines = logged(&logging);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["message"], "pushed a/b");
        assert_eq!(lines[0]["repository.name"], "a/b");
        assert_eq!(lines[0]["span"]["request.id"], "r-1");
        let silent = Logging { filter: "off".into(), ..logging };
        assert_eq!(logged(&silent)[0]["target"], AUDIT);
    }

    // Audit records go to their own file when there is one, which is private, and which may be moved away.
    #[test]
    fn audit_file() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let logging =
            Logging { format: LogFormat::Json, filter: "info".into(), audit_file: Some(path.clone()), tracing: None };
        assert_eq!(logged(&logging).len(), 1);
        let records = std::fs::read_to_string(&path).unwrap();
        assert_eq!(records.lines().count(), 1);
        assert!(records.contains("\"principal\":\"root\""));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let file = ReopenedFile::open(&path).unwrap();
        (&file).write_all(b"one\n").unwrap();
        std::fs::rename(&path, dir.path().join("audit.1")).unwrap();
        (&file).write_all(b"two\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
    }

    // The engine of consensus is quiet unless it is asked for by name.
    #[test]
    fn engine_is_quiet() {
        let shown = |filter: &str| parse_filter(filter).unwrap().to_string();
        let quiet = format!("{}=warn", raft::ENGINE_LOG_TARGET);
        for filter in ["info", "trace", "info,portolan::blob=debug"] {
            assert!(shown(filter).contains(&quiet), "{filter}");
        }
        let loud = format!("info,{}=debug", raft::ENGINE_LOG_TARGET);
        for filter in ["off", "error", "warn", &loud] {
            assert!(!shown(filter).contains(&quiet), "{filter}");
        }
        let calm = format!("{}::core::heartbeat=error", raft::ENGINE_LOG_TARGET);
        assert!(shown("warn").contains(&calm) && shown("info").contains(&calm));
        assert!(!shown("error").contains(&calm) && !shown(&loud).contains(&calm));
    }

    // A filter that is not understood says how to write one.
    #[test]
    fn bad_filter() {
        let text = check_filter("info,portolan=loud").unwrap_err().to_string();
        assert!(text.contains("\"info,portolan=loud\"") && text.contains("write \"error\""), "{text}");
        check_filter("warn,portolan::blob=debug").unwrap();
    }

    // What is counted is rendered with the global labels; durations are histograms with our bounds.
    #[test]
    fn renders() {
        let recorder = builder(&[("zone", "a")]).build_recorder();
        let metrics = Metrics(recorder.handle());
        let text = metrics::with_local_recorder(&recorder, || {
            metrics::counter!("portolan_things_total").increment(2);
            metrics::histogram!("portolan_wait_seconds").record(0.003);
            metrics.render()
        });
        assert!(text.contains("portolan_things_total{zone=\"a\"} 2"), "{text}");
        assert!(text.contains("portolan_wait_seconds_bucket{zone=\"a\",le=\"0.005\"} 1"), "{text}");
        for name in ["process_resident_memory_bytes", "process_cpu_seconds", "process_open_fds"] {
            assert!(text.contains(name), "{name} in {text}");
        }
    }
}
