//! Numbers, on demand: `cargo test -p portolan --lib transfer::tests::measure -- --ignored --nocapture`.

use super::*;

/// Seconds of CPU that this process has used.
fn cpu_seconds() -> f64 {
    let clock = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    clock.tv_sec as f64 + clock.tv_nsec as f64 / 1e9
}

struct Meter(Instant, f64);

impl Meter {
    fn start() -> Meter {
        Meter(Instant::now(), cpu_seconds())
    }

    fn print(&self, what: &str, bytes: usize) {
        let (seconds, cpu, mb) = (self.0.elapsed().as_secs_f64(), cpu_seconds() - self.1, bytes as f64 / 1e6);
        println!("{what}: {:.0} MB/s, {:.2} ms CPU per MB (all nodes together)", mb / seconds, cpu * 1e3 / mb);
    }
}

// 100 MiB pushed to two nodes directly and by proxy, then read from an own disk and from another node.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn throughput() {
    let region = Region::start(&["a", "b", "c"]).await;
    let bytes = noise(1, 100 << 20);
    let digest = Digest::sha256(&bytes);
    for (round, asked) in [(1, 1), (2, 1), (3, 3), (4, 3)] {
        let id = upload(round);
        let meter = Meter::start();
        let appended = region.transfer(asked).append(fresh(id, pair(1, 2)), body(&bytes, 64 << 10)).await.unwrap();
        assert!(appended.is_acknowledgeable());
        meter.print(&format!("append through node {asked}"), bytes.len());
        let placed = region.transfer(asked).seal_and_place(seal(id, 1, digest, pair(1, 2))).await.unwrap();
        assert_eq!(placed.stores.len(), 2);
        meter.print(&format!("push (append, seal, place) through node {asked}"), bytes.len());
    }
    let blob = BlobSource {
        key: BlobKey::new(digest, upload(1)),
        size_bytes: bytes.len() as u64,
        replicas: vec![StoreId(10), StoreId(20)],
    };
    for (what, asked) in [("own disk", 1), ("own disk", 1), ("another node", 3), ("another node", 3)] {
        let meter = Meter::start();
        let mut stream = region.transfer(asked).fetch(blob.clone(), 0..blob.size_bytes).await.unwrap();
        let mut len = 0;
        while let Some(part) = stream.next().await {
            len += part.unwrap().len();
        }
        assert_eq!(len, bytes.len());
        meter.print(&format!("read from {what}"), len);
    }
}

// 100 MiB pushed to one node without a backup: what the store alone costs.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn throughput_alone() {
    let region = Region::start(&["a"]).await;
    let bytes = noise(1, 100 << 20);
    let holders = Holders { primary: NodeId(1), backup: None };
    for round in 1..=3 {
        let meter = Meter::start();
        region.transfer(1).append(fresh(upload(round), holders), body(&bytes, 64 << 10)).await.unwrap();
        meter.print("append alone", bytes.len());
        region.transfer(1).seal_and_place(seal(upload(round), 1, Digest::sha256(&bytes), holders)).await.unwrap();
        meter.print("push alone", bytes.len());
    }
}

// Small blobs, synced on two nodes, 32 at once.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn small_puts() {
    const COUNT: u64 = 4_000;
    let region = Region::start(&["a", "b", "c"]).await;
    let began = Instant::now();
    let puts = (0..COUNT).map(|number| {
        let transfer = region.transfer(1);
        async move {
            let bytes = noise(number, 1024);
            let key = BlobKey::new(Digest::sha256(&bytes), upload(u128::from(number)));
            let placed = transfer.put_small(key, bytes, pair(1, 2)).await.unwrap();
            assert_eq!(placed.stores.len(), 2);
        }
    });
    stream::iter(puts).buffer_unordered(32).collect::<Vec<()>>().await;
    println!("1 KiB blobs on two nodes: {:.0} per second", COUNT as f64 / began.elapsed().as_secs_f64());
}
