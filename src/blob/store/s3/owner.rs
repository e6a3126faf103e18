//! The object that says which life of which cluster may delete in the bucket.
//!
//! It is made before the first blob. A cluster that goes on in a new lineage (a forced recovery, a restored backup)
//! reads and writes, and deletes nothing until an operator lets it adopt the bucket: the other one may still be
//! running, and would lose what only it knows to be in use.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use registry_core::vocabulary::ids::{ClusterId, Lineage};
use serde::{Deserialize, Serialize};

use super::bucket::{Bucket, unavailable};
use crate::blob::store::{StoreError, StoreResult};

const FORMAT: u32 = 1;
/// No owner object of ours is longer.
const BYTES_MAX: usize = 4096;
/// How long an answer counts: deletes come in rows.
const FRESH: Duration = Duration::from_secs(1);

type LineageSource = Box<dyn Fn() -> Lineage + Send + Sync>;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    format: u32,
    cluster: String,
    lineage: String,
}

/// What this node knows of the owner object.
pub(super) struct Owner {
    cluster: ClusterId,
    name: String,
    lineage: OnceLock<LineageSource>,
    /// There is one, whosever it is.
    is_there: AtomicBool,
    /// Whether this lineage owned the bucket, and when that was asked.
    asked: Mutex<Option<(Instant, bool)>>,
}

impl Owner {
    pub(super) fn new(cluster: ClusterId, root: &str) -> Owner {
        Owner {
            cluster,
            name: format!("{root}owner"),
            lineage: OnceLock::new(),
            is_there: AtomicBool::new(false),
            asked: Mutex::default(),
        }
    }

    pub(super) fn set_lineage(&self, lineage: LineageSource) {
        // told once, where the node is put together
        drop(self.lineage.set(lineage));
    }

    fn text(&self, lineage: Lineage) -> StoreResult<Bytes> {
        let stored = Stored { format: FORMAT, cluster: self.cluster.to_string(), lineage: lineage.to_string() };
        let text = toml::to_string(&stored).map_err(|error| broken(&error.to_string()))?;
        Ok(Bytes::from(text))
    }

    fn read(&self, bucket: &Bucket) -> StoreResult<Option<Stored>> {
        let Some(bytes) = bucket.read_all(&self.name, BYTES_MAX)? else { return Ok(None) };
        let text = std::str::from_utf8(&bytes).map_err(|error| broken(&error.to_string()))?;
        toml::from_str(text).map(Some).map_err(|error| broken(error.message()))
    }

    /// The life of the cluster's log that this node is in; `None` until it was told.
    fn own_lineage(&self) -> Option<Lineage> {
        self.lineage.get().map(|lineage| lineage())
    }

    /// Takes a bucket that has no owner, before anything is put there.
    pub(super) fn claim(&self, bucket: &Bucket) -> StoreResult<()> {
        if self.is_there.load(Ordering::Acquire) {
            return Ok(());
        }
        if self.read(bucket)?.is_none() {
            let Some(lineage) = self.own_lineage() else { return Ok(()) };
            match bucket.put(&self.name, self.text(lineage)?, true) {
                Err(refused) if !refused.is_there_already() => return Err(refused.into()),
                Ok(_) | Err(_) => {}
            }
        }
        self.is_there.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether this lineage may delete.
    pub(super) fn may_delete(&self, bucket: &Bucket) -> StoreResult<bool> {
        let Some(lineage) = self.own_lineage() else { return Ok(false) };
        let mut asked = self.asked.lock();
        if let Some((at, may)) = *asked
            && at.elapsed() < FRESH
        {
            return Ok(may);
        }
        let owner = self.read(bucket)?;
        let may = owner.as_ref().is_some_and(|owner| owner.lineage == lineage.to_string());
        if !may {
            let owner = owner.map_or_else(|| "nobody".to_owned(), |owner| format!("lineage {}", owner.lineage));
            tracing::warn!(
                %owner, own = %lineage,
                "nothing is deleted in the bucket, which belongs to another life of this cluster. When that one has \
                 ended for good, say `portolan gc adopt-bucket`"
            );
        }
        *asked = Some((Instant::now(), may));
        Ok(may)
    }

    /// Makes this lineage the owner, whoever was.
    pub(super) fn adopt(&self, bucket: &Bucket) -> StoreResult<()> {
        let lineage = self.own_lineage().ok_or_else(|| broken("this node does not know its lineage yet"))?;
        bucket.put(&self.name, self.text(lineage)?, false)?;
        *self.asked.lock() = None;
        Ok(())
    }
}

fn broken(detail: &str) -> StoreError {
    unavailable("the owner object", detail.to_owned())
}
