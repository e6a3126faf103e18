//! Disks that fill up: writes are refused with words that help, pulls and deletes go on, and nobody has to do anything
//! when there is room again.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use registry_core::vocabulary::Digest;

use super::push::{Acknowledged, content};
use super::wire::{self, Response};
use super::{NODES, address, get, pusher};
use crate::support::{Cluster, not_tested};

/// Nodes tell each other twice a second how full they are.
const TOLD: Duration = Duration::from_secs(20);

/// Repeats a request to each node until all answer as wanted.
fn until_all(
    cluster: &Cluster,
    what: &str,
    mut ask: impl FnMut(u8) -> std::io::Result<Response>,
    good: impl Fn(&Response) -> bool,
) {
    let until = Instant::now() + TOLD;
    for n in 1..=NODES {
        loop {
            let answer = ask(n);
            if answer.as_ref().is_ok_and(&good) {
                break;
            }
            let shown = answer.map(|answer| format!("{} {}", answer.status, answer.text()));
            assert!(Instant::now() < until, "node {n}, {what}: {shown:?}\n{}", cluster.node_log(n));
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// A refusal for want of room: 503, when to come back, and what to do.
fn says_full(answer: &Response) -> bool {
    let text = answer.text();
    answer.status == 503 && answer.header("retry-after").is_some() && text.contains("free space")
}

fn post(cluster: &Cluster, n: u8, bytes: &[u8]) -> std::io::Result<Response> {
    let path = format!("/v2/it/full/blobs/uploads/?digest={}", Digest::sha256(bytes));
    wire::send(address(cluster, n), Some(&cluster.key()), ("POST", &path), &[], bytes)
}

fn begin(cluster: &Cluster, n: u8) -> std::io::Result<Response> {
    wire::send(address(cluster, n), Some(&cluster.key()), ("POST", "/v2/it/full/blobs/uploads/"), &[], &[])
}

fn pulls(cluster: &Cluster, acknowledged: &[Acknowledged]) {
    for one in acknowledged {
        for n in 1..=NODES {
            let answer = get(cluster, n, &format!("/v2/{}", one.path)).unwrap();
            assert_eq!((answer.status, Digest::sha256(&answer.body)), (200, one.digest), "node {n}: {}", one.path);
        }
    }
}

// A volume at its configured capacity: pushes of every kind are refused, pulls and deletes go on.
#[test]
fn capacity_is_kept() {
    let settings =
        ["blobs.capacity=8MiB", "blobs.full_percent=60", "blobs.refuse_percent=75", "blobs.urgent_percent=90"];
    let cluster = &Cluster::start_with(94, &settings);
    let mut pusher = pusher(cluster, Duration::from_secs(30), |_, _, _| {});
    pusher.image("it/full", "first", &content(1, 3_000_000), false);
    pusher.image("it/full", "second", &content(2, 2_500_000), false);
    // nearly full everywhere, and the nodes have told each other: taken all the same, because nobody has more room
    std::thread::sleep(Duration::from_secs(3));
    let nearly = post(cluster, 1, &content(3, 1_000_000)).unwrap();
    assert_eq!(nearly.status, 201, "{}", nearly.text());
    until_all(cluster, "an upload begins", |n| begin(cluster, n), says_full);
    until_all(cluster, "a small blob", |n| post(cluster, n, &content(n.into(), 1_000)), says_full);
    pulls(cluster, &pusher.acknowledged);
    // what is in the state already needs no room on the volume
    let manifest = pusher.acknowledged.iter().find(|one| one.path.ends_with("manifests/first")).unwrap().clone();
    let path = format!("/v2/it/full/manifests/{}", manifest.digest);
    let deleted = wire::send(address(cluster, 2), Some(&cluster.key()), ("DELETE", &path), &[], &[]).unwrap();
    assert_eq!(deleted.status, 202, "{}", deleted.text());
    assert_eq!(get(cluster, 3, "/v2/it/full/manifests/first").unwrap().status, 404);
}

/// A small file system in a file, mounted as long as this lives.
struct Disk(PathBuf);

impl Disk {
    /// Makes and mounts it; the reason if that is not to be had here.
    fn mount(image: &Path, at: &Path, mebibytes: u64) -> Result<Disk, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("mounting a file system of the test's own needs root".to_owned());
        }
        std::fs::create_dir_all(at).unwrap();
        let file = OpenOptions::new().create(true).write(true).truncate(true).open(image).unwrap();
        file.set_len(mebibytes << 20).unwrap();
        run("mkfs.ext4", &["-q", "-F", "-m", "0", image.to_str().unwrap()])?;
        run("mount", &["-o", "loop", image.to_str().unwrap(), at.to_str().unwrap()])?;
        Ok(Disk(at.to_owned()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(run("umount", &["-l", self.0.to_str().unwrap()]));
    }
}

/// Where a disk is mounted.
struct Mounted(PathBuf);

impl Mounted {
    fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.0).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Leaves this many bytes to others.
    fn fill_up_to(&self, left: u64) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.filler()).unwrap();
        let length = file.metadata().unwrap().len() + self.free().saturating_sub(left);
        let filled = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, length);
        assert!(left == 0 || filled.is_ok(), "{filled:?}");
        // the last blocks one by one
        while left == 0 && file.write_all(&[0; 4096]).is_ok() {}
    }

    fn empty(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let ended = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    ended.status.success().then_some(()).ok_or_else(|| format!("{program} {arguments:?}: {said}"))
}

