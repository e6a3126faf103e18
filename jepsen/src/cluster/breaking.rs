//! What can be done to the nodes of a cluster, one thing each. What it means, and when it is done, is `nemesis`'s.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::process::Signal;

use super::made::Made;
use super::tools::{call, why_not};
use super::volume::Volume;
use super::{Cluster, process};
use crate::fault::{Fault, told};

/// Where the groups of cgroup v1 that slow a device down are.
const BLKIO: &str = "/sys/fs/cgroup/blkio";
/// What is written to the limit of a device.
const WRITE_LIMIT: &str = "blkio.throttle.write_iops_device";

impl Cluster {
    /// Why nothing can be done to disks.
    pub(crate) fn no_volumes(&self) -> Option<String> {
        self.volumes.as_ref().err().cloned()
    }

    /// Why no clock can be set.
    pub(crate) fn no_clocks(&self) -> Option<String> {
        self.no_clocks.clone()
    }

    /// Why no packet can be dropped.
    pub(crate) fn no_firewall(&self) -> Option<String> {
        why_not(&["iptables"])
    }

    /// Why no disk can be slowed down.
    pub(crate) fn no_slow_disks(&self) -> Option<String> {
        let is_there = Path::new(BLKIO).join(WRITE_LIMIT).exists();
        self.no_volumes().or_else(|| (!is_there).then(|| "no cgroup v1 controller blkio".to_owned()))
    }

    fn volume(&self, at: usize) -> Result<&Volume, Fault> {
        self.volumes.as_ref().map(|volumes| &volumes[at]).map_err(|why| Fault::new(format!("no volume: {why}")))
    }

    /// Where a node keeps its data.
    pub(crate) fn data(&self, at: usize) -> &Path {
        &self.nodes[at].data
    }

    /// Cuts the power of nodes that run: all are killed, then everything that no disk has yet is gone, then what
    /// the disks have is mounted again.
    pub(crate) async fn cut_power(&mut self, nodes: &[usize]) -> Result<(), Fault> {
        let victims = self.nodes.iter_mut().enumerate().filter(|(at, _)| nodes.contains(at));
        let killed = join_all(victims.map(|(_, node)| node.kill())).await;
        for at in nodes {
            self.volume(*at)?.shut_down()?;
        }
        for pid in killed {
            self.record.remove(pid?)?;
        }
        nodes.iter().try_for_each(|at| self.volume(*at)?.remount())
    }

    /// From now on every use of a node's disk is an error; what was not synced is gone.
    pub(crate) fn fail_disk(&mut self, at: usize) -> Result<(), Fault> {
        self.volume(at)?.shut_down()
    }

    /// The disk works again. The node must not run.
    pub(crate) fn mend_disk(&mut self, at: usize) -> Result<(), Fault> {
        self.volume(at)?.remount()
    }

    /// Takes all the room that a node's disk has; how many bytes.
    pub(crate) fn fill_disk(&mut self, at: usize) -> Result<u64, Fault> {
        self.volume(at)?.fill()
    }

    /// Gives it back.
    pub(crate) fn free_disk(&mut self, at: usize) -> Result<(), Fault> {
        self.volume(at)?.free()
    }

    /// Lets a node's disk take at most so many writes a second. Starts of the node are slow as well.
    pub(crate) fn slow_disk(&mut self, at: usize, writes_per_s: u32) -> Result<(), Fault> {
        let number = self.volume(at)?.number()?;
        let run = self.plan.dir.file_name().unwrap_or_default().to_string_lossy();
        let group = PathBuf::from(BLKIO).join(format!("jepsen-{run}-{}", self.nodes[at].seat.name));
        if !group.exists() {
            self.record.made(Made::Cgroup { path: group.clone() })?;
            std::fs::create_dir(&group).map_err(told(&group.to_string_lossy()))?;
        }
        let limit = group.join(WRITE_LIMIT);
        std::fs::write(&limit, format!("{number} {writes_per_s}")).map_err(told(&limit.to_string_lossy()))?;
        if self.nodes[at].is_running() {
            process::join_cgroup(&group, self.nodes[at].pid()?)?;
        }
        self.nodes[at].cgroup = Some(group);
        Ok(())
    }

    /// No limit any more; the group stays until the run is undone.
    pub(crate) fn hasten_disk(&mut self, at: usize) -> Result<(), Fault> {
        let number = self.volume(at)?.number()?;
        let Some(group) = &self.nodes[at].cgroup else { return Ok(()) };
        let limit = group.join(WRITE_LIMIT);
        std::fs::write(&limit, format!("{number} 0")).map_err(told(&limit.to_string_lossy()))
    }

    /// Sets a node's wall clock, in seconds off the right time.
    pub(crate) fn set_clock(&mut self, at: usize, offset_s: i64) -> Result<(), Fault> {
        match &self.nodes[at].clock {
            Some(clock) => clock.set(offset_s),
            None => Err(Fault::new("this run's clocks can't be set")),
        }
    }

