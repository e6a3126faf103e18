//! The wish to stop, told to everyone at once.
//!
//! First signal: drain. Listeners take nothing new, requests in flight end, then the process does. Second signal: the
//! process ends at once; every promise survives that, because it must survive a power cut as well.

use std::io::Read as _;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit status after a second signal, as shells number it (128 + SIGINT).
const INTERRUPTED: i32 = 130;

/// Cheap to clone; whoever holds one can wait for the wish, or make it.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// Nobody wishes to stop yet.
    pub fn new() -> Shutdown {
        Shutdown::default()
    }

    /// One that SIGTERM and SIGINT request; a second signal ends the process.
    ///
    /// # Errors
    /// When the signal handlers can't be installed; must run inside a tokio runtime.
    pub fn on_signals() -> std::io::Result<Shutdown> {
        let shutdown = Shutdown::new();
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let wish = shutdown.clone();
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                if wish.is_requested() {
                    tracing::warn!(signal = name, "second {name}: ending at once");
                    std::process::exit(INTERRUPTED);
                }
                tracing::info!(signal = name, "{name}: draining, then ending; send it again to end at once");
                wish.request();
            }
        });
        Ok(shutdown)
    }

    /// Makes the wish when standard input ends: a parent that ends, however it ends, leaves no orphan.
    pub fn request_with_stdin(&self) {
        let wish = self.clone();
        // A thread of its own: a read of standard input can't be broken off, and must not hold the runtime up.
        std::thread::spawn(move || {
            let mut sink = [0; 64];
            while matches!(std::io::stdin().read(&mut sink), Ok(1..)) {}
            wish.request();
        });
    }

    /// Makes the wish; all who wait wake.
    pub fn request(&self) {
        self.0.cancel();
    }

    /// Whether it has been made.
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits for it.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }

    /// One that ends with this one, and can be requested alone.
    pub fn child(&self) -> Shutdown {
        Shutdown(self.0.child_token())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Every clone wakes; a child's wish is its own.
    #[tokio::test]
    async fn wakes_everyone() {
        let shutdown = Shutdown::new();
        let (child, clone) = (shutdown.child(), shutdown.clone());
        child.request();
        assert!(!shutdown.is_requested());
        let waiting = tokio::spawn(async move { clone.requested().await });
        shutdown.request();
        waiting.await.unwrap();
        assert!(shutdown.child().is_requested());
    }
}
