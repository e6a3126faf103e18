//! Holders that die, come back, or lose their memory: nothing that was acknowledged is lost, and old pairs stay fenced.

use super::cable::Cable;
use super::*;
use crate::blob::store::StoreError;
use crate::blob::store::memory::MemoryDisk;

/// The registry's steps after a holder was lost: a new pair, the command (here: the table of epochs), fence, refill.
async fn take_over(region: &Region, asked: u64, id: UploadId, epoch: u64, survivor: u64) -> (Holders, u64) {
    let transfer = region.transfer(asked);
    let holders = transfer.choose_partner(id, NodeId(survivor)).unwrap();
    region.epochs.current.lock().insert(id, epoch);
    let fenced = transfer.fence(NodeId(survivor), id, epoch).await.unwrap();
    let partner = holders.nodes().find(|node| *node != NodeId(survivor)).unwrap();
    let filled = transfer.refill(NodeId(survivor), partner, id, epoch).await.unwrap();
    assert_eq!((filled.node, filled.offset), (partner, fenced.offset));
    (holders, fenced.offset)
}

async fn wait_staged(region: &Region, number: u64, id: UploadId, bytes: u64) {
    let store = region.node(number).store();
    until("bytes are staged", || store.upload(id).is_ok_and(|status| status.offset >= bytes)).await;
}

// The backup dies in the middle of a chunk: the primary takes the rest alone, a new partner gets everything, the client
// sees nothing of it, and the blob ends durable in two zones.
#[tokio::test(flavor = "multi_thread")]
async fn backup_dies() {
    let mut region = Region::start(&["a", "b", "c"]).await;
    let (id, bytes) = (upload(1), noise(1, 6_000_000));
    for_each_door(&mut region, id, bytes).await;
}

async fn for_each_door(region: &mut Region, id: UploadId, bytes: Bytes) {
    let holders = pair(1, 2);
    let (feed, stream) = fed_body();
    let transfer = region.transfer(3).clone();
    let task = tokio::spawn(async move { transfer.append(fresh(id, holders), stream).await });
    feed.send(Ok(bytes.slice(..2_000_000))).await.unwrap();
    wait_staged(region, 2, id, 1_000_000).await;
    region.kill(2);
    feed.send(Ok(bytes.slice(2_000_000..))).await.unwrap();
    drop(feed);
    let appended = task.await.unwrap().unwrap();
    assert!(!appended.is_acknowledgeable(), "one holder is not enough");
    assert!(matches!(&appended.backup, Mirrored::Lost(TransferError::Unreachable { .. })), "{appended:?}");
    assert_eq!(appended.offset, bytes.len() as u64);

    until("the death is noticed", || !region.transfer(3).is_reachable(NodeId(2))).await;
    let (holders, offset) = take_over(region, 3, id, 2, 1).await;
    assert_eq!((holders, offset), (pair(1, 3), bytes.len() as u64));
    let placed = region.transfer(3).seal_and_place(seal(id, 2, Digest::sha256(&bytes), holders)).await.unwrap();
    assert_eq!(placed.stores, [StoreId(10), StoreId(30)], "{:?}", placed.failed);
}

