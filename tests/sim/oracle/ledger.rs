//! What clients were told: acknowledged pushes are readable, unless they were deleted on purpose.
//!
//! An act whose outcome is not known takes what it is about out of the ledger: either is right from then on, also much
//! later.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use registry_core::vocabulary::{Digest, RepositoryName, Tag};

/// An image that was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) repository: RepositoryName,
    pub(crate) digest: Digest,
    pub(crate) manifest: Bytes,
    pub(crate) blobs: Vec<Digest>,
}

/// What is promised about one tag: the digests it was told to name, the last one now. Each has one writer.
type History = Vec<Option<Digest>>;

/// The ledger. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    images: BTreeMap<(RepositoryName, Digest), Image>,
    tags: BTreeMap<(RepositoryName, Tag), History>,
    acknowledged: u64,
    pulled: u64,
}

impl Ledger {
    /// A push was acknowledged, under this tag.
    pub(crate) fn pushed(&self, image: Image, tag: &Tag) {
        let mut inner = self.0.lock();
        inner.acknowledged += 1;
        inner.tags.entry((image.repository.clone(), tag.clone())).or_default().push(Some(image.digest));
        inner.images.insert((image.repository.clone(), image.digest), image);
    }

    /// Its writer is about to move or drop the tag, or has done so: from now on it may name this. What was done is
    /// told twice, so that what it named before is wrong.
    pub(crate) fn moving(&self, repository: &RepositoryName, tag: &Tag, to: Option<Digest>) {
        self.0.lock().tags.entry((repository.clone(), tag.clone())).or_default().push(to);
    }

    /// Nobody knows what the tag names now.
    pub(crate) fn forget_tag(&self, repository: &RepositoryName, tag: &Tag) {
        self.0.lock().tags.remove(&(repository.clone(), tag.clone()));
    }

    /// An image is about to be deleted, or may have been.
    pub(crate) fn forget_image(&self, repository: &RepositoryName, digest: &Digest) {
        self.0.lock().images.remove(&(repository.clone(), *digest));
    }

    /// Whether the image is promised now.
    pub(crate) fn promises(&self, image: &Image) -> bool {
        self.0.lock().images.contains_key(&(image.repository.clone(), image.digest))
    }

    /// Everything that is promised now.
    pub(crate) fn images(&self) -> Vec<Image> {
        self.0.lock().images.values().cloned().collect()
    }

    /// Tags with how much of their history has been written.
    pub(crate) fn tags(&self) -> Vec<(RepositoryName, Tag, usize)> {
        let inner = self.0.lock();
        inner.tags.iter().map(|((repository, tag), told)| (repository.clone(), tag.clone(), told.len())).collect()
    }

    /// Whether a tag that had so much history when a read began may have named this.
    pub(crate) fn may_name(&self, repository: &RepositoryName, tag: &Tag, since: usize, found: Option<Digest>) -> bool {
        let inner = self.0.lock();
        let Some(told) = inner.tags.get(&(repository.clone(), tag.clone())) else { return true };
        // the last entry may be a move under way: then the one before is right as well
        told[since.saturating_sub(2)..].contains(&found)
    }

    /// An image was pulled whole.
    pub(crate) fn pulled(&self) {
        self.0.lock().pulled += 1;
    }

    /// Pushes acknowledged and images pulled so far.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let inner = self.0.lock();
        (inner.acknowledged, inner.pulled)
    }
}
