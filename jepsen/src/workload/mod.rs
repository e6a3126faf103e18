//! What clients do, and what they remember of it. Each workload is a model of one kind of use; the property it must
//! keep is judged later, from its history, by `checker`.

pub(crate) mod blob_bytes;
pub(crate) mod client;
pub(crate) mod crew;
pub(crate) mod final_pull;
pub(crate) mod gc;
pub(crate) mod image;
pub(crate) mod listing;
pub(crate) mod nodes;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod register;
pub(crate) mod upload_resume;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::history::Recorder;

/// What the clients of a run share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) seed: u64,
    /// Largest layer of the images that are pushed, and largest blob.
    pub(crate) layer_bytes_max: usize,
    /// Longest pause of a client between two operations on tags, blobs and lists.
    pause_max: Duration,
    is_over: AtomicBool,
    next: AtomicU64,
    pushes: Mutex<Vec<Push>>,
    /// Repository and tag of every register.
    tags: Mutex<Vec<(String, String)>>,
    /// Blobs of `blob-bytes` that were acknowledged.
    blobs: Mutex<Vec<blob_bytes::Source>>,
    /// Lists of `listing`.
    lists: Mutex<Vec<Arc<listing::List>>>,
    /// Images of `gc` that may have been pushed.
    images: Mutex<Vec<gc::Known>>,
}

/// A push as its client remembers it.
#[derive(Clone, Debug)]
pub(crate) struct Push {
    pub(crate) repository: String,
    pub(crate) tag: String,
    /// Digest of the manifest.
    pub(crate) digest: String,
    pub(crate) blobs: Vec<String>,
    /// Whether it was acknowledged; otherwise nobody knows.
    pub(crate) is_acknowledged: bool,
}

impl Shared {
    /// Of a run that begins.
    pub(crate) fn new(recorder: &Arc<Recorder>, seed: u64, layer_bytes_max: usize, pause_max: Duration) -> Arc<Shared> {
        Arc::new(Shared {
            recorder: Arc::clone(recorder),
            seed,
            layer_bytes_max,
            pause_max,
            is_over: AtomicBool::new(false),
            next: AtomicU64::new(0),
            pushes: Mutex::default(),
            tags: Mutex::default(),
            blobs: Mutex::default(),
            lists: Mutex::default(),
            images: Mutex::default(),
        })
    }

    /// Clients finish what they do and begin nothing new.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// What a client does between two operations on tags, blobs and lists. The length is drawn: evenly spaced clients
    /// would meet the same moments again and again.
    pub(crate) async fn pause(&self, random: &mut fastrand::Rng) {
        tokio::time::sleep(self.pause_max.mul_f64(random.f64())).await;
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Number of the next image or blob.
    fn next_image(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn remember(&self, push: Push) {
        self.pushes.lock().push(push);
    }

    /// Every push that ended.
    pub(crate) fn pushes(&self) -> Vec<Push> {
        self.pushes.lock().clone()
    }

    /// Whether images of `gc` were pushed.
    pub(crate) fn has_garbage(&self) -> bool {
        !self.images.lock().is_empty()
    }

    /// How many pushes were acknowledged so far; of `gc`, how many may have been.
    pub(crate) fn acknowledged(&self) -> usize {
        self.pushes.lock().iter().filter(|push| push.is_acknowledged).count() + self.images.lock().len()
    }

    /// One of the acknowledged pushes; half of the time one of the last hundred.
    fn any_acknowledged(&self, random: &mut fastrand::Rng) -> Option<Push> {
        let pushes = self.pushes.lock();
        let from = if random.bool() { pushes.len().saturating_sub(100) } else { 0 };
        if from >= pushes.len() {
            return None;
        }
        let found = &pushes[random.usize(from..pushes.len())];
        found.is_acknowledged.then(|| found.clone())
    }
}
