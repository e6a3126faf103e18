//! Group 4: uploads and blobs, on nodes that stay whole. What needs broken ones is in `damage`.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use registry_core::vocabulary::Digest;
use registry_core::vocabulary::digest::{Algorithm, Hasher};
use registry_core::vocabulary::limits::UPLOADS_PER_PRINCIPAL_MAX;
use serde_json::json;

use super::one::One;
use super::repo::{CONFIG, IMAGE, LAYER, Repo, location, no, noise, told};
use super::wire::{self, Wire};
use crate::support::http::Answer;
use crate::support::{Cluster, http};

/// Appends a chunk, with a Content-Range or without.
fn patch(repo: &Repo, location: &str, range: Option<&str>, bytes: &[u8]) -> Answer {
    let request = repo.follow("PATCH", location).header("Content-Type", "application/octet-stream");
    match range {
        Some(range) => request.header("Content-Range", range).body(bytes).settled(),
        None => request.body(bytes).settled(),
    }
}

/// Closes an upload with its last bytes.
fn finish(repo: &Repo, location: &str, digest: &Digest, bytes: &[u8]) -> Answer {
    repo.follow("PUT", &format!("{location}?digest={digest}")).body(bytes).settled()
}

/// Where the upload ends, from `Range: 0-N`; an upload without bytes and one of a single byte look alike.
fn end(answer: &Answer) -> usize {
    let last = answer.header("range").strip_prefix("0-").unwrap_or_else(|| panic!("{:?}", answer.headers));
    last.parse::<usize>().unwrap() + 1
}

/// Files of an upload that is staged somewhere in a cluster.
fn staged(cluster: &Cluster, upload: &str) -> Vec<String> {
    let staging = (1..=3).map(|node| cluster.node_dir(node).join("data/blobs/staging"));
    let names = staging.flat_map(|dir| std::fs::read_dir(dir).unwrap());
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(upload)).collect()
}

/// Waits until something holds.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < until, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

// B1: no request of an upload needs the node that had the one before: each goes to the next node.
#[test]
fn b01_chunks_to_nodes_in_turn() {
    let repo = Repo::shared("b01");
    let nodes: Vec<Repo> = (1..=3).map(|node| repo.behind(&Cluster::shared().node(node))).collect();
    let bytes = noise(1, 600_000);
    let mut at = repo.begin();
    for (number, chunk) in bytes.chunks(100_000).enumerate() {
        let node = &nodes[(number + 1) % 3];
        let range = format!("{}-{}", number * 100_000, number * 100_000 + chunk.len() - 1);
        let answer = patch(node, &at, Some(&range), chunk);
        assert_eq!((answer.status, end(&answer)), (202, number * 100_000 + chunk.len()), "{}", answer.text());
        at = location(&answer);
        let status = nodes[number % 3].follow("GET", &at).settled();
        assert_eq!((status.status, end(&status)), (204, number * 100_000 + chunk.len()));
    }
    let digest = Digest::sha256(&bytes);
    assert_eq!(finish(&nodes[2], &at, &digest, b"").status, 201);
    for node in &nodes {
        assert_eq!(Digest::sha256(&node.get(&format!("blobs/{digest}")).body), digest);
    }
}

