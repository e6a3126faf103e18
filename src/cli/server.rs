//! `portolan server`: configuration in, a node until it is told to stop.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::error::CliError;
use crate::config::{Loaded, Settings, Sources};
use crate::ground::telemetry::{self, Logging};
use crate::ground::traces::{self, Tracing};
use crate::ground::{Shutdown, files};
use crate::node::Databases;

#[cfg(feature = "mutants")]
mod mutant;

/// How long databases may take to close when everything else has ended.
const CLOSE_MAX: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(super) struct ServerArguments {
    #[command(flatten)]
    pub(super) configuration: ConfigurationArguments,
    /// Join a cluster with what `portolan certs invite` wrote; needed at the first start only.
    #[arg(long, value_name = "FILE")]
    join_token_file: Option<PathBuf>,
    /// Stop when standard input ends: for a parent that wants no orphans.
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

/// Where settings come from, for every command that reads them.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct ConfigurationArguments {
    /// Configuration file (TOML); also from PORTOLAN_CONFIG.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory for everything the node keeps.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// A setting, as node.zone=a; once for each. See `portolan config reference`.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    settings: Vec<String>,
}

impl ConfigurationArguments {
    /// Everything that is set, from all sources.
    pub(super) fn sources(&self) -> Sources {
        let mut sources = Sources::of_process();
        if let Some(file) = &self.config {
            sources.file = Some(file.clone());
        }
        if let Some(dir) = &self.data_dir {
            let value = dir.display().to_string();
            sources.flags.push(("--data-dir".to_owned(), "node.data_dir".to_owned(), value));
        }
        for setting in &self.settings {
            let (path, value) = setting.split_once('=').unwrap_or((setting, ""));
            sources.flags.push((format!("--set {path}"), path.to_owned(), value.to_owned()));
        }
        sources
    }

    /// The settings, or all mistakes.
    pub(super) fn load(&self) -> Result<Loaded, CliError> {
        load(&self.sources())
    }
}

impl ServerArguments {
    fn load(&self) -> Result<Loaded, CliError> {
        let mut sources = self.configuration.sources();
        if let Some(file) = &self.join_token_file {
            let (flag, setting) = ("--join-token-file", "cluster.join_token_file");
            sources.flags.push((flag.to_owned(), setting.to_owned(), file.display().to_string()));
        }
        load(&sources)
    }
}

fn load(sources: &Sources) -> Result<Loaded, CliError> {
    sources.load().map_err(|mistakes| CliError::usage(mistakes.to_string()))
}

pub(super) fn run(arguments: &ServerArguments) -> Result<(), CliError> {
    #[cfg(feature = "mutants")]
    mutant::choose()?;
    let Loaded { settings, warnings, .. } = arguments.load()?;
    prepare_audit_dir(&settings)?;
    let logging = Logging {
        format: settings.log.format,
        filter: settings.log.level.clone(),
        audit_file: settings.log.audit_file.clone(),
        tracing: tracing(&settings),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::failed(format!("no runtime: {error}")))?;
    // the connection to a collector lives on it
    let within = runtime.enter();
    telemetry::start_logs(&logging).map_err(|error| CliError::usage(error.to_string()))?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    raise_open_files(settings.http.max_connections);
    drop(within);
    let databases = Databases::default();
    let ended = runtime.block_on(serve(settings, arguments.stop_with_stdin, databases.clone()));
    traces::end();
    // What is left on blocking threads by now has had its time.
    runtime.shutdown_timeout(Duration::from_secs(1));
    if !databases.wait_closed(CLOSE_MAX) {
        tracing::warn!("something still reads the databases: the process ends all the same");
    }
    ended
}

/// Where traces go, and what stands on each.
fn tracing(settings: &Settings) -> Option<Tracing> {
    let endpoint = settings.trace.endpoint.clone()?;
    let labels = vec![
        ("service.instance.id", settings.listen.public.to_string()),
        ("portolan.zone", settings.node.zone.to_string()),
        ("portolan.region", settings.node.region.to_string()),
    ];
    Some(Tracing { endpoint, percent: f64::from(settings.trace.percent), labels })
}

async fn serve(settings: Settings, stop_with_stdin: bool, databases: Databases) -> Result<(), CliError> {
    let shutdown = Shutdown::on_signals().map_err(|error| CliError::failed(format!("no signals: {error}")))?;
    if stop_with_stdin {
        shutdown.request_with_stdin();
    }
    let ended = Box::pin(crate::node::run(settings, shutdown, databases)).await;
    ended.map_err(|error| CliError::failed(error.to_string()))
}

fn prepare_audit_dir(settings: &Settings) -> Result<(), CliError> {
    let Some(dir) = settings.log.audit_file.as_deref().and_then(std::path::Path::parent) else { return Ok(()) };
    if dir.as_os_str().is_empty() {
        return Ok(());
    }
    let told = |error| CliError::failed(format!("log.audit_file: {} can't be made: {error}", dir.display()));
    files::create_private_dir(dir).map_err(told)
}

/// Takes as many open files as the system grants, and says so when that is less than the connections want.
fn raise_open_files(connections: u32) {
    let limit = getrlimit(Resource::Nofile);
    if let (Some(current), maximum) = (limit.current, limit.maximum)
        && maximum.is_none_or(|maximum| current < maximum)
        // What remains is the former limit, which is told below when it is too small.
        && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_err()
    {
        tracing::debug!("the limit of open files stays at {current}");
    }
    let wanted = u64::from(connections) + 1024;
    if let Some(granted) = getrlimit(Resource::Nofile).current.filter(|granted| *granted < wanted) {
        tracing::warn!(
            "the limit of open files is {granted}, below the {wanted} that http.max_connections = {connections} may need; \
             raise it (ulimit -n, LimitNOFILE=) or lower the setting"
        );
    }
}
