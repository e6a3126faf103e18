//! The part of a comparison that reads bytes: some blobs of what a source sends are hashed on both sides.
//!
//! Which ones is drawn while the comparison of all repositories goes over their manifests. All copies of a region are
//! hashed, each by the node that has it; a bad one is set aside and made again as after a scrub, and one that was the
//! last is brought from the other region. Source: consensus-and-faults §6.5.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use registry_core::decide::replication::sample::Sample;
use registry_core::vocabulary::RepositoryName;
use registry_core::vocabulary::limits::{SAMPLE_MS_MAX, SAMPLED_BYTES_MAX};
use registry_core::vocabulary::manifest::Referenced;

use super::arrive::Problem;
use super::compare::{Comparer, Found};
use crate::registry::CheckedCopies;

/// A copy here was damaged or missing.
const BAD_BLOB: &str = "blob_bad";
/// One of the other region's was.
const BAD_SOURCE_BLOB: &str = "source_blob_bad";

/// Failures of the other region to hash a blob before it is not asked any more in this comparison; and blobs of which
/// copies here could not be read before the rest is left to another time.
const FAILURES_MAX: u64 = 3;
/// How long it goes on.
const LASTS_MAX: Duration = Duration::from_millis(SAMPLE_MS_MAX);

/// Between two looks for a gap.
const LOOK: Duration = Duration::from_secs(1);

const GAP: &str = "the stream has a gap, which is closed first: the rest is left to the next comparison";
const TOO_OLD: &str = "the other region's nodes are too old to hash their copies when asked";
const BROKEN_OFF: &str = "it took too long, or copies could not be read: the rest is left to the next comparison";
const DOUBTFUL: &str = "no other copy could be read now: compare again when all nodes are there";
const LOST_THERE: &str =
    "the other region has no good copy of it any more: pull the image here, and push it there again";

/// What reading and hashing some blobs on both sides came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SampleReport {
    /// Blobs of which copies were read: hashed, or looked at as their store's scrub does.
    pub blobs: u64,
    /// Their bytes, each counted once.
    pub bytes: u64,
    /// Of these, blobs with bad copies in this region.
    pub bad_here: u64,
    /// And in the other one.
    pub bad_there: u64,
    /// Blobs of which not all copies could be hashed, on one side or the other.
    pub unread: u64,
    /// Why the other region's copies were not hashed, or not all of them.
    pub problem: Option<String>,
}

/// A blob, and a repository that names it.
type Drawn = (RepositoryName, Referenced);

/// Draws blobs as they are come across. Cheap to clone.
#[derive(Clone)]
pub(super) struct Draw(Arc<Mutex<Sample<Drawn>>>);

impl Draw {
    /// By the time at which the comparison began.
    pub(super) fn new(began_at_ms: u64) -> Draw {
        Draw(Arc::new(Mutex::new(Sample::new(began_at_ms))))
    }

    pub(super) fn offer(&self, name: &RepositoryName, blob: &Referenced) {
        self.0.lock().offer(&blob.digest, || (name.clone(), *blob));
    }

    /// What was drawn, as much of it as fits.
    fn drawn(&self) -> Vec<Drawn> {
        let mut drawn = self.0.lock().clone().drawn();
        let mut left = SAMPLED_BYTES_MAX;
        drawn.retain(|(_, blob)| match left.checked_sub(blob.size_bytes) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        });
        drawn
    }
}

impl Comparer {
    /// Has what was drawn hashed on both sides, one blob after the other. Nothing that fails here fails the comparison:
    /// it is told.
    pub(super) async fn check_bytes(&self, draw: &Draw) {
        self.tell(|report| report.sample = Some(SampleReport::default()));
        let (mut failures, mut unread, began) = (0, 0, Instant::now());
        for (name, blob) in draw.drawn() {
            if began.elapsed() > LASTS_MAX || unread >= FAILURES_MAX {
                return self.tell_problem(Some(BROKEN_OFF.to_owned()));
            }
            let asks = async {
                if failures < FAILURES_MAX { Some(self.source.verify(&name, &blob.digest).await) } else { None }
            };
            let both = async { tokio::join!(self.arrivals.check_copies(&name, &blob.digest), asks) };
            let (here, there) = tokio::select! {
                both = both => both,
                // the stream waits for a comparison that closes its gap, and that one for this
                () = self.gap() => return self.tell_problem(Some(GAP.to_owned())),
            };
            // it was deleted meanwhile, here or there, or is not sent any more
            let is_moved = there == Some(Err(Problem::Moved));
            if here == Ok(None) || is_moved && matches!(here, Ok(Some(good)) if !good.is_bad()) {
                continue;
            }
            let (here, here_failed) = told(here);
            let (there, there_failed) = match there.filter(|_| !is_moved) {
                None => (None, None),
                Some(Ok(None)) => {
                    failures = FAILURES_MAX;
                    (None, Some(TOO_OLD.to_owned()))
                }
                Some(there) => told(there),
            };
            failures += u64::from(there_failed.is_some());
            unread += u64::from(here.is_none_or(|here| here.unread > 0));
            self.count(&blob, (here, there), here_failed.or(there_failed));
            self.settle_bytes(&name, &blob, (here, there)).await;
        }
    }