// B2: a chunk that does not begin where the upload ends changes nothing and is told where that is; one that contradicts
// itself is refused; an upload goes on after any of them.
#[test]
fn b02_ranges_of_chunks() {
    let repo = Repo::shared("b02");
    let bytes = noise(2, 30);
    let digest = Digest::sha256(&bytes);
    // After ten bytes: header, bytes sent, status. 202 takes the chunk, everything else leaves the upload as it was.
    let table: &[(Option<&str>, &[u8], u16)] = &[
        (Some("10-19"), &bytes[10..20], 202),
        (Some("bytes 10-19/*"), &bytes[10..20], 202),
        (Some("bytes 10-19/30"), &bytes[10..20], 202),
        (None, &bytes[10..20], 202),
        (None, b"", 202),
        (Some("20-29"), &bytes[20..30], 416),
        (Some("11-20"), &bytes[11..21], 416),
        (Some("5-14"), &bytes[5..15], 416),
        (Some("0-9"), &bytes[0..10], 416),
        (Some("9-18"), &bytes[9..19], 416),
        (Some("4294967306-4294967315"), &bytes[10..20], 416),
        (Some("9223372036854775807-9223372036854775816"), &bytes[10..20], 416),
        (Some("10-14"), &bytes[10..20], 400),
        (Some("10-29"), &bytes[10..20], 400),
        (Some("19-10"), &bytes[10..20], 400),
        (Some("10-9"), b"", 400),
        (Some("*/30"), &bytes[10..20], 400),
        (Some("bytes */30"), &bytes[10..20], 400),
        (Some("10-"), &bytes[10..20], 400),
        (Some("-19"), &bytes[10..20], 400),
        (Some("a-b"), &bytes[10..20], 400),
        (Some("10-19/x"), &bytes[10..20], 400),
        (Some("10-18446744073709551615"), &bytes[10..20], 400),
        (Some("10-18446744073709551616"), &bytes[10..20], 400),
        (Some("bytes=10-19"), &bytes[10..20], 400),
        (Some("10-19, 20-29"), &bytes[10..20], 400),
        (Some(""), &bytes[10..20], 400),
    ];
    for (range, chunk, status) in table {
        let first = patch(&repo, &repo.begin(), Some("0-9"), &bytes[..10]);
        assert_eq!((first.status, end(&first)), (202, 10));
        let answer = patch(&repo, &location(&first), *range, chunk);
        assert_eq!(answer.status, *status, "{range:?}: {}", answer.text());
        let mut at = location(&first);
        match status {
            202 => {
                assert_eq!(end(&answer), 10 + chunk.len(), "{range:?}");
                at = location(&answer);
            }
            416 => {
                assert_eq!((end(&answer), answer.code().as_str()), (10, "RANGE_INVALID"), "{range:?}");
                at = location(&answer);
            }
            _ => assert_eq!(answer.code(), "BLOB_UPLOAD_INVALID", "{range:?}"),
        }
        let so_far = repo.follow("GET", &at).settled();
        assert_eq!(
            (so_far.status, end(&so_far)),
            (204, if *status == 202 { 10 + chunk.len() } else { 10 }),
            "{range:?}"
        );
        let rest = &bytes[end(&so_far)..];
        let rest_range = format!("{}-29", end(&so_far));
        let late = repo.follow("PUT", &format!("{at}?digest={digest}")).header("Content-Range", "0-29");
        assert_eq!(late.body(&bytes[..]).settled().status, 416, "{range:?}: a PUT has its place as well");
        let last = repo.follow("PUT", &format!("{at}?digest={digest}")).header("Content-Range", &rest_range);
        assert_eq!(last.body(rest).settled().status, 201, "{range:?}");
        assert_eq!(repo.get(&format!("blobs/{digest}")).body, bytes, "{range:?}");
    }
}

// B2: chunks without a length: one that ends early or runs over is refused, and what came of it is not lost or doubled;
// one whose answer was lost may come again.
#[test]
fn b02_chunks_that_break_off() {
    let repo = Repo::shared("b02-broken");
    let bytes = noise(3, 300_000);
    let digest = Digest::sha256(&bytes);
    let first = patch(&repo, &repo.begin(), None, &bytes[..100_000]);
    let at = location(&first);
    let chunked = |range: &str, sent: &[u8], ending: &str| {
        let mut wire = Wire::open(&repo.base);
        let head = format!(
            "PATCH {at} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{}Transfer-Encoding: chunked\r\n{range}\r\n{:x}\r\n",
            wire::authorization(&repo.key),
            sent.len()
        );
        wire.send(head);
        wire.send(sent);
        wire.send(ending);
        wire
    };
    let short = chunked("Content-Range: 100000-199999\r\n", &bytes[100_000..150_000], "\r\n0\r\n\r\n").until_closed();
    assert_eq!(wire::status(&short), 400, "{short}");
    let over = chunked("Content-Range: 100000-149999\r\n", &bytes[100_000..200_000], "\r\n0\r\n\r\n").until_closed();
    assert!([400, 416].contains(&wire::status(&over)), "{over}");
    // The connection breaks in the middle.
    drop(chunked("", &bytes[100_000..200_000], ""));
    // A repeat with the location of before the break, and without a range, begins where that was acknowledged.
    eventually("the writer that broke off is gone", || {
        let answer = patch(&repo, &at, None, &bytes[100_000..200_000]);
        assert!([202, 409].contains(&answer.status), "{}", answer.text());
        answer.status == 202
    });
    let again = patch(&repo, &at, None, &bytes[100_000..200_000]);
    assert_eq!((again.status, end(&again)), (202, 200_000), "the same chunk once more is harmless");
    assert_eq!(finish(&repo, &location(&again), &digest, &bytes[200_000..]).status, 201);
    assert_eq!(Digest::sha256(&repo.get(&format!("blobs/{digest}")).body), digest);
}

