//! A volume that nobody has open, looked at offline.

use std::collections::BTreeMap;

use super::*;
use crate::blob::store::suite::{content, push, stage, upload_id};

fn look(subject: &mut Fs) -> StoppedVolume {
    subject.stop();
    let mut opened = StoppedVolume::open(&subject.root());
    while matches!(opened, Err(OpenError::InUse { .. })) {
        // Another test has just forked.
        std::thread::sleep(std::time::Duration::from_millis(1));
        opened = StoppedVolume::open(&subject.root());
    }
    opened.unwrap()
}

fn examine(volume: &StoppedVolume, key: &BlobKey, size_bytes: usize, depth: Depth) -> Examined {
    let mut told = 0;
    let found = volume.examine(key, size_bytes as u64, depth, &mut |bytes| told += bytes);
    assert!(told == size_bytes as u64 || found != Examined::Good { sums: None }, "{told} of {size_bytes} bytes");
    found
}

/// Every file of the volume with its bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for path in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), std::fs::read(path).unwrap());
        }
    }
    found
}

// Good copies of every size are good at both depths; what lies there is listed once, by what it is; nothing changes.
#[test]
fn good_copies() {
    let mut subject = Fs::new(&World::new());
    let mut pushed = Vec::new();
    for (number, len) in [(1, 0), (2, 1000), (3, 65_536), (4, 65_537), (5, 3_000_000)] {
        let bytes = content(number as u64, len);
        pushed.push((push(&*subject.store(), number, &bytes).unwrap().0, len));
    }
    stage(&*subject.store(), upload_id(9), &content(9, 70_000), 70_000).unwrap();
    std::fs::write(subject.root().join("blobs/aa/thesis.tex"), "x").unwrap();
    let orphan = format!("{}.sum", BlobKey::new(Digest::sha256(b"gone"), upload_id(1)).file_name());
    std::fs::write(subject.root().join("blobs/aa").join(&orphan), "x").unwrap();
    std::fs::write(subject.root().join("quarantine/q.1"), "xy").unwrap();
    subject.stop();
    let before = files(&subject.root());
    let volume = look(&mut subject);
    assert_eq!((volume.store_id(), volume.cluster()), (STORE, CLUSTER));
    for (key, len) in &pushed {
        for depth in [Depth::Whole, Depth::Quick] {
            assert_eq!(examine(&volume, key, *len, depth), Examined::Good { sums: None }, "{len} {depth:?}");
            let wrong = examine(&volume, key, len + 1, depth);
            assert!(matches!(wrong, Examined::Bad(_)), "{len} {depth:?} {wrong:?}");
        }
    }
    let absent = BlobKey::new(Digest::sha256(b"absent"), upload_id(1));
    assert_eq!(examine(&volume, &absent, 6, Depth::Whole), Examined::Missing);
    let mut copies = Vec::new();
    let mut others = Vec::new();
    let list = |lying| match lying {
        Lying::Copy { key, size_bytes, .. } => copies.push((key, size_bytes as usize)),
        other @ (Lying::Staged { .. } | Lying::Quarantined { .. } | Lying::Stray { .. }) => others.push(other),
    };
    volume.each(list).unwrap();
    copies.sort_unstable();
    pushed.sort_unstable();
    assert_eq!(copies, pushed);
    let stray = |name: &str| Lying::Stray { name: format!("blobs/aa/{name}"), size_bytes: 1 };
    for expected in [
        stray("thesis.tex"),
        stray(&orphan),
        Lying::Staged { name: upload_id(9).to_string(), size_bytes: 70_000 },
        Lying::Quarantined { name: "q.1".to_owned(), size_bytes: 2 },
    ] {
        assert!(others.contains(&expected), "{expected:?} in {others:?}");
    }
    assert_eq!(others.len(), 4, "{others:?}");
    drop(volume);
    assert_eq!(files(&subject.root()), before);
}

