//! The source: answers other regions, each of which is known by its certificate, with what rules send it; and with
//! where clients of this region are served that asked there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt as _};
use parking_lot::Mutex;
use raft::network::transport::{self, PeerInfo};
use registry_core::decide::nearest::Declined;
use registry_core::decide::permit::Permit;
use registry_core::decide::replication::compare::{BUCKETS, Register, Since, Sums};
use registry_core::decide::tag_move::TagRights;
use registry_core::metadata::cursor::NoteDestination;
use registry_core::metadata::replication_rules::{self, SentRow};
use registry_core::metadata::{gone, manifest, offer, parked, referrer, repository, tag};
use registry_core::vocabulary::ids::{Lineage, RegistryId};
use registry_core::vocabulary::limits::{
    ATTACHED_ASKED_MAX, ATTACHED_MAX, BACKFILLS_MAX, CHANGES_QUEUED_MAX, COMPARISONS_MAX, LOCATES_MAX, PARKED_MAX,
    RECORDS_PER_MESSAGE, REGION_RANGE_BYTES_MAX, REGION_STREAMS_MAX, SAMPLED_BYTES_MAX, SUMS_ASKED_MAX,
    TRANSFER_MESSAGE_BYTES_MAX, VERIFIES_MAX,
};
use registry_core::vocabulary::{Digest, Reference, Refusal, RepositoryName, Version};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::account::Account;
use super::arrive::is_passing;
use super::peers::{Caller, Peers};
use super::stream::{Asked, Stream};
use super::wire::proto::region_server::{Region, RegionServer};
use super::wire::{self, proto};
use super::{GuestLinks, principal};
use crate::ground::Shutdown;
use crate::registry::{CheckedCopies, Consistency, Located, Registry, Visit};

/// Between two looks for a first region.
const LOOK: std::time::Duration = std::time::Duration::from_secs(1);

/// Replies that wait for a caller that compares.
const REPLIES_QUEUED: usize = 2;

/// Serves from when there is a region that may call, until shutdown.
pub(super) async fn serve(
    listener: TcpListener,
    peers: Arc<Peers>,
    registry: Registry,
    links: GuestLinks,
    shutdown: Shutdown,
) {
    while !peers.are_known() {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = shutdown.requested() => return,
        }
    }
    let files = Arc::clone(&peers);
    let tls: raft::TlsSource = Arc::new(move || files.server_files().unwrap_or_else(|| Arc::new(nothing())));
    let ranges = Arc::new(Semaphore::new(REGION_STREAMS_MAX));
    let [sums, records] = [(), ()].map(|()| Arc::new(Semaphore::new(COMPARISONS_MAX)));
    let backfills = Arc::new(Semaphore::new(BACKFILLS_MAX));
    let verifies = Arc::new(Semaphore::new(VERIFIES_MAX));
    let (locates, verifying) = (Arc::new(Semaphore::new(LOCATES_MAX)), Arc::default());
    let looks = Looks::default();
    let service =
        Service { peers, registry, links, ranges, sums, records, backfills, verifies, verifying, locates, looks };
    let service = RegionServer::new(service)
        .max_decoding_message_size(TRANSFER_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(TRANSFER_MESSAGE_BYTES_MAX);
    let router = transport::server().add_service(service);
    let stop = async move { shutdown.requested().await };
    if let Err(error) = transport::serve(listener, router, Some(tls), stop).await {
        tracing::error!(%error, "other regions are not answered any more");
    }
}

/// Files that let nobody in.
fn nothing() -> raft::NodeTls {
    raft::NodeTls { ca_pem: Vec::new(), cert_pem: Vec::new(), key_pem: Vec::new() }
}

struct Service {
    peers: Arc<Peers>,
    registry: Registry,
    links: GuestLinks,
    /// Ranges of blobs under way.
    ranges: Arc<Semaphore>,
    /// Comparisons under way: those who go through sums, and ask for records meanwhile.
    sums: Arc<Semaphore>,
    records: Arc<Semaphore>,
    /// Walks through what was before a rule.
    backfills: Arc<Semaphore>,
    /// Blobs whose copies are hashed.
    verifies: Arc<Semaphore>,
    /// For which regions.
    verifying: Arc<Mutex<BTreeSet<u16>>>,
    /// Clients for which a node is looked for.
    locates: Arc<Semaphore>,
    /// Looks at what is attached to a manifest.
    looks: Looks,
}

