//! The bytes of pack segments: segment head, records, footer. All numbers little-endian.
//!
//! ```text
//! segment  head(32) record* [footer]
//! head     magic PTLPACK1 · store id u64 · segment u32 · zero u64 · crc u32
//! record   magic PRC1 · crc u32 · length u32 · algorithm u8 · zero[3] · hash[64] · generation[24] · bytes · zero to 8
//! footer   (algorithm u8 · hash[64] · generation[24] · offset u32 · length u32)* · trailer
//! trailer  count u32 · crc of the entries u32 · offset of the footer u32 · crc of the 12 bytes before u32 · magic
//! PTLFOOT1
//! ```
//!
//! Every CRC begins with the store id, the segment's number and the offset: a record at the wrong place (a misplaced
//! write, or a header that somebody uploaded as the content of a blob) is no record.

use registry_core::vocabulary::digest::{Algorithm, Digest};
use registry_core::vocabulary::ids::{StoreId, UploadId};

use crate::blob::store::BlobKey;

pub(super) const HEAD_BYTES: usize = 32;
pub(super) const HEADER_BYTES: usize = 104;
pub(super) const ENTRY_BYTES: usize = 97;
pub(super) const TRAILER_BYTES: usize = 24;
/// Records begin at multiples of this.
pub(super) const ALIGN: u64 = 8;

const HEAD_MAGIC: &[u8; 8] = b"PTLPACK1";
pub(super) const RECORD_MAGIC: &[u8; 4] = b"PRC1";
const FOOTER_MAGIC: &[u8; 8] = b"PTLFOOT1";
const HASH_BYTES: usize = 64;
const GENERATION_BYTES: usize = 24;

/// Which segment of which store; the seed of all its checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) store: StoreId,
    pub(super) segment: u32,
}

/// One record: whose bytes, where, how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: BlobKey,
    /// Where the record's header begins.
    pub(super) offset: u32,
    /// Length of the blob.
    pub(super) len: u32,
}

impl Entry {
    /// Where the next record begins.
    pub(super) fn end(&self) -> u64 {
        u64::from(self.offset) + record_bytes(self.len)
    }
}

/// Bytes that a blob of this length takes in a segment.
pub(super) fn record_bytes(len: u32) -> u64 {
    (HEADER_BYTES as u64 + u64::from(len)).next_multiple_of(ALIGN)
}

impl Place {
    fn crc(&self, offset: u32, bytes: &[&[u8]]) -> u32 {
        let mut crc = crc32c::crc32c(&self.store.0.to_le_bytes());
        for part in [&self.segment.to_le_bytes()[..], &offset.to_le_bytes()].iter().chain(bytes) {
            crc = crc32c::crc32c_append(crc, part);
        }
        crc
    }

    pub(super) fn encode_head(&self) -> [u8; HEAD_BYTES] {
        let mut out = [0; HEAD_BYTES];
        out[..8].copy_from_slice(HEAD_MAGIC);
        out[8..16].copy_from_slice(&self.store.0.to_le_bytes());
        out[16..20].copy_from_slice(&self.segment.to_le_bytes());
        let crc = self.crc(0, &[&out[..28]]);
        out[28..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn is_head(&self, bytes: &[u8]) -> bool {
        bytes == self.encode_head()
    }

    /// Appends a record to `out`, which will be written so that it begins at `offset`.
    pub(super) fn encode_record(&self, key: &BlobKey, offset: u32, bytes: &[u8], out: &mut Vec<u8>) -> Entry {
        // Callers bound the length by the pack limit.
        let entry = Entry { key: *key, offset, len: bytes.len() as u32 };
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(RECORD_MAGIC);
        header[8..12].copy_from_slice(&entry.len.to_le_bytes());
        header[12] = key.digest.algorithm() as u8;
        put_key(key, &mut header[16..]);
        let crc = self.crc(offset, &[&header[8..]]);
        header[4..8].copy_from_slice(&crc.to_le_bytes());
        let begin = out.len();
        out.extend_from_slice(&header);
        out.extend_from_slice(bytes);
        out.resize((out.len() - begin).next_multiple_of(ALIGN as usize) + begin, 0);
        entry
    }

    /// Reads the header that begins at `offset`; `None` if it isn't one.
    pub(super) fn decode_header(&self, offset: u32, header: &[u8]) -> Option<Entry> {
        let header: &[u8; HEADER_BYTES] = header.get(..HEADER_BYTES)?.try_into().ok()?;
        let crc = u32::from_le_bytes(header[4..8].try_into().ok()?);
        if &header[..4] != RECORD_MAGIC || self.crc(offset, &[&header[8..]]) != crc {
            return None;
        }
        let len = u32::from_le_bytes(header[8..12].try_into().ok()?);
        Some(Entry { key: get_key(header[12], &header[16..])?, offset, len })
    }

    pub(super) fn encode_footer(&self, entries: &[Entry], offset: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(entries.len() * ENTRY_BYTES + TRAILER_BYTES);
        for entry in entries {
            let mut bytes = [0; ENTRY_BYTES];
            bytes[0] = entry.key.digest.algorithm() as u8;
            put_key(&entry.key, &mut bytes[1..]);
            bytes[89..93].copy_from_slice(&entry.offset.to_le_bytes());
            bytes[93..97].copy_from_slice(&entry.len.to_le_bytes());
            out.extend_from_slice(&bytes);
        }
        let crc = self.crc(offset, &[&out]);
        let begin = out.len();
        // A segment is far smaller than u32, and so is the number of its records.
        out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&offset.to_le_bytes());
        let crc = self.crc(offset, &[&out[begin..]]);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(FOOTER_MAGIC);
        out
    }

    /// Reads a trailer: where the footer begins and how many entries it has.
    pub(super) fn decode_trailer(&self, trailer: &[u8]) -> Option<Trailer> {
        let trailer: &[u8; TRAILER_BYTES] = trailer.try_into().ok()?;
        let word = |at: usize| Some(u32::from_le_bytes(trailer[at..at + 4].try_into().ok()?));
        let found = Trailer { count: word(0)?, crc: word(4)?, offset: word(8)? };
        (&trailer[16..] == FOOTER_MAGIC && self.crc(found.offset, &[&trailer[..12]]) == word(12)?).then_some(found)
    }

    /// Reads the entries that `trailer` announces; `None` if one of them is damaged.
    pub(super) fn decode_entries(&self, trailer: &Trailer, bytes: &[u8]) -> Option<Vec<Entry>> {
        if bytes.len() as u64 != trailer.entries_bytes() || self.crc(trailer.offset, &[bytes]) != trailer.crc {
            return None;
        }
        bytes.chunks_exact(ENTRY_BYTES).map(decode_entry).collect()
    }
}

/// The end of a finished segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trailer {
    pub(super) count: u32,
    crc: u32,
    /// Where the footer begins, which is where the records end.
    pub(super) offset: u32,
}

