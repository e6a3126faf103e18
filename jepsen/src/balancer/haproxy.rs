//! HAProxy with the configuration that is shipped in `deploy/`, as an operator runs it.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::cluster::{Cluster, Seat};
use crate::fault::{Fault, told};

/// How long it may take to listen.
const START_MAX: Duration = Duration::from_secs(10);

/// The process; killed when dropped.
#[derive(Debug)]
pub(super) struct HaProxy(Child);

impl HaProxy {
    /// Starts it with `file`, which names its three nodes and its address by variables.
    pub(super) async fn start(file: &Path, address: SocketAddr, cluster: &mut Cluster) -> Result<HaProxy, Fault> {
        let seats = cluster.seats();
        let [a, b, c] = &seats[..] else { return Err(Fault::new("the shipped configuration has three nodes")) };
        let node = |seat: &Seat| seat.public.to_string();
        let log = cluster.dir().join("haproxy.log");
        let log = File::create(&log).map_err(told(&format!("{}", log.display())))?;
        let error = log.try_clone().map_err(told("no second handle of a log"))?;
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(file).env("PORTOLAN_BIND", address.to_string());
        command.env("PORTOLAN_A", node(a)).env("PORTOLAN_B", node(b)).env("PORTOLAN_C", node(c));
        command.env("PORTOLAN_ERRORS", file.parent().unwrap_or_else(|| Path::new(".")));
        command.stdin(Stdio::null()).stdout(log).stderr(error).process_group(0).kill_on_drop(true);
        let child = command.spawn().map_err(told("haproxy can't be started (apt-get install haproxy)"))?;
        let pid = child.id().ok_or_else(|| Fault::new("haproxy ended at once"))?;
        cluster.watch_over("haproxy", pid)?;
        let mut haproxy = HaProxy(child);
        haproxy.wait(address).await?;
        Ok(haproxy)
    }

    async fn wait(&mut self, address: SocketAddr) -> Result<(), Fault> {
        let began = Instant::now();
        while TcpStream::connect(address).await.is_err() {
            let ended = self.0.try_wait().map_err(told("haproxy can't be waited for"))?;
            if ended.is_some() || began.elapsed() > START_MAX {
                return Err(Fault::new("haproxy does not listen; see haproxy.log"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}
