//! Has a node that came with a join token join its cluster by itself.

use std::sync::Arc;
use std::time::Duration;

use super::{NodeError, Parts, SETTLE, serve};
use crate::cluster::MembershipError;
use crate::config::Settings;
use crate::ground::join_token::{self, JoinToken};

/// Pause after the first try that failed; it doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Unpacks the join token that was configured, if that has not been done yet. The data directory is this process's.
pub(super) fn unpack(settings: &Settings) -> Result<(), NodeError> {
    let dir = settings.unpacked_dir().filter(|dir| !dir.exists());
    let (Some(dir), Some(path)) = (dir, &settings.cluster.join_token_file) else { return Ok(()) };
    let read = JoinToken::read(path);
    let (token, _) = read.map_err(|error| NodeError::Tls(format!("{} {error}", path.display())))?;
    let identity = token.check(path).map_err(NodeError::Tls)?.identity;
    let told = |error| NodeError::Directory { path: settings.node.data_dir.clone(), error };
    token.unpack(&dir).map_err(told)?;
    tracing::info!(
        %identity,
        dir = %dir.display(),
        "the join token is unpacked: this node lives by the files there, and the token should be removed"
    );
    Ok(())
}

/// Joins the cluster that the join token named, if this node belongs to none yet. Ends when it does, when the cluster
/// refuses it for good, or at shutdown.
pub(super) async fn by_token(parts: Arc<Parts>) {
    let Some(dir) = parts.settings.unpacked_dir() else { return };
    let seeds = match join_token::seeds_in(&dir) {
        Ok(seeds) if seeds.is_empty() => return,
        Ok(seeds) => seeds,
        Err(error) => {
            let dir = dir.display();
            tracing::error!(%error, %dir, "where to join can't be read; `portolan cluster join` is told by hand");
            return;
        }
    };
    // a member that was started again is called by its leader meanwhile, and so is one whose directory was emptied
    let mut pause = SETTLE;
    let mut next = PAUSE_MIN;
    while rest(&parts, pause).await && !is_member(&parts) {
        let joined = tokio::select! {
            joined = parts.cluster.join(seeds.clone(), parts.member()) => joined,
            () = parts.shutdown.requested() => return,
        };
        match joined {
            Ok(()) => return taken_in(&parts, &seeds),
            Err(error) if error.is_passing() => {
                let seconds = next.as_secs();
                tracing::warn!(
                    %error,
                    ?seeds,
                    "this node has not joined its cluster yet, and tries again in {seconds} s: a majority of the \
                     cluster must run, and a node of it be reached from here at one of the seeds"
                );
            }
            Err(error) => return refused(&parts, &seeds, &error).await,
        }
        pause = next;
        next = (next * 2).min(PAUSE_MAX);
    }
}

fn taken_in(parts: &Parts, seeds: &[String]) {
    serve::audit(parts, "cluster.join", &seeds.join(","), None);
    tracing::info!(?seeds, "this node has joined its cluster, and catches up");
}

/// The answer to an earlier try may have been lost, and the cluster have taken this node in by that: who asks again
/// with an empty log is refused, until it is fed.
async fn refused(parts: &Parts, seeds: &[String], error: &MembershipError) {
    if rest(parts, SETTLE).await && !is_member(parts) {
        serve::audit(parts, "cluster.join", &seeds.join(","), Some(&error.to_string()));
        tracing::error!(
            %error,
            ?seeds,
            "this node is not taken in, and does not try again. A join token is good for one node and one data \
             directory: make another one with `portolan certs invite` under another name, and start with an empty \
             directory; `portolan cluster join` tries again by hand"
        );
    }
}

/// Whether this node knows the members of a cluster: it was taken in, and has been fed.
fn is_member(parts: &Parts) -> bool {
    !parts.group.status().members.is_empty()
}

/// Waits; false when the node is to end.
async fn rest(parts: &Parts, pause: Duration) -> bool {
    tokio::select! {
        () = tokio::time::sleep(pause) => true,
        () = parts.shutdown.requested() => false,
    }
}
