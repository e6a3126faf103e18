//! A node that lost its data comes back as a new one: the cluster forgets the old id, a certificate with a new id
//! is made, and the empty node joins. As `src/docs/operations.md` tells an operator.

use std::time::{Duration, Instant};

use super::Cluster;
use super::tools::call;
use crate::fault::{Fault, told};

/// How long each step may be refused while the cluster is busy with something else.
const STEP_MAX: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(250);

impl Cluster {
    /// Brings a node back that does not run, without any of its data; back when it is ready and votes. `through` runs.
    pub(crate) async fn rejoin(&mut self, at: usize, through: usize) -> Result<(), Fault> {
        let old = self.nodes[at].id.clone();
        let (admin, other) = (self.admin.clone(), self.nodes[through].seat.clone());
        let remove = || async {
            let Err(why) = admin.remove(&other, &old).await else { return Ok(()) };
            // the answer to an earlier try was lost on its way
            let is_gone = is_final(&why) && !admin.votes(&other, &old).await;
            if is_gone { Ok(()) } else { Err(why) }
        };
        repeated(&format!("node {old} can't be removed"), remove).await?;
        self.empty(at)?;
        self.renew_certificate(at)?;
        self.spawn(at)?;
        self.join_new(at, through).await?;
        if self.nodes[at].id == old {
            return Err(Fault::new(format!("node {} came back under its old id {old}", self.nodes[at].seat.name)));
        }
        Ok(())
    }

    /// Has a node that runs without any state join through another one; back when it is ready and votes.
    pub(super) async fn join_new(&mut self, at: usize, through: usize) -> Result<(), Fault> {
        let (admin, other) = (self.admin.clone(), self.nodes[through].seat.clone());
        let (seat, seeds) = (self.nodes[at].seat.clone(), vec![raft_address(&other)]);
        let join = || async {
            let Err(why) = admin.join(&seat, &seeds).await else { return Ok(()) };
            // joined by an earlier try: it is ready as soon as it has heard of the cluster
            if is_final(&why) && admin.is_ready(&seat).await { Ok(()) } else { Err(why) }
        };
        repeated(&format!("node {} can't join", seat.name), join).await?;
        self.wait_ready(at).await?;
        self.learn_id(at).await?;
        let new = self.nodes[at].id.clone();
        let vote = || async { if admin.votes(&other, &new).await { Ok(()) } else { Err("it does not".to_owned()) } };
        repeated(&format!("node {new} ({}) does not vote", seat.name), vote).await
    }

    /// Removes all that a node has kept.
    fn empty(&mut self, at: usize) -> Result<(), Fault> {
        let data = &self.nodes[at].data;
        let shown = data.to_string_lossy();
        let remove = || -> std::io::Result<()> {
            for entry in std::fs::read_dir(data)? {
                let path = entry?.path();
                if path.is_dir() { std::fs::remove_dir_all(path)? } else { std::fs::remove_file(path)? }
            }
            Ok(())
        };
        remove().map_err(told(&shown))
    }

    /// A certificate with an id that nobody had, in place of the old one.
    pub(super) fn renew_certificate(&mut self, at: usize) -> Result<(), Fault> {
        let node = &self.nodes[at];
        let authority = self.plan.data().join("certs");
        // `certs node` keeps the id of a certificate that it finds under a name
        let name = format!("{}-{}", node.seat.name, fastrand::u32(..));
        let (dir, address) = (authority.to_string_lossy(), node.seat.public.ip().to_string());
        let binary = self.plan.binary.to_string_lossy();
        call(&binary, &["certs", "node", "--dir", &dir, "--name", &name, "--address", &address])?;
        let made = authority.join("nodes").join(&name);
        for file in ["node.pem", "node.key"] {
            let to = node.home().join("certs").join(file);
            std::fs::copy(made.join(file), &to).map_err(told(&to.to_string_lossy()))?;
        }
        Ok(())
    }
}

/// Whether an answer says that nothing is left to be done, or that it can't be.
fn is_final(why: &str) -> bool {
    why.starts_with("404") || why.starts_with("409")
}

/// Where others reach a node's consensus, as `portolan dev` lays the ports out.
fn raft_address(seat: &super::Seat) -> String {
    format!("{}:{}", seat.public.ip(), seat.public.port() + 1)
}

/// Repeats a step that may be refused for a while.
async fn repeated<F>(what: &str, mut step: impl FnMut() -> F) -> Result<(), Fault>
where
    F: Future<Output = Result<(), String>>,
{
    let began = Instant::now();
    loop {
        let Err(why) = step().await else { return Ok(()) };
        if began.elapsed() > STEP_MAX {
            return Err(Fault::of_product(format!("{what} within {} s: {why}", STEP_MAX.as_secs())));
        }
        tokio::time::sleep(PAUSE).await;
    }
}