/// Looks at what is attached to manifests, so many at once for each region: one must not keep the others from asking.
#[derive(Default)]
struct Looks(Mutex<BTreeMap<u16, Arc<Semaphore>>>);

impl Looks {
    fn begin(&self, number: u16) -> Result<OwnedSemaphorePermit, Status> {
        let mut regions = self.0.lock();
        let turns = regions.entry(number).or_insert_with(|| Arc::new(Semaphore::new(ATTACHED_ASKED_MAX)));
        let busy = |_| Status::resource_exhausted("this node looks at as much for the caller as it may; ask again");
        Arc::clone(turns).try_acquire_owned().map_err(busy)
    }
}

/// That blobs are hashed for a region.
struct Verifying<'a>(&'a Mutex<BTreeSet<u16>>, u16);

impl<'a> Verifying<'a> {
    fn begin(regions: &'a Mutex<BTreeSet<u16>>, number: u16) -> Result<Verifying<'a>, Status> {
        let is_first = regions.lock().insert(number);
        let busy = || Status::resource_exhausted("this node hashes a blob for the caller already; ask later");
        if is_first { Ok(Verifying(regions, number)) } else { Err(busy()) }
    }
}

impl Drop for Verifying<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

/// What a refusal of the registry is to another region.
fn status(refusal: &Refusal) -> Status {
    let told = refusal.to_string();
    if refusal.is_unknown() {
        Status::not_found(told)
    } else if is_passing(refusal) {
        Status::unavailable(told)
    } else {
        Status::failed_precondition(told)
    }
}

impl Service {
    /// Who compares, and its turn: comparing reads whole repositories.
    fn comparing<T>(
        &self,
        request: &Request<T>,
        turns: &Arc<Semaphore>,
        (filled, own): (u64, bool),
    ) -> Result<(Account, OwnedSemaphorePermit), Status> {
        let caller = self.caller(request)?;
        let turn = Arc::clone(turns).try_acquire_owned();
        let turn = turn.map_err(|_| Status::resource_exhausted("this node tells as much as it may; ask again"))?;
        Ok((Account::new(self.peers.metadata().clone(), caller, filled, own), turn))
    }

    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        self.peers.caller(request.extensions().get::<PeerInfo>())
    }

    /// That a caller may read a repository now: a rule sends it there.
    async fn permit(&self, caller: &Caller, name: &RepositoryName) -> Result<Permit, Status> {
        let registry = RegistryId::DEFAULT;
        let metadata = self.peers.metadata();
        let is_sent = || {
            metadata.peek(|view| {
                replication_rules::read(view, registry).serves(name, &caller.region)
                    && repository::find(view, registry, name).is_some()
            })
        };
        if !is_sent() {
            // a no is confirmed before it is given: what was just acknowledged may not be here yet
            metadata.ready(Consistency::Linearizable).await.map_err(|error| status(&error.into()))?;
        }
        if !is_sent() {
            return Err(Status::permission_denied("no rule sends that repository to the caller"));
        }
        Ok(Permit {
            principal: principal(&caller.region),
            registry,
            repository: name.clone(),
            create_repository: false,
            tags: TagRights { create: false, update: false },
        })
    }
}

#[tonic::async_trait]
impl Region for Service {
    type ChangesStream = ReceiverStream<Result<proto::ChangesReply, Status>>;