    /// Stops a node's process where it is: sockets stay open, and nobody answers.
    pub(crate) fn pause(&mut self, at: usize) -> Result<(), Fault> {
        self.nodes[at].signal(Signal::STOP)
    }

    /// Lets it go on.
    pub(crate) fn resume(&mut self, at: usize) -> Result<(), Fault> {
        self.nodes[at].signal(Signal::CONT)
    }

    /// Asks a node to end, and waits for it; how long it took.
    pub(crate) async fn stop_node(&mut self, at: usize) -> Result<Duration, Fault> {
        let began = Instant::now();
        if let Some(pid) = self.nodes[at].stop().await? {
            self.record.remove(pid)?;
        }
        Ok(began.elapsed())
    }

    /// Has a node run another program from its next start on.
    pub(crate) fn set_program(&mut self, at: usize, binary: &Path) {
        self.nodes[at].set_program(binary);
    }

    /// Has the cluster step up to the level of the program that the node runs; why it was refused.
    pub(crate) async fn finalize(&self, at: usize) -> Result<(), String> {
        self.admin.finalize(&self.nodes[at].seat).await
    }

    /// Whether a node's process has ended by itself, and nobody has looked yet.
    pub(crate) fn has_ended(&mut self, at: usize) -> Result<bool, Fault> {
        let node = &mut self.nodes[at];
        Ok(node.is_running() && node.ended()?.is_some())
    }

    /// How a node's process ended, if it did by itself; it does not run any more then.
    pub(crate) fn take_ended(&mut self, at: usize) -> Result<Option<String>, Fault> {
        self.nodes[at].take_ended()
    }

    /// Whether a node says that it is ready.
    pub(crate) async fn is_ready(&self, at: usize) -> bool {
        self.admin.is_ready(&self.nodes[at].seat).await
    }

    /// Has a node lead; why it was refused.
    pub(crate) async fn transfer(&self, from: usize, to: usize) -> Result<(), String> {
        self.admin.transfer(&self.nodes[from].seat, &self.nodes[to].id).await
    }

    /// Bytes of a node's log so far: a mark behind which later lines are.
    pub(crate) fn log_mark(&self, at: usize) -> u64 {
        std::fs::metadata(&self.nodes[at].log).map_or(0, |data| data.len())
    }

    /// Lines of a node's log behind a mark that tell of an error.
    pub(crate) fn errors_since(&self, at: usize, mark: u64) -> Vec<String> {
        let text = std::fs::read(&self.nodes[at].log).unwrap_or_default();
        let from = usize::try_from(mark).unwrap_or(usize::MAX).min(text.len());
        let text = String::from_utf8_lossy(&text[from..]);
        text.lines().filter(|line| is_error(line)).map(str::to_owned).collect()
    }

    /// Adds rules to the run's chain (made with the first of them), each without its target: packets are dropped.
    pub(crate) fn drop_packets(&mut self, rules: &[Vec<String>]) -> Result<(), Fault> {
        let chain = self.chain()?;
        rules.iter().try_for_each(|rule| change(&chain, "-A", rule))
    }

    /// Takes them away again.
    pub(crate) fn pass_packets(&mut self, rules: &[Vec<String>]) -> Result<(), Fault> {
        let chain = self.chain()?;
        rules.iter().try_for_each(|rule| change(&chain, "-D", rule))
    }

    /// The run's chain: what arrives on loopback goes through it.
    fn chain(&mut self) -> Result<String, Fault> {
        if let Some(chain) = &self.chain {
            return Ok(chain.clone());
        }
        // names have at most 28 characters; a process number is of one run at a time
        let name = format!("jepsen-{}-{}", self.plan.region, std::process::id());
        let made = Made::Chain { name: name.clone() };
        made.undo()?;
        self.record.made(made)?;
        call("iptables", &["-w", "-N", &name])?;
        call("iptables", &["-w", "-I", "INPUT", "-i", "lo", "-j", &name])?;
        self.chain = Some(name.clone());
        Ok(name)
    }
}

fn change(chain: &str, how: &str, rule: &[String]) -> Result<(), Fault> {
    let rule = rule.iter().map(String::as_str);
    let arguments: Vec<&str> = ["-w", how, chain].into_iter().chain(rule).chain(["-j", "DROP"]).collect();
    call("iptables", &arguments).map(drop)
}

/// An error as the server logs it, its last words, or why it does not start.
fn is_error(line: &str) -> bool {
    let is_logged = line.contains(" ERROR ") || line.contains("\"level\":\"ERROR\"");
    is_logged || line.starts_with("portolan: ") || line.starts_with("error: ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_lines() {
        assert!(is_error("2025-01-01T00:00:00Z ERROR portolan::raft: the log can't be written"));
        assert!(is_error("portolan: the log can't be synced: Input/output error (os error 5); ending the process"));
        assert!(is_error("error: the log is damaged and may have lost acknowledged entries; the node does not start"));
        assert!(!is_error("2025-01-01T00:00:00Z  WARN portolan: slow"));
    }
}
