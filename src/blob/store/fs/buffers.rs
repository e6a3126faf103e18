//! Read buffers that are used again: fresh memory costs a page fault per 4 KiB, as much as checking the bytes.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// Bytes of buffers kept while nobody reads; bounds idle memory.
const KEPT_BYTES_MAX: usize = 8 << 20;
/// Smaller buffers are not worth a place.
const KEPT_BYTES_MIN: usize = 64 << 10;

/// A pool of buffers of any size.
#[derive(Clone, Default)]
pub(super) struct Buffers(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    buffers: Vec<Box<[u8]>>,
    bytes: usize,
}

/// One of them, going back to its pool when the last [`Bytes`] made of it is dropped.
pub(super) struct Buffer {
    bytes: Option<Box<[u8]>>,
    len: usize,
    pool: Buffers,
}

impl Buffers {
    /// A buffer of `len` bytes with anything in it. The room of one that is used again may be up to twice as large.
    pub(super) fn take(&self, len: usize) -> Buffer {
        let kept = self.0.lock().take(len);
        let bytes = kept.unwrap_or_else(|| vec![0; len].into_boxed_slice());
        Buffer { bytes: Some(bytes), len, pool: self.clone() }
    }
}

impl Kept {
    fn take(&mut self, len: usize) -> Option<Box<[u8]>> {
        let fits = len..=len.saturating_mul(2);
        let at = self.buffers.iter().rposition(|kept| fits.contains(&kept.len()))?;
        let buffer = self.buffers.swap_remove(at);
        self.bytes -= buffer.len();
        Some(buffer)
    }

    /// Keeps a buffer; where there is no room, those that nobody took for longest go.
    fn put(&mut self, buffer: Box<[u8]>) {
        if !(KEPT_BYTES_MIN..=KEPT_BYTES_MAX).contains(&buffer.len()) {
            return;
        }
        self.bytes += buffer.len();
        self.buffers.push(buffer);
        let mut old = 0;
        while self.bytes > KEPT_BYTES_MAX {
            self.bytes -= self.buffers[old].len();
            old += 1;
        }
        self.buffers.drain(..old);
    }
}

impl Buffer {
    pub(super) fn as_mut(&mut self) -> &mut [u8] {
        self.bytes.as_mut().map_or(&mut [], |bytes| &mut bytes[..self.len])
    }

    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref().map_or(&[], |bytes| &bytes[..self.len])
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(bytes) = self.bytes.take() {
            self.pool.0.lock().put(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A buffer goes back only when the last slice of it is dropped, and never more are kept than the bound.
    #[test]
    fn buffers_return() {
        let pool = Buffers::default();
        let kept = |pool: &Buffers| pool.0.lock().bytes;
        let bytes = pool.take(KEPT_BYTES_MIN).freeze();
        let slice = bytes.slice(2..4);
        drop(bytes);
        assert_eq!(kept(&pool), 0);
        drop(slice);
        assert_eq!(kept(&pool), KEPT_BYTES_MIN);
        drop(pool.take(KEPT_BYTES_MIN - 1));
        assert_eq!(kept(&pool), KEPT_BYTES_MIN, "it was used again");
        let many: Vec<Buffer> = (0..100).map(|number| pool.take(KEPT_BYTES_MIN << (number % 5))).collect();
        drop(many);
        let kept = pool.0.lock();
        assert_eq!(kept.buffers.iter().map(|buffer| buffer.len()).sum::<usize>(), kept.bytes);
        assert!(kept.bytes <= KEPT_BYTES_MAX && kept.bytes > KEPT_BYTES_MAX / 2);
    }
}