// B3: of two writers one is told so in the open; whatever they do, the blob has the bytes of its digest.
#[test]
fn b03_two_writers() {
    let repo = Repo::shared("b03");
    let bytes = noise(4, 2_000_000);
    let digest = Digest::sha256(&bytes);
    let at = repo.begin();
    let mut writer = Wire::open(&repo.base);
    writer.send(format!(
        "PATCH {at} HTTP/1.1\r\nHost: x\r\n{}Content-Length: 2000000\r\n\r\n",
        wire::authorization(&repo.key)
    ));
    writer.send(&bytes[..1_500_000]);
    std::thread::sleep(Duration::from_millis(500));
    let other = repo.behind(&Cluster::shared().node(2));
    for answer in [
        patch(&repo, &at, None, b"another writer"),
        patch(&other, &at, None, b"another writer"),
        finish(&repo, &at, &digest, b""),
        finish(&other, &at, &Digest::sha256(b"another writer"), b"another writer"),
    ] {
        assert_eq!(told(&answer), no(409, "BLOB_UPLOAD_INVALID"), "{}", answer.text());
    }
    writer.send(&bytes[1_500_000..]);
    let (status, answer) = writer.answer();
    assert_eq!(status, 202, "{answer}");
    let at = wire::header(&answer, "location").unwrap();
    let (first, second) = (finish(&repo, at, &digest, b""), finish(&other, at, &digest, b""));
    assert_eq!((first.status, second.status), (201, 201), "a repeat whose answer was lost succeeds");
    assert_eq!(Digest::sha256(&repo.get(&format!("blobs/{digest}")).body), digest);
    assert_eq!(told(&patch(&repo, at, None, b"late")), no(404, "BLOB_UPLOAD_UNKNOWN"));
}

