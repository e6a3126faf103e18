//! The link between two regions: every node's door behind a proxy of this process, which can be cut.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Connections that go through until they are cut.
#[derive(Clone, Default)]
pub(crate) struct Link {
    is_cut: Arc<AtomicBool>,
    carried: Arc<AtomicU64>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Link {
    /// An address at which `target` answers, as long as the link is not cut.
    pub(crate) fn to(&self, target: String) -> String {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let link = self.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if link.is_cut.load(Ordering::SeqCst) {
                    continue;
                }
                // a node that does not run refuses, and so does its end of the link
                drop(link.join(client, &target));
            }
        });
        address
    }

    fn join(&self, client: TcpStream, target: &str) -> io::Result<()> {
        let server = TcpStream::connect(target)?;
        self.open.lock().unwrap().extend([client.try_clone()?, server.try_clone()?]);
        for (mut from, mut to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
            let carried = Arc::clone(&self.carried);
            std::thread::spawn(move || {
                let _copied = copy(&mut from, &mut to, &carried);
                let _closed = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            });
        }
        Ok(())
    }

    /// Bytes that went through, both ways, until now.
    pub(crate) fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    /// Breaks every connection off, and lets no new one through.
    pub(crate) fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        for stream in self.open.lock().unwrap().drain(..) {
            let _closed = stream.shutdown(Shutdown::Both);
        }
    }

    /// Lets connections through again.
    pub(crate) fn mend(&self) {
        self.is_cut.store(false, Ordering::SeqCst);
    }
}

/// Copies until one side ends, and counts.
fn copy(from: &mut TcpStream, to: &mut TcpStream, carried: &AtomicU64) -> io::Result<()> {
    let mut part = vec![0; 64 * 1024];
    loop {
        let len = from.read(&mut part)?;
        if len == 0 {
            return Ok(());
        }
        to.write_all(&part[..len])?;
        carried.fetch_add(len as u64, Ordering::Relaxed);
    }
}
