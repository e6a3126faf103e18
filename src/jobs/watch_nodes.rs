//! Counts for how long a node has not been heard, in the state: so that every node judges alike when its copies are
//! made elsewhere, and a change of leader loses nothing but the span under way.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use registry_core::metadata::absence::{self, AbsenceRow, NoteAbsence, Patience};
use registry_core::metadata::command::Command;
use registry_core::metadata::keys;
use registry_core::metadata::node::{self, NodeState};
use registry_core::metadata::upgrade;
use registry_core::vocabulary::ids::NodeId;
use tokio::time::Instant;

use super::driver::{Reconciler, Step, StepFuture};
use crate::blob::transfer::Transfer;
use crate::metadata::Metadata;

/// Spans until a node is taken for lost: as many log entries, and the last one may be short by one.
const SPANS: u32 = 15;
/// Shortest and longest span.
const SPAN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));

/// Leader's job: notes which nodes are not heard.
#[derive(Debug)]
pub struct WatchNodes {
    metadata: Metadata,
    transfer: Transfer,
    own: NodeId,
    patience: Patience,
    principal: String,
    silence: Mutex<Silence>,
}

/// Since when the present leadership has heard nothing.
#[derive(Debug, Default)]
struct Silence {
    term: u64,
    since: BTreeMap<NodeId, Instant>,
}

impl Silence {
    /// What follows from a look at a node: nothing, or another row. A span counts only as a whole.
    fn look(
        &mut self,
        node: NodeId,
        is_heard: bool,
        before: Option<AbsenceRow>,
        patience: &Patience,
        now: Instant,
    ) -> Option<NoteAbsence> {
        if is_heard {
            self.since.remove(&node);
            return before.map(|_| NoteAbsence { node, before, now: None });
        }
        let since = self.since.entry(node).or_insert(now);
        let span = span(patience);
        if now.duration_since(*since) < span {
            return None;
        }
        *since = now;
        let counted = Some(patience.counted(before, span));
        (counted != before).then_some(NoteAbsence { node, before, now: counted })
    }
}

fn span(patience: &Patience) -> Duration {
    (patience.node / SPANS).clamp(SPAN.0, SPAN.1)
}

impl WatchNodes {
    /// For the node `own`, which calls itself `principal`.
    pub fn new(
        metadata: Metadata,
        transfer: Transfer,
        own: NodeId,
        patience: Patience,
        principal: String,
    ) -> WatchNodes {
        WatchNodes { metadata, transfer, own, patience, principal, silence: Mutex::default() }
    }

    fn notes(&self, term: u64) -> Vec<Command> {
        let seen: Vec<(NodeId, Option<AbsenceRow>)> = self.metadata.peek(|view| {
            let nodes = node::list(view).into_iter().filter(|(_, row)| row.state != NodeState::Removed);
            nodes.map(|(id, _)| (id, absence::read(view, id))).collect()
        });
        let mut silence = self.silence.lock();
        if silence.term != term {
            *silence = Silence { term, since: BTreeMap::new() };
        }
        silence.since.retain(|node, _| seen.iter().any(|(id, _)| id == node));
        let now = Instant::now();
        let notes = seen.into_iter().filter_map(|(id, before)| {
            let is_heard = id == self.own || self.transfer.is_reachable(id);
            silence.look(id, is_heard, before, &self.patience, now)
        });
        notes.map(Command::from).collect()
    }
}

impl Reconciler for WatchNodes {
    fn name(&self) -> &'static str {
        "watch_nodes"
    }

    fn period(&self) -> Duration {
        (span(&self.patience) / 4).clamp(Duration::from_millis(50), Duration::from_secs(1))
    }

    fn step(&self) -> StepFuture<'_> {
        Box::pin(async {
            let leadership = self.metadata.leadership();
            let level = self.metadata.peek(|view| upgrade::level_of(view, keys::SYSTEM));
            if !leadership.is_leader || level < upgrade::LEVEL_2 {
                self.silence.lock().since.clear();
                return Step::IDLE;
            }
            let notes = self.notes(leadership.term);
            let done = notes.len() as u64;
            if done == 0 {
                return Step::IDLE;
            }
            match self.metadata.propose(&self.principal, notes).await {
                Ok(_) => Step { done, failed: 0, more: false },
                Err(error) => {
                    // the span is counted again, from its beginning
                    tracing::debug!(%error, "which nodes are not heard was not noted");
                    Step { done: 0, failed: done, more: false }
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use registry_core::metadata::absence::Stage;

    // Only whole spans of silence count; a node that is heard between begins anew, and one whose absence has no further
    // consequence is not written about.
    #[test]
    fn whole_spans() {
        let patience = Patience { node: Duration::from_secs(15), zone: Duration::from_secs(30) };
        let (mut silence, node, began) = (Silence::default(), NodeId(3), Instant::now());
        let at = |ms: u64| began + Duration::from_millis(ms);
        assert_eq!(silence.look(node, false, None, &patience, at(0)), None);
        assert_eq!(silence.look(node, false, None, &patience, at(999)), None);
        assert_eq!(silence.look(node, true, None, &patience, at(1000)), None);
        assert_eq!(silence.look(node, false, None, &patience, at(1500)), None);
        assert_eq!(silence.look(node, false, None, &patience, at(2400)), None);
        let row = Some(AbsenceRow { absent_ms: 1000, stage: Stage::Missed });
        let note = silence.look(node, false, None, &patience, at(2500)).unwrap();
        assert_eq!((note.before, note.now), (None, row));
        assert_eq!(silence.look(node, false, row, &patience, at(2600)), None);
        let heard = silence.look(node, true, row, &patience, at(2700)).unwrap();
        assert_eq!((heard.before, heard.now), (row, None));
        let end = Some(AbsenceRow { absent_ms: 30_000, stage: Stage::Stranded });
        silence.look(node, false, end, &patience, at(3000));
        assert_eq!(silence.look(node, false, end, &patience, at(9000)), None);
    }
}