// B3: eight at once append other bytes at the same place, then eight at once close it: the blob is one of theirs.
#[test]
fn b03_racing_writers_and_closers() {
    let repo = Repo::shared("b03-race");
    for round in 0..4 {
        let at = repo.begin();
        let all: Vec<Vec<u8>> = (0..8).map(|number| noise(100 + round * 8 + number, 150_000)).collect();
        let answers: Vec<Answer> = std::thread::scope(|scope| {
            let write = all.iter().enumerate().map(|(number, bytes)| {
                let repo = repo.behind(&Cluster::shared().node(1 + number as u8 % 3));
                let at = &at;
                scope.spawn(move || patch(&repo, at, Some("0-149999"), bytes))
            });
            let writing: Vec<_> = write.collect();
            writing.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let winners: Vec<usize> = (0..8).filter(|number| answers[*number].status == 202).collect();
        assert!(answers.iter().all(|answer| [202, 409, 416].contains(&answer.status)), "{answers:?}");
        assert_eq!(winners.len(), 1, "one is first, and nobody else is told so");
        let at = location(&answers[winners[0]]);
        let closing: Vec<u16> = std::thread::scope(|scope| {
            let close = |(number, bytes): (usize, &Vec<u8>)| {
                let (repo, digest) =
                    (repo.behind(&Cluster::shared().node(1 + number as u8 % 3)), Digest::sha256(bytes));
                let at = &at;
                scope.spawn(move || finish(&repo, at, &digest, b"").status)
            };
            // Only the right digest may close it: a wrong one ends the upload, which is another case.
            let closing: Vec<_> = [&all[winners[0]]; 8].into_iter().enumerate().map(close).collect();
            closing.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(closing.contains(&201), "{closing:?}");
        assert!(closing.iter().all(|status| [201, 409, 404].contains(status)), "{closing:?}");
        for (number, bytes) in all.iter().enumerate() {
            let digest = Digest::sha256(bytes);
            let answer = repo.get(&format!("blobs/{digest}"));
            assert_eq!(answer.status, if number == winners[0] { 200 } else { 404 }, "{number}");
            assert!(answer.status == 404 || Digest::sha256(&answer.body) == digest);
        }
    }
}

// B3: an upload that is cancelled while it is closed ends in one of the two ways: a whole blob, or nothing.
#[test]
fn b03_cancel_while_closing() {
    let repo = Repo::shared("b03-cancel");
    for round in 0..8 {
        let bytes = noise(200 + round, 120_000);
        let digest = Digest::sha256(&bytes);
        let at = location(&patch(&repo, &repo.begin(), None, &bytes));
        let (closed, cancelled) = std::thread::scope(|scope| {
            let closing = scope.spawn(|| finish(&repo, &at, &digest, b""));
            let cancelling = scope.spawn(|| repo.behind(&Cluster::shared().node(2)).follow("DELETE", &at).settled());
            (closing.join().unwrap(), cancelling.join().unwrap())
        });
        let blob = repo.get(&format!("blobs/{digest}"));
        assert!([201, 404, 409, 503].contains(&closed.status), "{}", closed.text());
        assert!([204, 404, 409, 503].contains(&cancelled.status), "{}", cancelled.text());
        assert!(closed.status != 201 || Digest::sha256(&blob.body) == digest, "what was acknowledged is there");
        assert!(closed.status == 201 || cancelled.status != 204 || blob.status == 404, "what was cancelled is not");
    }
}

// B4: bytes with another digest make no blob under either one, end the upload, and are freed on every node.
#[test]
fn b04_wrong_digest_at_commit() {
    let repo = Repo::shared("b04");
    for size in [10, 500_000] {
        let bytes = noise(5, size);
        let (right, wrong) = (Digest::sha256(&bytes), Digest::sha256(b"b04 wrong"));
        let begun = patch(&repo, &repo.begin(), None, &bytes);
        let (at, upload) = (location(&begun), begun.header("docker-upload-uuid").to_owned());
        assert!(!staged(Cluster::shared(), &upload).is_empty(), "the test looks at the right place");
        assert_eq!(told(&finish(&repo, &at, &wrong, b"")), no(400, "DIGEST_INVALID"));
        for digest in [right, wrong] {
            assert_eq!(repo.refused(&format!("blobs/{digest}")), no(404, "BLOB_UNKNOWN"));
        }
        assert_eq!(told(&finish(&repo, &at, &right, b"")), no(404, "BLOB_UPLOAD_UNKNOWN"));
        eventually("its bytes are freed", || staged(Cluster::shared(), &upload).is_empty());
        let whole = repo.request("POST", &format!("blobs/uploads/?digest={wrong}")).body(&bytes[..]).settled();
        assert_eq!(told(&whole), no(400, "DIGEST_INVALID"));
        let late = finish(&repo, &repo.begin(), &wrong, &bytes);
        assert_eq!(told(&late), no(400, "DIGEST_INVALID"));
        assert_eq!(repo.refused(&format!("blobs/{right}")), no(404, "BLOB_UNKNOWN"));
    }
}

/// A user who may push to one repository; its access key.
fn pusher(user: &str, repository: &str) -> String {
    let cluster = Cluster::shared();
    let admin = |method: &str, path: &str, body: serde_json::Value| {
        let request = http::request(method, &format!("{}/v1/{path}", cluster.admin(1))).key(&cluster.key());
        let answer = request.header("Content-Type", "application/json").body(body.to_string()).settled();
        assert!(answer.status < 300, "{path}: {}", answer.text());
        answer
    };
    admin("POST", "users", json!({ "name": user }));
    admin("PUT", &format!("users/{user}/grants"), json!({ "grants": [format!("read,write,delete:{repository}")] }));
    let key = admin("POST", &format!("users/{user}/keys"), json!({})).json();
    format!("{}:{}", key["key_id"].as_str().unwrap(), key["secret"].as_str().unwrap())
}

// B8: an upload that is only opened costs nothing; one user cannot stage more than its share on a node, nobody else
// is troubled by that, and room comes back with every upload that ends.
#[test]
fn b08_uploads_opened_and_left() {
    Repo::shared("b08").begin();
    let repo = Repo { key: pusher("b08", "b08"), ..Repo::shared("b08") };
    let staging = Cluster::shared().node_dir(1).join("data/blobs/staging");
    let opened = repo.begin();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| (0..200).for_each(|_| drop(repo.begin())));
        }
    });
    let answer = patch(&repo, &opened, None, b"x");
    assert_eq!(answer.status, 202, "three thousand that were opened and left are not in the way");
    let begin = |count: usize| -> Vec<(u16, String)> {
        let each = count.div_ceil(16);
        std::thread::scope(|scope| {
            let workers = (0..16).map(|_| {
                scope.spawn(|| {
                    let one = |_| {
                        let answer = patch(&repo, &repo.begin(), None, b"x");
                        (answer.status, location(&answer))
                    };
                    (0..each).map(one).collect::<Vec<_>>()
                })
            });
            let workers: Vec<_> = workers.collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        })
    };
    let all = begin(UPLOADS_PER_PRINCIPAL_MAX + 100);
    let taken: Vec<&String> = all.iter().filter(|(status, _)| *status == 202).map(|(_, at)| at).collect();
    assert!(all.iter().all(|(status, _)| [202, 429].contains(status)));
    // Those that begin in the moment in which others are counted may be over.
    let share = UPLOADS_PER_PRINCIPAL_MAX - 1..UPLOADS_PER_PRINCIPAL_MAX + 16;
    assert!(share.contains(&(taken.len() + 1)), "{} were taken", taken.len() + 1);
    let answer = patch(&repo, &repo.begin(), None, b"x");
    assert_eq!(told(&answer), no(429, "TOOMANYREQUESTS"));
    assert!(!answer.header("retry-after").is_empty());
    assert_eq!(patch(&repo, taken[0], None, b"y").status, 202, "what is under way goes on");
    let other = Repo::shared("b08-other");
    assert_eq!(patch(&other, &other.begin(), None, b"x").status, 202, "another user has its own share");
    std::thread::scope(|scope| {
        for part in taken.chunks(taken.len().div_ceil(16)) {
            let repo = &repo;
            scope.spawn(move || {
                for at in part {
                    assert_eq!(repo.follow("DELETE", at).settled().status, 204);
                }
            });
        }
    });
    assert_eq!(patch(&repo, &repo.begin(), None, b"x").status, 202, "there is room again");
    let left = std::fs::read_dir(&staging).unwrap().count();
    assert!(left < 200, "{left} files are left of what was cancelled");
}

