//! Read buffers that are used again: fresh memory costs a page fault per 4 KiB, as much as checking the bytes.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::blob::store::READ_BYTES_MAX;

/// Buffers kept while nobody reads; bounds idle memory.
const KEPT_MAX: usize = 16;

/// A pool of buffers of [`READ_BYTES_MAX`] bytes.
#[derive(Clone, Default)]
pub(super) struct Buffers(Arc<Mutex<Vec<Box<[u8]>>>>);

/// One of them, going back to its pool when the last [`Bytes`] made of it is dropped.
pub(super) struct Buffer {
    bytes: Option<Box<[u8]>>,
    len: usize,
    pool: Buffers,
}

impl Buffers {
    /// A buffer of `len` ≤ [`READ_BYTES_MAX`] bytes with anything in it.
    pub(super) fn take(&self, len: usize) -> Buffer {
        let kept = self.0.lock().pop();
        let bytes = kept.unwrap_or_else(|| vec![0; READ_BYTES_MAX].into_boxed_slice());
        Buffer { bytes: Some(bytes), len, pool: self.clone() }
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
            let mut kept = self.pool.0.lock();
            if kept.len() < KEPT_MAX {
                kept.push(bytes);
            }
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
        let bytes = pool.take(10).freeze();
        let slice = bytes.slice(2..4);
        drop(bytes);
        assert_eq!(pool.0.lock().len(), 0);
        drop(slice);
        assert_eq!(pool.0.lock().len(), 1);
        let many: Vec<Buffer> = (0..KEPT_MAX + 5).map(|_| pool.take(1)).collect();
        drop(many);
        assert_eq!(pool.0.lock().len(), KEPT_MAX);
    }
}
