//! Pushes: whichever node is asked, both holders end with the same verified bytes.

use super::*;
use crate::blob::store::{PACK_BLOB_BYTES_MAX, StoreError};

fn store_error<T: std::fmt::Debug>(result: TransferResult<T>) -> StoreError {
    match result {
        Err(TransferError::Store { error, .. }) => error,
        other => panic!("expected a store's refusal, got {other:?}"),
    }
}

async fn offsets(region: &Region, asked: u64, upload: UploadId, holders: Holders) -> Vec<u64> {
    let probes = region.transfer(asked).probe(upload, holders).await;
    probes.into_iter().map(|(_, staged)| staged.map_or(u64::MAX, |staged| staged.offset)).collect()
}

// B1: chunks to the primary, the backup and a third node in turn make one blob, which every node reads back.
#[tokio::test(flavor = "multi_thread")]
async fn chunks_to_different_nodes() {
    let region = Region::start(&["a", "b", "c"]).await;
    let (id, holders, bytes) = (upload(1), pair(1, 2), noise(1, 5_000_000));
    let mut at = 0;
    for (asked, len) in [(1, 1_000_000), (2, 1), (3, 2_345_678), (3, 0), (2, 700_000), (1, 954_321)] {
        let chunk = bytes.slice(at..at + len);
        let append = next(id, holders, at as u64);
        let appended = region.transfer(asked).append(append, body(&chunk, 33_333)).await.unwrap();
        at += len;
        assert!(appended.is_acknowledgeable() && appended.offset == at as u64, "{appended:?}");
        assert_eq!(offsets(&region, asked, id, holders).await, [at as u64; 2]);
    }
    let digest = Digest::sha256(&bytes);
    let placed = region.transfer(3).seal_and_place(seal(id, 1, digest, holders)).await.unwrap();
    assert_eq!((placed.size_bytes, placed.stores.clone()), (bytes.len() as u64, vec![StoreId(10), StoreId(20)]));
    // A lost answer: the repeat only confirms, at any node.
    let again = region.transfer(2).seal_and_place(seal(id, 1, digest, holders)).await.unwrap();
    assert_eq!(again.stores, placed.stores);
    let key = BlobKey::new(digest, id);
    let blob = BlobSource { key, size_bytes: placed.size_bytes, replicas: placed.stores };
    for asked in 1..=3 {
        assert!(read_all(&region, asked, &blob).await == bytes, "node {asked}");
        let confirmed = region.transfer(asked).confirm(key, &[StoreId(10), StoreId(20), StoreId(30)]).await;
        let sizes: Vec<_> = confirmed.into_iter().map(|(_, size)| size.unwrap()).collect();
        assert_eq!(sizes, [Some(bytes.len() as u64), Some(bytes.len() as u64), None]);
    }
}

// B2: a repeated, early or late chunk is refused with the true offset before its body is read, and changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn chunks_out_of_order() {
    let region = Region::start(&["a", "b", "c"]).await;
    let (id, holders, bytes) = (upload(2), pair(1, 2), noise(2, 300_000));
    region.transfer(1).append(fresh(id, holders), body(&bytes, 50_000)).await.unwrap();
    for asked in [1, 3] {
        for offset in [0, 299_999, 300_001, u64::MAX] {
            let append = Append { offset: Some(offset), ..next(id, holders, 300_000) };
            let never_read: Body = stream::once(async { panic!("the body was read") }).boxed();
            let error = store_error(region.transfer(asked).append(append, never_read).await);
            assert!(matches!(error, StoreError::OffsetMismatch { expected: 300_000 }), "{error:?}");
        }
    }
    assert_eq!(offsets(&region, 3, id, holders).await, [300_000; 2]);
}

// B3: while one writer appends, a second one is refused; the first one's bytes are whole.
#[tokio::test(flavor = "multi_thread")]
async fn one_writer() {
    let region = Region::start(&["a", "b", "c"]).await;
    let (id, holders, bytes) = (upload(3), pair(1, 2), noise(3, 1_500_000));
    let (feed, slow_body) = fed_body();
    let first = region.transfer(3).clone();
    let first = tokio::spawn(async move { first.append(fresh(id, holders), slow_body).await });
    feed.send(Ok(bytes.slice(..1_000_000))).await.unwrap();
    let probe = || async { offsets(&region, 1, id, holders).await.iter().all(|at| (1..u64::MAX).contains(at)) };
    while !probe().await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let other = body(&noise(4, 1000), 1000);
    let error = store_error(region.transfer(2).append(fresh(id, holders), other).await);
    assert!(matches!(error, StoreError::Busy), "{error:?}");
    feed.send(Ok(bytes.slice(1_000_000..))).await.unwrap();
    drop(feed);
    assert!(first.await.unwrap().unwrap().is_acknowledgeable());
    let placed = region.transfer(1).seal_and_place(seal(id, 1, Digest::sha256(&bytes), holders)).await.unwrap();
    assert_eq!(placed.stores.len(), 2);
}

