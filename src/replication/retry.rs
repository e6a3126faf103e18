//! Changes that were put aside, tried once more because an operator says so.

use std::sync::Arc;

use registry_core::metadata::parked::{self, ParkedId, ParkedRow, UnparkEvent};

use super::arrive::Arrivals;
use super::client::Source;
use super::principal;
use super::wire::Travelling;
use crate::metadata::Metadata;

/// Changes tried by one call.
const RETRIED_AT_ONCE: usize = 100;

/// What came of trying again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retried {
    /// Made true, or not needed any more; not put aside any longer.
    pub settled: u64,
    /// Failed again, with why; the first ones.
    pub failed: Vec<(ParkedId, String)>,
    /// Behind which to go on; `None` when these were the last.
    pub rest: Option<ParkedId>,
}

/// Tries what was put aside.
#[derive(Clone)]
pub(super) struct Retrier {
    pub(super) metadata: Metadata,
    pub(super) source: Arc<Source>,
    pub(super) arrivals: Arc<Arrivals>,
}

impl Retrier {
    /// Tries some changes behind one, oldest first.
    pub(super) async fn retry(&self, after: Option<ParkedId>) -> Retried {
        let parked = self.metadata.peek(|view| parked::list(view, self.source.number, after, RETRIED_AT_ONCE));
        let rest = (parked.len() == RETRIED_AT_ONCE).then(|| parked.last().map(|(id, _)| *id)).flatten();
        let mut retried = Retried { rest, ..Retried::default() };
        for (id, row) in parked {
            let ParkedRow { repository, change, at_ms, .. } = row;
            // a delete that was not to be followed never failed
            let travelling = Travelling { index: id.index, repository, change, at_ms, acts: true };
            match self.arrivals.apply(&travelling).await {
                Ok(_) => match self.unpark(id).await {
                    Ok(()) => retried.settled += 1,
                    Err(reason) => retried.failed.push((id, reason)),
                },
                Err(problem) => retried.failed.push((id, problem.to_string())),
            }
        }
        retried
    }

    async fn unpark(&self, id: ParkedId) -> Result<(), String> {
        let unpark = UnparkEvent { id };
        let proposed = self.metadata.propose(&principal(&self.source.region), vec![unpark.into()]).await;
        proposed.map(drop).map_err(|error| error.to_string())
    }
}