// Every kind of damage is found by a whole look; a quick look finds what size, sums, first and last block tell.
#[test]
fn bad_copies() {
    type Spoil = fn(&Path);
    let spoil: [(&str, bool, Spoil); 5] = [
        ("cut", true, |path| std::fs::File::options().write(true).open(path).unwrap().set_len(200_000).unwrap()),
        ("first", true, |path| flip(path, 7)),
        ("last", true, |path| flip(path, 299_999)),
        ("middle", false, |path| flip(path, 150_000)),
        ("link", true, |path| {
            std::fs::remove_file(path).unwrap();
            std::os::unix::fs::symlink("/etc/hostname", path).unwrap();
        }),
    ];
    for (fault, quick_sees, spoil) in spoil {
        let mut subject = Fs::new(&World::new());
        let (key, _) = push(&*subject.store(), 1, &content(1, 300_000)).unwrap();
        spoil(&subject.file(&key));
        let volume = look(&mut subject);
        let whole = examine(&volume, &key, 300_000, Depth::Whole);
        assert!(matches!(whole, Examined::Bad(_)), "{fault}: {whole:?}");
        let quick = examine(&volume, &key, 300_000, Depth::Quick);
        assert_eq!(matches!(quick, Examined::Bad(_)), quick_sees, "{fault}: {quick:?}");
    }
}

// A sidecar that is gone, or that was made for other bytes, is told beside a copy that is good.
#[test]
fn bad_sums() {
    let mut subject = Fs::new(&World::new());
    let (key, _) = push(&*subject.store(), 1, &content(1, 300_000)).unwrap();
    let (other, _) = push(&*subject.store(), 2, &content(2, 300_000)).unwrap();
    let sum = |subject: &Fs, key| PathBuf::from(format!("{}.sum", subject.file(key).display()));
    std::fs::copy(sum(&subject, &other), sum(&subject, &key)).unwrap();
    let volume = look(&mut subject);
    let told = examine(&volume, &key, 300_000, Depth::Whole);
    assert_eq!(told, Examined::Good { sums: Some("not those of the bytes") });
    std::fs::remove_file(sum(&subject, &key)).unwrap();
    let told = examine(&volume, &key, 300_000, Depth::Whole);
    assert_eq!(told, Examined::Good { sums: Some("missing or damaged") });
    assert!(matches!(examine(&volume, &key, 300_000, Depth::Quick), Examined::Good { sums: Some(_) }));
}

// A rotten pack record is found, in a segment that was finished and in one that was not.
#[test]
fn bad_records() {
    let world = World::with(|settings| settings.segment_bytes_max = 8192);
    let mut subject = Fs::new(&world);
    let keys: Vec<BlobKey> =
        (1..=9).map(|number| push(&*subject.store(), number, &content(number as u64, 2000)).unwrap().0).collect();
    assert!(subject.segments().len() > 1);
    subject.damage(&keys[0], 100);
    let volume = look(&mut subject);
    let whole = examine(&volume, &keys[0], 2000, Depth::Whole);
    assert!(matches!(whole, Examined::Bad(_)), "{whole:?}");
    for key in &keys[1..] {
        assert_eq!(examine(&volume, key, 2000, Depth::Whole), Examined::Good { sums: None });
    }
    drop(volume);
    subject.crash();
    let last = keys.last().unwrap();
    subject.damage(last, 100);
    let volume = look(&mut subject);
    assert_eq!(examine(&volume, last, 2000, Depth::Whole), Examined::Missing);
    assert_eq!(volume.damaged_packs().len(), 1, "{:?}", volume.damaged_packs());
}

// A volume that a process has open is refused, and while one is looked at no process opens it.
#[test]
fn one_at_a_time() {
    let mut subject = Fs::new(&World::new());
    assert!(matches!(StoppedVolume::open(&subject.root()), Err(OpenError::InUse { .. })));
    let volume = look(&mut subject);
    let open = || FsStore::open(&subject.root(), CLUSTER, Identity::Known(STORE), World::new().options());
    assert!(matches!(open(), Err(OpenError::InUse { .. })));
    drop(volume);
    let dir = tempfile::tempdir().unwrap();
    assert!(StoppedVolume::open(dir.path()).unwrap_err().to_string().contains("store.toml"));
    assert!(StoppedVolume::open(&dir.path().join("absent")).is_err());
}
