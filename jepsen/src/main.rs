//! Black-box fault harness: real nodes, real sockets, real disks, faults on purpose, and judges over what the clients
//! saw.
//!
//! `cluster` starts the nodes, `balancer` stands before them, `workload` is what clients do, `nemesis` what goes wrong;
//! all of it is written to one `history`, which `checker` judges and `report` tells. Nothing here knows the server's
//! code: what it gets wrong must not be wrong here as well. Start at `run`.

mod balancer;
mod checker;
mod cluster;
mod fault;
mod history;
mod nemesis;
mod options;
mod region;
mod report;
mod run;
mod workload;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use fault::Fault;
use options::RunOptions;

/// Breaks a cluster on purpose, and judges what its clients saw.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts a cluster, puts it under load, breaks it, and judges the history.
    Run(Box<RunOptions>),
    /// Judges the history of an earlier run again.
    Check {
        /// Its directory.
        dir: PathBuf,
    },
    /// Undoes a run when its process is gone; started by `run`.
    #[command(hide = true)]
    Supervise {
        /// Its run.json.
        run: PathBuf,
    },
}

/// Good: 0. Bad: 1. The harness could not do its work: 2.
fn main() -> ExitCode {
    let ended = match Arguments::parse().command {
        Command::Run(options) => run::run(*options),
        Command::Check { dir } => check(&dir),
        Command::Supervise { run } => cluster::supervise(&run).map(|()| true),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(fault) => {
            eprintln!("the harness failed: {fault}");
            ExitCode::from(2)
        }
    }
}

fn check(dir: &Path) -> Result<bool, Fault> {
    let options = RunOptions::read(dir)?;
    let events = history::read(dir)?;
    report::tell(dir, &events, &checker::judge_all(dir, &events, &options.demands()))
}
