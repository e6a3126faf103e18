//! Bytes spread over time.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Spreads bytes over time: whoever passes waits until the bytes before it have had theirs.
#[derive(Debug)]
pub struct Pacer {
    bytes_per_second: u64,
    free_at: Mutex<Instant>,
}

impl Pacer {
    /// Lets so many bytes pass in a second, at least one.
    pub fn new(bytes_per_second: u64) -> Pacer {
        Pacer { bytes_per_second: bytes_per_second.max(1), free_at: Mutex::new(Instant::now()) }
    }

    /// Waits for the turn of so many bytes.
    pub async fn pass(&self, bytes: u64) {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let at = {
            let mut free_at = self.free_at.lock();
            let at = (*free_at).max(Instant::now());
            *free_at = at + cost;
            at
        };
        tokio::time::sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Ten passes of a tenth of the rate take at least nine tenths of the time, however many share it.
    #[tokio::test]
    async fn paced() {
        let pacer = Pacer::new(10_000);
        let began = Instant::now();
        futures_util::future::join_all((0..10).map(|_| pacer.pass(200))).await;
        let took = began.elapsed().as_millis();
        assert!(took >= 180, "{took}");
    }
}
