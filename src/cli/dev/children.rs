//! The nodes' processes: started with their own log and configuration, ended by their ids.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::plan::{Plan, PlannedNode};
use super::unwritable;
use crate::cli::error::CliError;
use crate::ground::Shutdown;
use crate::ground::files::PRIVATE_FILE_MODE;

/// How long a node may drain before it is ended: longer than its own limit (http.drain_timeout).
const PATIENCE: Duration = Duration::from_secs(45);
/// How much of a log is shown when a node ends unasked, in bytes.
const TAIL_BYTES: u64 = 1500;

/// A node that ended without being asked to.
#[derive(Debug)]
pub(super) struct Ended {
    index: usize,
    how: String,
}

impl Ended {
    /// What happened, with the end of its log.
    pub(super) fn sentence(&self, plan: &Plan) -> String {
        let node = &plan.nodes[self.index];
        let log = node.log_file();
        format!("node {} ended ({}); the end of {}:\n{}", node.name, self.how, log.display(), tail(&log))
    }

    /// The line that starts it again by hand.
    pub(super) fn command(&self, plan: &Plan) -> String {
        let binary = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("portolan"));
        format!("{} server --config {}", binary.display(), plan.nodes[self.index].config_file().display())
    }
}

/// The running nodes.
#[derive(Debug)]
pub(super) struct Children {
    ended: mpsc::Receiver<Ended>,
    stop: Shutdown,
    running: usize,
}

impl Children {
    /// Starts every node. All of them end when this process does, however it ends: their standard input closes.
    pub(super) fn start(plan: &Plan, settings: &[String], shutdown: Shutdown) -> Result<Children, CliError> {
        let binary = std::env::current_exe();
        let binary = binary.map_err(|error| CliError::failed(format!("this program can't find itself: {error}")))?;
        let (tell, ended) = mpsc::channel(plan.nodes.len());
        let stop = shutdown.child();
        for (index, node) in plan.nodes.iter().enumerate() {
            let child = spawn(&binary, node, settings)?;
            tokio::spawn(attend(child, index, stop.clone(), tell.clone()));
        }
        Ok(Children { ended, stop, running: plan.nodes.len() })
    }

    /// Waits for a node that ends unasked; forever when none is left.
    pub(super) async fn ended(&mut self) -> Ended {
        match self.ended.recv().await {
            Some(ended) => {
                self.running -= 1;
                ended
            }
            None => std::future::pending().await,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running == 0
    }

    /// Asks all to end, and waits for them.
    pub(super) async fn stop(&mut self) -> Result<(), CliError> {
        self.stop.request();
        // Each attendant drops its sender when its node has ended.
        while self.ended.recv().await.is_some() {}
        Ok(())
    }
}

fn spawn(binary: &Path, node: &PlannedNode, settings: &[String]) -> Result<Child, CliError> {
    let path = node.log_file();
    let open = || -> std::io::Result<(File, File)> {
        let log = OpenOptions::new().append(true).create(true).mode(PRIVATE_FILE_MODE).open(&path)?;
        Ok((log.try_clone()?, log))
    };
    let (out, error) = open().map_err(|error| unwritable(&path, &error))?;
    let mut command = Command::new(binary);
    command.arg("server").arg("--config").arg(node.config_file()).arg("--stop-with-stdin");
    for setting in settings {
        command.arg("--set").arg(setting);
    }
    // What is set for one node in this environment would be set for all of them.
    let ours =
        std::env::vars_os().map(|(name, _)| name).filter(|name| name.as_encoded_bytes().starts_with(b"PORTOLAN_"));
    for name in ours {
        command.env_remove(name);
    }
    // A process group of its own: ctrl-C reaches this process alone, which then ends the nodes in order.
    command.stdin(Stdio::piped()).stdout(out).stderr(error).process_group(0);
    command.spawn().map_err(|error| CliError::failed(format!("node {} can't be started: {error}", node.name)))
}

async fn attend(mut child: Child, index: usize, stop: Shutdown, tell: mpsc::Sender<Ended>) {
    // Held open as long as this process lives.
    let stdin = child.stdin.take();
    let unasked = tokio::select! {
        status = child.wait() => Some(status),
        () = stop.requested() => None,
    };
    match unasked {
        Some(status) => {
            let how = status.map_or_else(|error| error.to_string(), describe);
            // Nobody listens any more only when everything ends anyway.
            drop(tell.send(Ended { index, how }).await);
        }
        None => end(&mut child).await,
    }
    drop(stdin);
}

fn describe(status: ExitStatus) -> String {
    status.to_string()
}

async fn end(child: &mut Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid
        && kill_process(pid, Signal::TERM).is_ok()
        && tokio::time::timeout(PATIENCE, child.wait()).await.is_ok()
    {
        return;
    }
    // Its promises hold after this as well; only requests in flight are cut.
    if let Err(error) = child.kill().await {
        eprintln!("a node (process {:?}) can't be ended: {error}", child.id());
    }
}

fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(TAIL_BYTES);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        // The first line is cut somewhere, unless the file begins with it.
        let whole = if start == 0 { Some(text.as_str()) } else { text.split_once('\n').map(|(_, rest)| rest) };
        Ok(whole.unwrap_or(&text).trim_end().to_owned())
    };
    read().unwrap_or_else(|error| format!("({error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    // The end of a log is shown in whole lines.
    #[test]
    fn tails() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "one\ntwo\n").unwrap();
        assert_eq!(tail(&path), "one\ntwo");
        let many: String = (0..1000).map(|line| format!("line {line}\n")).collect();
        std::fs::write(&path, many).unwrap();
        let shown = tail(&path);
        assert!(shown.starts_with("line ") && shown.ends_with("line 999") && shown.len() < 1500);
        assert!(tail(&dir.path().join("absent")).starts_with('('));
    }
}