// The primary dies in the middle of a chunk: the upload goes on from the acknowledged byte with the old backup as its
// primary; the old primary, back again, learns that its epoch is over and takes nothing more.
#[tokio::test(flavor = "multi_thread")]
async fn primary_dies() {
    let mut region = Region::start(&["a", "b", "c"]).await;
    let (id, holders, bytes) = (upload(2), pair(1, 2), noise(2, 5_000_000));
    let first = body(&bytes.slice(..1_000_000), 65_536);
    assert!(region.transfer(3).append(fresh(id, holders), first).await.unwrap().is_acknowledgeable());

    let (feed, stream) = fed_body();
    let transfer = region.transfer(3).clone();
    let task = tokio::spawn(async move { transfer.append(next(id, holders, 1_000_000), stream).await });
    feed.send(Ok(bytes.slice(1_000_000..3_000_000))).await.unwrap();
    wait_staged(&region, 2, id, 1_500_000).await;
    region.kill(1);
    drop(feed.send(Ok(bytes.slice(3_000_000..))).await);
    drop(feed);
    let error = task.await.unwrap().unwrap_err();
    assert!(error.is_holder_lost(), "{error:?}");

    let probes = region.transfer(3).probe(id, holders).await;
    assert!(probes[0].1.is_err() && probes[1].1.is_ok(), "{probes:?}");
    let (after, offset) = take_over(&region, 3, id, 2, 2).await;
    assert_eq!(after, pair(2, 3));
    assert!((1_000_000..=5_000_000).contains(&offset), "acknowledged bytes are there: {offset}");
    let goes_on = Append { epoch: 2, ..next(id, after, offset) };
    let rest = body(&bytes.slice(offset as usize..), 65_536);
    assert!(region.transfer(3).append(goes_on, rest).await.unwrap().is_acknowledgeable());

    // A node that knows of no takeover asks the old primary, which has just come back.
    region.restart(1).await;
    let late = region.transfer(3).append(next(id, holders, 1_000_000), body(&bytes, 1000)).await;
    assert!(
        matches!(late.as_ref().unwrap_err().store_error(), Some(StoreError::Fenced { current: 2 })),
        "the old pair must not go on: {late:?}"
    );
    let placed = region.transfer(1).seal_and_place(seal(id, 2, Digest::sha256(&bytes), after)).await.unwrap();
    assert_eq!(placed.stores, [StoreId(20), StoreId(30)]);
}

// After a restart a holder asks for the epoch before its first append, and appends nothing while no quorum answers.
#[tokio::test(flavor = "multi_thread")]
async fn restarted_holder_asks() {
    let mut region = Region::start(&["a", "b", "c"]).await;
    let (id, holders, bytes) = (upload(3), pair(1, 2), noise(3, 400_000));
    region.transfer(1).append(fresh(id, holders), body(&bytes.slice(..100_000), 1000)).await.unwrap();
    let second = body(&bytes.slice(100_000..200_000), 1000);
    region.transfer(1).append(next(id, holders, 100_000), second).await.unwrap();
    assert!(region.epochs.asked.lock().is_empty(), "an upload that it opened itself needs no question");

    region.restart(2).await;
    region.epochs.has_no_quorum.store(true, Ordering::Relaxed);
    let blind = region.transfer(1).append(next(id, holders, 200_000), body(&bytes, 1000)).await;
    assert!(matches!(blind, Err(TransferError::EpochUnknown { node: NodeId(2) })), "{blind:?}");
    region.epochs.has_no_quorum.store(false, Ordering::Relaxed);
    for from in [200_000, 300_000] {
        let chunk = body(&bytes.slice(from..from + 100_000), 1000);
        assert!(region.transfer(1).append(next(id, holders, from as u64), chunk).await.unwrap().is_acknowledgeable());
    }
    assert_eq!(region.epochs.asked.lock().as_slice(), [id; 2], "once without an answer, once with; then it knows");
    let placed = region.transfer(1).seal_and_place(seal(id, 1, Digest::sha256(&bytes), holders)).await.unwrap();
    assert_eq!(placed.stores.len(), 2);
}

// A primary whose backup was fenced by a newer pair acknowledges nothing more, though it missed the takeover.
#[tokio::test(flavor = "multi_thread")]
async fn fenced_backup_stops_the_primary() {
    let region = Region::start(&["a", "b", "c"]).await;
    let (id, holders, bytes) = (upload(4), pair(1, 2), noise(4, 3_000_000));
    let (feed, stream) = fed_body();
    let transfer = region.transfer(1).clone();
    let task = tokio::spawn(async move { transfer.append(fresh(id, holders), stream).await });
    feed.send(Ok(bytes.slice(..1_500_000))).await.unwrap();
    wait_staged(&region, 2, id, 500_000).await;
    region.transfer(3).fence(NodeId(2), id, 2).await.unwrap();
    drop(feed.send(Ok(bytes.slice(1_500_000..))).await);
    drop(feed);
    let late = task.await.unwrap();
    assert!(matches!(late.as_ref().unwrap_err().store_error(), Some(StoreError::Fenced { current: 2 })), "{late:?}");
    let later = region.transfer(1).append(Append { offset: None, ..fresh(id, holders) }, body(&bytes, 1000)).await;
    assert!(matches!(later.unwrap_err().store_error(), Some(StoreError::Fenced { current: 2 })));
}

