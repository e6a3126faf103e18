//! What each region lists as conflicts when everything is over.

use serde_json::{Value, json};

use super::{LEADER_MAX, Region, get, region_name};
use crate::fault::Fault;
use crate::history::{Act, Note, Recorder};

/// Notes them, all pages.
pub(super) async fn note(regions: &[Region], recorder: &Recorder) -> Result<(), Fault> {
    for (at, region) in regions.iter().enumerate() {
        let (leader, _) = region.cluster.wait_leader(LEADER_MAX).await?;
        let seat = &region.cluster.seats()[leader];
        let (mut listed, mut after) = (Vec::new(), Value::Null);
        loop {
            let behind = after.as_str().map(|after| format!("?after={after}")).unwrap_or_default();
            let page = get(&region.cluster, seat, &format!("/v1/replication/conflicts{behind}")).await?;
            listed.extend(page["conflicts"].as_array().cloned().unwrap_or_default());
            after = page["after"].clone();
            if after.is_null() {
                break;
            }
        }
        let value = json!({"region": region_name(at), "conflicts": listed});
        recorder.note(Note::nemesis(Act::Conflicts, None, value));
    }
    Ok(())
}
