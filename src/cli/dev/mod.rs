//! `portolan dev`: a whole cluster on this machine, a process for each node, each with an address of its own.
//!
//! The nodes are ordinary servers with ordinary configuration files below one directory; nothing in them knows that
//! they are for trying out. Stopped and started again, the cluster is the same.

mod banner;
mod children;
mod found;
mod link;
mod plan;
mod prepare;
mod wire;

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
use wire::Wires;

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
    /// How many regions, each a cluster of its own that knows the others: dev-1 at 127.<REGION>, dev-2 at the next
    /// number.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=4))]
    regions: u8,
    /// First of the five ports of each node: public, raft, blob, admin, other regions.
    #[arg(long, default_value_t = 7400, value_parser = clap::value_parser!(u16).range(1024..=65531))]
    port: u16,
    /// A setting for every node, as gc.grace=1h; once for each.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    settings: Vec<String>,
    /// Stop when standard input ends: for a parent that wants no orphans.
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

pub(super) fn run(arguments: DevArguments) -> Result<(), CliError> {
    let (dir, plans) = plans(&arguments)?;
    files::create_private_dir(&dir).map_err(|error| unwritable(&dir, &error))?;
    let lock = lock(&dir)?;
    for plan in &plans {
        files::create_private_dir(&plan.dir).map_err(|error| unwritable(&plan.dir, &error))?;
        prepare::prepare(plan)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::failed(format!("no runtime: {error}")))?;
    let ended = runtime.block_on(Box::pin(stay(&dir, &plans, &arguments)));
    drop(lock);
    ended
}

/// Where everything is, and what runs there.
fn plans(arguments: &DevArguments) -> Result<(PathBuf, Vec<Plan>), CliError> {
    let dir = arguments.dir.clone().or_else(|| Some(Environment::of_process().state_dir()?.join("dev")));
    let dir = dir.ok_or_else(|| CliError::usage("HOME is not set; say where to keep the nodes with --dir"))?;
    let dir = std::path::absolute(&dir).map_err(|error| CliError::usage(format!("{}: {error}", dir.display())))?;
    let DevArguments { nodes, zones, region, port, regions, .. } = arguments;
    if *regions == 1 {
        let plan = Plan::new(dir.clone(), *nodes, zones, *region, *port)?;
        return Ok((dir, vec![plan]));
    }
    let plan = |at: u8| {
        let number = region.checked_add(at).filter(|number| *number < 255);
        let told = || CliError::usage(format!("{regions} regions from {region} on go beyond 127.254"));
        let name = format!("dev-{}", at + 1);
        Ok(Plan::new(dir.join(&name), *nodes, zones, number.ok_or_else(told)?, *port)?.named(name))
    };
    let plans = (0..*regions).map(plan).collect::<Result<_, CliError>>()?;
    Ok((dir, plans))
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

async fn stay(dir: &Path, plans: &[Plan], arguments: &DevArguments) -> Result<(), CliError> {
    let shutdown = Shutdown::on_signals().map_err(|error| CliError::failed(format!("no signals: {error}")))?;
    if arguments.stop_with_stdin {
        shutdown.request_with_stdin();
    }
    let mut running = Vec::new();
    let up = bring_up(dir, plans, &arguments.settings, &shutdown, &mut running).await;
    if !matches!(up, Ok(true)) {
        for children in &mut running {
            children.stop().await?;
        }
        return up.map(drop);
    }
    let watched = plans.iter().zip(&mut running).map(|(plan, children)| watch(plan, children, &shutdown));
    futures_util::future::join_all(watched).await.into_iter().collect()
}

/// Starts every region, links them, and shows them; false if somebody wished to stop meanwhile.
async fn bring_up(
    dir: &Path,
    plans: &[Plan],
    settings: &[String],
    shutdown: &Shutdown,
    running: &mut Vec<Children>,
) -> Result<bool, CliError> {
    for plan in plans {
        running.push(Children::start(plan, settings, shutdown.clone())?);
    }
    let mut banners = Vec::new();
    for (plan, children) in plans.iter().zip(&mut *running) {
        let credential = read_credential(&plan.root_key_file())?;
        let is_new = tokio::select! {
            founded = found::found(plan, &credential) => founded?,
            ended = children.ended() => return Err(CliError::failed(ended.sentence(plan))),
            () = shutdown.requested() => return Ok(false),
        };
        banners.push(banner::banner(plan, &credential, is_new));
    }
    if plans.len() > 1 {
        let names: Vec<String> = plans.iter().map(|plan| plan.name.clone()).collect();
        let wires = Wires::open(dir, &names)?;
        tokio::select! {
            linked = link::link(plans, &wires) => banners.push(linked?),
            () = shutdown.requested() => return Ok(false),
        }
    }
    banners.iter().try_for_each(|banner| output::show(banner))?;
    Ok(true)
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
