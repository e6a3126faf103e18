//! Blobs on their way from another region: each is fetched once, however many wait for it, and read while it comes.
//!
//! The bytes go into a file without a name, which is gone with the last reader. Only when all of them are there and
//! hash to the digest is the last one handed out: nobody gets a whole body that is wrong. A way that breaks off goes on
//! where it was, with whoever has the blob then; those who wait notice nothing but the pause. Source:
//! consensus-and-faults §6.6, security-cases R17, R19.

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use parking_lot::Mutex;
use registry_core::vocabulary::digest::Hasher;
use registry_core::vocabulary::limits::FLIGHTS_MAX;
use registry_core::vocabulary::{Digest, RepositoryName};
use tokio::sync::{OnceCell, watch};
use tokio::time::Instant;

use super::arrive::Problem;
use crate::ground::random;

/// Bytes handed to a reader at once.
const PART_BYTES: u64 = 256 * 1024;
/// How long a whole blob stays for who comes late: until it has arrived by itself, mostly.
const LINGER: Duration = Duration::from_secs(60);
/// Tries without a byte before those who wait are told.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(4);

/// Which blob, from where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FlightKey {
    /// Number of the region.
    pub(super) region: u16,
    /// The repository there.
    pub(super) repository: RepositoryName,
    /// The blob.
    pub(super) digest: Digest,
}

/// The bytes of a blob from an offset on, and its whole size.
pub(super) struct Way {
    pub(super) size_bytes: u64,
    pub(super) bytes: BoxStream<'static, Result<Bytes, Problem>>,
}

/// How far a blob has come.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    Bytes(u64),
    Whole,
    Failed(Problem),
}

/// A blob on its way.
pub(super) struct Flight {
    /// Its size.
    pub(super) size_bytes: u64,
    spool: Arc<File>,
    progress: watch::Sender<Progress>,
}

type Cell = Arc<OnceCell<Result<Arc<Flight>, Problem>>>;

/// The blobs that are on their way to this node.
pub(super) struct Flights {
    dir: PathBuf,
    open: Mutex<BTreeMap<FlightKey, Cell>>,
}

/// A place among those who want one blob. With the last of them goes what came to nothing.
struct Seat<'a> {
    flights: &'a Flights,
    key: &'a FlightKey,
    cell: Option<Cell>,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut open = self.flights.open.lock();
        let Some(own) = self.cell.take() else { return };
        let is_dead = match own.get() {
            Some(Ok(flight)) => flight.has_failed(),
            Some(Err(_)) => true,
            // begun by nobody who is still there: the map's and this one
            None => Arc::strong_count(&own) <= 2,
        };
        if is_dead && open.get(self.key).is_some_and(|present| Arc::ptr_eq(present, &own)) {
            open.remove(self.key);
        }
    }
}

impl Flights {
    /// Keeps what comes in files below a directory, which is made when it is needed.
    pub(super) fn new(dir: PathBuf) -> Flights {
        Flights { dir, open: Mutex::default() }
    }

    /// A blob that is on its way, or is from now on. `open` gives the way from an offset on, and is called again when
    /// it breaks off. Who asks while another one does shares what comes of it, and asks once more if that is nothing.
    ///
    /// # Errors
    /// [`Problem::Moved`] if it is not there; [`Problem::Passing`] if that can't be told, or too many are on their way.
    pub(super) async fn join<O, F>(self: &Arc<Self>, key: &FlightKey, open: O) -> Result<Arc<Flight>, Problem>
    where
        O: Fn(u64) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Way, Problem>> + Send + 'static,
    {
        let open = Arc::new(open);
        for is_last in [false, true] {
            let seat = self.seat(key)?;
            let Some(cell) = &seat.cell else { break };
            let mut is_own = false;
            let begin = || {
                is_own = true;
                self.begin(key, Arc::clone(&open))
            };
            let begun = cell.get_or_init(begin).await.clone();
            match begun {
                Ok(flight) if !flight.has_failed() => return Ok(flight),
                Err(problem) if is_own || is_last => return Err(problem),
                Ok(_) | Err(_) => {}
            }
        }
        Err(Problem::passing("the blob broke off"))
    }