// A client that goes away leaves a prefix that both holders agree on; the upload goes on from there.
#[tokio::test(flavor = "multi_thread")]
async fn broken_body() {
    let region = Region::start(&["a", "b", "c"]).await;
    let (holders, bytes) = (pair(1, 2), noise(5, 2_000_000));
    for (number, asked) in [(10, 1), (11, 2), (12, 3)] {
        let id = upload(number);
        let parts = body(&bytes.slice(..1_234_567), 100_000);
        let broken = parts.chain(stream::iter([Err(BodyError::new(std::io::Error::other("reset")))])).boxed();
        let error = region.transfer(asked).append(fresh(id, holders), broken).await.unwrap_err();
        let TransferError::Body { error, offset } = error else { panic!("{error:?}") };
        assert!(error.downcast::<std::io::Error>().is_some(), "the surface gets its own error back");
        assert_eq!(offset, Some(1_234_567), "asked {asked}");
        assert_eq!(offsets(&region, asked, id, holders).await, [1_234_567; 2]);
        let rest = body(&bytes.slice(1_234_567..), 100_000);
        region.transfer(asked).append(next(id, holders, 1_234_567), rest).await.unwrap();
        let placed = region.transfer(asked).seal_and_place(seal(id, 1, Digest::sha256(&bytes), holders)).await.unwrap();
        assert_eq!(placed.stores.len(), 2, "{:?}", placed.failed);
    }
}

// A request that is dropped in the middle (the connection is gone) frees the upload for the next writer at once; a
// client that sends the chunk again without an offset gets it stored once.
#[tokio::test(flavor = "multi_thread")]
async fn dropped_request() {
    let region = Region::start(&["a", "b", "c"]).await;
    let (holders, bytes) = (pair(1, 2), noise(6, 900_000));
    for (number, asked) in [(20, 1), (21, 3)] {
        let id = upload(number);
        let (feed, stuck) = fed_body();
        let transfer = region.transfer(asked).clone();
        let task = tokio::spawn(async move { transfer.append(fresh(id, holders), stuck).await });
        feed.send(Ok(bytes.slice(..600_000))).await.unwrap();
        while region.node(2).store().upload(id).map_or(0, |status| status.offset) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        task.abort();
        let began = Instant::now();
        let first = body(&bytes.slice(..700_000), 10_000);
        let appended = region.transfer(asked).append(fresh(id, holders), first).await.unwrap();
        assert_eq!(appended.offset, 700_000);
        assert!(began.elapsed() < Duration::from_secs(2), "the dead writer was in the way");
        // The same again for a later chunk, whose first answer got lost.
        for _ in 0..2 {
            let rest = body(&bytes.slice(700_000..), 10_000);
            let append = Append { offset: None, ..next(id, holders, 700_000) };
            assert_eq!(region.transfer(asked).append(append, rest).await.unwrap().offset, 900_000);
        }
        let placed = region.transfer(asked).seal_and_place(seal(id, 1, Digest::sha256(&bytes), holders)).await.unwrap();
        assert_eq!(placed.stores.len(), 2);
    }
}

// B4: every holder refuses a wrong digest by itself and frees the bytes; nothing is readable.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_digest() {
    let region = Region::start(&["a", "b", "c"]).await;
    let (id, holders, bytes) = (upload(30), pair(1, 2), noise(7, 200_000));
    region.transfer(1).append(fresh(id, holders), body(&bytes, 10_000)).await.unwrap();
    let wrong = Digest::sha256(b"something else");
    let error = store_error(region.transfer(3).seal_and_place(seal(id, 1, wrong, holders)).await);
    assert!(matches!(error, StoreError::DigestMismatch { actual } if actual == Digest::sha256(&bytes)), "{error:?}");
    for (node, staged) in region.transfer(3).probe(id, holders).await {
        assert!(matches!(store_error(staged), StoreError::UploadUnknown), "node {node} kept the bytes");
    }
    for number in [1, 2] {
        assert_eq!(region.node(number).store().stat(&BlobKey::new(wrong, id)).unwrap(), None);
    }
}

