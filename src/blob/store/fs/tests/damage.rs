//! Bytes on the disk that are not what was written.

use super::*;
use crate::blob::store::suite::{content, push, read_all, upload_id};
use crate::blob::store::{BLOCK_BYTES, Home, Step};

fn sum_file(subject: &Fs, key: &BlobKey) -> PathBuf {
    PathBuf::from(format!("{}.sum", subject.file(key).display()))
}

fn go_on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

// Sums that are absent, cut or rotten make no replica bad: they are made anew, once, and then lie there again.
#[test]
fn sums_are_rebuilt() {
    let mut subject = Fs::new(&World::new());
    let bytes = content(1, 1_000_000);
    let (key, _) = push(&*subject.store(), 1, &bytes).unwrap();
    let path = sum_file(&subject, &key);
    let good = std::fs::read(&path).unwrap();
    let spoil: [&dyn Fn(); 4] = [
        &|| std::fs::remove_file(&path).unwrap(),
        &|| std::fs::write(&path, "").unwrap(),
        &|| std::fs::write(&path, &good[..good.len() - 1]).unwrap(),
        &|| flip(&path, 25),
    ];
    for spoil in spoil {
        spoil();
        subject.crash();
        assert_eq!(read_all(&*subject.store(), &key, 300_000).unwrap(), bytes);
        assert_eq!(std::fs::read(&path).unwrap(), good);
    }
    // Scrub heals them too, without anyone reading the blob.
    flip(&path, 25);
    assert_eq!(subject.store().verify(&key, &mut go_on).unwrap(), Scrubbed::Good { size_bytes: 1_000_000 });
    assert_eq!(std::fs::read(&path).unwrap(), good);
}

// B6: a file that was cut, emptied, zeroed in a page, or swapped for another is never served, with its sums or without.
#[test]
fn bad_files_are_never_served() {
    let mut subject = Fs::new(&World::new());
    let mut number = 0;
    for with_sums in [true, false] {
        for fault in ["cut", "emptied", "zeroed", "swapped", "longer"] {
            number += 1;
            let bytes = content(number as u64, 300_000);
            let (key, _) = push(&*subject.store(), number, &bytes).unwrap();
            let mut bad = bytes.to_vec();
            match fault {
                "cut" => bad.truncate(299_999),
                "emptied" => bad.clear(),
                "zeroed" => bad[131_072..135_168].fill(0),
                "swapped" => bad = content(99, 300_000).to_vec(),
                _ => bad.push(0),
            }
            std::fs::write(subject.file(&key), bad).unwrap();
            if !with_sums {
                std::fs::remove_file(sum_file(&subject, &key)).unwrap();
            }
            subject.crash();
            let store = subject.store();
            let error = read_all(&*store, &key, 1 << 20).err();
            assert!(error.as_ref().is_some_and(StoreError::is_damage), "{fault} {with_sums}: {error:?}");
            assert_eq!(store.verify(&key, &mut go_on).unwrap(), Scrubbed::Bad, "{fault}");
        }
    }
}

// A file cut under an open reader is told as damage, not as an end.
#[test]
fn cut_while_open() {
    let subject = Fs::new(&World::new());
    let (key, _) = push(&*subject.store(), 1, &content(1, 300_000)).unwrap();
    let reader = subject.store().open(&key).unwrap();
    std::fs::File::options().write(true).open(subject.file(&key)).unwrap().set_len(200_000).unwrap();
    assert!(reader.read_blocks(0, BLOCK_BYTES).is_ok());
    assert!(reader.read_blocks(190_000, BLOCK_BYTES).is_err_and(|error| error.is_damage()));
}

