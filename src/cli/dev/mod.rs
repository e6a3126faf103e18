//! `portolan dev`: a whole cluster on this machine, a process for each node, each with an address of its own.
//!
//! The nodes are ordinary servers with ordinary configuration files below one directory; nothing in them knows that
//! they are for trying out. Stopped and started again, the cluster is the same.

mod banner;
mod children;
mod found;
mod plan;
mod prepare;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use clap::Args;
use rustix::fs::{FlockOperation, flock};

use super::connection::read_credential;
use super::error::CliError;
use super::output;
use crate::config::Environment;
use crate::ground::{Shutdown, files};
use children::Children;
use plan::{Plan, PlannedNode};

#[derive(Debug, Args)]
pub(super) struct DevArguments {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=15))]
    nodes: u8,
    /// Zones that the nodes are spread over in turn.
    #[arg(long, value_delimiter = ',', default_value = "a,b,c")]
    zones: Vec<String>,
    /// Directory of everything; left out: portolan/dev in $XDG_STATE_HOME or ~/.local/state.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Second number of the addresses, 127.<REGION>.<ZONE>.<NODE>: for several clusters at a time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=254))]
    region: u8,
    /// First of the four ports of each node: public, raft, blob, admin.
    #[arg(long, default_value_t = 7400, value_parser = clap::value_parser!(u16).range(1024..=65532))]
    port: u16,
    /// A setting for every node, as gc.grace=1h; once for each.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    settings: Vec<String>,
    /// Stop when standard input ends: for a parent that wants no orphans.
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

pub(super) fn run(arguments: DevArguments) -> Result<(), CliError> {
    let plan = plan(&arguments)?;
    files::create_private_dir(&plan.dir).map_err(|error| unwritable(&plan.dir, &error))?;
    let lock = lock(&plan.dir)?;
    prepare::prepare(&plan)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::failed(format!("no runtime: {error}")))?;
    let ended = runtime.block_on(Box::pin(stay(&plan, arguments.settings, arguments.stop_with_stdin)));
    drop(lock);
    ended
}

fn plan(arguments: &DevArguments) -> Result<Plan, CliError> {
    let dir = arguments.dir.clone().or_else(|| Some(Environment::of_process().state_dir()?.join("dev")));
    let dir = dir.ok_or_else(|| CliError::usage("HOME is not set; say where to keep the nodes with --dir"))?;
    let dir = std::path::absolute(&dir).map_err(|error| CliError::usage(format!("{}: {error}", dir.display())))?;
    Plan::new(dir, arguments.nodes, &arguments.zones, arguments.region, arguments.port)
}

fn unwritable(path: &Path, error: &std::io::Error) -> CliError {
    CliError::failed(format!("{} can't be written: {error}; choose another --dir", path.display()))
}

/// Two clusters on one directory would be two processes on one node's data.
fn lock(dir: &Path) -> Result<OwnedFd, CliError> {
    let path = dir.join("lock");
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
    let file = OwnedFd::from(file.map_err(|error| unwritable(&path, &error))?);
    let told = || CliError::failed(format!("{} is in use by another `portolan dev`; stop that one", dir.display()));
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| told())?;
    Ok(file)
}

async fn stay(plan: &Plan, settings: Vec<String>, stop_with_stdin: bool) -> Result<(), CliError> {
    let shutdown = Shutdown::on_signals().map_err(|error| CliError::failed(format!("no signals: {error}")))?;
    if stop_with_stdin {
        shutdown.request_with_stdin();
    }
    let mut children = Children::start(plan, &settings, shutdown.clone())?;
    let credential = read_credential(&plan.root_key_file())?;
    let ready = tokio::select! {
        founded = found::found(plan, &credential) => founded.map(Some),
        ended = children.ended() => Err(CliError::failed(ended.sentence(plan))),
        () = shutdown.requested() => Ok(None),
    };
    match ready {
        Ok(Some(is_new)) => output::show(&banner::banner(plan, &credential, is_new))?,
        Ok(None) => return children.stop().await,
        Err(error) => {
            children.stop().await?;
            return Err(error);
        }
    }
    watch(plan, &mut children, &shutdown).await
}

/// Until somebody wishes to stop, or nothing is left to watch.
async fn watch(plan: &Plan, children: &mut Children, shutdown: &Shutdown) -> Result<(), CliError> {
    loop {
        tokio::select! {
            () = shutdown.requested() => {
                output::show("stopping the nodes; their data stays")?;
                return children.stop().await;
            }
            ended = children.ended() => {
                eprintln!("{}", output::lines_safe(&ended.sentence(plan)));
                if children.is_empty() {
                    return Err(CliError::failed("no node is left; `portolan dev` starts them again"));
                }
                eprintln!("start it again with: {}", ended.command(plan));
            }
        }
    }
}

impl PlannedNode {
    /// Its configuration file.
    fn config_file(&self) -> PathBuf {
        self.dir.join("portolan.toml")
    }

    /// Where it logs to.
    fn log_file(&self) -> PathBuf {
        self.dir.join("node.log")
    }

    /// Where its certificates are.
    fn certs_dir(&self) -> PathBuf {
        self.dir.join("certs")
    }
}