// Small blobs are durable on both holders after one call each; wrong and large ones are refused before they travel.
#[tokio::test(flavor = "multi_thread")]
async fn small_blobs() {
    let region = Region::start(&["a", "b", "c"]).await;
    for (number, len) in [(40, 0), (41, 1), (42, PACK_BLOB_BYTES_MAX)] {
        let (bytes, id) = (noise(number as u64, len), upload(number));
        let key = BlobKey::new(Digest::sha256(&bytes), id);
        let placed = region.transfer(3).put_small(key, bytes.clone(), pair(1, 2)).await.unwrap();
        assert_eq!((placed.size_bytes, placed.stores.clone()), (len as u64, vec![StoreId(10), StoreId(20)]));
        let again = region.transfer(1).put_small(key, bytes.clone(), pair(1, 2)).await.unwrap();
        assert_eq!(again.stores, placed.stores);
        let blob = BlobSource { key, size_bytes: len as u64, replicas: placed.stores };
        for asked in 1..=3 {
            assert_eq!(region.transfer(asked).read(blob.clone(), len).await.unwrap(), bytes);
        }
        if len > 0 {
            let small_limit = region.transfer(3).read(blob, len - 1).await;
            assert!(matches!(store_error(small_limit), StoreError::TooLarge { .. }));
        }
    }
    let key = BlobKey::new(Digest::sha256(b"a"), upload(45));
    let wrong = region.transfer(3).put_small(key, Bytes::from_static(b"b"), pair(1, 2)).await;
    assert!(matches!(store_error(wrong), StoreError::DigestMismatch { .. }));
    let large = region.transfer(3).put_small(key, noise(1, PACK_BLOB_BYTES_MAX + 1), pair(1, 2)).await;
    assert!(matches!(store_error(large), StoreError::TooLarge { .. }));
}

// A new upload's holders: the own store, and another zone; a dead node is not chosen, too few zones are an error.
#[tokio::test(flavor = "multi_thread")]
async fn holders() {
    let mut region = Region::start(&["a", "b", "c"]).await;
    for number in 0..20 {
        let holders = region.transfer(2).choose_holders(upload(number)).unwrap();
        assert_eq!(holders.primary, NodeId(2));
        assert!([Some(NodeId(1)), Some(NodeId(3))].contains(&holders.backup));
    }
    region.kill(3);
    until("the death is noticed", || !region.transfer(2).is_reachable(NodeId(3))).await;
    for number in 0..20 {
        assert_eq!(region.transfer(2).choose_holders(upload(number)).unwrap(), pair(2, 1));
    }
    region.kill(1);
    until("the death is noticed", || !region.transfer(2).is_reachable(NodeId(1))).await;
    assert!(matches!(region.transfer(2).choose_holders(upload(1)), Err(TransferError::NoPair(_))));
}

// One configured node: a push needs no backup, and says that it is alone.
#[tokio::test(flavor = "multi_thread")]
async fn alone() {
    let region = Region::start(&["a"]).await;
    let (id, bytes) = (upload(50), noise(50, 100_000));
    let holders = region.transfer(1).choose_holders(id).unwrap();
    assert_eq!(holders, Holders { primary: NodeId(1), backup: None });
    let appended = region.transfer(1).append(fresh(id, holders), body(&bytes, 7_000)).await.unwrap();
    assert!(matches!(appended.backup, Mirrored::Alone));
    let placed = region.transfer(1).seal_and_place(seal(id, 1, Digest::sha256(&bytes), holders)).await.unwrap();
    assert_eq!(placed.stores, [StoreId(10)]);
}

// A call for another cluster or another node is refused, whatever it asks.
#[tokio::test(flavor = "multi_thread")]
async fn strangers() {
    let region = Region::start(&["a", "b"]).await;
    // Node 2's address under another node's name: the directory is old.
    let seats = [(1, 1), (3, 2)].map(|(id, at)| NodeSeat {
        id: NodeId(id),
        zone: ZoneName::parse("a").unwrap(),
        blob_address: region.node(at).address.to_string().into(),
    });
    region.node(1).set_directory(Directory::new(seats, []).unwrap());
    let holders = Holders { primary: NodeId(3), backup: None };
    let probes = region.transfer(1).probe(upload(60), holders).await;
    assert!(matches!(&probes[0].1, Err(TransferError::Rejected { .. })), "{probes:?}");
    // Another cluster's node.
    let config = Config {
        cluster: ClusterId(0xbad),
        node: NodeId(9),
        listen: "127.0.9.9:0".parse().unwrap(),
        bind_source: None,
        tls: None,
        clock: Arc::new(SystemClock),
        settings: Settings::default(),
    };
    let stranger = Transfer::start(config, Vec::new(), Arc::new(Epochs::default()), Arc::new(Faults::default()));
    let stranger = stranger.await.unwrap();
    stranger.set_directory(region.directory(&BTreeMap::new()));
    let probes = stranger.probe(upload(60), pair(1, 2)).await;
    assert!(probes.iter().all(|(_, probe)| matches!(probe, Err(TransferError::Rejected { .. }))), "{probes:?}");
    stranger.shutdown().await;
}