/// A mebibyte that is different for each number.
fn mebibyte(noise: &[u8], number: u64) -> Vec<u8> {
    let mut block = noise.to_vec();
    block[..8].copy_from_slice(&number.to_be_bytes());
    block
}

// B10: offsets beyond 2^31 and 2^32 are offsets, in memory that does not grow. Five gigabytes: by hand, with
// `cargo test --test it -- --ignored b10`.
#[test]
#[ignore = "five gigabytes on disk, and minutes"]
fn b10_five_gigabytes() {
    const MIB: u64 = 1 << 20;
    const BLOCKS: u64 = 5 * 1024;
    let node = One::start(82, &[], |_| {});
    let (repo, noise) = (node.repo("b10-large"), noise(10, MIB as usize));
    let before = node.memory_mib();
    let (mut hasher, mut at, mut peak) = (Hasher::new(Algorithm::Sha256), repo.begin(), 0);
    let authorization = wire::authorization(&repo.key);
    // Three chunks: one ends below 2^31, one between the two, one beyond 2^32.
    for blocks in [0..2000, 2000..4090, 4090..BLOCKS] {
        let mut wire = Wire::open(&repo.base);
        let (first, length) = (blocks.start * MIB, (blocks.end - blocks.start) * MIB);
        wire.send(format!(
            "PATCH {at} HTTP/1.1\r\nHost: x\r\n{authorization}Content-Range: {first}-{}\r\nContent-Length: {length}\r\n\r\n",
            first + length - 1
        ));
        for number in blocks {
            let block = mebibyte(&noise, number);
            hasher.update(&block);
            assert!(wire.send(&block));
            if number % 256 == 0 {
                peak = peak.max(node.memory_mib());
            }
        }
        let (status, answer) = wire.answer();
        assert_eq!((status, wire::header(&answer, "range")), (202, Some(&*format!("0-{}", first + length - 1))));
        at = wire::header(&answer, "location").unwrap().to_owned();
    }
    let digest = hasher.finish();
    assert_eq!(finish(&repo, &at, &digest, b"").status, 201);
    let head = repo.request("HEAD", &format!("blobs/{digest}")).settled();
    assert_eq!(head.header("content-length"), (BLOCKS * MIB).to_string());
    for number in [0, 2047, 2048, 4095, 4096, BLOCKS - 1] {
        let range = format!("bytes={}-{}", number * MIB, (number + 1) * MIB - 1);
        let part = repo.request("GET", &format!("blobs/{digest}")).header("Range", &range).settled();
        assert_eq!((part.status, part.body == mebibyte(&noise, number)), (206, true), "{range}");
    }
    peak = peak.max(node.memory_mib());
    assert!(peak < before + 100, "{before} MiB before, {peak} MiB at most");
}

// B10: the empty blob is a blob, however it is pushed.
#[test]
fn b10_empty_blob() {
    let empty = Digest::sha256(b"");
    let ways: [(&str, Push); 3] = [
        ("b10-post", |repo, digest| repo.request("POST", &format!("blobs/uploads/?digest={digest}")).settled()),
        ("b10-put", |repo, digest| finish(repo, &repo.begin(), digest, b"")),
        ("b10-patch", |repo, digest| finish(repo, &location(&patch(repo, &repo.begin(), None, b"")), digest, b"")),
    ];
    for (name, push) in ways {
        let repo = Repo::shared(name);
        let answer = push(&repo, &empty);
        assert_eq!(answer.status, 201, "{name}: {}", answer.text());
        for node in 1..=3 {
            let repo = repo.behind(&Cluster::shared().node(node));
            let answer = repo.get(&format!("blobs/{empty}"));
            assert_eq!((answer.status, answer.body.len(), answer.header("content-length")), (200, 0, "0"), "{name}");
            let answer = repo.request("GET", &format!("blobs/{empty}")).header("Range", "bytes=0-").settled();
            assert_eq!((answer.status, answer.header("content-range")), (416, "bytes */0"));
        }
    }
}

type Push = fn(&Repo, &Digest) -> Answer;

