//! A fault put in on purpose: a leader that counts entries as acknowledged as soon as they are sent.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{Stream, StreamExt};
use openraft::base::BoxStream;
use openraft::errors::RPCError;
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use tokio::sync::mpsc;
use tonic::Request;

use super::client::{Link, frames};
use super::net::Class;
use super::wire::{self, kind};
use crate::types::Types;

/// Messages that wait for the connection; further ones are dropped, as is the fault's way.
const WAITING: usize = 1024;

static HASTY: AtomicBool = AtomicBool::new(false);

/// From now on no leader of this process waits for an answer before it counts a follower.
pub fn acknowledge_at_send() {
    HASTY.store(true, Ordering::Release);
}

pub(super) fn is_on() -> bool {
    HASTY.load(Ordering::Acquire)
}

/// Sends requests to a peer, or does not, and answers each of them at once as if the peer had.
pub(super) fn pipeline<'s, S>(
    link: &Link,
    input: S,
) -> BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>
where
    S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
{
    let (sender, receiver) = mpsc::channel(WAITING);
    let (net, target, addr) = (link.net.clone(), link.target, link.addr.clone());
    let frame = {
        let net = net.clone();
        move |request: &AppendEntriesRequest<Types>| net.frame(target, kind::APPEND, wire::append_request(request))
    };
    tokio::spawn(async move {
        let Ok(mut client) = net.client(target, &addr, Class::Append) else { return };
        let Ok(answers) = client.append(Request::new(frames(receiver))).await else { return };
        let mut answers = answers.into_inner();
        while let Ok(Some(_)) = answers.message().await {}
    });
    let answered = input.map(move |request| {
        let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
        let _dropped = sender.try_send(frame(&request)).is_err();
        Ok(Ok(last))
    });
    answered.boxed()
}
