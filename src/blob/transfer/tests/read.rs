//! Reads: right bytes or a broken stream, never wrong ones, whatever happens to copies, disks and lines.

use std::os::unix::fs::FileExt as _;

use super::cable::Cable;
use super::*;
use crate::blob::store::BLOCK_BYTES;

fn flip(node: &Node, key: &BlobKey, offset: u64) {
    let path = node.file(key);
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

// Every range of a blob is exact, from an own disk and from another node; outside of it is an error.
#[tokio::test(flavor = "multi_thread")]
async fn ranges() {
    let region = Region::start(&["a", "b", "c"]).await;
    let bytes = noise(1, 3_000_001);
    let blob = region.push(upload(1), &bytes).await;
    let (size, block) = (blob.size_bytes, BLOCK_BYTES as u64);
    let ranges =
        [0..size, 0..0, size..size, 0..1, size - 1..size, block..2 * block, block - 1..block + 1, 7..1_500_000];
    for asked in [1, 3] {
        for range in &ranges {
            let stream = region.transfer(asked).fetch(blob.clone(), range.clone()).await.unwrap();
            assert_eq!(stream.remaining_bytes(), range.end - range.start);
            let (read, error) = drain(stream).await;
            assert!(error.is_none() && read == bytes[range.start as usize..range.end as usize], "{range:?} {error:?}");
        }
        #[expect(clippy::reversed_empty_ranges, reason = "refused ranges are the case")]
        for range in [0..size + 1, 5..4, size + 1..size + 1] {
            assert!(region.transfer(asked).fetch(blob.clone(), range).await.is_err());
        }
    }
}

// B6: a bit flips on the own disk: the reader gets the right bytes from the other zone from that block on, the copy is
// quarantined and reported; the same on a remote holder.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_copy() {
    for asked in [1, 3] {
        let region = Region::start(&["a", "b", "c"]).await;
        let bytes = noise(2, 4_000_000);
        let blob = region.push(upload(2), &bytes).await;
        flip(region.node(1), &blob.key, 2_222_222);
        // Node 3 must meet the damaged copy: it knows of no other at first.
        let only_bad = BlobSource { replicas: vec![StoreId(10)], ..blob.clone() };
        if asked == 3 {
            let (read, error) = drain(region.transfer(3).fetch(only_bad, 0..blob.size_bytes).await.unwrap()).await;
            assert!(matches!(error, Some(TransferError::NoCopy { .. })), "{error:?}");
            assert!(bytes.starts_with(&read) && read.len() < 2_222_222, "{}", read.len());
        } else {
            assert!(read_all(&region, 1, &blob).await == bytes);
        }
        assert_eq!(region.node(1).store().stat(&blob.key).unwrap(), None, "quarantined");
        assert_eq!(region.node(1).faults.0.lock().as_slice(), [(StoreId(10), blob.key, CopyFault::Damaged)]);
        assert!(read_all(&region, asked, &blob).await == bytes, "the other copy serves");
    }
}

// A file that was cut short, and one that is gone, are bad copies like any other.
#[tokio::test(flavor = "multi_thread")]
async fn short_and_missing_files() {
    let region = Region::start(&["a", "b", "c"]).await;
    let bytes = noise(3, 1_000_000);
    let blob = region.push(upload(3), &bytes).await;
    std::fs::OpenOptions::new().write(true).open(region.node(1).file(&blob.key)).unwrap().set_len(500_000).unwrap();
    assert!(read_all(&region, 1, &blob).await == bytes);
    assert!(read_all(&region, 3, &blob).await == bytes);
    let gone = BlobSource { key: BlobKey::new(blob.key.digest, upload(99)), ..blob.clone() };
    for asked in [1, 3] {
        let missing = region.transfer(asked).fetch(gone.clone(), 0..10).await.map(drop);
        assert!(matches!(missing, Err(TransferError::NoCopy { is_missing: true })), "{missing:?}");
    }
    assert!(region.node(1).faults.0.lock().contains(&(StoreId(10), gone.key, CopyFault::Missing)));
}

// Dead peers: the copy that is left serves, without a long wait; with none left the answer is an error, not "missing".
#[tokio::test(flavor = "multi_thread")]
async fn dead_peers() {
    let mut region = Region::start(&["a", "b", "c", "d"]).await;
    let bytes = noise(4, 2_000_000);
    let mut blob = region.push(upload(4), &bytes).await;
    region.transfer(3).replicate_here(blob.clone(), StoreId(30)).await.unwrap();
    blob.replicas.push(StoreId(30));
    region.kill(1);
    region.kill(2);
    let began = Instant::now();
    assert!(read_all(&region, 4, &blob).await == bytes);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    region.kill(3);
    let result = region.transfer(4).fetch(blob.clone(), 0..blob.size_bytes).await.map(drop);
    assert!(matches!(result, Err(TransferError::NoCopy { is_missing: false })), "{result:?}");
}