/// A cluster whose nodes keep everything on small disks of their own; where those are mounted.
fn on_small_disks(settings: &[&str]) -> Result<(Cluster, Vec<Mounted>), String> {
    let mut mounted = Vec::new();
    let cluster = Cluster::start_prepared(95, settings, |nodes| {
        let image = |dir: &Path| dir.ancestors().nth(3).unwrap().join(dir.file_name().unwrap()).with_extension("img");
        let mount = |dir: &PathBuf| Disk::mount(&image(dir), &dir.join("data"), 384);
        let disks = nodes.iter().map(mount).collect::<Result<Vec<Disk>, String>>()?;
        mounted = disks.iter().map(|disk| Mounted(disk.0.clone())).collect();
        Ok(Some(Box::new(disks)))
    })?;
    Ok((cluster, mounted))
}

// Real disks that hold everything of a node, filled by a stranger: first the blobs' watermark, then the log's reserve,
// then to the last byte. Nobody ends, pulls and deletes go on, and the removed filler is all it takes to push again.
#[test]
fn a_full_disk_is_survived() {
    let (cluster, disks) = match on_small_disks(&["raft.reserve=12MiB"]) {
        Ok(started) => started,
        Err(why) => return not_tested(&format!("a full disk is survived: {why}")),
    };
    let cluster = &cluster;
    let mut pusher = pusher(cluster, Duration::from_secs(30), |_, _, _| {});
    let layer = content(3, 2_000_000);
    pusher.image("it/full", "kept", &layer, false);
    let kept = pusher.acknowledged.clone();
    pusher.image("it/full", "deleted", &content(4, 100_000), false);
    let large = kept.iter().find(|one| one.digest == Digest::sha256(&layer)).unwrap().digest;

    // above the watermark of the blobs, above the reserve of the log
    disks.iter().for_each(|disk| disk.fill_up_to(24 << 20));
    until_all(cluster, "an upload begins", |n| begin(cluster, n), says_full);
    until_all(cluster, "a small blob", |n| post(cluster, n, &content(n.into(), 1_000)), says_full);
    pulls(cluster, &kept);
    // a manifest lives in the log, which has room
    pusher.manifest("it/full", "late", (large, layer.len()), (large, layer.len()));
    let free = || disks.iter().map(Mounted::free).collect::<Vec<_>>();
    eprintln!("with room for the log: {:?}", free());

    // one node is away meanwhile, and starts on a disk that is full to the last byte; the others look at theirs twice a
    // second (a disk that fills faster ends its node, which its supervisor starts again), and give their ballast away
    cluster.kill_node(2);
    disks[1].fill_up_to(0);
    let living = [&disks[0], &disks[2]];
    living.iter().for_each(|disk| disk.fill_up_to(2 << 20));
    let until = Instant::now() + TOLD;
    while living.iter().any(|disk| disk.free() < 8 << 20) {
        assert!(Instant::now() < until, "a ballast is kept: {:?}", free());
        std::thread::sleep(Duration::from_millis(100));
    }
    let late = pusher.acknowledged.iter().find(|one| one.path.ends_with("manifests/late")).unwrap().clone();
    let manifest = |n: u8| {
        let (key, path) = (cluster.key(), format!("/v2/it/full/manifests/again{n}"));
        let body = get(cluster, n, &format!("/v2/{}", late.path))?.body;
        let kind = ("Content-Type", "application/vnd.oci.image.manifest.v1+json".to_owned());
        wire::send(address(cluster, n), Some(&key), ("PUT", &path), &[kind], &body)
    };
    cluster.start_node(2);
    until_all(cluster, "a manifest", manifest, says_full);
    eprintln!("full: {:?}", free());
    pulls(cluster, &kept);
    for n in 1..=NODES {
        assert!(cluster.pid(n).is_some(), "node {n} has ended:\n{}", cluster.node_log(n));
    }
    let victim = pusher.acknowledged.iter().find(|one| one.path.ends_with("manifests/deleted")).unwrap();
    let path = format!("/v2/it/full/manifests/{}", victim.digest);
    let deleted = wire::send(address(cluster, 1), Some(&cluster.key()), ("DELETE", &path), &[], &[]).unwrap();
    assert_eq!(deleted.status, 202, "{}", deleted.text());

    disks.iter().for_each(Mounted::empty);
    until_all(
        cluster,
        "a small blob",
        |n| post(cluster, n, &content(100 + u64::from(n), 1_000)),
        |answer| answer.status == 201,
    );
    until_all(cluster, "a manifest", manifest, |answer| answer.status == 201);
    pusher.image("it/full", "after", &content(5, 2_000_000), true);
    pulls(cluster, &kept);
}
