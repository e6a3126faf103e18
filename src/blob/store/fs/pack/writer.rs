//! The one thread that writes packs: it takes all that wait, writes them together, syncs once, and tells them all.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};

use bytes::Bytes;

use super::Shared;
use super::record::{Entry, HEAD_BYTES, Place, TRAILER_BYTES, record_bytes};
use super::segment::{Contents, Segment, segment_name};
use crate::blob::store::fs::volume::Volume;
use crate::blob::store::{BlobKey, Step, StoreResult};

/// Most records under one sync.
const BATCH_RECORDS_MAX: usize = 512;
/// Most bytes under one sync; with the buffer this bounds the writer's memory.
const BATCH_BYTES_MAX: u64 = 8 << 20;
/// Offsets in a segment are 32 bits wide; a batch and the footer may go beyond this.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// The buffer shrinks back to this after a large batch.
const BUFFER_KEEP_BYTES: usize = 1 << 20;

/// What the writer is asked for.
pub(super) enum Request {
    /// A record.
    Write(Record),
    /// To finish the segment of this number if it is still written to; answered when it is done.
    Finish(u32, SyncSender<()>),
}

/// A record to write.
pub(super) struct Record {
    pub(super) key: BlobKey,
    pub(super) bytes: Bytes,
    pub(super) reply: SyncSender<StoreResult<()>>,
}

impl Record {
    fn record_bytes(&self) -> u64 {
        // Callers bound the length by the pack limit.
        record_bytes(self.bytes.len() as u32)
    }
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    open: Option<Arc<Segment>>,
    /// Number of the last segment made: one that was compacted away leaves its number to nobody, or a reader that is
    /// late would find another segment under it.
    last: u32,
    buffer: Vec<u8>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, open: Option<Arc<Segment>>) -> Writer {
        Writer { shared, open, last: 0, buffer: Vec::new() }
    }

    /// Serves requests until nobody can send any more.
    pub(super) fn run(mut self, queue: &Receiver<Request>) {
        while let Ok(first) = queue.recv() {
            let first = match first {
                Request::Write(record) => record,
                Request::Finish(segment, done) => {
                    self.finish(segment, &done);
                    continue;
                }
            };
            let (mut bytes, mut finish) = (first.record_bytes(), None);
            let mut batch = vec![first];
            while batch.len() < BATCH_RECORDS_MAX
                && bytes < BATCH_BYTES_MAX
                && finish.is_none()
                && let Ok(next) = queue.try_recv()
            {
                match next {
                    Request::Write(record) => {
                        bytes += record.record_bytes();
                        batch.push(record);
                    }
                    Request::Finish(segment, done) => finish = Some((segment, done)),
                }
            }
            let result = self.commit(&batch, bytes);
            for record in batch {
                // A caller that no longer waits needs no answer.
                drop(record.reply.send(result.clone()));
            }
            if let Some((segment, done)) = finish {
                self.finish(segment, &done);
            }
        }
    }

    fn finish(&mut self, number: u32, done: &SyncSender<()>) {
        if let Some(open) = self.open.take_if(|open| open.place.segment == number) {
            finish_segment(&self.shared.volume, &open);
        }
        let _told = done.send(());
    }

    fn commit(&mut self, batch: &[Record], bytes: u64) -> StoreResult<()> {
        let volume = Arc::clone(&self.shared.volume);
        volume.writable()?;
        volume.reserve(bytes)?;
        let written =
            self.room(bytes).and_then(|segment| self.write(&segment, batch).map(|entries| (segment, entries)));
        let (segment, entries) = written.inspect_err(|_| volume.release(bytes))?;
        let number = segment.place.segment;
        segment.len.fetch_add(bytes, Ordering::Release);
        if let Contents::Open(all) = &mut *segment.contents.lock() {
            all.extend_from_slice(&entries);
        }
        entries.iter().for_each(|entry| self.shared.point(number, entry));
        Ok(())
    }

    /// Writes and syncs a batch behind what is synced already. After an error nothing of it is left, or the segment is
    /// no longer written to.
    fn write(&mut self, segment: &Arc<Segment>, batch: &[Record]) -> StoreResult<Vec<Entry>> {
        let volume = &self.shared.volume;
        let begin = segment.len();
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_KEEP_BYTES);
        let mut entries = Vec::with_capacity(batch.len());
        for record in batch {
            // A segment is finished long before 4 GiB.
            let offset = (begin + self.buffer.len() as u64) as u32;
            entries.push(segment.place.encode_record(&record.key, offset, &record.bytes, &mut self.buffer));
        }
        let name = segment_name(segment.place.segment);
        let written = volume
            .before(Step::PackWrite)
            .and_then(|()| segment.file.write_all_at(&self.buffer, begin))
            .map_err(|error| volume.packs.error("append to", &name, error));
        if let Err(error) = written {
            if segment.file.set_len(begin).is_err() {
                self.open = None;
            }
            return Err(error);
        }
        if let Err(error) = volume.sync_file(Step::PackSync, &segment.file, "sync a pack segment") {
            // What a failed sync left behind is unknown, so no later sync of this file may be believed.
            drop(segment.file.set_len(begin));
            self.open = None;
            return Err(error);
        }
        Ok(entries)
    }

    /// The segment that has room for `bytes` more: the open one, or a new one after finishing it.
    fn room(&mut self, bytes: u64) -> StoreResult<Arc<Segment>> {
        let max = self.shared.volume.options.settings.segment_bytes_max.min(SEGMENT_BYTES_MAX);
        if let Some(open) = &self.open {
            let len = open.len();
            if len == HEAD_BYTES as u64 || len + bytes <= max {
                return Ok(Arc::clone(open));
            }
            finish_segment(&self.shared.volume, open);
            self.open = None;
            self.shared.volume.writable()?;
        }
        let segment = self.create()?;
        self.open = Some(Arc::clone(&segment));
        Ok(segment)
    }

    /// A new segment, whose name is durable before its first record counts.
    fn create(&mut self) -> StoreResult<Arc<Segment>> {
        let volume = Arc::clone(&self.shared.volume);
        let here = self.shared.segments.read().last_key_value().map_or(0, |(last, _)| *last);
        let number = here.max(self.last) + 1;
        let (place, name) = (Place { store: volume.store_id, segment: number }, segment_name(number));
        let made = (|| {
            let file = volume.packs.recreate(&name)?;
            file.write_all_at(&place.encode_head(), 0)?;
            Ok::<_, io::Error>(file)
        })();
        let file = made.map_err(|error| {
            volume.drop_file(&volume.packs, &name);
            volume.packs.error("create", &name, error)
        })?;
        volume.sync_dir(Step::PackDirSync, &volume.packs)?;
        let segment = Arc::new(Segment::new(place, file, HEAD_BYTES as u64, Contents::Open(Vec::new())));
        self.shared.segments.write().insert(number, Arc::clone(&segment));
        self.last = number;
        Ok(segment)
    }
}