// B11: one range is served as RFC 9110 has it; many are the whole blob once, so that asking costs more than answering.
#[test]
fn b11_ranges_on_download() {
    let repo = Repo::shared("b11");
    for size in [50_000, 500_000] {
        let bytes = noise(6, size);
        let digest = repo.blob(LAYER, &bytes)["digest"].as_str().unwrap().to_owned();
        let etag = format!("\"{digest}\"");
        let many = format!("bytes={}0-1", "0-49999,".repeat(5000));
        let get = |range: &str, condition: Option<&str>| {
            let request = repo.request("GET", &format!("blobs/{digest}")).header("Range", range);
            match condition {
                Some(condition) => request.header("If-Range", condition).settled(),
                None => request.settled(),
            }
        };
        let parts: &[(&str, usize, usize)] = &[
            ("bytes=0-0", 0, 1),
            ("bytes=10-19", 10, 20),
            ("bytes=40000-", 40_000, size),
            ("bytes=-7", size - 7, size),
            ("bytes=-99999999", 0, size),
            ("bytes=100-99999999999999999999", 100, size),
        ];
        for (range, first, end) in parts {
            for condition in [None, Some(&*etag)] {
                let answer = get(range, condition);
                assert_eq!((answer.status, &answer.body[..]), (206, &bytes[*first..*end]), "{range}");
                let described = format!("bytes {first}-{}/{size}", end - 1);
                assert_eq!(answer.header("content-range"), described);
                assert_eq!(answer.header("content-length"), (end - first).to_string());
            }
        }
        let past = format!("bytes={size}-");
        for range in [&*past, "bytes=500-0", "bytes=-0", "bytes=99999999999999999999-"] {
            let answer = get(range, None);
            assert_eq!((answer.status, answer.header("content-range")), (416, &*format!("bytes */{size}")), "{range}");
            assert!(answer.body.is_empty());
        }
        for range in ["bytes=0-1,4-5", "bytes=0-1,0-1,0-1", &many, "items=0-1", "bytes=a-b", "bytes=", "0-1"] {
            let answer = get(range, None);
            assert_eq!((answer.status, answer.body.len()), (200, size), "{}", &range[..range.len().min(40)]);
        }
        let answer = get("bytes=0-1", Some("\"another\""));
        assert_eq!((answer.status, answer.body.len()), (200, size));
    }
}

// B12: a blob is its bytes: nothing is compressed or decompressed on the way in or out.
#[test]
fn b12_no_content_coding() {
    let repo = Repo::shared("b12");
    // A gzip member of the text "portolan", and compressible bytes.
    let gzip = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x2b\xc8\x2f\x2a\xc9\xcf\x49\xcc\x03\x00\xa3\x36\xd0\x5f\x08\x00\x00\x00";
    for bytes in [&gzip[..], &[b'a'; 200_000]] {
        let digest = Digest::sha256(bytes);
        let pushed =
            repo.request("POST", &format!("blobs/uploads/?digest={digest}")).header("Content-Encoding", "gzip");
        assert_eq!(pushed.body(bytes).settled().status, 201);
        for coding in ["gzip", "gzip, deflate, br, zstd", "identity;q=0, *", "*"] {
            let answer = repo.request("GET", &format!("blobs/{digest}")).header("Accept-Encoding", coding).settled();
            assert_eq!((answer.status, &answer.body[..]), (200, bytes), "{coding}");
            assert_eq!(answer.header("content-encoding"), "");
            assert_eq!(answer.header("content-length"), bytes.len().to_string());
        }
    }
    let image = repo.image(b"b12").to_string();
    repo.stored("v", IMAGE, image.as_str());
    let answer = repo.request("GET", "manifests/v").header("Accept-Encoding", "gzip").settled();
    assert_eq!((answer.header("content-encoding"), &answer.body[..]), ("", image.as_bytes()));
}

/// Every entry below a directory with more permissions than its owner's, or that is a link.
fn loose(dir: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        // Databases come and go by themselves.
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
        if meta.is_symlink() || (meta.is_dir() && meta.permissions().mode() & 0o077 != 0) {
            found.push(format!("{} {:o}", path.display(), meta.permissions().mode()));
        }
        if meta.is_dir() {
            loose(&path, found);
        }
    }
}

