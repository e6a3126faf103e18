//! Packs of a stopped node: found as at a start, but no tail is cut and no footer written.

use std::collections::{BTreeMap, HashMap};
use std::io;

use registry_core::vocabulary::ids::StoreId;

use super::record::Place;
use super::scan;
use super::segment::{Contents, Segment, parse_segment_name, segment_name};
use super::{Fingerprint, Location};
use crate::blob::store::fs::dir::Dir;
use crate::blob::store::{BlobKey, StoreError, StoreResult};

/// All packs of a volume that no process has open.
pub(in crate::blob::store::fs) struct StoppedPacks {
    store: StoreId,
    index: HashMap<Fingerprint, Location>,
    segments: BTreeMap<u32, Segment>,
    /// Regions that are no longer what was written, by segment.
    pub(in crate::blob::store::fs) damaged: Vec<(String, String)>,
    /// Names in the directory that are no segments.
    pub(in crate::blob::store::fs) strangers: Vec<String>,
}

impl StoppedPacks {
    pub(in crate::blob::store::fs) fn open(dir: Option<&Dir>, store: StoreId) -> StoreResult<StoppedPacks> {
        let (index, segments) = (HashMap::new(), BTreeMap::new());
        let mut packs = StoppedPacks { store, index, segments, damaged: Vec::new(), strangers: Vec::new() };
        let Some(dir) = dir else { return Ok(packs) };
        for name in dir.names().map_err(|error| dir.error("list", ".", error))? {
            match parse_segment_name(&name) {
                None => packs.strangers.push(name),
                Some(number) => match packs.read_segment(dir, number) {
                    Ok(0) => {}
                    Ok(count) => packs.damaged.push((name, format!("{count} damaged regions"))),
                    Err(error) => packs.damaged.push((name, error.to_string())),
                },
            }
        }
        Ok(packs)
    }

    /// Indexes a segment; later ones win, as at a start. Returns how many damaged regions it has.
    fn read_segment(&mut self, dir: &Dir, number: u32) -> io::Result<u64> {
        let place = Place { store: self.store, segment: number };
        let file = dir.open_read(&segment_name(number))?;
        let len = file.metadata()?.len();
        let (segment, entries, damaged) = match Segment::read_footer(place, &file, len)? {
            Some((trailer, entries)) => (Segment::new(place, file, len, Contents::Finished(trailer)), entries, 0),
            None => {
                let found = scan::scan(place, &file, len)?;
                let contents = Contents::Open(found.entries.clone());
                (Segment::new(place, file, found.end, contents), found.entries, found.damaged)
            }
        };
        for entry in &entries {
            self.index.insert(Fingerprint::of(self.store, &entry.key), Location::of(number, entry));
        }
        self.segments.insert(number, segment);
        Ok(damaged)
    }

    /// Where a record is, and its length.
    fn find(&self, key: &BlobKey) -> Option<(&Segment, Location)> {
        let location = self.index.get(&Fingerprint::of(self.store, key))?;
        Some((self.segments.get(&location.segment)?, *location))
    }

    /// The length of a blob that is here.
    pub(in crate::blob::store::fs) fn size_bytes(&self, key: &BlobKey) -> Option<u64> {
        self.find(key).map(|(_, location)| u64::from(location.len))
    }

    /// What is wrong with the record of a blob that is here. `whole` hashes the bytes, else the header has to do.
    pub(in crate::blob::store::fs) fn fault(&self, key: &BlobKey, whole: bool) -> Option<String> {
        let (segment, location) = self.find(key)?;
        let entry = location.entry(key);
        let read = if whole { segment.read(&entry).map(drop) } else { segment.check_header(&entry) };
        match read {
            Ok(()) => None,
            Err(StoreError::Damaged { detail, .. }) => {
                Some(format!("{detail} ({} at {})", segment_name(location.segment), location.offset))
            }
            Err(error) => Some(error.to_string()),
        }
    }

    /// Every record that a start would serve.
    pub(in crate::blob::store::fs) fn each(&self, mut visit: impl FnMut(BlobKey, u64)) -> StoreResult<()> {
        for (number, segment) in &self.segments {
            for entry in segment.entries()? {
                let location = Location::of(*number, &entry);
                if self.index.get(&Fingerprint::of(self.store, &entry.key)) == Some(&location) {
                    visit(entry.key, u64::from(entry.len));
                }
            }
        }
        Ok(())
    }
}
