//! The first start: `portolan dev` makes certificates, keys and configurations, founds the cluster, and is ended.

use std::fs::File;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use super::Plan;
use super::record::{Record, Started};
use crate::fault::{Fault, told};

/// How long founding may take on a busy machine, and ending after it.
const FOUND_MAX: Duration = Duration::from_secs(180);
const END_MAX: Duration = Duration::from_secs(60);
/// What `portolan dev` says when every node votes.
const READY: &str = "The cluster is ready";

pub(super) async fn found(plan: &Plan, record: &mut Record) -> Result<(), Fault> {
    let log = plan.dir.join("dev.log");
    let out = File::create(&log).map_err(told(&format!("{}", log.display())))?;
    let error = out.try_clone().map_err(told("no second handle of a log"))?;
    let mut dev = Command::new(plan.founder());
    dev.arg("dev").arg("--dir").arg(plan.data());
    dev.args(["--nodes", &plan.nodes.to_string(), "--region", &plan.region.to_string()]);
    dev.args(["--port", &plan.port.to_string()]);
    // some settings count when the cluster is founded, and never again
    dev.args(plan.settings.iter().flat_map(|setting| ["--set", setting]));
    dev.stdin(Stdio::null()).stdout(out).stderr(error).process_group(0).kill_on_drop(true);
    let mut dev = dev.spawn().map_err(told(&format!("{} can't be started", plan.founder().display())))?;
    let pid = dev.id().ok_or_else(|| Fault::new("`portolan dev` ended at once"))?;
    record.add(Started::of("portolan dev", pid)?)?;
    let began = Instant::now();
    loop {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        if said.contains(READY) {
            break;
        }
        let ended = dev.try_wait().map_err(told("`portolan dev` can't be waited for"))?;
        if ended.is_some() || began.elapsed() > FOUND_MAX {
            return Err(Fault::new(format!("`portolan dev` founds no cluster:\n{said}")));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let target = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| Fault::new("no process number"))?;
    kill_process(target, Signal::INT).map_err(told("`portolan dev` can't be asked to end"))?;
    match tokio::time::timeout(END_MAX, dev.wait()).await {
        Ok(Ok(_)) => record.remove(pid),
        Ok(Err(error)) => Err(Fault::new(format!("`portolan dev` can't be waited for: {error}"))),
        Err(_) => Err(Fault::new(format!("`portolan dev` does not end within {} s", END_MAX.as_secs()))),
    }
}