// R18: a node that is full of clients says so with its pings, and that it is not any more as well; to itself at once.
#[tokio::test(flavor = "multi_thread")]
async fn r18_full_nodes_say_so() {
    let region = Region::start(&["a", "b"]).await;
    let (node, other, crowd) = (region.transfer(1), region.transfer(2), region.transfer(1).crowd());
    assert!(!node.is_full(NodeId(1)) && !other.is_full(NodeId(1)));
    crowd.note(90, 100);
    assert!(node.is_full(NodeId(1)));
    until("the other one hears of it", || other.is_full(NodeId(1))).await;
    assert!(!other.is_full(NodeId(2)) && !node.is_full(NodeId(2)), "it says nothing of others");
    assert!(other.answers_now(NodeId(1)).await, "it is there all the same");
    crowd.note(89, 100);
    until("the other one hears of that", || !other.is_full(NodeId(1))).await;
    assert!(!other.is_full(NodeId(9)), "nobody knows that one");
}

// A holder dies while it sends: the stream goes on from the other one at the same byte.
#[tokio::test(flavor = "multi_thread")]
async fn holder_dies_mid_stream() {
    let mut region = Region::start(&["a", "b", "c"]).await;
    let bytes = noise(5, 40_000_000);
    let blob = region.push(upload(5), &bytes).await;
    // One replica is named first, so that it is known which one to kill.
    let mut stream = region.transfer(3).fetch(blob.clone(), 0..blob.size_bytes).await.unwrap();
    let mut read = stream.next().await.unwrap().unwrap().to_vec();
    let near = match region.transfer(3).inner.peers.distance(NodeId(1)) {
        near if near < region.transfer(3).inner.peers.distance(NodeId(2)) => 1,
        _ => 2,
    };
    region.kill(near);
    while let Some(part) = stream.next().await {
        read.extend_from_slice(&part.unwrap());
    }
    assert!(read == bytes);
    // The order of the replicas may have changed since; the other one must serve as well.
    region.kill(3 - near);
    let result = region.transfer(3).fetch(blob, 0..10).await.map(drop);
    assert!(matches!(result, Err(TransferError::NoCopy { is_missing: false })));
}

// The nearest copy is slow: another one is asked as well after the hedging delay, and the read does not wait.
#[tokio::test(flavor = "multi_thread")]
async fn slow_peer_is_hedged() {
    // Node 1 is in the reader's zone, so it comes first however slow it is.
    let region = Region::start(&["c", "b", "c"]).await;
    let cable = Cable::to(region.node(1).address).await;
    region.connect(&BTreeMap::from([(NodeId(1), cable.address)])).await;
    let bytes = noise(6, 1_000_000);
    let blob = region.push(upload(6), &bytes).await;
    cable.delay(Duration::from_millis(700));
    let began = Instant::now();
    assert!(read_all(&region, 3, &blob).await == bytes);
    let took = began.elapsed();
    assert!(took > Duration::from_millis(45) && took < Duration::from_millis(600), "{took:?}");
    // The budget is spent: the next reads wait for the slow one.
    let began = Instant::now();
    assert!(read_all(&region, 3, &blob).await == bytes);
    assert!(began.elapsed() > Duration::from_millis(650), "{:?}", began.elapsed());
}

// The copy that lost the race to a hedge is still good for the rest when the winner dies.
#[tokio::test(flavor = "multi_thread")]
async fn hedge_winner_dies() {
    let mut region = Region::start(&["c", "b", "c"]).await;
    let cable = Cable::to(region.node(1).address).await;
    region.connect(&BTreeMap::from([(NodeId(1), cable.address)])).await;
    let bytes = noise(11, 30_000_000);
    let blob = region.push(upload(11), &bytes).await;
    cable.delay(Duration::from_millis(400));
    let mut stream = region.transfer(3).fetch(blob.clone(), 0..blob.size_bytes).await.unwrap();
    let mut read = stream.next().await.unwrap().unwrap().to_vec();
    cable.delay(Duration::ZERO);
    region.kill(2);
    while let Some(part) = stream.next().await {
        read.extend_from_slice(&part.unwrap());
    }
    assert!(read == bytes);
}

// The line stalls in the middle: after the time limit on progress the other copy goes on.
#[tokio::test(flavor = "multi_thread")]
async fn stalled_line() {
    let region = Region::start(&["c", "b", "c"]).await;
    let cable = Cable::to(region.node(1).address).await;
    region.connect(&BTreeMap::from([(NodeId(1), cable.address)])).await;
    let bytes = noise(7, 10_000_000);
    let blob = region.push(upload(7), &bytes).await;
    cable.stall_after(3_000_000);
    let began = Instant::now();
    assert!(read_all(&region, 3, &blob).await == bytes);
    let took = began.elapsed();
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(4), "{took:?}");
}

