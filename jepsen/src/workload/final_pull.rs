//! The end of a run: every push that may have happened is pulled from every node, by its tag.

use std::sync::Arc;

use futures_util::StreamExt as _;

use super::client::{Client, Trouble, repeated};
use super::pull::{found, pull};
use super::{Push, Shared};
use crate::history::{Act, Actor, Op, Outcome};

/// Pulls at a time from one node.
const AT_ONCE: usize = 8;

/// Pulls every push from `node`. Actors are numbered from `first` of `count`.
pub(crate) async fn run(shared: &Arc<Shared>, node: &str, client: &Client, first: usize, count: usize) {
    let pushes = shared.pushes();
    let lanes = (0..AT_ONCE).map(|lane| {
        let mut actor = Actor::new(&shared.recorder, first + lane, count);
        let pushes = &pushes;
        async move {
            for push in pushes.iter().skip(lane).step_by(AT_ONCE) {
                let key = format!("{}:{}", push.repository, push.tag);
                let value = serde_json::json!({"digest": push.digest});
                let op = Op { f: Act::FinalPull, key: &key, node: Some(node), value };
                actor.run(op, whole(client, push)).await;
            }
        }
    });
    futures_util::stream::iter(lanes).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
}

/// Actors that one node's pulls need.
pub(crate) const ACTORS: usize = AT_ONCE;

/// The tag is absent, or its image is whole; everything else is an error.
async fn whole(client: &Client, push: &Push) -> Outcome {
    match repeated(|| look(client, push)).await.result {
        Ok(None) => Outcome { value: found(None), ..Outcome::default() },
        Ok(Some(rev)) => Outcome { value: found(Some(&push.digest)), rev, error: None },
        Err(trouble) => Outcome { error: Some(trouble.into_error()), ..Outcome::default() },
    }
}

/// `None` where there is no such tag; else the revision of what was pulled whole.
async fn look(client: &Client, push: &Push) -> Result<Option<Option<u64>>, Trouble> {
    if client.manifest(&push.repository, &push.tag).await?.is_none() {
        return Ok(None);
    }
    pull(client, push, &push.tag).await.map(Some)
}