    fn seat<'a>(&'a self, key: &'a FlightKey) -> Result<Seat<'a>, Problem> {
        let mut open = self.open.lock();
        if open.len() >= FLIGHTS_MAX && !open.contains_key(key) {
            // those that are whole only stay for who comes late
            open.retain(|_, cell| !matches!(cell.get(), Some(Ok(flight)) if flight.is_whole()));
        }
        if open.len() >= FLIGHTS_MAX && !open.contains_key(key) {
            return Err(Problem::passing("as many blobs are on their way from other regions as may be"));
        }
        let cell = Some(Arc::clone(open.entry(key.clone()).or_default()));
        Ok(Seat { flights: self, key, cell })
    }

    /// Whether one is on its way, or stays.
    #[cfg(test)]
    fn has(&self, key: &FlightKey) -> bool {
        self.open.lock().contains_key(key)
    }

    fn forget(&self, key: &FlightKey, flight: &Arc<Flight>) {
        let mut open = self.open.lock();
        let is_its = |cell: &Cell| matches!(cell.get(), Some(Ok(present)) if Arc::ptr_eq(present, flight));
        if open.get(key).is_some_and(is_its) {
            open.remove(key);
        }
    }

    async fn begin<O, F>(self: &Arc<Self>, key: &FlightKey, open: Arc<O>) -> Result<Arc<Flight>, Problem>
    where
        O: Fn(u64) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Way, Problem>> + Send + 'static,
    {
        let first = (*open)(0).await?;
        let dir = self.dir.clone();
        let spool = blocking(move || nameless(&dir)).await?;
        let (progress, _) = watch::channel(Progress::Bytes(0));
        let flight = Arc::new(Flight { size_bytes: first.size_bytes, spool: Arc::new(spool), progress });
        let (flights, key, carried) = (Arc::clone(self), key.clone(), Arc::clone(&flight));
        tokio::spawn(async move {
            let (carrying, digest) = (Arc::clone(&carried), key.digest);
            // also a fault of ours ends the waiting of those who read
            let ended = tokio::spawn(async move { carrying.carry(&digest, first, &*open).await }).await;
            let ended = ended.unwrap_or_else(|_| Err(Problem::passing("the blob broke off")));
            let is_whole = ended.is_ok();
            carried.progress.send_replace(ended.map_or_else(Progress::Failed, |()| Progress::Whole));
            if is_whole {
                tokio::time::sleep(LINGER).await;
            }
            flights.forget(&key, &carried);
        });
        Ok(flight)
    }
}

/// A file that nobody else can open, and that is gone when it is closed.
fn nameless(dir: &std::path::Path) -> std::io::Result<File> {
    std::fs::create_dir_all(dir)?;
    let path = dir.join(format!("{:032x}", random::number128()));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// Works on files without holding up what else this thread does.
async fn blocking<R: Send + 'static>(work: impl FnOnce() -> std::io::Result<R> + Send + 'static) -> Result<R, Problem> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|_| Problem::passing("this node stops"))?;
    done.map_err(|error| Problem::passing(format!("what came from another region can't be kept: {error}")))
}

impl Flight {
    fn has_failed(&self) -> bool {
        matches!(&*self.progress.borrow(), Progress::Failed(_))
    }

    fn is_whole(&self) -> bool {
        matches!(&*self.progress.borrow(), Progress::Whole)
    }

    /// Brings everything, over as many ways as it takes; gives up when nobody has wanted it for a while.
    async fn carry<O, F>(&self, digest: &Digest, first: Way, open: &O) -> Result<(), Problem>
    where
        O: Fn(u64) -> F + Send + Sync,
        F: Future<Output = Result<Way, Problem>> + Send,
    {
        let (mut at, mut hasher) = (0, Hasher::new(digest.algorithm()));
        let (mut way, mut tries, mut pause) = (Ok(first), 0, PAUSE);
        let mut wanted = Instant::now();
        loop {
            let before = at;
            let problem = match way {
                Ok(way) => self.carry_along(way, digest, (&mut at, &mut hasher, &mut wanted)).await.err(),
                Err(problem) => Some(problem),
            };
            let problem = match problem {
                None if at == self.size_bytes => break,
                None => Problem::passing("the blob broke off"),
                Some(problem @ (Problem::Moved | Problem::Lasting(_))) => return Err(problem),
                Some(problem) => problem,
            };
            (tries, pause) = if at > before { (0, PAUSE) } else { (tries + 1, (pause * 2).min(PAUSE_MAX)) };
            if tries >= TRIES {
                return Err(problem);
            }
            tracing::debug!(%digest, at, %problem, "a blob of another region comes by another way");
            tokio::time::sleep(pause).await;
            way = open(at).await;
        }
        let actual = hasher.finish();
        if actual == *digest {
            return Ok(());
        }
        tracing::error!(%digest, %actual, "another region sent other bytes than it was asked for");
        Err(Problem::passing(format!("the other region sent {actual} for {digest}")))
    }