impl Trailer {
    pub(super) fn entries_bytes(&self) -> u64 {
        u64::from(self.count) * ENTRY_BYTES as u64
    }
}

fn decode_entry(bytes: &[u8]) -> Option<Entry> {
    Some(Entry {
        key: get_key(bytes[0], &bytes[1..])?,
        offset: u32::from_le_bytes(bytes[89..93].try_into().ok()?),
        len: u32::from_le_bytes(bytes[93..97].try_into().ok()?),
    })
}

fn put_key(key: &BlobKey, out: &mut [u8]) {
    let raw = key.digest.raw();
    out[..raw.len()].copy_from_slice(raw);
    out[HASH_BYTES..HASH_BYTES + GENERATION_BYTES].copy_from_slice(&key.generation.key_bytes());
}

fn get_key(algorithm: u8, bytes: &[u8]) -> Option<BlobKey> {
    let algorithm = match algorithm {
        1 => Algorithm::Sha256,
        2 => Algorithm::Sha512,
        _ => return None,
    };
    let digest = Digest::from_raw(algorithm, bytes.get(..algorithm.len_bytes())?)?;
    let generation = UploadId::from_key(bytes.get(HASH_BYTES..HASH_BYTES + GENERATION_BYTES)?)?;
    Some(BlobKey { digest, generation })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { store: StoreId(0x1122_3344_5566_7788), segment: 7 };

    fn key(text: &str) -> BlobKey {
        BlobKey::new(Digest::sha256(text.as_bytes()), UploadId { tick: 5, random: 6 })
    }

    // The stored forms are pinned; the digest was computed by another program, from the layout above.
    #[test]
    fn golden() {
        let mut record = Vec::new();
        PLACE.encode_record(&key("a"), 32, b"hello", &mut record);
        let all = [&PLACE.encode_head()[..], &record, &PLACE.encode_footer(&[], 144)].concat();
        assert_eq!(Digest::sha256(&all).to_string(), GOLDEN, "{}", data_encoding::HEXLOWER.encode(&all));
    }
    const GOLDEN: &str = "sha256:650c3ff3d7377c6977a570cf688d46a65effebc9a6e2c265477b2cd5f7a6d52d";

    // A record reads back at its own place only, and no flipped bit of the header goes unseen.
    #[test]
    fn headers() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let key = BlobKey::new(Digest::of(algorithm, b"z"), UploadId { tick: u64::MAX, random: 1 });
            let mut record = Vec::new();
            let entry = PLACE.encode_record(&key, 48, b"twelve bytes", &mut record);
            assert_eq!(record.len() as u64, record_bytes(12));
            assert_eq!(entry.end(), 48 + record.len() as u64);
            assert_eq!(PLACE.decode_header(48, &record), Some(entry));
            assert_eq!(PLACE.decode_header(56, &record), None);
            assert_eq!(Place { segment: 8, ..PLACE }.decode_header(48, &record), None);
            assert_eq!(Place { store: StoreId(1), ..PLACE }.decode_header(48, &record), None);
            for at in 0..HEADER_BYTES {
                let mut bad = record.clone();
                bad[at] ^= 0x20;
                assert_eq!(PLACE.decode_header(48, &bad), None, "{at}");
            }
        }
    }

    // A footer reads back, and no flipped bit of it goes unseen.
    #[test]
    fn footers() {
        let entries: Vec<Entry> = ["a", "b", "c"]
            .iter()
            .enumerate()
            .map(|(i, text)| Entry { key: key(text), offset: 32 + 200 * i as u32, len: 9 })
            .collect();
        let footer = PLACE.encode_footer(&entries, 640);
        let read = |bytes: &[u8]| {
            let (body, trailer) = bytes.split_at(bytes.len() - TRAILER_BYTES);
            let trailer = PLACE.decode_trailer(trailer)?;
            (trailer.offset == 640).then_some(())?;
            PLACE.decode_entries(&trailer, body)
        };
        assert_eq!(read(&footer), Some(entries));
        for at in 0..footer.len() {
            let mut bad = footer.clone();
            bad[at] ^= 2;
            assert_eq!(read(&bad), None, "{at}");
        }
    }
}