    async fn changes(&self, request: Request<proto::ChangesRequest>) -> Result<Response<Self::ChangesStream>, Status> {
        let caller = self.caller(&request)?;
        let proto::ChangesRequest { lineage, after } = request.into_inner();
        let asked = Asked { lineage: (lineage != 0).then_some(Lineage(lineage)), after };
        let (sink, stream) = mpsc::channel(CHANGES_QUEUED_MAX);
        match Stream::begin(self.peers.metadata().clone(), caller, asked) {
            Ok(begun) => {
                let peers = Arc::clone(&self.peers);
                tokio::spawn(begun.run(move |caller: &Caller| peers.still(caller), sink));
            }
            Err(gap) => drop(sink.try_send(Ok(*gap))),
        }
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn note(&self, request: Request<proto::NoteRequest>) -> Result<Response<proto::NoteReply>, Status> {
        let caller = self.caller(&request)?;
        let proto::NoteRequest { lineage, index } = request.into_inner();
        let note = NoteDestination { number: caller.number, lineage: Lineage(lineage), index };
        match self.peers.metadata().propose(&principal(&caller.region), vec![note.into()]).await {
            Ok(_) => Ok(Response::new(proto::NoteReply {})),
            Err(error) => Err(status(&error.into())),
        }
    }

    async fn manifest(
        &self,
        request: Request<proto::ManifestRequest>,
    ) -> Result<Response<proto::ManifestReply>, Status> {
        let caller = self.caller(&request)?;
        let proto::ManifestRequest { repository: name, digest } = request.into_inner();
        let (name, digest) = (wire::repository(&name)?, wire::digest(&digest)?);
        let permit = self.permit(&caller, &name).await?;
        let found = self.registry.manifest(&permit, &Reference::Digest(digest), Consistency::Linearizable).await;
        let found = found.map_err(|refusal| status(&refusal))?.value;
        let presence = self.peers.metadata().peek(|view| {
            let (key, _) = repository::find(view, permit.registry, &name)?;
            manifest::read(view, &key, &digest).map(|row| row.presence)
        });
        let presence = presence.ok_or_else(|| Status::not_found("the manifest is not here any more"))?;
        let media_type = found.info.media_type.to_string();
        Ok(Response::new(proto::ManifestReply { media_type, content: found.bytes, presence: Some(presence.into()) }))
    }

    async fn attached(
        &self,
        request: Request<proto::AttachedRequest>,
    ) -> Result<Response<proto::AttachedReply>, Status> {
        let caller = self.caller(&request)?;
        let proto::AttachedRequest { repository: name, digest } = request.into_inner();
        let (name, digest) = (wire::repository(&name)?, wire::digest(&digest)?);
        let permit = self.permit(&caller, &name).await?;
        let turn = self.looks.begin(caller.number)?;
        let metadata = self.peers.metadata().clone();
        metadata.ready(Consistency::Linearizable).await.map_err(|error| status(&error.into()))?;
        let look = move || {
            // it ends when the look does, also where the caller waits no longer
            let _turn = turn;
            metadata.peek(|view| {
                let (key, _) = repository::find(view, permit.registry, &name)?;
                Some(referrer::attached(view, &key, &digest, ATTACHED_MAX))
            })
        };
        let found = tokio::task::spawn_blocking(look).await;
        let found = found.map_err(|_| Status::internal("reading the rows failed"))?;
        let (found, is_cut) = found.ok_or_else(|| Status::not_found("the repository is not here any more"))?;
        let told = |(digest, presence): (Digest, Version)| proto::ManifestChange {
            digest: digest.to_string(),
            version: Some(presence.into()),
        };
        Ok(Response::new(proto::AttachedReply { attached: found.into_iter().map(told).collect(), is_cut }))
    }

    type BlobStream = BoxStream<'static, Result<proto::BlobReply, Status>>;

    async fn blob(&self, request: Request<proto::BlobRequest>) -> Result<Response<Self::BlobStream>, Status> {
        let caller = self.caller(&request)?;
        let proto::BlobRequest { repository: name, digest, offset, length } = request.into_inner();
        let (name, digest): (_, Digest) = (wire::repository(&name)?, wire::digest(&digest)?);
        let permit = self.permit(&caller, &name).await?;
        if length > REGION_RANGE_BYTES_MAX {
            return Err(Status::invalid_argument(format!("more than {REGION_RANGE_BYTES_MAX} bytes at once")));
        }
        let slot = Arc::clone(&self.ranges).try_acquire_owned();
        let slot =
            slot.map_err(|_| Status::resource_exhausted("this node sends as much as it may; ask another one"))?;
        let blob = self.registry.open_blob(&permit, &digest).await.map_err(|refusal| status(&refusal))?.value;
        let end = offset.checked_add(length).filter(|end| *end <= blob.info.size_bytes);
        let end = end.ok_or_else(|| Status::invalid_argument("the range lies beyond the blob"))?;
        let parts = blob.stream(offset..end).await.map_err(|refusal| status(&refusal))?;
        let parts = parts.map(move |part: Result<Bytes, _>| {
            let _held = &slot;
            part.map(|data| proto::BlobReply { data }).map_err(|error| Status::unavailable(error.to_string()))
        });
        Ok(Response::new(parts.boxed()))
    }

    type SumsStream = ReceiverStream<Result<proto::SumsReply, Status>>;

    async fn sums(&self, request: Request<proto::SumsRequest>) -> Result<Response<Self::SumsStream>, Status> {
        let asked = (request.get_ref().filled, request.get_ref().own);
        let (account, turn) = self.comparing(&request, &self.sums, asked)?;
        let proto::SumsRequest { repositories: names, applied, .. } = request.into_inner();
        account.catch_up(applied).await?;
        if names.len() > SUMS_ASKED_MAX {
            return Err(Status::invalid_argument(format!("more than {SUMS_ASKED_MAX} repositories at once")));
        }
        let names = names.iter().map(|name| wire::repository(name)).collect::<Result<Vec<_>, _>>()?;
        let (sink, stream) = mpsc::channel(REPLIES_QUEUED);
        tokio::spawn(async move {
            account.sums(names, sink).await;
            drop(turn);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    type RecordsStream = ReceiverStream<Result<proto::RecordsReply, Status>>;

    async fn records(&self, request: Request<proto::RecordsRequest>) -> Result<Response<Self::RecordsStream>, Status> {
        let own = (request.get_ref().filled, request.get_ref().own);
        let (account, turn) = self.comparing(&request, &self.records, own)?;
        let request = request.into_inner();
        let (own, others, settings) = (request.since, request.others_since, request.settings_since);
        let meant = (Since { own, others, settings }, wire::tags_heard(request.tags.as_ref())?);
        let proto::RecordsRequest { repository: name, sums, asked, applied, .. } = request;
        account.catch_up(applied).await?;
        let name = wire::repository(&name)?;
        let (sink, stream) = mpsc::channel(REPLIES_QUEUED);
        if !asked.is_empty() {
            if asked.len() > RECORDS_PER_MESSAGE {
                return Err(Status::invalid_argument(format!("more than {RECORDS_PER_MESSAGE} registers at once")));
            }
            let registers = asked.into_iter().map(Register::try_from).collect::<Result<Vec<_>, _>>()?;
            drop(sink.try_send(Ok(account.asked(name, meant, registers).await?)));
            return Ok(Response::new(ReceiverStream::new(stream)));
        }
        let sums = sums.iter().map(wire::sum).collect::<Result<Vec<_>, _>>()?;
        let sums = Sums::of(sums).ok_or_else(|| Status::invalid_argument(format!("not {BUCKETS} sums")))?;
        tokio::spawn(async move {
            Box::pin(account.differing(name, meant, sums, sink)).await;
            drop(turn);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    type BackfillStream = ReceiverStream<Result<proto::BackfillReply, Status>>;

    async fn backfill(
        &self,
        request: Request<proto::BackfillRequest>,
    ) -> Result<Response<Self::BackfillStream>, Status> {
        let (account, turn) = self.comparing(&request, &self.backfills, (0, false))?;
        let proto::BackfillRequest { done, after, applied } = request.into_inner();
        account.catch_up(applied).await?;
        let after = after.map(wire::place).transpose()?;
        let (sink, stream) = mpsc::channel(REPLIES_QUEUED);
        tokio::spawn(async move {
            account.backfill(done, after, sink).await;
            drop(turn);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn arrival(&self, request: Request<proto::ArrivalRequest>) -> Result<Response<proto::ArrivalReply>, Status> {
        use proto::arrival_reply::State;
        let caller = self.caller(&request)?;
        let proto::ArrivalRequest { repository: name, digest } = request.into_inner();
        let (name, digest) = (wire::repository(&name)?, wire::digest(&digest)?);
        let (state, reason) = self.peers.metadata().peek(|view| {
            let found = repository::find(view, RegistryId::DEFAULT, &name).map(|(key, _)| key);
            let is_its = || offer::read(view, caller.number).covers(&name);
            let is_here = |key| manifest::read(view, key, &digest).is_some();
            if is_its() && found.as_ref().is_some_and(is_here) {
                return (State::Here, String::new());
            }
            // what it sent, and nobody else
            let parked = parked::list(view, caller.number, None, PARKED_MAX).into_iter();
            let mut parked = parked.filter(|(_, row)| row.repository == name && row.change.names(&digest));
            if let Some((_, row)) = parked.next() {
                return (State::Parked, row.reason);
            }
            let is_gone = is_its() && found.is_some_and(|key| gone::read(view, &key, &digest).is_some());
            (if is_gone { State::Gone } else { State::Absent }, String::new())
        });
        Ok(Response::new(proto::ArrivalReply { state: state.into(), reason }))
    }

    async fn stat(&self, request: Request<proto::StatRequest>) -> Result<Response<proto::StatReply>, Status> {
        let caller = self.caller(&request)?;
        let proto::StatRequest { repository: name, digest } = request.into_inner();
        let (name, digest) = (wire::repository(&name)?, wire::digest(&digest)?);
        let permit = self.permit(&caller, &name).await?;
        let found = self.registry.stat_blob(&permit, &digest).await.map_err(|refusal| status(&refusal))?;
        Ok(Response::new(proto::StatReply { size_bytes: found.value.size_bytes }))
    }

    async fn verify(&self, request: Request<proto::VerifyRequest>) -> Result<Response<proto::VerifyReply>, Status> {
        let caller = self.caller(&request)?;
        let proto::VerifyRequest { repository: name, digest } = request.into_inner();
        let (name, digest): (_, Digest) = (wire::repository(&name)?, wire::digest(&digest)?);
        let permit = self.permit(&caller, &name).await?;
        let size = self.registry.stat_blob(&permit, &digest).await;
        if size.is_ok_and(|found| found.value.size_bytes > SAMPLED_BYTES_MAX) {
            let told = format!("a blob of more than {SAMPLED_BYTES_MAX} bytes is left to this region's own scrub");
            return Err(Status::failed_precondition(told));
        }
        let turn = self.verifies.try_acquire();
        let _turn = turn.map_err(|_| Status::resource_exhausted("this node hashes as much as it may; ask later"))?;
        // one of several regions must not keep the others from asking
        let _own = Verifying::begin(&self.verifying, caller.number)?;
        let checked = self.registry.check_copies(&permit, &digest).await.map_err(|refusal| status(&refusal))?;
        let checked = checked.ok_or_else(|| Status::not_found("the repository does not hold that blob any more"))?;
        let CheckedCopies { good, bad, unread } = checked;
        if checked.is_bad() {
            tracing::error!(repository = %name, %digest, good, bad, "a blob that another region gets has bad copies");
        }
        Ok(Response::new(proto::VerifyReply { good, bad, unread }))
    }

    async fn resolve(&self, request: Request<proto::ResolveRequest>) -> Result<Response<proto::ResolveReply>, Status> {
        let caller = self.caller(&request)?;
        let proto::ResolveRequest { repository: name, tag: text } = request.into_inner();
        let (name, named) = (wire::repository(&name)?, wire::tag(&text)?);
        let permit = self.permit(&caller, &name).await?;
        self.peers.metadata().ready(Consistency::Linearizable).await.map_err(|error| status(&error.into()))?;
        let found = self.peers.metadata().peek(|view| {
            let sent = replication_rules::read(view, permit.registry).sent(&caller.region);
            let is_its = |sent: &SentRow| sent.covers(&name) && sent.resolves(&named);
            let found = repository::find(view, permit.registry, &name);
            sent.iter().any(is_its).then(|| found.and_then(|(key, _)| tag::read(view, &key, &named)))
        });
        let row = found.ok_or_else(|| Status::permission_denied("no rule lets the caller read that tag through"))?;
        let row = row.ok_or_else(|| Status::not_found("there is no such tag"))?;
        let (digest, version, base) = (row.digest.to_string(), Some(row.version.into()), Some(row.base.into()));
        Ok(Response::new(proto::ResolveReply { digest, version, base }))
    }

    async fn locate(&self, request: Request<proto::LocateRequest>) -> Result<Response<proto::LocateReply>, Status> {
        let caller = self.caller(&request)?;
        let visit = Visit::try_from(request.into_inner())?;
        let turn = self.locates.try_acquire();
        let _turn = turn.map_err(|_| Status::resource_exhausted("this node looks for as many as it may"))?;
        let located = match self.registry.receive(&caller.region, &visit).await {
            Err(Declined::Apart | Declined::Unknown) => {
                return Err(Status::permission_denied("that repository is neither sent to the caller nor by it"));
            }
            Err(declined) => Err(declined),
            Ok(received) => {
                let link = (self.links)(&caller.region, &visit, &received);
                let link = link.ok_or_else(|| Status::unavailable("this node is of no cluster yet"))?;
                Ok(Located { address: received.address, link })
            }
        };
        Ok(Response::new(located.into()))
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    // A region has so many looks at once, others have theirs, and one that ends makes room.
    #[test]
    fn looks_of_each_region() {
        let looks = Looks::default();
        let mut held: Vec<OwnedSemaphorePermit> =
            (0..ATTACHED_ASKED_MAX).map(|_| looks.begin(2).expect("there is room")).collect();
        assert_eq!(looks.begin(2).map_err(|status| status.code()).err(), Some(Code::ResourceExhausted));
        assert!(looks.begin(3).is_ok());
        drop(held.pop());
        assert!(looks.begin(2).is_ok());
    }
}