// The line to the backup goes dead without a word: within the time limit on progress it counts as lost.
#[tokio::test(flavor = "multi_thread")]
async fn silent_backup() {
    let region = Region::start(&["a", "b", "c"]).await;
    let cable = Cable::to(region.node(2).address).await;
    region.connect(&BTreeMap::from([(NodeId(2), cable.address)])).await;
    let (id, holders, bytes) = (upload(5), pair(1, 2), noise(5, 8_000_000));
    let (feed, stream) = fed_body();
    let transfer = region.transfer(3).clone();
    let task = tokio::spawn(async move { transfer.append(fresh(id, holders), stream).await });
    feed.send(Ok(bytes.slice(..1_000_000))).await.unwrap();
    wait_staged(&region, 2, id, 500_000).await;
    cable.stall();
    let began = Instant::now();
    feed.send(Ok(bytes.slice(1_000_000..))).await.unwrap();
    drop(feed);
    let appended = task.await.unwrap().unwrap();
    assert!(matches!(&appended.backup, Mirrored::Lost(TransferError::Unreachable { .. })), "{appended:?}");
    assert_eq!(appended.offset, bytes.len() as u64);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(take_over(&region, 3, id, 2, 1).await, (pair(1, 3), bytes.len() as u64));
}

// A holder dies between the last chunk and the seal: a third node copies what the other one placed, and the push is
// durable in two zones without a takeover.
#[tokio::test(flavor = "multi_thread")]
async fn holder_dies_before_the_seal() {
    for dead in [1, 2] {
        let mut region = Region::start(&["a", "b", "c"]).await;
        let (id, holders, bytes) = (upload(6), pair(1, 2), noise(6, 3_000_000));
        region.transfer(3).append(fresh(id, holders), body(&bytes, 100_000)).await.unwrap();
        region.kill(dead);
        let placed = region.transfer(3).seal_and_place(seal(id, 1, Digest::sha256(&bytes), holders)).await.unwrap();
        assert_eq!(placed.stores, [StoreId((3 - dead) * 10), StoreId(30)], "{:?}", placed.failed);
        assert_eq!(placed.failed.len(), 1);
        let key = BlobKey::new(Digest::sha256(&bytes), id);
        assert_eq!(region.node(3).store().confirm(&key).unwrap().size_bytes, 3_000_000);
    }
}

// A survivor that is sealed already (its partner died during the PUT) still fills a new partner.
#[tokio::test(flavor = "multi_thread")]
async fn sealed_survivor_refills() {
    let mut region = Region::start(&["a", "b", "c"]).await;
    let (id, holders, bytes) = (upload(7), pair(1, 2), noise(7, 1_000_000));
    region.transfer(1).append(fresh(id, holders), body(&bytes, 100_000)).await.unwrap();
    region.node(1).store().seal_upload(id, 1, Digest::sha256(&bytes)).unwrap();
    region.kill(2);
    until("the death is noticed", || !region.transfer(1).is_reachable(NodeId(2))).await;
    let (holders, _) = take_over(&region, 1, id, 2, 1).await;
    let placed = region.transfer(1).seal_and_place(seal(id, 2, Digest::sha256(&bytes), holders)).await.unwrap();
    assert_eq!(placed.stores, [StoreId(10), StoreId(30)], "{:?}", placed.failed);
}

