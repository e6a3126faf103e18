//! The links are cut for long, while leaders die on both sides: what an outage between two regions is like. The short
//! cuts of `disturb` end before the next fault comes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;

use super::link::{Link, State};
use super::{LEADER_MAX, Region, region_name};
use crate::fault::Fault;
use crate::history::{Act, Note, Recorder};
use crate::nemesis::{self, merged};
use crate::workload::Shared;

/// Between two deaths of leaders, milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 8000..20_000;
/// How long a dead one stays so, milliseconds.
const DOWN_MS: std::ops::Range<u64> = 2000..8000;

/// Cuts both links for so long, and kills the leaders of both regions in turn meanwhile.
pub(super) async fn cut(
    lasts: Duration,
    regions: &mut [Region],
    links: &[Link; 2],
    shared: &Shared,
) -> Result<(), Fault> {
    let (recorder, began) = (&shared.recorder, Instant::now());
    let of: Vec<String> = (0..regions.len()).map(region_name).collect();
    // the faults that follow have numbers from 1 on
    let about = json!({"fault": 0, "kind": "cut-links", "regions": of, "lasts_s": lasts.as_secs()});
    println!("   0 s: {about}");
    recorder.note(Note::nemesis_begins(Act::Inject, None, about.clone()));
    links.iter().for_each(|link| link.set(State::Cut));
    recorder.note(Note::nemesis(Act::Inject, None, merged(about.clone(), json!({"outcome": "installed"}))));
    let mut random = fastrand::Rng::with_seed(shared.seed);
    let mut turn = random.usize(0..regions.len());
    let mut kills: BTreeMap<String, u64> = of.into_iter().map(|region| (region, 0)).collect();
    loop {
        let pause = Duration::from_millis(random.u64(PAUSE_MS));
        let left = lasts.saturating_sub(began.elapsed());
        if pause >= left {
            tokio::time::sleep(left).await;
            break;
        }
        tokio::time::sleep(pause).await;
        kill(&mut regions[turn], recorder, Duration::from_millis(random.u64(DOWN_MS))).await?;
        *kills.entry(region_name(turn)).or_default() += 1;
        turn = (turn + 1) % regions.len();
    }
    recorder.note(Note::nemesis_begins(Act::Heal, None, about.clone()));
    links.iter().for_each(|link| link.set(State::Up));
    recorder.note(Note::nemesis(Act::Heal, None, merged(about, json!({ "kills": kills }))));
    println!("{:4} s: the links are up again", began.elapsed().as_secs());
    Ok(())
}

/// The leader of a region dies, and returns.
async fn kill(region: &mut Region, recorder: &Recorder, down: Duration) -> Result<(), Fault> {
    let (leader, _) = region.cluster.wait_leader(LEADER_MAX).await?;
    nemesis::kill(&mut region.cluster, recorder, leader).await?;
    tokio::time::sleep(down).await;
    nemesis::restart(&mut region.cluster, recorder, leader).await
}
