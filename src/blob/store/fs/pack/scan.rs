//! Reading a segment that has no footer: which records are whole, which regions are not.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::record::{ALIGN, Entry, HEAD_BYTES, HEADER_BYTES, Place, RECORD_MAGIC};
use super::segment::is_blob;
use crate::blob::store::PACK_BLOB_BYTES_MAX;

/// What a scan found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// Whole records, in order.
    pub(super) entries: Vec<Entry>,
    /// Where the last whole record ends. What follows was never acknowledged, or is lost.
    pub(super) end: u64,
    /// Regions before `end`, or whole headers behind it, that are no longer what was written.
    pub(super) damaged: u64,
}

/// Bytes read at a time while looking for the next header.
const WINDOW_BYTES: usize = 1 << 20;

/// Scans `len` bytes of `file`. A bad head is only counted: the records prove themselves.
pub(super) fn scan(place: Place, file: &File, len: u64) -> io::Result<Scan> {
    let mut found = Scan { end: HEAD_BYTES as u64, ..Scan::default() };
    let mut head = [0; HEAD_BYTES];
    if len < HEAD_BYTES as u64 {
        return Ok(Scan::default());
    }
    file.read_exact_at(&mut head, 0)?;
    found.damaged += u64::from(!place.is_head(&head));
    let mut at = HEAD_BYTES as u64;
    let mut gap = false;
    // Whether the gap holds a record that was written to its end.
    let mut was_written = false;
    while let Some(entry) = next_header(place, file, at, len)? {
        gap |= u64::from(entry.offset) != at;
        if entry.end() <= len && holds_its_blob(file, &entry)? {
            found.damaged += u64::from(gap);
            (gap, was_written) = (false, false);
            at = entry.end();
            found.end = at;
            found.entries.push(entry);
        } else {
            // Its length may be right, but a header inside its bytes would be somebody's upload, not ours: the
            // checksum's seed says so. Look right behind the header.
            gap = true;
            was_written |= entry.end() <= len;
            at = u64::from(entry.offset) + ALIGN;
        }
    }
    found.damaged += u64::from(was_written);
    Ok(found)
}

/// The first header at or behind `at`.
fn next_header(place: Place, file: &File, mut at: u64, len: u64) -> io::Result<Option<Entry>> {
    let mut window = Vec::new();
    let mut want = HEADER_BYTES;
    while at + HEADER_BYTES as u64 <= len {
        window.resize(want.min((len - at) as usize), 0);
        file.read_exact_at(&mut window, at)?;
        let last = window.len() - HEADER_BYTES;
        for skip in (0..=last).step_by(ALIGN as usize) {
            let bytes = &window[skip..];
            // A segment's offsets fit: it is finished long before 4 GiB.
            if bytes.starts_with(RECORD_MAGIC)
                && let Some(entry) = place.decode_header((at + skip as u64) as u32, bytes)
                && entry.len as usize <= PACK_BLOB_BYTES_MAX
            {
                return Ok(Some(entry));
            }
        }
        at += (last / ALIGN as usize * ALIGN as usize) as u64 + ALIGN;
        // The first look is for the common case, a header right here; then in large steps.
        want = WINDOW_BYTES;
    }
    Ok(None)
}

fn holds_its_blob(file: &File, entry: &Entry) -> io::Result<bool> {
    let mut bytes = vec![0; entry.len as usize];
    match file.read_exact_at(&mut bytes, u64::from(entry.offset) + HEADER_BYTES as u64) {
        Ok(()) => Ok(is_blob(&entry.key, &bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use registry_core::vocabulary::digest::Digest;
    use registry_core::vocabulary::ids::{StoreId, UploadId};

    use super::*;
    use crate::blob::store::BlobKey;

    const PLACE: Place = Place { store: StoreId(9), segment: 3 };

    fn segment(lens: &[usize]) -> (Vec<u8>, Vec<Entry>) {
        let mut out = PLACE.encode_head().to_vec();
        let mut entries = Vec::new();
        for (i, len) in lens.iter().enumerate() {
            let bytes = vec![i as u8 + 1; *len];
            let key = BlobKey::new(Digest::sha256(&bytes), UploadId { tick: 0, random: i as u128 });
            let at = out.len() as u32;
            entries.push(PLACE.encode_record(&key, at, &bytes, &mut out));
        }
        (out, entries)
    }

    fn scanned(bytes: &[u8]) -> Scan {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        scan(PLACE, &file, bytes.len() as u64).unwrap()
    }

    // All records of an undamaged segment are found; a cut anywhere loses only the record it cuts.
    #[test]
    fn cut_anywhere() {
        let (bytes, entries) = segment(&[0, 1, 5000, 65_536, 100]);
        assert_eq!(scanned(&bytes), Scan { entries: entries.clone(), end: bytes.len() as u64, damaged: 0 });
        for cut in (0..bytes.len()).step_by(97) {
            let whole: Vec<Entry> = entries.iter().filter(|entry| entry.end() <= cut as u64).copied().collect();
            let found = scanned(&bytes[..cut]);
            assert_eq!(found.entries, whole, "cut at {cut}");
            assert_eq!(found.end, if cut < HEAD_BYTES { 0 } else { whole.last().map_or(32, Entry::end) });
            assert_eq!(found.damaged, 0, "cut at {cut}");
        }
    }

    // A flipped bit anywhere loses exactly one record, and says so; a bad head loses none.
    #[test]
    fn flip_anywhere() {
        let (bytes, entries) = segment(&[40, 70_000 - 5000, 8, 300]);
        for at in (0..bytes.len()).step_by(53) {
            let hit = entries.iter().position(|entry| {
                let end = u64::from(entry.offset) + HEADER_BYTES as u64 + u64::from(entry.len);
                (u64::from(entry.offset)..end).contains(&(at as u64))
            });
            let mut bad = bytes.clone();
            bad[at] ^= 0x40;
            let found = scanned(&bad);
            let mut left = entries.clone();
            if let Some(hit) = hit {
                left.remove(hit);
            }
            assert_eq!(found.entries, left, "flip at {at}");
            let last_header = hit == Some(3) && at < entries[3].offset as usize + HEADER_BYTES;
            // Losing the last header can't be told from a torn tail; padding is nobody's.
            let told = at < HEAD_BYTES || (hit.is_some() && !last_header);
            assert_eq!(found.damaged > 0, told, "flip at {at}");
        }
    }

    // A record that somebody uploaded as the content of a blob is not taken for one, even when the header before it is
    // gone.
    #[test]
    fn nested_records_are_content() {
        let other = Place { store: StoreId(10), segment: 3 };
        let key = BlobKey::new(Digest::sha256(b"evil"), UploadId { tick: 1, random: 1 });
        let mut content = Vec::new();
        other.encode_record(&key, 32 + HEADER_BYTES as u32, b"evil", &mut content);
        let outer = BlobKey::new(Digest::sha256(&content), UploadId { tick: 1, random: 2 });
        let mut bytes = PLACE.encode_head().to_vec();
        let at = bytes.len() as u32;
        let entry = PLACE.encode_record(&outer, at, &content, &mut bytes);
        assert_eq!(scanned(&bytes).entries, vec![entry]);
        bytes[at as usize] ^= 1;
        assert_eq!(scanned(&bytes).entries, vec![]);
    }
}