    async fn carry_along(
        &self,
        mut way: Way,
        digest: &Digest,
        (at, hasher, wanted): (&mut u64, &mut Hasher, &mut Instant),
    ) -> Result<(), Problem> {
        if way.size_bytes != self.size_bytes {
            return Err(Problem::passing("the blob has another size there now"));
        }
        while let Some(part) = way.bytes.next().await {
            let part = part?;
            if part.len() as u64 > self.size_bytes - *at {
                return Err(Problem::passing("more bytes than the blob has"));
            }
            let (spool, offset, len) = (Arc::clone(&self.spool), *at, part.len() as u64);
            let mut hashing = std::mem::replace(hasher, Hasher::new(digest.algorithm()));
            // hashing eight megabytes takes a while too
            *hasher = blocking(move || {
                hashing.update(&part);
                spool.write_all_at(&part, offset).map(|()| hashing)
            })
            .await?;
            *at += len;
            self.progress.send_replace(Progress::Bytes(*at));
            if self.progress.receiver_count() > 0 {
                *wanted = Instant::now();
            } else if wanted.elapsed() > LINGER {
                return Err(Problem::lasting("nobody waits for it any more"));
            }
        }
        Ok(())
    }

    /// The bytes of a range, as they come.
    pub(super) fn read(self: &Arc<Self>, range: Range<u64>) -> BoxStream<'static, Result<Bytes, Problem>> {
        let range = range.start..range.end.min(self.size_bytes);
        let reader = (Arc::clone(self), range, self.progress.subscribe());
        let parts = stream::try_unfold(reader, |(flight, range, mut progress)| async move {
            if range.start >= range.end {
                return Ok(None);
            }
            let until = flight.come(range.start, &mut progress).await?.min(range.end);
            let (spool, offset) = (Arc::clone(&flight.spool), range.start);
            let len = (until - offset).min(PART_BYTES);
            let part = blocking(move || {
                let mut part = vec![0; usize::try_from(len).unwrap_or_default()];
                spool.read_exact_at(&mut part, offset).map(|()| Bytes::from(part))
            });
            let part = part.await?;
            Ok::<_, Problem>(Some((part, (flight, offset + len..range.end, progress))))
        });
        parts.boxed()
    }

    /// Waits until there is a byte at an offset; up to where there are.
    async fn come(&self, offset: u64, progress: &mut watch::Receiver<Progress>) -> Result<u64, Problem> {
        loop {
            let come = match &*progress.borrow_and_update() {
                // the last byte waits until all of them are known to be right
                Progress::Bytes(come) => (*come).min(self.size_bytes.saturating_sub(1)),
                Progress::Whole => self.size_bytes,
                Progress::Failed(problem) => return Err(problem.clone()),
            };
            if come > offset {
                return Ok(come);
            }
            // the sender lives as long as this flight
            progress.changed().await.map_err(|_| Problem::passing("this node stops"))?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn key(bytes: &[u8]) -> FlightKey {
        let repository = RepositoryName::parse("team/app").unwrap();
        FlightKey { region: 2, repository, digest: Digest::sha256(bytes) }
    }

    fn flights() -> (tempfile::TempDir, Arc<Flights>) {
        let dir = tempfile::tempdir().unwrap();
        let flights = Arc::new(Flights::new(dir.path().join("through")));
        (dir, flights)
    }

    fn parts(bytes: &[u8], part: usize) -> Vec<Result<Bytes, Problem>> {
        bytes.chunks(part).map(|part| Ok(Bytes::copy_from_slice(part))).collect()
    }

    async fn whole(flight: &Arc<Flight>, range: Range<u64>) -> Result<Vec<u8>, Problem> {
        let parts: Vec<_> = flight.read(range).collect().await;
        Ok(parts.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
    }

    // R19: many who ask at once cause one fetch, and each gets all of it, or the range it asked for; a way that breaks
    // off goes on where it was.
    #[tokio::test]
    async fn r19_one_fetch_for_all_who_wait() {
        let (dir, flights) = flights();
        let bytes: Vec<u8> = (0..100_000u32).flat_map(u32::to_be_bytes).collect();
        let (opened, size_bytes) = (Arc::new(AtomicU32::new(0)), bytes.len() as u64);
        let join = || {
            let (opened, bytes) = (Arc::clone(&opened), bytes.clone());
            let key = key(&bytes);
            let flights = Arc::clone(&flights);
            async move {
                let open = move |offset: u64| {
                    let number = opened.fetch_add(1, Ordering::Relaxed);
                    let mut way = parts(&bytes[usize::try_from(offset).unwrap()..], 7000);
                    if number == 0 {
                        way.truncate(20);
                        way.push(Err(Problem::passing("its node died")));
                    }
                    async move { Ok(Way { size_bytes, bytes: stream::iter(way).boxed() }) }
                };
                flights.join(&key, open).await.unwrap()
            }
        };
        let all = futures_util::future::join_all((0..50).map(|_| async {
            let flight = join().await;
            (whole(&flight, 0..size_bytes).await.unwrap(), whole(&flight, 13..70_007).await.unwrap())
        }));
        for (read, part) in all.await {
            assert!(read == bytes && part == bytes[13..70_007]);
        }
        assert_eq!(opened.load(Ordering::Relaxed), 2, "one fetch, taken up again once");
        assert!(flights.has(&key(&bytes)), "it stays for who comes late");
        let left = std::fs::read_dir(dir.path().join("through")).unwrap().count();
        assert_eq!(left, 0, "no file has a name");
    }

    // R17: bytes that do not hash to the digest never make a whole body; the next one who asks fetches anew.
    #[tokio::test]
    async fn r17_wrong_bytes_are_not_handed_out() {
        let (_dir, flights) = flights();
        let (asked, sent) = (b"what was asked for".to_vec(), b"what is sent there".to_vec());
        let size_bytes = asked.len() as u64;
        let send = |bytes: Vec<u8>| {
            move |_: u64| {
                let way = parts(&bytes, 5);
                async move { Ok(Way { size_bytes, bytes: stream::iter(way).boxed() }) }
            }
        };
        let flight = flights.join(&key(&asked), send(sent)).await.unwrap();
        let read: Vec<_> = flight.read(0..size_bytes).collect().await;
        let good: usize = read.iter().flatten().map(Bytes::len).sum();
        assert!(good < asked.len() && read.last().unwrap().is_err(), "{read:?}");
        let gone = async {
            while flights.has(&key(&asked)) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.expect("what failed is forgotten");
        let flight = flights.join(&key(&asked), send(asked.clone())).await.unwrap();
        assert_eq!(whole(&flight, 0..size_bytes).await.unwrap(), asked);
    }

    // What is not there is nobody's; an empty blob is whole at once; one that never comes is given up.
    #[tokio::test(start_paused = true)]
    async fn ends() {
        let (_dir, flights) = flights();
        let gone = flights.join(&key(b"gone"), |_| async { Err(Problem::Moved) }).await;
        assert_eq!(gone.err(), Some(Problem::Moved));
        assert!(!flights.has(&key(b"gone")));
        // one that its only asker gives up leaves nothing behind
        let slow = key(b"slow");
        let never = flights.join(&slow, |_| std::future::pending::<Result<Way, Problem>>());
        assert!(tokio::time::timeout(Duration::from_secs(1), never).await.is_err());
        assert!(!flights.has(&slow));
        let empty = |_| async { Ok(Way { size_bytes: 0, bytes: stream::empty().boxed() }) };
        let flight = flights.join(&key(b""), empty).await.unwrap();
        assert_eq!(whole(&flight, 0..0).await.unwrap(), b"");
        let never = |_| async { Ok(Way { size_bytes: 4, bytes: stream::empty().boxed() }) };
        let flight = flights.join(&key(b"late"), never).await.unwrap();
        assert!(matches!(whole(&flight, 0..4).await, Err(Problem::Passing(_))));
    }
}
