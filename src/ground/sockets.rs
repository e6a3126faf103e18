//! Listening sockets.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// Connections the kernel keeps waiting for `accept`; cut down by `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// Why an address can't be listened on; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Someone else has it.
    #[error("{address} is in use by another process; stop that one, or choose another address for {setting}")]
    InUse {
        /// The address.
        address: SocketAddr,
        /// The setting it stands in.
        setting: &'static str,
    },
    /// This machine has no such address.
    #[error("{address} is no address of this machine; choose one that is for {setting}")]
    NotHere {
        /// The address.
        address: SocketAddr,
        /// The setting it stands in.
        setting: &'static str,
    },
    /// Ports below 1024 need a right.
    #[error("{address} needs a right this process lacks; choose a port above 1023 for {setting}")]
    Denied {
        /// The address.
        address: SocketAddr,
        /// The setting it stands in.
        setting: &'static str,
    },
    /// Anything else.
    #[error("can't listen on {address} ({setting}): {source}")]
    Other {
        /// The address.
        address: SocketAddr,
        /// The setting it stands in.
        setting: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Listens on `address`, which the configuration calls `setting` (for the error's text).
///
/// `SO_REUSEADDR` is set: a restart need not wait for connections of the former process to time out.
///
/// # Errors
/// When the kernel refuses; must run inside a tokio runtime.
pub fn listen(address: SocketAddr, setting: &'static str) -> Result<TcpListener, ListenError> {
    try_listen(address).map_err(|source| {
        let kind = source.kind();
        if kind == io::ErrorKind::AddrInUse {
            ListenError::InUse { address, setting }
        } else if kind == io::ErrorKind::AddrNotAvailable {
            ListenError::NotHere { address, setting }
        } else if kind == io::ErrorKind::PermissionDenied {
            ListenError::Denied { address, setting }
        } else {
            ListenError::Other { address, setting, source }
        }
    })
}

fn try_listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    // U6: an address in use, or of another machine, is told with the setting to change.
    #[tokio::test]
    async fn refusals() {
        let first = listen("127.0.0.1:0".parse().unwrap(), "listen.public").unwrap();
        let taken = first.local_addr().unwrap();
        let text = listen(taken, "listen.public").unwrap_err().to_string();
        assert_eq!(
            text,
            format!("{taken} is in use by another process; stop that one, or choose another address for listen.public")
        );
        let text = listen("192.0.2.1:7400".parse().unwrap(), "listen.raft").unwrap_err().to_string();
        assert!(text.contains("no address of this machine") && text.contains("listen.raft"), "{text}");
    }
}