// B13: no text of a path becomes a path on disk: what is no name, digest or upload is refused, and nothing appears or
// is read outside. The data directory is its owner's alone.
#[test]
fn b13_path_tricks() {
    let repo = Repo::shared("b13");
    let digest = repo.blob(LAYER, b"b13")["digest"].as_str().unwrap().to_owned();
    let hex = digest.split_once(':').unwrap().1;
    let up = "..%2f..%2f..%2f..%2f..%2f..%2f";
    for target in [
        format!("/v2/b13/blobs/sha256:{up}etc%2fpasswd"),
        format!("/v2/b13/blobs/sha256:{hex}%2f..%2f..%2fstore.toml"),
        format!("/v2/b13/blobs/{up}data/blobs/store.toml"),
        "/v2/b13/blobs/uploads/../../../../../../etc/passwd".to_owned(),
        format!("/v2/b13/blobs/uploads/{up}etc%2fpasswd"),
        "/v2/b13/blobs/uploads/%00".to_owned(),
        "/v2/b13/blobs/uploads/CON".to_owned(),
        format!("/v2/b13/blobs/uploads/{}", "A".repeat(10_000)),
        format!("/v2/b13/../b13/blobs/{digest}"),
        format!("/v2/b13/%2e%2e/b13/blobs/{digest}"),
        format!("/v2/b13%00/blobs/{digest}"),
        format!("/v2//b13/blobs/{digest}"),
        format!("/v2/b13/./blobs/{digest}"),
        format!("/v2/%2fetc/blobs/{digest}"),
        format!("/v2/..%2fb13/blobs/{digest}"),
        format!("/v2/b13\\..\\b13/blobs/{digest}"),
        format!("/v2/CON:/blobs/{digest}"),
        "/v2/b13/manifests/..%2f..%2fstate".to_owned(),
        "/v2/b13/manifests/../../../../etc/passwd".to_owned(),
        "/../../etc/passwd".to_owned(),
        "//etc/passwd".to_owned(),
        "/etc/passwd".to_owned(),
        "/v2/../metrics".to_owned(),
    ] {
        for method in ["GET", "PUT", "PATCH", "DELETE"] {
            let answer = wire::ask(&repo.base, &repo.key, method, &target, "Content-Length: 0\r\n");
            let status = wire::status(&answer);
            assert!([400, 404, 405].contains(&status), "{method} {target}: {answer}");
            assert!(!answer.contains("root:") && !answer.contains("[store]"), "{method} {target}: {answer}");
        }
    }
    assert_eq!(repo.get(&format!("blobs/{digest}")).body, b"b13");
    for node in 1..=3 {
        let data = Cluster::shared().node_dir(node).join("data");
        let meta = std::fs::symlink_metadata(&data).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.is_dir()), (0o700, true), "{}", data.display());
        let mut found = Vec::new();
        loose(&data.join("blobs"), &mut found);
        assert!(found.is_empty(), "{found:?}");
    }
}

// B14: of what two parsers could read in two ways nothing is done twice: the request that hides behind another one is
// never answered and never acted on, although it carries a good credential.
#[test]
fn b14_request_smuggling() {
    let repo = Repo::shared("b14");
    let image = repo.image(b"b14").to_string();
    repo.stored("v", IMAGE, image.as_str());
    let authorization = wire::authorization(&repo.key);
    let hidden = format!("DELETE /v2/b14/manifests/v HTTP/1.1\r\nHost: x\r\n{authorization}\r\n");
    let length = |bytes: &str| format!("content-length: {}\r\n", bytes.len());
    let chunked = "transfer-encoding: chunked\r\n";
    let last = format!("0\r\n\r\n{hidden}");
    let table: Vec<(&str, String, String)> = vec![
        ("length and chunked", format!("content-length: 5\r\n{chunked}"), last.clone()),
        ("chunked and length", format!("{chunked}content-length: 5\r\n"), last.clone()),
        ("two lengths", format!("content-length: 5\r\n{}", length(&hidden)), format!("hello{hidden}")),
        (
            "the same length twice, then another",
            "content-length: 5\r\ncontent-length: 5\r\ncontent-length: 6\r\n".into(),
            format!("hello{hidden}"),
        ),
        ("list of lengths", "content-length: 5, 6\r\n".into(), format!("hello{hidden}")),
        ("signed length", "content-length: +5\r\n".into(), format!("hello{hidden}")),
        ("negative length", "content-length: -1\r\n".into(), hidden.clone()),
        ("length in hex", "content-length: 0x5\r\n".into(), format!("hello{hidden}")),
        ("length too large", "content-length: 18446744073709551621\r\n".into(), format!("hello{hidden}")),
        ("empty length", "content-length: \r\n".into(), hidden.clone()),
        ("blank before the colon", "content-length : 0\r\n".into(), hidden.clone()),
        ("folded length", "x: y\r\n content-length: 0\r\n".into(), hidden.clone()),
        ("unknown coding", "transfer-encoding: xchunked\r\n".into(), last.clone()),
        ("chunked not last", "transfer-encoding: chunked, identity\r\n".into(), last.clone()),
        ("chunked twice", "transfer-encoding: chunked, chunked\r\n".into(), last.clone()),
        ("coding with a tab", "transfer-encoding:\x0bchunked\r\n".into(), last.clone()),
        ("coding in two lines", "transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n".into(), last.clone()),
        ("extension with LF", chunked.into(), format!("5;a\nb\r\nhello\r\n{last}")),
        ("size with LF only", chunked.into(), format!("5\nhello\r\n{last}")),
        ("signed chunk size", chunked.into(), format!("+5\r\nhello\r\n{last}")),
        ("chunk size overflow", chunked.into(), format!("fffffffffffffffff\r\nhello\r\n{last}")),
        ("chunk longer than said", chunked.into(), format!("3\r\nhello\r\n{last}")),
        ("chunk size empty", chunked.into(), format!("\r\nhello\r\n{last}")),
        ("NUL in a header", "x: a\0b\r\n".into(), hidden.clone()),
    ];
    for (name, headers, body) in table {
        for target in ["PUT /v2/b14/manifests/w", "POST /v2/b14/blobs/uploads/", "GET /v2/"] {
            let request = format!("{target} HTTP/1.1\r\nhost: x\r\n{authorization}{headers}\r\n{body}");
            let answer = wire::exchange(&repo.base, request);
            assert!(wire::answers(&answer) <= 1, "{name}, {target}: {answer}");
            assert!(!answer.contains(" 202 Accepted") || target.starts_with("POST"), "{name}, {target}: {answer}");
        }
        assert_eq!(repo.get("manifests/v").status, 200, "{name}: the hidden request was done");
    }
    // A body on a request that needs none is read past, and what follows it is a request of its own.
    for method in ["GET", "HEAD", "DELETE"] {
        let mut wire = Wire::open(&repo.base);
        let target = "/v2/b14/manifests/nothing";
        wire.send(format!("{method} {target} HTTP/1.1\r\nHost: x\r\n{authorization}{}\r\n{hidden}", length(&hidden)));
        wire.send(format!("GET /v2/ HTTP/1.1\r\nHost: x\r\n{authorization}Connection: close\r\n\r\n"));
        let answer = wire.until_closed();
        assert!(wire::answers(&answer) <= 2 && !answer.contains(" 202 "), "{method}: {answer}");
        assert_eq!(repo.get("manifests/v").status, 200, "{method}: the body was taken for a request");
    }
}