    /// Waits until the stream has a gap.
    async fn gap(&self) {
        while !self.status.state().has_gap {
            tokio::time::sleep(LOOK).await;
        }
    }

    fn count(
        &self,
        blob: &Referenced,
        (here, there): (Option<CheckedCopies>, Option<CheckedCopies>),
        failed: Option<String>,
    ) {
        let is_bad = |checked: Option<CheckedCopies>| checked.is_some_and(|checked| checked.is_bad());
        let is_read = |checked: Option<CheckedCopies>| checked.is_some_and(|checked| checked.unread == 0);
        let (bad_here, bad_there) = (is_bad(here), is_bad(there));
        let is_unread = !is_read(here) || !is_read(there);
        let results = [
            ("good", !bad_here && !bad_there && !is_unread),
            ("bad here", bad_here),
            ("bad there", bad_there),
            ("unread", is_unread),
        ];
        for (result, _) in results.iter().filter(|(_, is_so)| *is_so) {
            let region = self.source.region.to_string();
            metrics::counter!("portolan_replication_sampled_total", "region" => region, "result" => *result)
                .increment(1);
        }
        self.tell(|report| {
            let sample = report.sample.get_or_insert_default();
            let is_read = [here, there].into_iter().flatten().any(|checked| checked.is_read());
            sample.blobs += u64::from(is_read);
            sample.bytes += if is_read { blob.size_bytes } else { 0 };
            sample.bad_here += u64::from(bad_here);
            sample.bad_there += u64::from(bad_there);
            sample.unread += u64::from(is_unread);
        });
        self.tell_problem(failed);
    }

    /// Tells why blobs were not hashed; the first reason stays.
    fn tell_problem(&self, problem: Option<String>) {
        self.tell(|report| {
            let sample = report.sample.get_or_insert_default();
            sample.problem = sample.problem.take().or(problem);
        });
    }

    /// Tells what was bad, and has it made good.
    async fn settle_bytes(
        &self,
        name: &RepositoryName,
        blob: &Referenced,
        (here, there): (Option<CheckedCopies>, Option<CheckedCopies>),
    ) {
        let found = |kind, left| {
            let (repository, digest) = (name.clone(), Some(blob.digest));
            self.found(Found { repository, tag: None, digest, kind, left });
        };
        if let Some(there) = there.filter(CheckedCopies::is_bad) {
            let doubtful = there.is_doubtful().then_some(DOUBTFUL);
            found(BAD_SOURCE_BLOB, there.is_lost().then_some(LOST_THERE).or(doubtful).map(str::to_owned));
        }
        if let Some(here) = here.filter(CheckedCopies::is_bad) {
            // where another copy is left, the nodes make a new one of it
            let brought = match here.is_lost() {
                true => self.arrivals.bring_blob_anew(name, blob).await,
                false if here.is_doubtful() => Err(Problem::passing(DOUBTFUL)),
                false => Ok(()),
            };
            found(BAD_BLOB, brought.err().map(|problem| problem.to_string()));
        }
    }
}

/// What was found, or why nothing was.
fn told(checked: Result<Option<CheckedCopies>, Problem>) -> (Option<CheckedCopies>, Option<String>) {
    match checked {
        Ok(checked) => (checked, None),
        Err(problem) => (None, Some(problem.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use registry_core::vocabulary::Digest;
    use registry_core::vocabulary::manifest::ContentKind;

    use super::*;

    // What would be too much to read is left out; what fits beside it is not.
    #[test]
    fn as_much_as_fits() {
        let draw = Draw::new(1);
        let name = RepositoryName::parse("team/app").unwrap();
        for (number, size_bytes) in [(1u8, SAMPLED_BYTES_MAX + 1), (2, 100), (3, SAMPLED_BYTES_MAX - 150), (4, 50)] {
            let digest = Digest::sha256(&[number]);
            draw.offer(&name, &Referenced { digest, size_bytes, kind: ContentKind::Blob });
        }
        let mut sizes: Vec<u64> = draw.drawn().iter().map(|(_, blob)| blob.size_bytes).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [50, 100, SAMPLED_BYTES_MAX - 150]);
    }
}