// A power cut takes the tail of one holder's unsynced bytes: it counts as lost, and the other is not cut back to it.
#[tokio::test(flavor = "multi_thread")]
async fn power_cut_loses_nothing_acknowledged() {
    for broken in [1_u64, 2] {
        let (id, holders, bytes) = (upload(8), pair(1, 2), noise(8, 500_000));
        let disks = [MemoryDisk::new(), MemoryDisk::new()];
        let epochs: Arc<Epochs> = Arc::default();
        let mut nodes = Vec::new();
        for (number, disk) in (1..).zip(&disks) {
            nodes.push(memory_node(number, disk, &epochs, 0, None).await);
        }
        meet(&nodes).await;
        let appended = nodes[0].append(fresh(id, holders), body(&bytes, 10_000)).await.unwrap();
        assert!(appended.is_acknowledgeable());

        let index = broken as usize - 1;
        let port = nodes[index].local_address().port();
        nodes[index].shutdown().await;
        disks[index].crash(&mut |_, len| Some(len / 2), &mut |_| false);
        nodes[index] = memory_node(broken, &disks[index], &epochs, port, None).await;
        meet(&nodes).await;

        let result = nodes[0].append(next(id, holders, 500_000), stream::empty().boxed()).await;
        let (lost, error) = match result {
            Ok(Appended { backup: Mirrored::Lost(error), .. }) => (2, error),
            Err(error) => (1, error),
            other => panic!("a holder lost bytes and nobody noticed: {other:?}"),
        };
        assert!(lost == broken && error.is_holder_lost(), "{error:?}");
        let survivor = NodeId(3 - broken);
        let after = nodes[0].choose_partner(id, survivor).unwrap();
        epochs.current.lock().insert(id, 2);
        assert_eq!(nodes[0].fence(survivor, id, 2).await.unwrap().offset, 500_000);
        nodes[0].refill(survivor, NodeId(broken), id, 2).await.unwrap();
        let placed = nodes[0].seal_and_place(seal(id, 2, Digest::sha256(&bytes), after)).await.unwrap();
        assert_eq!(placed.stores.len(), 2, "{:?}", placed.failed);
    }
}

// The power of one holder goes between the last chunk and the seal, and comes back before it: with nothing of the
// upload or with a part, which hashes to something else. The other one has all of it, places it, and a second copy
// is made.
#[tokio::test(flavor = "multi_thread")]
async fn power_cut_before_the_seal() {
    for (broken, kept) in [(1_u64, None), (2, None), (1, Some(2)), (2, Some(2))] {
        let (id, holders, bytes) = (upload(9), pair(1, 2), noise(9, 500_000));
        let disks = [MemoryDisk::new(), MemoryDisk::new(), MemoryDisk::new()];
        let epochs: Arc<Epochs> = Arc::default();
        let mut nodes = Vec::new();
        for (number, disk) in (1..).zip(&disks) {
            nodes.push(memory_node(number, disk, &epochs, 0, None).await);
        }
        meet(&nodes).await;
        assert!(nodes[2].append(fresh(id, holders), body(&bytes, 10_000)).await.unwrap().is_acknowledgeable());

        let index = broken as usize - 1;
        let port = nodes[index].local_address().port();
        nodes[index].shutdown().await;
        disks[index].crash(&mut |_, len| kept.map(|part| len / part), &mut |_| false);
        nodes[index] = memory_node(broken, &disks[index], &epochs, port, None).await;
        meet(&nodes).await;

        let seal = Seal { acknowledged: 500_000, ..seal(id, 1, Digest::sha256(&bytes), holders) };
        let placed = nodes[2].seal_and_place(seal).await.unwrap();
        assert_eq!((placed.stores.len(), placed.failed.len()), (2, 1), "{broken} kept {kept:?}: {placed:?}");
        let (_, error) = &placed.failed[0];
        assert!(matches!(error.store_error(), Some(StoreError::UploadUnknown)), "not the client's fault: {error}");
    }
}