// A bit flips on the way: the node that faces the client sees it, tells, and takes the rest from the other copy.
#[tokio::test(flavor = "multi_thread")]
async fn garbled_line() {
    let region = Region::start(&["c", "b", "c"]).await;
    let cable = Cable::to(region.node(1).address).await;
    region.connect(&BTreeMap::from([(NodeId(1), cable.address)])).await;
    let bytes = noise(8, 5_000_000);
    let blob = region.push(upload(8), &bytes).await;
    cable.flip_after(2_500_000);
    assert!(read_all(&region, 3, &blob).await == bytes);
    assert_eq!(region.node(3).faults.0.lock().as_slice(), [(StoreId(10), blob.key, CopyFault::Garbled)]);
    assert!(region.node(1).store().stat(&blob.key).unwrap().is_some(), "the copy itself is good");
}

// A repair places a verified copy; repeats find it; a damaged source is left for a good one; without any, nothing
// stays.
#[tokio::test(flavor = "multi_thread")]
async fn repairs() {
    let region = Region::start(&["a", "b", "c"]).await;
    let bytes = noise(9, 3_000_000);
    let blob = region.push(upload(9), &bytes).await;
    flip(region.node(1), &blob.key, 1_700_000);
    for _ in 0..2 {
        let stat = region.transfer(3).replicate_here(blob.clone(), StoreId(30)).await.unwrap();
        assert_eq!(stat.size_bytes, 3_000_000);
    }
    let own = BlobSource { replicas: vec![StoreId(30)], ..blob.clone() };
    assert!(read_all(&region, 3, &own).await == bytes);
    let unknown = region.transfer(3).replicate_here(blob.clone(), StoreId(10)).await;
    assert!(matches!(unknown, Err(TransferError::StoreUnknown(StoreId(10)))));

    let gone = BlobSource { key: BlobKey::new(blob.key.digest, upload(98)), ..blob };
    let result = region.transfer(3).replicate_here(gone.clone(), StoreId(30)).await;
    assert!(matches!(result, Err(TransferError::NoCopy { is_missing: true })), "{result:?}");
    assert_eq!(region.node(3).store().stat(&gone.key).unwrap(), None);
    let again = region.transfer(3).replicate_here(gone, StoreId(30)).await;
    assert!(matches!(again, Err(TransferError::NoCopy { .. })), "the first attempt left nothing in the way: {again:?}");
}

// Copies that are hashed when asked: a bit that flipped is found on an own disk and on another node's, and the copy set
// aside; the good ones and those that are not there are told apart.
#[tokio::test(flavor = "multi_thread")]
async fn verified_copies() {
    let region = Region::start(&["a", "b", "c"]).await;
    let blob = region.push(upload(11), &noise(11, 3_000_000)).await;
    region.transfer(3).replicate_here(blob.clone(), StoreId(30)).await.unwrap();
    let stores = [10, 20, 30].map(StoreId);
    let verify = async |asked| {
        let told = region.transfer(asked).verify(blob.key, &stores).await;
        told.into_iter().map(|(_, verified)| verified.unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(verify(2).await, [Verified::Good; 3]);
    for (flipped, asked) in [(1, 1), (2, 3)] {
        flip(region.node(flipped), &blob.key, 1_234_567);
        assert_eq!(verify(asked).await.iter().filter(|found| **found == Verified::Bad).count(), 1);
        assert_eq!(region.node(flipped).store().stat(&blob.key).unwrap(), None, "set aside");
    }
    assert_eq!(verify(1).await, [Verified::Missing, Verified::Missing, Verified::Good]);
    let unknown = region.transfer(1).verify(blob.key, &[StoreId(99)]).await;
    assert!(matches!(unknown[..], [(_, Err(TransferError::StoreUnknown(StoreId(99))))]), "{unknown:?}");
}

// A reader that stops reading holds two buffers, not the blob; one that goes away ends the work for it.
#[tokio::test(flavor = "multi_thread")]
async fn slow_reader() {
    let region = Region::start(&["a", "b", "c"]).await;
    let bytes = noise(10, 20_000_000);
    let blob = region.push(upload(10), &bytes).await;
    let mut stuck = Vec::new();
    for _ in 0..20 {
        let mut stream = region.transfer(3).fetch(blob.clone(), 0..blob.size_bytes).await.unwrap();
        stream.next().await.unwrap().unwrap();
        stuck.push(stream);
    }
    // They starve nobody on the same connection.
    let began = Instant::now();
    assert!(read_all(&region, 3, &blob).await == bytes);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    drop(stuck);
    let served = |number: u64| region.transfer(number).inner.holder.fetches_open();
    until("the holders have ended the streams", || served(1) + served(2) == 0).await;
}
