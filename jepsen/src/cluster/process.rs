//! One node: an ordinary `portolan server` with an ordinary configuration file.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::record::Started;
use super::{Plan, Seat};
use crate::fault::{Fault, told};

/// How long a node may drain.
const STOP_MAX: Duration = Duration::from_secs(45);

/// A node and its process.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) seat: Seat,
    /// As the cluster knows it; told by the node when it first runs.
    pub(super) id: String,
    pub(super) data: PathBuf,
    pub(super) log: PathBuf,
    config: PathBuf,
    binary: PathBuf,
    settings: Vec<String>,
    child: Option<Child>,
}

/// Where a node's log goes.
pub(super) fn log_file(run: &Path, name: &str) -> PathBuf {
    run.join(format!("{name}.log"))
}

impl Node {
    pub(super) fn new(plan: &Plan, seat: Seat) -> Node {
        let home = plan.data().join("nodes").join(&seat.name);
        Node {
            id: String::new(),
            data: home.join("data"),
            log: log_file(&plan.dir, &seat.name),
            config: home.join("portolan.toml"),
            binary: plan.binary.clone(),
            settings: plan.settings.clone(),
            seat,
            child: None,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Starts the process. Its standard input is a pipe of ours: when this process is gone, the node ends itself.
    pub(super) fn spawn(&mut self) -> Result<Started, Fault> {
        let name = &self.seat.name;
        if self.child.is_some() {
            return Err(Fault::new(format!("node {name} runs already")));
        }
        let log = OpenOptions::new().append(true).create(true).open(&self.log);
        let log = log.map_err(told(&format!("{}", self.log.display())))?;
        let error = log.try_clone().map_err(told("no second handle of a log"))?;
        let mut command = Command::new(&self.binary);
        command.arg("server").arg("--config").arg(&self.config).arg("--stop-with-stdin");
        for setting in &self.settings {
            command.arg("--set").arg(setting);
        }
        command.stdin(Stdio::piped()).stdout(log).stderr(error).process_group(0).kill_on_drop(true);
        let child = command.spawn().map_err(told(&format!("{} can't be started", self.binary.display())))?;
        let pid = child.id().ok_or_else(|| Fault::new(format!("node {name} ended at once")))?;
        self.child = Some(child);
        Started::of(&format!("node {name}"), pid)
    }

    /// How the process ended, if it did unasked.
    pub(super) fn ended(&mut self) -> Result<Option<String>, Fault> {
        let Some(child) = &mut self.child else { return Ok(Some("it was not started".to_owned())) };
        let status = child.try_wait().map_err(told("a node can't be waited for"))?;
        Ok(status.map(|status| status.to_string()))
    }

    /// Kills the process with SIGKILL; its number. A process that ended before that is a fault: the nemesis would claim
    /// what somebody else did.
    pub(super) async fn kill(&mut self) -> Result<u32, Fault> {
        let name = &self.seat.name;
        let mut child = self.child.take().ok_or_else(|| Fault::new(format!("node {name} does not run")))?;
        if let Some(status) = child.try_wait().map_err(told("a node can't be waited for"))? {
            let log = self.log.display();
            return Err(Fault::new(format!("node {name} had ended by itself ({status}); see {log}")));
        }
        let pid = child.id().ok_or_else(|| Fault::new(format!("node {name} has no number")))?;
        child.kill().await.map_err(told(&format!("node {name} can't be killed")))?;
        Ok(pid)
    }

    /// Asks the process to end and waits for it; its number, if it ran.
    pub(super) async fn stop(&mut self) -> Result<Option<u32>, Fault> {
        let Some(mut child) = self.child.take() else { return Ok(None) };
        let name = &self.seat.name;
        let pid = child.id().ok_or_else(|| Fault::new(format!("node {name} ended by itself")))?;
        let target = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let target = target.ok_or_else(|| Fault::new(format!("{pid} is no process")))?;
        // waiting closes the pipe, which is a wish to end as well: the node would take the two for an impatient one
        let stdin = child.stdin.take();
        kill_process(target, Signal::TERM).map_err(told(&format!("node {name} can't be asked to end")))?;
        let Ok(ended) = tokio::time::timeout(STOP_MAX, child.wait()).await else {
            return Err(Fault::new(format!("node {name} does not end within {} s", STOP_MAX.as_secs())));
        };
        drop(stdin);
        let status = ended.map_err(told("a node can't be waited for"))?;
        if status.success() { Ok(Some(pid)) } else { Err(Fault::new(format!("node {name} ended with {status}"))) }
    }
}
