//! Group 4, on nodes that are killed and disks whose files are cut, emptied and altered: B1, B6, B18.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use registry_core::vocabulary::Digest;

use super::repo::{IMAGE, LAYER, Repo, location, no, noise, told};
use super::wire::{self, Wire};
use crate::support::Cluster;

/// A cluster to be harmed, by one test at a time; each leaves it with three nodes that run.
fn cluster() -> MutexGuard<'static, Cluster> {
    static CLUSTER: OnceLock<Mutex<Cluster>> = OnceLock::new();
    let cluster = CLUSTER.get_or_init(|| Mutex::new(Cluster::start(85)));
    cluster.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn repo(cluster: &Cluster, name: &str) -> Repo {
    Repo { base: cluster.node(1), key: cluster.key(), name: name.to_owned() }
}

/// Waits until a value is there.
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(90);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "not within 90 seconds: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The file of a blob on a node.
fn copy(cluster: &Cluster, node: u8, digest: &Digest) -> Option<PathBuf> {
    let hex = digest.hex();
    let shard = cluster.node_dir(node).join("data/blobs/blobs").join(&hex[..2]);
    let mut names = std::fs::read_dir(shard).ok()?.map(|entry| entry.unwrap().path());
    let is_blob = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with(&hex) && !name.ends_with(".sum")
    };
    names.find(is_blob)
}

/// Waits until all three nodes have the blob, whole and right.
fn three_good_copies(cluster: &Cluster, digest: &Digest) {
    eventually("three good copies", || {
        let is_good = |node| {
            let bytes = copy(cluster, node, digest).and_then(|path| std::fs::read(path).ok());
            bytes.is_some_and(|bytes| Digest::sha256(&bytes) == *digest)
        };
        (1..=3).all(is_good).then_some(())
    });
}