/// A token for pulling from and pushing to a repository.
fn token(repo: &Repo) -> String {
    let url = format!("{}/v2/token?service=portolan&scope=repository:{}:pull,push", repo.base, repo.name);
    let answer = http::request("GET", &url).key(&repo.key).settled();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["token"].as_str().unwrap().to_owned()
}

// B16: an upload belongs to who began it, not to the token of that moment: a token that no longer holds is told so
// before the body, costs nothing, and another one goes on where the upload is.
#[test]
fn b16_fresh_token_in_the_middle() {
    let repo = Repo::shared("b16");
    let bytes = noise(16, 400_000);
    let digest = Digest::sha256(&bytes);
    let send = |method: &str, target: &str, token: &str, body: &[u8]| {
        let request = http::request(method, &format!("{}{target}", repo.base));
        request.header("Authorization", &format!("Bearer {token}")).body(body).settled()
    };
    let first = token(&repo);
    std::thread::sleep(Duration::from_millis(20));
    let second = token(&repo);
    assert_ne!(first, second, "each has its own time");
    let begun = send("POST", "/v2/b16/blobs/uploads/", &first, b"");
    let one = send("PATCH", &location(&begun), &first, &bytes[..200_000]);
    assert_eq!((one.status, end(&one)), (202, 200_000));
    // The end of a token's life looks like this from outside: the seal opens nothing any more.
    let mut over = first.into_bytes();
    let last = over.len() - 2;
    over[last] = if over[last] == b'A' { b'B' } else { b'A' };
    let over = String::from_utf8(over).unwrap();
    let refused = send("PATCH", &location(&one), &over, &bytes[200_000..]);
    assert_eq!(told(&refused), no(401, "UNAUTHORIZED"));
    let challenge = refused.header("www-authenticate");
    assert!(challenge.starts_with("Bearer ") && challenge.contains("invalid_token"), "{challenge}");
    let so_far = send("GET", &location(&one), &second, b"");
    assert_eq!((so_far.status, end(&so_far)), (204, 200_000), "nothing of the refused chunk counts");
    let two = send("PATCH", &location(&so_far), &second, &bytes[200_000..300_000]);
    assert_eq!((two.status, end(&two)), (202, 300_000));
    // The access key itself is the same principal.
    assert_eq!(finish(&repo, &location(&two), &digest, &bytes[300_000..]).status, 201);
    assert_eq!(Digest::sha256(&repo.get(&format!("blobs/{digest}")).body), digest);
    repo.blob(CONFIG, b"{}");
}
