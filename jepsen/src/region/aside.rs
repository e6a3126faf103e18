//! What a region puts aside of the other one's changes while that one's clock is far ahead, and has to take once the
//! clocks agree again.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{LEADER_MAX, Region, name, region_name};
use crate::fault::Fault;
use crate::history::{Act, Note, Recorder};

const PAUSE: Duration = Duration::from_secs(2);

/// How many changes of the other region a region has put aside, and why the first one is; `None` without an answer.
/// No more than the server lists are counted.
async fn put_aside(regions: &[Region], at: usize) -> Option<(usize, Value)> {
    let cluster = &regions[at].cluster;
    let seats = cluster.seats();
    let (leader, _) = cluster.majority_leader().await?;
    let path = format!("/v1/replication/parked/{}", name(2 - at));
    let document = cluster.admin().document(&seats[leader], &path).await.ok()?;
    let listed = document["parked"].as_array()?;
    Some((listed.len(), listed.first().map(|first| first["reason"].clone()).unwrap_or_default()))
}

/// Notes what a region has put aside; whether it is something.
pub(super) async fn look(regions: &[Region], recorder: &Recorder, at: usize) -> bool {
    let Some((count, reason)) = put_aside(regions, at).await else { return false };
    let value = json!({"region": region_name(at), "count": count, "reason": reason});
    recorder.note(Note::nemesis(Act::Parked, None, value));
    count > 0
}

/// How long what was put aside is tried again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// All together.
    pub(super) all: Duration,
    /// Without one that was taken.
    pub(super) idle: Duration,
}

/// Has a region try again what it has put aside, as an operator would, until nothing is or the patience is over.
pub(super) async fn retry(regions: &[Region], recorder: &Recorder, at: usize, patience: Patience) -> Result<(), Fault> {
    let (began, cluster) = (Instant::now(), &regions[at].cluster);
    let mut progress = began;
    let path = format!("/v1/replication/parked/{}/retry", name(2 - at));
    let (mut settled, mut after, mut last) = (0, Value::Null, Value::Null);
    loop {
        let count = put_aside(regions, at).await.map(|(count, _)| count);
        if count == Some(0) || began.elapsed() > patience.all || progress.elapsed() > patience.idle {
            let value = json!({"region": region_name(at), "count": count, "settled": settled, "last": last});
            recorder.note(Note::nemesis(Act::Parked, None, value));
            return Ok(());
        }
        let (leader, _) = cluster.wait_leader(LEADER_MAX).await?;
        match cluster.admin().act(&cluster.seats()[leader], &path, &json!({"after": after})).await {
            Ok(retried) => {
                let taken = retried["settled"].as_u64().unwrap_or(0);
                settled += taken;
                if taken > 0 {
                    progress = Instant::now();
                }
                last = retried["failed"].get(0).cloned().unwrap_or_default();
                after = retried["rest"].clone();
                if after.is_null() && !last.is_null() {
                    tokio::time::sleep(PAUSE).await;
                }
            }
            Err(why) => {
                last = json!(why);
                after = Value::Null;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
