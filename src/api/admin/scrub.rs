//! The verification of the asked node's copies: where it stands, pausing it, beginning it anew.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use registry_core::decide::policy;
use serde::Serialize;

use super::answer;
use super::error::Failure;
use super::exchange::{Document, Exchange, Nothing};
use crate::jobs::scrub_copies::{Progress, Scrub};

type Answer = Result<Response<Body>, Failure>;

#[derive(Serialize)]
struct StatusDocument {
    under_way: bool,
    paused: bool,
    rounds: u64,
    began_at: Option<String>,
    ended_at: Option<String>,
    good: u64,
    good_bytes: u64,
    bad: u64,
    missing: u64,
}

impl StatusDocument {
    fn new(progress: &Progress) -> StatusDocument {
        let time = |at_ms: u64| (at_ms > 0).then(|| answer::time(at_ms));
        StatusDocument {
            under_way: progress.under_way,
            paused: progress.paused,
            rounds: progress.rounds,
            began_at: time(progress.began_at_ms),
            ended_at: time(progress.ended_at_ms),
            good: progress.good,
            good_bytes: progress.good_bytes,
            bad: progress.bad,
            missing: progress.missing,
        }
    }
}

/// `GET /v1/scrub`: of the asked node.
pub(super) async fn status(exchange: Exchange) -> Answer {
    exchange.administrator(policy::Action::ReadCluster, "scrub.get").await?;
    Ok(answer::json(StatusCode::OK, &StatusDocument::new(&exchange.admin().scrub.progress())))
}

/// `POST /v1/scrub/run`: every copy of the asked node is read again, from the first one on.
pub(super) async fn run(exchange: Exchange, Document(wish): Document<Nothing>) -> Answer {
    act(&exchange, "scrub.run", wish, |scrub| scrub.ask()).await
}

/// `POST /v1/scrub/pause`: the asked node reads nothing until it is resumed.
pub(super) async fn pause(exchange: Exchange, Document(wish): Document<Nothing>) -> Answer {
    act(&exchange, "scrub.pause", wish, |scrub| scrub.set_paused(true)).await
}

/// `POST /v1/scrub/resume`
pub(super) async fn resume(exchange: Exchange, Document(wish): Document<Nothing>) -> Answer {
    act(&exchange, "scrub.resume", wish, |scrub| scrub.set_paused(false)).await
}

async fn act(
    exchange: &Exchange,
    action: &'static str,
    wish: Result<Nothing, Failure>,
    act: impl FnOnce(&Scrub),
) -> Answer {
    let admin = exchange.admin();
    let node = admin.cluster.node().to_string();
    let done = exchange.change(action, &node, async |auth, caller| {
        auth.permit_admin(caller, policy::Action::ManageCluster)?;
        let Nothing {} = wish?;
        act(&admin.scrub);
        Ok(caller.revision())
    });
    done.await?;
    Ok(answer::json(StatusCode::OK, &StatusDocument::new(&admin.scrub.progress())))
}
