//! `pull-by-digest`: whole images from one node, directly and without a repeat. Content that is named by its digest
//! never changes: a node that lives needs no leader to serve it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::client::{Client, Trouble};
use super::image::sha256;
use super::{Push, Shared};
use crate::history::{Act, Actor, Op, Outcome};

/// Pulls until the load ends, pausing between two pulls.
pub(crate) async fn run(shared: Arc<Shared>, node: String, client: Client, mut actor: Actor, pause: Duration) {
    let name = node.bytes().fold(0u64, |sum, byte| sum.wrapping_mul(31) + u64::from(byte));
    let mut random = fastrand::Rng::with_seed(shared.seed ^ name);
    while !shared.is_over() {
        tokio::time::sleep(pause).await;
        let Some(push) = shared.any_acknowledged(&mut random) else { continue };
        let key = format!("{}@{}", push.repository, push.digest);
        let op = Op { f: Act::Pull, key: &key, node: Some(&node), value: Value::Null };
        let pulled = async {
            match pull(&client, &push, &push.digest).await {
                Ok(rev) => Outcome { rev, ..Outcome::default() },
                Err(trouble) => Outcome { error: Some(trouble.into_error()), ..Outcome::default() },
            }
        };
        actor.run(op, pulled).await;
    }
}

/// The manifest under `reference`, and every blob, verified; one try of each.
pub(crate) async fn pull(client: &Client, push: &Push, reference: &str) -> Result<Option<u64>, Trouble> {
    let manifest = client.manifest(&push.repository, reference).await?;
    let Some(manifest) = manifest else { return Err(Trouble::wrong(format!("404: no manifest {reference}"))) };
    let got = sha256(&manifest.body);
    if got != push.digest {
        return Err(Trouble::wrong(format!("WRONG MANIFEST: {got} instead of {}", push.digest)));
    }
    for digest in &push.blobs {
        client.blob(&push.repository, digest).await?;
    }
    Ok(manifest.rev())
}

/// What a pull found, for the history.
pub(crate) fn found(digest: Option<&str>) -> Value {
    json!({"digest": digest})
}