/// Flips a bit of a file, where it stands.
fn flip(path: &PathBuf, at: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

// B1: the node that has an upload dies between two chunks; another one goes on from the last acknowledged byte, and the
// push ends as if nothing had been.
#[test]
fn b01_node_dies_between_chunks() {
    let cluster = cluster();
    for victim in [1, 2] {
        let bytes = noise(victim.into(), 900_000);
        let digest = Digest::sha256(&bytes);
        let nodes: Vec<Repo> = (1..=3).map(|node| repo(&cluster, "b01").behind(&cluster.node(node))).collect();
        let at = nodes[0].begin();
        let first = nodes[0].follow("PATCH", &at).body(&bytes[..500_000]).settled();
        assert_eq!(first.status, 202, "{}", first.text());
        cluster.kill_node(victim);
        let alive = &nodes[2];
        let mut at = location(&first);
        let until = Instant::now() + Duration::from_secs(60);
        let second = loop {
            let range = format!("500000-{}", bytes.len() - 1);
            let chunk = alive.follow("PATCH", &at).header("Content-Range", &range).body(&bytes[500_000..]).settled();
            match chunk.status {
                202 => break chunk,
                // the chunk may have been kept though its answer was not: a client looks at how far the upload is
                416 if chunk.header("range") == format!("0-{}", bytes.len() - 1) => break chunk,
                416 => at = location(&chunk),
                status => assert_eq!(status, 503, "{}", chunk.text()),
            }
            assert!(Instant::now() < until, "node {victim}: {}", chunk.text());
            std::thread::sleep(Duration::from_millis(200));
        };
        assert_eq!(second.header("range"), format!("0-{}", bytes.len() - 1));
        let closed = eventually("the upload is closed", || {
            let closed = alive.follow("PUT", &format!("{}?digest={digest}", location(&second))).settled();
            assert!([201, 503].contains(&closed.status), "{}", closed.text());
            (closed.status == 201).then_some(closed)
        });
        assert_eq!(closed.header("docker-content-digest"), digest.to_string());
        assert_eq!(Digest::sha256(&alive.get(&format!("blobs/{digest}")).body), digest);
        cluster.start_node(victim);
        three_good_copies(&cluster, &digest);
    }
}

// B6: a copy that was altered, cut or emptied is found by whoever reads it, never sent, answered from another copy to
// the last byte, and made again.
#[test]
fn b06_damaged_copies() {
    let cluster = cluster();
    let repo = repo(&cluster, "b06");
    for (number, what) in ["flipped", "cut", "emptied", "zeroed", "longer", "gone"].into_iter().enumerate() {
        let bytes = noise(600 + number as u32, 1_000_000);
        let digest = Digest::sha256(&bytes);
        repo.blob(LAYER, &bytes);
        three_good_copies(&cluster, &digest);
        let victim = 1 + number as u8 % 3;
        let path = copy(&cluster, victim, &digest).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        match what {
            "flipped" => flip(&path, 700_001),
            "cut" => file.set_len(600_000).unwrap(),
            "emptied" => file.set_len(0).unwrap(),
            "zeroed" => file.write_all_at(&[0; 8192], 65_536 * 3).unwrap(),
            "longer" => file.write_all_at(b"more", 1_000_000).unwrap(),
            _ => {
                // a file that is open goes on being served; that it has no name any more, a later start finds out
                std::fs::remove_file(&path).unwrap();
                cluster.kill_node(victim);
                cluster.start_node(victim);
            }
        }
        let node = repo.behind(&cluster.node(victim));
        let head = node.request("HEAD", &format!("blobs/{digest}")).settled();
        assert_eq!((head.status, head.header("content-length")), (200, "1000000"), "{what}");
        let part = node.request("GET", &format!("blobs/{digest}")).header("Range", "bytes=690000-709999").settled();
        assert_eq!((part.status, &part.body[..]), (206, &bytes[690_000..710_000]), "{what}");
        let whole = node.get(&format!("blobs/{digest}"));
        assert_eq!((whole.status, Digest::sha256(&whole.body)), (200, digest), "{what}");
        repo.blob(LAYER, &bytes);
        if what == "longer" {
            // Its first million bytes are what they should be.
            continue;
        }
        three_good_copies(&cluster, &digest);
    }
}

// B6: a small blob lies in a pack; a bit that flips there is found as well.
#[test]
fn b06_damaged_packs() {
    let cluster = cluster();
    let repo = repo(&cluster, "b06-small");
    let bytes = noise(660, 20_000);
    let digest = Digest::sha256(&bytes);
    repo.blob(LAYER, &bytes);
    let packed = |node: u8| {
        let segments = std::fs::read_dir(cluster.node_dir(node).join("data/blobs/pack")).unwrap();
        segments.filter_map(|entry| {
            let path = entry.unwrap().path();
            let content = std::fs::read(&path).ok()?;
            let at = content.windows(64).position(|window| window == &bytes[10_000..10_064])?;
            Some((path, at as u64))
        })
    };
    eventually("three copies", || (1..=3).all(|node| packed(node).next().is_some()).then_some(()));
    for victim in 1..=2 {
        for (path, at) in packed(victim).collect::<Vec<_>>() {
            flip(&path, at + 7);
        }
        let node = repo.behind(&cluster.node(victim));
        let whole = node.get(&format!("blobs/{digest}"));
        assert_eq!((whole.status, Digest::sha256(&whole.body)), (200, digest), "node {victim}");
        eventually("it is made again", || packed(victim).next().map(drop));
    }
}

/// A GET as the wire has it: what was announced, and what came until the connection ended.
fn download(repo: &Repo, digest: &Digest) -> (u16, usize, Vec<u8>) {
    use std::io::Read;
    let mut wire = Wire::open(&repo.base);
    let authorization = wire::authorization(&repo.key);
    let target = format!("/v2/{}/blobs/{digest}", repo.name);
    wire.send(format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{authorization}\r\n"));
    let head = wire.until("\r\n\r\n");
    let mut body = Vec::new();
    // A reset is an end as well.
    drop(wire.stream().read_to_end(&mut body));
    let length = wire::header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
    (wire::status(&head), length, body)
}

// B6, B18: every copy is bad in the same place. What is sent is right as far as it goes and visibly not all of it; then
// the blob is told to be missing, so that a client pushes it again, and the push takes the place of what is lost.
#[test]
fn b06_b18_every_copy_is_lost() {
    let cluster = cluster();
    let repo = repo(&cluster, "b06-lost");
    for what in ["flipped", "cut"] {
        let bytes = noise(what.len() as u32 * 31, 3_000_000);
        let digest = Digest::sha256(&bytes);
        let image = repo.image(&bytes).to_string();
        repo.stored("v", IMAGE, image.as_str());
        three_good_copies(&cluster, &digest);
        for node in 1..=3 {
            let path = copy(&cluster, node, &digest).unwrap();
            match what {
                "flipped" => flip(&path, 2_000_000),
                _ => std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(2_000_000).unwrap(),
            }
        }
        for node in 1..=3 {
            let (status, length, body) = download(&repo.behind(&cluster.node(node)), &digest);
            assert!(status != 200 || body.len() < length, "{what}: a whole answer, {} bytes", body.len());
            assert!(status != 200 || bytes.starts_with(&body), "{what}: wrong bytes were sent");
        }
        eventually("it is told to be missing", || {
            let head = repo.request("HEAD", &format!("blobs/{digest}")).settled();
            let told = repo.get(&format!("blobs/{digest}"));
            (head.status == 404 && told.status == 404).then_some(())
        });
        assert_eq!(repo.refused(&format!("blobs/{digest}")), no(404, "BLOB_UNKNOWN"));
        // A push in one request, and one in steps, are both looked at anew.
        let at = repo.begin();
        let patched = repo.follow("PATCH", &at).body(&bytes[..]).settled();
        let closed = repo.follow("PUT", &format!("{}?digest={digest}", location(&patched))).settled();
        assert_eq!(told(&closed), (201, String::new()), "{what}: {}", closed.text());
        for node in 1..=3 {
            let whole = repo.behind(&cluster.node(node)).get(&format!("blobs/{digest}"));
            assert_eq!((whole.status, Digest::sha256(&whole.body)), (200, digest), "{what}: node {node}");
        }
        three_good_copies(&cluster, &digest);
        assert_eq!(repo.get("manifests/v").body, image.as_bytes());
    }
}

// B18: a link that nobody's disk stands behind: mounting and pushing into another repository do not spread the loss.
#[test]
fn b18_record_without_bytes() {
    let cluster = cluster();
    let (repo, other) = (repo(&cluster, "b18"), repo(&cluster, "b18-other"));
    let bytes = noise(1800, 300_000);
    let digest = Digest::sha256(&bytes);
    repo.blob(LAYER, &bytes);
    three_good_copies(&cluster, &digest);
    for node in 1..=3 {
        std::fs::remove_file(copy(&cluster, node, &digest).unwrap()).unwrap();
    }
    other.blob(LAYER, &bytes);
    for repo in [&other, &repo] {
        let whole = repo.behind(&cluster.node(2)).get(&format!("blobs/{digest}"));
        assert_eq!((whole.status, Digest::sha256(&whole.body)), (200, digest), "{}", repo.name);
    }
    three_good_copies(&cluster, &digest);
}
