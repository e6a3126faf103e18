//! The use cases: one method of [`Registry`] per user-visible act, one file per noun.
//!
//! Orders the steps of an act: check, move bytes, commit. Never knows a status code, a header or a protocol's name, and
//! never who is asking: a [`Permit`](registry_core::decide::permit::Permit) says that they may. Start at the noun.

mod abroad;
mod blobs;
mod collection;
mod commit;
mod copies;
mod elsewhere;
mod history;
mod manifests;
mod nearest;
mod quotas;
mod remote;
mod repositories;
mod uploads;

use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::Stream;
use parking_lot::Mutex;
use registry_core::decide::permit::Permit;
use registry_core::metadata::repository::{self, RepositoryKey, RepositoryRow};
use registry_core::metadata::tables::TablesRead;
use registry_core::vocabulary::Refusal;
use registry_core::vocabulary::ids::Revision;
use registry_core::vocabulary::limits::RETRY_AFTER_MS;

use crate::blob::transfer::Transfer;
use crate::metadata::Metadata;
use nearest::Places;

pub use abroad::{Located, Received, Visit, is_link};
pub use blobs::{BlobContent, BlobInfo, MountSource, Pieces};
pub use collection::{BlobUses, Collection, Holder, NextStep, RepositoryUse};
pub use copies::{BlobCopies, CheckedCopies, CopyPlace};
pub use elsewhere::{Elsewhere, RemoteBlob};
pub use history::TagHistory;
pub use manifests::{ManifestInfo, ManifestPut, PutManifest, ReferrerInfo, Referrers, StoredManifest};
pub use nearest::Nearest;
pub use quotas::Quota;
pub use remote::{Merged, RemoteDelete, RemoteManifest, RemoteSetting};
pub use repositories::RepositoryInfo;
pub use uploads::UploadProgress;

pub use crate::metadata::Consistency;

/// Bytes of a request; an error means that the client is gone.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, std::io::Error>> + Send>>;

/// An answer with the revision it was read or committed at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At<T> {
    /// The answer.
    pub value: T,
    /// When, in the cluster's log.
    pub revision: Revision,
}

/// A page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// Its entries, in byte order.
    pub items: Vec<T>,
    /// Whether there is at least one more.
    pub more: bool,
}

impl<T> Page<T> {
    /// Cuts a run that was read one longer than the page.
    fn cut(mut items: Vec<T>, limit: usize) -> Page<T> {
        let more = items.len() > limit;
        items.truncate(limit);
        Page { items, more }
    }
}

/// The registry of this node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Registry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    metadata: Metadata,
    transfer: Transfer,
    /// Held by who deals a registry's quota out anew.
    dealing: tokio::sync::Mutex<()>,
    /// Where pulls of what is not here go, if anywhere.
    elsewhere: OnceLock<Arc<dyn Elsewhere>>,
    /// What was said about places, as it was read last.
    places: Mutex<Arc<Places>>,
}

impl Registry {
    /// Over the cluster's metadata and the blobs of its nodes.
    pub fn new(metadata: Metadata, transfer: Transfer) -> Registry {
        let (dealing, elsewhere) = (tokio::sync::Mutex::new(()), OnceLock::new());
        Registry(Arc::new(Inner { metadata, transfer, dealing, elsewhere, places: Mutex::default() }))
    }

    /// The state of the cluster, for who must decide and read at one revision.
    pub fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }

    fn transfer(&self) -> &Transfer {
        &self.0.transfer
    }
}

/// No quorum, no holder or no room now: come back.
pub(crate) fn unavailable() -> Refusal {
    Refusal::Unavailable { retry_after_ms: RETRY_AFTER_MS }
}

/// The repository a permit is for.
fn find(tables: &impl TablesRead, permit: &Permit) -> Result<(RepositoryKey, RepositoryRow), Refusal> {
    repository::find(tables, permit.registry, &permit.repository)
        .ok_or_else(|| repository::unknown(permit.registry, &permit.repository))
}
