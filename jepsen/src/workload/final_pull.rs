//! The end of a run: every push that may have happened is looked for on every node, by its tag, and pulled whole.
//!
//! Up to [`WHOLE_MAX`] pushes are pulled whole from each node. Of more, each is pulled whole from one node, in turn,
//! and its tag is read from the others: what their disks hold is read by `portolan check` afterwards, byte by byte.

use std::sync::Arc;

use futures_util::StreamExt as _;

use super::client::{Client, Trouble, repeated};
use super::image::sha256;
use super::pull::{found, pull};
use super::{Push, Shared};
use crate::history::{Act, Actor, Op, Outcome};

/// Pulls at a time from one node.
const AT_ONCE: usize = 8;

/// Pushes that are pulled whole from each node.
const WHOLE_MAX: usize = 3_000;

/// One of the nodes that are asked.
pub(crate) struct Asked<'a> {
    pub(crate) name: &'a str,
    pub(crate) client: &'a Client,
    /// Its place among them.
    pub(crate) at: usize,
    pub(crate) nodes: usize,
}

/// Looks for every push on a node. Actors are numbered from `first` of `count`.
pub(crate) async fn run(shared: &Arc<Shared>, asked: Asked<'_>, first: usize, count: usize) {
    let Asked { name: node, client, at, nodes } = asked;
    let pushes = shared.pushes();
    let is_whole = |number: usize| pushes.len() <= WHOLE_MAX || number % nodes == at;
    let lanes = (0..AT_ONCE).map(|lane| {
        let mut actor = Actor::new(&shared.recorder, first + lane, count);
        let pushes = &pushes;
        async move {
            for (number, push) in pushes.iter().enumerate().skip(lane).step_by(AT_ONCE) {
                let key = format!("{}:{}", push.repository, push.tag);
                let whole = is_whole(number);
                let value = serde_json::json!({"digest": push.digest, "whole": whole});
                let op = Op { f: Act::FinalPull, key: &key, node: Some(node), value };
                actor.run(op, found_there(client, push, whole)).await;
            }
        }
    });
    futures_util::stream::iter(lanes).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
}

/// Actors that one node's pulls need.
pub(crate) const ACTORS: usize = AT_ONCE;

/// The tag is absent, or its image is whole as far as it is looked at; everything else is an error.
async fn found_there(client: &Client, push: &Push, whole: bool) -> Outcome {
    match repeated(|| look(client, push, whole)).await.result {
        Ok(None) => Outcome { value: found(None), ..Outcome::default() },
        Ok(Some((digest, rev))) => Outcome { value: found(Some(&digest)), rev, error: None },
        Err(trouble) => Outcome { error: Some(trouble.into_error()), ..Outcome::default() },
    }
}

/// `None` where there is no such tag; else what it names, and the revision.
async fn look(client: &Client, push: &Push, whole: bool) -> Result<Option<(String, Option<u64>)>, Trouble> {
    let Some(answer) = client.manifest(&push.repository, &push.tag).await? else { return Ok(None) };
    if !whole {
        return Ok(Some((sha256(&answer.body), answer.rev())));
    }
    let rev = pull(client, push, &push.tag).await?;
    Ok(Some((push.digest.clone(), rev)))
}
