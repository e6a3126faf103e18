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
    pub(super) config: PathBuf,
    binary: PathBuf,
    pub(super) settings: Vec<String>,
    /// File that tells the node how wrong its clock is; none for a right one.
    pub(super) clock: Option<Clock>,
    /// Control group that its process goes to.
    pub(super) cgroup: Option<PathBuf>,
    child: Option<Child>,
}

/// A wall clock that the harness sets, for programs that ask the C library for the time.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    library: PathBuf,
    /// What the clock shows, as an offset.
    pub(super) file: PathBuf,
}

/// Where Debian's package libfaketime puts it.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// Why no clock can be wrong: without the library, or with a program that does not load libraries.
pub(super) fn no_clocks(binary: &Path) -> Option<String> {
    if !Path::new(FAKETIME).exists() {
        return Some("not installed: libfaketime".to_owned());
    }
    let mut head = vec![0; 4096];
    let read = std::fs::File::open(binary).and_then(|mut file| std::io::Read::read(&mut file, &mut head));
    let is_dynamic = read.is_ok() && head.windows(8).any(|part| part == b"ld-linux");
    (!is_dynamic).then(|| "the server is linked statically, no library can come between it and the time".to_owned())
}

impl Clock {
    /// A clock that is right.
    pub(super) fn new(file: PathBuf) -> Result<Clock, Fault> {
        let clock = Clock { library: FAKETIME.into(), file };
        clock.set(0).map(|()| clock)
    }

    /// Sets it, in seconds before (below 0) or after the right time.
    pub(super) fn set(&self, offset_s: i64) -> Result<(), Fault> {
        let new = self.file.with_extension("new");
        let written = std::fs::write(&new, format!("{offset_s:+}\n")).and_then(|()| std::fs::rename(&new, &self.file));
        written.map_err(told(&self.file.to_string_lossy()))
    }

    /// Has a process see it. What counts time spans stays right: only the wall clock is wrong.
    fn set_up(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).env("FAKETIME_TIMESTAMP_FILE", &self.file);
        // asking the file each time costs 20 us a call
        command.env("FAKETIME_CACHE_DURATION", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
}

/// Puts a process into a control group.
pub(super) fn join_cgroup(group: &Path, pid: u32) -> Result<(), Fault> {
    let members = group.join("cgroup.procs");
    std::fs::write(&members, pid.to_string()).map_err(told(&members.to_string_lossy()))
}

fn signal_to(pid: u32, signal: Signal) -> Result<(), std::io::Error> {
    let target = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let target = target.ok_or_else(|| std::io::Error::other("no process has this number"))?;
    kill_process(target, signal).map_err(std::io::Error::from)
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
            binary: plan.founder().to_owned(),
            settings: plan.settings.clone(),
            seat,
            clock: None,
            cgroup: None,
            child: None,
        }
    }

    /// Directory of its configuration, certificates and data.
    pub(super) fn home(&self) -> &Path {
        self.config.parent().unwrap_or(Path::new("."))
    }

    /// Has it run another program from its next start on.
    pub(super) fn set_program(&mut self, binary: &Path) {
        self.binary = binary.to_owned();
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
        if let Some(clock) = &self.clock {
            clock.set_up(&mut command);
        }
        command.stdin(Stdio::piped()).stdout(log).stderr(error).process_group(0).kill_on_drop(true);
        let child = command.spawn().map_err(told(&format!("{} can't be started", self.binary.display())))?;
        let pid = child.id().ok_or_else(|| Fault::new(format!("node {name} ended at once")))?;
        self.child = Some(child);
        if let Some(group) = &self.cgroup {
            join_cgroup(group, pid)?;
        }
        Started::of(&format!("node {name}"), pid)
    }

    /// Number of the running process.
    pub(super) fn pid(&self) -> Result<u32, Fault> {
        let pid = self.child.as_ref().and_then(Child::id);
        pid.ok_or_else(|| Fault::new(format!("node {} does not run", self.seat.name)))
    }

    /// Sends a signal to the running process.
    pub(super) fn signal(&self, signal: Signal) -> Result<(), Fault> {
        signal_to(self.pid()?, signal).map_err(told(&format!("node {} can't be signalled", self.seat.name)))
    }

    /// The process, if it ended by itself: its number, and how. The node does not run any more then.
    pub(super) fn take_ended(&mut self) -> Result<Option<String>, Fault> {
        if self.child.is_none() {
            return Ok(None);
        }
        let ended = self.ended()?;
        if ended.is_some() {
            self.child = None;
        }
        Ok(ended)
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
            return Err(Fault::of_product(format!("node {name} had ended by itself ({status}); see {log}")));
        }
        let pid = child.id().ok_or_else(|| Fault::new(format!("node {name} has no number")))?;
        child.kill().await.map_err(told(&format!("node {name} can't be killed")))?;
        Ok(pid)
    }

    /// Asks the process to end and waits for it; its number, if it ran.
    pub(super) async fn stop(&mut self) -> Result<Option<u32>, Fault> {
        let Some(mut child) = self.child.take() else { return Ok(None) };
        let name = &self.seat.name;
        let pid = child.id().ok_or_else(|| Fault::of_product(format!("node {name} ended by itself")))?;
        // waiting closes the pipe, which is a wish to end as well: the node would take the two for an impatient one
        let stdin = child.stdin.take();
        signal_to(pid, Signal::TERM).map_err(told(&format!("node {name} can't be asked to end")))?;
        let Ok(ended) = tokio::time::timeout(STOP_MAX, child.wait()).await else {
            return Err(Fault::of_product(format!("node {name} does not end within {} s", STOP_MAX.as_secs())));
        };
        drop(stdin);
        let status = ended.map_err(told("a node can't be waited for"))?;
        if status.success() {
            Ok(Some(pid))
        } else {
            Err(Fault::of_product(format!("node {name} ended with {status}")))
        }
    }
}
