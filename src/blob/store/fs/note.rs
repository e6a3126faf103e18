//! `staging/<upload id>.note`: what a staging file cannot say itself, namely its epoch and the algorithm to hash with.
//! Without a note: epoch 1, SHA-256.
//!
//! Layout, little-endian: magic `PTLNOTE1`, epoch (u64), algorithm (u8), CRC32C of all that came before (u32).

use std::io::{self, Read as _, Write as _};

use registry_core::vocabulary::digest::Algorithm;
use registry_core::vocabulary::ids::UploadId;

use super::volume::Volume;
use crate::blob::store::{Step, StoreResult};

const MAGIC: &[u8; 8] = b"PTLNOTE1";
const NOTE_BYTES: usize = 8 + 8 + 1 + 4;

/// Epoch and algorithm of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) epoch: u64,
    pub(super) algorithm: Algorithm,
}

impl Note {
    /// What the absence of a note means.
    pub(super) const DEFAULT: Note = Note { epoch: 1, algorithm: Algorithm::Sha256 };

    fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(NOTE_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.push(self.algorithm as u8);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Note> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if bytes.len() != NOTE_BYTES || !body.starts_with(MAGIC) || crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let algorithm = match body[16] {
            1 => Algorithm::Sha256,
            2 => Algorithm::Sha512,
            _ => return None,
        };
        Some(Note { epoch: u64::from_le_bytes(body[8..16].try_into().ok()?), algorithm })
    }
}

pub(super) fn note_name(id: UploadId) -> String {
    format!("{id}.note")
}

/// Replaces the note of an upload. An epoch above the first is durable when this returns, because it fences.
pub(super) fn write(volume: &Volume, id: UploadId, note: Note) -> StoreResult<()> {
    volume.writable()?;
    let (name, temporary) = (note_name(id), format!("{id}.note.new"));
    let durable = note.epoch > Note::DEFAULT.epoch;
    let file = (|| {
        volume.before(Step::EpochNote)?;
        let mut file = volume.staging.recreate(&temporary)?;
        file.write_all(&note.encode())?;
        Ok::<_, io::Error>(file)
    })();
    let file = file.map_err(|error| volume.staging.error("write", &temporary, error))?;
    if durable {
        volume.sync_file(Step::EpochNote, &file, "sync an epoch note")?;
    }
    volume
        .staging
        .rename(&temporary, &volume.staging, &name)
        .map_err(|error| volume.staging.error("rename", &temporary, error))?;
    if durable {
        volume.sync_dir(Step::EpochNote, &volume.staging)?;
    }
    Ok(())
}

/// Reads the note of an upload: the default without one, `None` when it is damaged.
pub(super) fn read(volume: &Volume, id: UploadId) -> StoreResult<Option<Note>> {
    let name = note_name(id);
    let mut bytes = Vec::with_capacity(NOTE_BYTES + 1);
    match volume.staging.open_read(&name) {
        Ok(file) => file
            .take(NOTE_BYTES as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| volume.staging.error("read", &name, error))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(Note::DEFAULT)),
        Err(error) => return Err(volume.staging.error("open", &name, error)),
    };
    Ok(Note::decode(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    // The stored form is pinned, reads back, and every flipped bit or cut is seen.
    #[test]
    fn stored_form() {
        let note = Note { epoch: 258, algorithm: Algorithm::Sha512 };
        let bytes = note.encode();
        assert_eq!(data_encoding::HEXLOWER.encode(&bytes), "50544c4e4f54453102010000000000000294f0672f");
        assert_eq!(Note::decode(&bytes), Some(note));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert_eq!(Note::decode(&bad), None, "{at}");
            assert_eq!(Note::decode(&bytes[..at]), None, "{at}");
        }
    }
}
