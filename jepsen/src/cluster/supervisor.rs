//! A second process that undoes a run when the first is gone, however it went: a panic, a signal, a kill.

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::record;
use crate::fault::{Fault, told};

/// The watching process. It acts when its standard input ends, which is when this value or this process is gone.
#[derive(Debug)]
pub(super) struct Supervisor(Child);

impl Supervisor {
    /// Starts it over a run's `run.json`. In a process group of its own: ctrl-C does not reach it.
    pub(super) fn watch(run: &Path) -> Result<Supervisor, Fault> {
        use std::os::unix::process::CommandExt as _;
        let own = std::env::current_exe().map_err(told("this program can't find itself"))?;
        let mut command = Command::new(own);
        command.arg("supervise").arg(run).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::inherit());
        command.spawn().map(Supervisor).map_err(told("the supervisor can't be started"))
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // it ends by itself now; who waits for it sees that everything is undone
        if let Err(error) = self.0.wait() {
            eprintln!("the supervisor can't be waited for: {error}");
        }
    }
}

/// Waits until standard input ends, then undoes the run.
pub(crate) fn supervise(run: &Path) -> Result<(), Fault> {
    let mut sink = [0; 64];
    while matches!(std::io::stdin().read(&mut sink), Ok(1..)) {}
    undo(run)
}

/// Undoes what earlier runs in `store` left, because their supervisor was killed or the machine went down.
pub(super) fn clean(store: &Path) {
    for run in record::left_over(store) {
        eprintln!("{} left something over; it is undone", run.display());
        if let Err(error) = undo(&run) {
            eprintln!("{error}");
        }
    }
}

/// Kills every process of a run that is still there (also one that is stopped), then undoes what was made outside its
/// directory, the last first. Goes on over what can't be undone; then it is told, and kept in `run.json`.
pub(super) fn undo(run: &Path) -> Result<(), Fault> {
    for left in record::alive(run)? {
        let Some(pid) = i32::try_from(left.pid).ok().and_then(Pid::from_raw) else { continue };
        eprintln!("{} (process {}) was left over and is killed", left.what, left.pid);
        if let Err(error) = kill_process(pid, Signal::KILL) {
            eprintln!("process {} can't be killed: {error}", left.pid);
        }
    }
    let mut failed = Vec::new();
    for made in record::made(run)? {
        if let Err(error) = made.undo() {
            failed.push(format!("{made:?}: {error}"));
        }
    }
    if failed.is_empty() {
        return record::forget(run);
    }
    Err(Fault::new(format!("not undone: {}", failed.join("; "))))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;
    use crate::cluster::record::{Record, Started};

    // What the run started and left is killed; a process that only has the number of an earlier one is not.
    #[test]
    fn undone() {
        let dir = tempfile::tempdir().unwrap();
        let sleep = || Command::new("sleep").arg("600").spawn().unwrap();
        let (mut ours, mut other) = (sleep(), sleep());
        let mut record = Record::create(dir.path(), serde_json::Value::Null, Vec::new()).unwrap();
        record.add(Started::of("ours", ours.id()).unwrap()).unwrap();
        let stranger = Started::of("another", other.id()).unwrap();
        record.add(Started { since: stranger.since - 1, ..stranger }).unwrap();
        undo(record.path()).unwrap();
        assert_eq!(ours.wait().unwrap().signal(), Some(9));
        assert!(other.try_wait().unwrap().is_none(), "a stranger was killed");
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
