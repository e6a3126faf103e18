//! Wakes who waits for rows: reconcilers for their work, readers of cached views for a change.

use registry_core::metadata::keys::Kind;
use tokio::sync::watch;

/// What has changed since somebody looked; levels, never events: a waiter reads the rows themselves.
#[derive(Debug)]
pub struct Watch {
    needs: watch::Sender<u64>,
    topology: watch::Sender<u64>,
    digests: watch::Sender<u64>,
}

impl Default for Watch {
    fn default() -> Watch {
        Watch { needs: watch::Sender::new(0), topology: watch::Sender::new(0), digests: watch::Sender::new(0) }
    }
}

/// Kinds of rows a batch wrote.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Touched {
    needs: bool,
    topology: bool,
    digests: bool,
}

impl Watch {
    pub(crate) fn touched(&self, kinds: impl Iterator<Item = Kind>) -> Touched {
        let mut touched = Touched::default();
        for kind in kinds {
            match kind {
                Kind::Need => touched.needs = true,
                Kind::Topology => touched.topology = true,
                Kind::Digest => touched.digests = true,
                Kind::Other => {}
            }
        }
        touched
    }

    pub(crate) fn applied(&self, index: u64, touched: Touched) {
        if touched.needs {
            self.needs.send_replace(index);
        }
        if touched.topology {
            self.topology.send_replace(index);
        }
        if touched.digests {
            self.digests.send_replace(index);
        }
    }

    /// The state was replaced as a whole.
    pub(crate) fn replaced(&self) {
        self.applied(u64::MAX, Touched { needs: true, topology: true, digests: true });
    }

    /// Changes when a zone may lack a copy it should have.
    pub fn needs(&self) -> watch::Receiver<u64> {
        self.needs.subscribe()
    }

    /// Changes when nodes or volumes may have changed.
    pub fn topology(&self) -> watch::Receiver<u64> {
        self.topology.subscribe()
    }

    /// Changes when running hashes were asked for or reported.
    pub fn digests(&self) -> watch::Receiver<u64> {
        self.digests.subscribe()
    }
}