/// Writes the footer, so that the next start need not read the records. Without one they are scanned, so errors only
/// cost time; a failed sync takes the volume out of service all the same.
pub(super) fn finish_segment(volume: &Volume, segment: &Segment) {
    let mut contents = segment.contents.lock();
    let Contents::Open(entries) = &*contents else { return };
    let begin = segment.len();
    let footer = segment.place.encode_footer(entries, begin as u32);
    let name = segment_name(segment.place.segment);
    let written = volume.reserve(footer.len() as u64).and_then(|()| {
        volume
            .before(Step::PackSeal)
            .and_then(|()| segment.file.write_all_at(&footer, begin))
            .map_err(|error| volume.packs.error("finish", &name, error))
            .and_then(|()| volume.sync_file(Step::PackSync, &segment.file, "sync a pack segment"))
            .inspect_err(|_| volume.release(footer.len() as u64))
    });
    let trailer = footer.last_chunk::<TRAILER_BYTES>().and_then(|trailer| segment.place.decode_trailer(trailer));
    match (written, trailer) {
        (Ok(()), Some(trailer)) => {
            segment.len.store(begin + footer.len() as u64, Ordering::Release);
            *contents = Contents::Finished(trailer);
        }
        (Ok(()), None) => {}
        (Err(error), _) => {
            drop(segment.file.set_len(begin));
            tracing::warn!(segment = name, %error, "could not finish a pack segment; it will be scanned at the next start");
        }
    }
}