// A pack segment cut or rotten at any place loses the records it hits, tells so, and the store goes on with the others.
#[test]
fn damaged_segments() {
    for finished in [false, true] {
        let mut subject = Fs::new(&World::with(|settings| settings.segment_bytes_max = 50_000));
        let mut all = Vec::new();
        for number in 0..(if finished { 20 } else { 10 }) {
            let bytes = content(number, 4000);
            all.push((push(&*subject.store(), number.into(), &bytes).unwrap().0, bytes));
        }
        subject.stop();
        let path = subject.segments().remove(0);
        let good = std::fs::read(&path).unwrap();
        for at in (0..good.len() as u64).step_by(1711) {
            flip(&path, at);
            subject.crash();
            let store = subject.store();
            let bad = all.iter().filter(|(key, bytes)| match read_all(&*store, key, 1 << 20) {
                Ok(read) => read != *bytes,
                Err(StoreError::NotFound) => true,
                Err(error) => error.is_damage(),
            });
            assert!(bad.count() <= 1, "flip at {at}");
            drop(store);
            subject.stop();
            std::fs::write(&path, &good).unwrap();
        }
        for cut in (0..good.len()).step_by(7777) {
            std::fs::write(&path, &good[..cut]).unwrap();
            subject.crash();
            let store = subject.store();
            for (key, bytes) in &all {
                match read_all(&*store, key, 1 << 20) {
                    Ok(read) => assert_eq!(read, bytes),
                    Err(error) => assert!(matches!(error, StoreError::NotFound), "{error}"),
                }
            }
            let number = 1000 + cut as u128;
            let (key, _) = push(&*store, number, &content(cut as u64 + 50, 900)).unwrap();
            drop(store);
            subject.crash();
            assert_eq!(read_all(&*subject.store(), &key, 1 << 20).unwrap(), content(cut as u64 + 50, 900));
            subject.stop();
            std::fs::write(&path, &good).unwrap();
        }
    }
}

// A damaged record is reported, taken out, kept for a look, and its generation can be placed again.
#[test]
fn damaged_records_are_replaced() {
    let mut subject = Fs::new(&World::new());
    let bytes = content(3, 5000);
    let (key, stat) = push(&*subject.store(), 1, &bytes).unwrap();
    assert_eq!(stat.home, Home::Pack);
    subject.damage(&key, 4000);
    assert!(subject.store().open(&key).err().unwrap().is_damage());
    assert!(subject.store().quarantine(&key).unwrap());
    assert_eq!(std::fs::read_dir(subject.root().join("quarantine")).unwrap().count(), 1);
    subject.store().put(&key, &bytes).unwrap();
    for _ in 0..2 {
        assert_eq!(read_all(&*subject.store(), &key, 1 << 20).unwrap(), bytes);
        subject.crash();
    }
    assert_eq!(subject.store().health().damaged_pack_regions, 1, "the bad record is still in its segment");
}

// A batch that finds no room is refused whole, and the next one is written where it would have been.
#[test]
fn full_disk_under_packs() {
    let world = World::new();
    let mut subject = Fs::new(&world);
    let mut kept = Vec::new();
    for (number, step) in [(0, None), (1, Some(Step::PackWrite)), (2, Some(Step::PackSync)), (3, None)] {
        let bytes = content(number, 3000);
        let key = BlobKey::new(Digest::sha256(&bytes), upload_id(number.into()));
        match step {
            None => {
                subject.store().put(&key, &bytes).unwrap();
                kept.push((key, bytes));
            }
            Some(step) => {
                world.fail(step, std::io::ErrorKind::StorageFull);
                assert!(matches!(subject.store().put(&key, &bytes), Err(StoreError::NoSpace)), "{step:?}");
                assert_eq!(subject.store().stat(&key).unwrap(), None);
                assert_eq!(subject.store().health().failed, None);
            }
        }
    }
    for _ in 0..2 {
        assert_eq!(subject.store().walk(None, 100).unwrap().entries.len(), 2);
        for (key, bytes) in &kept {
            assert_eq!(read_all(&*subject.store(), key, 1 << 20).unwrap(), bytes);
        }
        subject.crash();
    }
}

// A full disk at the sync of a blob gives its bytes up and nothing else: they are never synced a second time.
#[test]
fn full_disk_at_the_sync() {
    let world = World::new();
    let subject = Fs::new(&world);
    let store = subject.store();
    world.fail(Step::FileSync, std::io::ErrorKind::StorageFull);
    assert!(matches!(push(&*store, 1, &content(1, 100_000)), Err(StoreError::NoSpace)));
    assert!(matches!(store.upload(upload_id(1)), Err(StoreError::UploadUnknown)));
    assert_eq!(std::fs::read_dir(subject.root().join("staging")).unwrap().count(), 0);
    // Room for the sums is another matter: the bytes are synced, and the placing is repeated.
    world.fail(Step::SumWrite, std::io::ErrorKind::StorageFull);
    let bytes = content(2, 100_000);
    assert!(matches!(push(&*store, 2, &bytes), Err(StoreError::NoSpace)));
    store.place_upload(upload_id(2), Digest::sha256(&bytes)).unwrap();
    assert_eq!(store.health().failed, None);
}
