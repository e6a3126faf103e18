//! Values read from files that an operator may replace at any time: certificates, keys.
//!
//! Files are looked at once a second by identity and time of the file *behind* the name, so a swapped symbolic link, as
//! in a mounted secret, is seen like an edited file. What does not load is refused and told once; the last good value
//! stays. Who holds the value reads it without a lock.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tracing::{error, info};

use super::Shutdown;

/// How often files are looked at.
pub const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// What a file looked like: device, inode, size, changed at (seconds, nanoseconds) by content and by inode.
type Look = Option<(u64, u64, u64, i64, i64, i64, i64)>;

type Load<T> = Box<dyn Fn(Option<&T>) -> Result<T, String> + Send + Sync>;

/// A value from files, and how to read it again.
pub struct Reloading<T> {
    name: &'static str,
    paths: Vec<PathBuf>,
    load: Load<T>,
    value: ArcSwap<T>,
}

impl<T> fmt::Debug for Reloading<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Reloading").field("name", &self.name).field("paths", &self.paths).finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Reloading<T> {
    /// Loads for the first time and goes on watching until `shutdown`. `name` labels logs and the metric
    /// `portolan_reloads_total{name, result}`. `load` is given the value in use, `None` the first time.
    ///
    /// # Errors
    /// What `load` says, when it fails the first time: a start with bad files is refused.
    pub fn start(
        name: &'static str,
        paths: Vec<PathBuf>,
        load: impl Fn(Option<&T>) -> Result<T, String> + Send + Sync + 'static,
        shutdown: Shutdown,
    ) -> Result<Arc<Reloading<T>>, String> {
        // Looked at before it is read: a change in between is then seen at the next look.
        let seen = look_at(&paths);
        let value = ArcSwap::from_pointee(load(None)?);
        let reloading = Arc::new(Reloading { name, paths, load: Box::new(load), value });
        tokio::spawn(Arc::clone(&reloading).watch(seen, shutdown));
        Ok(reloading)
    }

    /// The last good value.
    pub fn current(&self) -> Arc<T> {
        self.value.load_full()
    }

    async fn watch(self: Arc<Self>, mut seen: Vec<Look>, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
            // The files may stand on a network file system: never look at them on a thread that serves requests.
            let this = Arc::clone(&self);
            let Ok(looked) = tokio::task::spawn_blocking(move || this.look_again(seen)).await else { return };
            seen = looked;
        }
    }

    fn look_again(&self, seen: Vec<Look>) -> Vec<Look> {
        let now = look_at(&self.paths);
        if now == seen {
            return seen;
        }
        let loaded = (self.load)(Some(&self.value.load()));
        let result = if loaded.is_ok() { "accepted" } else { "refused" };
        metrics::counter!("portolan_reloads_total", "name" => self.name, "result" => result).increment(1);
        match loaded {
            Ok(value) => {
                self.value.store(Arc::new(value));
                info!(reload.name = self.name, "{} changed on disk and is in use from now on", self.name);
            }
            Err(problem) => {
                error!(
                    reload.name = self.name,
                    problem,
                    "{} changed on disk and is refused: {problem}; the one \
                    read before stays in use",
                    self.name
                );
            }
        }
        now
    }
}

fn look_at(paths: &[PathBuf]) -> Vec<Look> {
    let look = |path: &PathBuf| {
        let found = std::fs::metadata(path).ok()?;
        let (changed, moved) = ((found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec()));
        Some((found.dev(), found.ino(), found.size(), changed.0, changed.1, moved.0, moved.1))
    };
    paths.iter().map(look).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn until(what: &str, mut holds: impl FnMut() -> bool) {
        for _ in 0..200 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not within ten seconds: {what}");
    }

    // H5, U7: an edit and a symbolic link's swap are seen; a bad file is refused and the last good value stays.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sees_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (link, first, second) = (dir.path().join("number"), dir.path().join("1"), dir.path().join("2"));
        std::fs::write(&first, "1").unwrap();
        std::os::unix::fs::symlink(&first, &link).unwrap();
        let refused = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let (path, count) = (link.clone(), Arc::clone(&refused));
        let load = move |_: Option<&u32>| {
            let text = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
            text.parse()
                .inspect_err(|_| {
                    count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                })
                .map_err(|error| format!("{text:?}: {error}"))
        };
        let shutdown = Shutdown::new();
        let number = Reloading::start("number", vec![link.clone()], load, shutdown.clone()).unwrap();
        assert_eq!(*number.current(), 1);
        std::fs::write(&first, "11").unwrap();
        until("edited", || *number.current() == 11).await;
        std::fs::write(&first, "bad").unwrap();
        until("refused", || refused.load(std::sync::atomic::Ordering::SeqCst) == 1).await;
        assert_eq!(*number.current(), 11);
        std::fs::write(&second, "2").unwrap();
        let swapped = dir.path().join("next");
        std::os::unix::fs::symlink(&second, &swapped).unwrap();
        std::fs::rename(&swapped, &link).unwrap();
        until("swapped", || *number.current() == 2).await;
        shutdown.request();
    }

    // A start with a bad file is refused.
    #[tokio::test]
    async fn refuses_a_bad_start() {
        let started = Reloading::<u32>::start("number", Vec::new(), |_| Err("no".into()), Shutdown::new());
        assert_eq!(started.unwrap_err(), "no");
    }
}
