//! The link between two regions: every node's door behind a proxy of this process, which can be cut.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Connections that go through until they are cut.
#[derive(Clone, Default)]
pub(crate) struct Link {
    is_cut: Arc<AtomicBool>,
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
            std::thread::spawn(move || {
                let _copied = io::copy(&mut from, &mut to);
                let _closed = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            });
        }
        Ok(())
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
