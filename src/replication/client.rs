//! A region that this one takes changes from: its nodes, asked in turn until one answers.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::try_join_all;
use metrics::Counter;
use raft::TlsSource;
use raft::network::transport::{self, Dial, Expect};
use registry_core::decide::nearest::Declined;
use registry_core::decide::replication::compare::{Register, Scope, Since, Sums};
use registry_core::metadata::peer::PeerRow;
use registry_core::metadata::region_link::RegionLinkRow;
use registry_core::vocabulary::limits::{
    ATTACHED_ASKED_MAX, ATTACHED_MAX, MANIFEST_BYTES_MAX, PACK_BLOB_BYTES_MAX, REGION_RANGES_MAX, SHOWN_AT_ONCE,
    TRANSFER_MESSAGE_BYTES_MAX, VERIFY_TIMEOUT_MS,
};
use registry_core::vocabulary::names::RegionName;
use registry_core::vocabulary::{Digest, MediaType, RepositoryName, Tag, Version};
use tokio::sync::Semaphore;
use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};

use super::arrive::Problem;
use super::peers::client_files;
use super::wire::proto::region_client::RegionClient;
use super::wire::{self, Told, proto};
use crate::ground::pacer::Pacer;
use crate::registry::{CheckedCopies, Located, Pieces, Visit};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A region that sends no byte for so long is given up; its stream of changes says something every five seconds.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(20);
/// The same while it reads whole repositories for us.
const COMPARED_MAX: Duration = Duration::from_secs(60);
/// The same while a client waits for what it says.
pub(super) const ASKED_MAX: Duration = Duration::from_secs(4);
/// The same where the client is served at once if it does not say so soon; a first connection takes some round trips.
const LOCATED_MAX: Duration = Duration::from_secs(2);
/// Nodes asked for one thing before it is tried later.
const TRIES: usize = 3;

type Client = RegionClient<Channel>;

/// A manifest as the source has it now.
#[derive(Clone, Debug)]
pub(super) struct Fetched {
    pub(super) media_type: MediaType,
    pub(super) content: Bytes,
    pub(super) presence: Version,
}

/// What this region has of a source, so that no node of it that is behind answers, and the right records are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Index of its log up to which changes are applied.
    pub(super) applied: u64,
    /// Index of the youngest rule whose backfill is done.
    pub(super) filled: u64,
    /// This region's own records are meant, which the source has from here.
    pub(super) own: bool,
}

const SILENT: &str = "no answer in time";

fn silent() -> Problem {
    Problem::passing(SILENT)
}

fn late() -> Status {
    Status::deadline_exceeded(SILENT)
}

/// Replies that come one after the other.
pub(super) struct Replies<R>(Streaming<R>);

impl<R> Replies<R> {
    /// Waits until they begin.
    async fn begun(asked: impl Future<Output = Result<Response<Streaming<R>>, Status>>) -> Result<Replies<R>, Problem> {
        let answered = tokio::time::timeout(COMPARED_MAX, asked).await;
        Ok(Replies(answered.map_err(|_| silent())??.into_inner()))
    }

    /// The next one; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<R>, Problem> {
        let next = tokio::time::timeout(COMPARED_MAX, self.0.message()).await;
        Ok(next.map_err(|_| silent())??)
    }
}

/// A source of changes.
pub(super) struct Source {
    /// Its number.
    pub(super) number: u16,
    /// Its name.
    pub(super) region: RegionName,
    /// Connections for what is small, so that it need not wait behind what is large.
    channels: Vec<Channel>,
    /// Connections for bytes of large blobs.
    bulk: Vec<Channel>,
    /// Ranges of its blobs under way: each is held in memory until it is whole.
    ranges: Semaphore,
    /// Blobs of which it is showing pieces.
    shows: Semaphore,
    /// Looks at what is attached that it is asked for: it takes so many at once.
    looks: Semaphore,
    /// Bytes of its blobs that came.
    fetched: Counter,
    /// How fast bytes of its blobs are taken; `None` for as fast as they come.
    pacer: Option<Pacer>,
    /// Which of them is asked now.
    at: AtomicUsize,
}

impl Source {
    /// Connects when it is asked first. An address that can't be one is left out, and told.
    pub(super) fn new(
        number: u16,
        (row, link): &(PeerRow, RegionLinkRow),
        own: &TlsSource,
        bind_source: Option<IpAddr>,
    ) -> Source {
        let channel = |addr: &String| {
            let dial = Dial {
                addr: addr.clone(),
                bind_source,
                tls: Some(client_files(own, &row.ca_pem)),
                expect: Some(Expect::Cluster(row.cluster.0)),
                connect_timeout: CONNECT_TIMEOUT,
            };
            transport::connect(dial)
                .inspect_err(|error| tracing::error!(region = %row.region, addr, %error, "no address of a region"))
                .ok()
        };
        let [channels, bulk] = [(), ()].map(|()| row.endpoints.iter().filter_map(channel).collect());
        let pacer = (link.bytes_per_second > 0).then(|| Pacer::new(link.bytes_per_second));
        let (ranges, shows) = (Semaphore::new(REGION_RANGES_MAX), Semaphore::new(SHOWN_AT_ONCE));
        let (looks, at) = (Semaphore::new(ATTACHED_ASKED_MAX), AtomicUsize::new(0));
        let region = row.region.clone();
        let fetched = metrics::counter!("portolan_replication_fetched_bytes_total", "region" => region.to_string());
        Source { number, region, channels, bulk, ranges, shows, looks, fetched, pacer, at }
    }

    fn client(&self) -> Result<Client, Problem> {
        self.client_of(&self.channels)
    }

    fn client_of(&self, channels: &[Channel]) -> Result<Client, Problem> {
        let at = self.at.load(Ordering::Relaxed) % channels.len().max(1);
        let channel = channels.get(at).ok_or_else(|| Problem::passing("the region has no address"))?;
        let client = RegionClient::new(channel.clone());
        Ok(client
            .max_decoding_message_size(TRANSFER_MESSAGE_BYTES_MAX.max(MANIFEST_BYTES_MAX + 64 * 1024))
            .max_encoding_message_size(TRANSFER_MESSAGE_BYTES_MAX))
    }

    /// From now on another of its nodes is asked.
    pub(super) fn turn(&self) {
        self.turn_from(self.at.load(Ordering::Relaxed));
    }

    /// The same, unless that was done already: of several questions that one node fails each turns from it once.
    fn turn_from(&self, asked: usize) {
        let _ = self.at.compare_exchange(asked, asked.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Its changes behind an index of a life of its log.
    pub(super) async fn changes(&self, lineage: u64, after: u64) -> Result<Streaming<proto::ChangesReply>, Problem> {
        let mut client = self.client()?;
        let request = proto::ChangesRequest { lineage, after };
        let answered = tokio::time::timeout(SILENCE_MAX, client.changes(request)).await;
        let answered = answered.map_err(|_| silent())?;
        Ok(answered.map_err(|status| Problem::of_stream(&status))?.into_inner())
    }

    /// Tells it how far its changes were applied.
    pub(super) async fn note(&self, lineage: u64, index: u64) -> Result<(), Problem> {
        let mut client = self.client()?;
        let answered = tokio::time::timeout(SILENCE_MAX, client.note(proto::NoteRequest { lineage, index })).await;
        answered.map_err(|_| silent())??;
        Ok(())
    }

    /// Asks one of its nodes after the other, until one answers or no other one is worth it.
    async fn ask<R, A>(&self, patience: Duration, ask: impl Fn(Client) -> A) -> Result<R, Problem>
    where
        A: Future<Output = Result<Response<R>, Status>>,
    {
        let mut last = Problem::passing("nobody was asked");
        for _ in 0..TRIES {
            let asked = self.at.load(Ordering::Relaxed);
            let answered = tokio::time::timeout(patience, ask(self.client()?)).await;
            match answered.unwrap_or_else(|_| Err(late())) {
                Ok(reply) => return Ok(reply.into_inner()),
                Err(status) => last = self.tried(asked, status)?,
            }
        }
        Err(last)
    }

    /// A manifest as it has it now. Its bytes are not verified here.
    pub(super) async fn manifest(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        patience: Duration,
    ) -> Result<Fetched, Problem> {
        let request = proto::ManifestRequest { repository: name.to_string(), digest: digest.to_string() };
        let ask = |mut client: Client| {
            let request = request.clone();
            async move { client.manifest(request).await }
        };
        let proto::ManifestReply { media_type, content, presence } = self.ask(patience, ask).await?;
        let media_type = MediaType::parse(&media_type);
        let media_type = media_type.map_err(|_| Problem::lasting("the source names no media type"))?;
        Ok(Fetched { media_type, content, presence: wire::version(presence)? })
    }

    /// What is attached there to a manifest and to those below it, with the versions of its presence; and whether
    /// there is more than that.
    pub(super) async fn attached(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<(Vec<(Digest, Version)>, bool), Problem> {
        let turn = self.looks.acquire().await;
        let _turn = turn.map_err(|_| Problem::passing("this node stops"))?;
        let request = proto::AttachedRequest { repository: name.to_string(), digest: digest.to_string() };
        let ask = |mut client: Client| {
            let request = request.clone();
            async move { client.attached(request).await }
        };
        let proto::AttachedReply { attached, is_cut } = self.ask(SILENCE_MAX, ask).await?;
        let is_cut = is_cut || attached.len() > ATTACHED_MAX;
        let one =
            |told: proto::ManifestChange| Ok::<_, Problem>((wire::digest(&told.digest)?, wire::version(told.version)?));
        let attached = attached.into_iter().take(ATTACHED_MAX).map(one).collect::<Result<Vec<_>, Problem>>()?;
        Ok((attached, is_cut))
    }

    /// Bytes of a blob; as many as asked for, or an error. Waits while many are under way.
    pub(super) async fn range(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        range: Range<u64>,
    ) -> Result<Bytes, Problem> {
        let is_small = range.end - range.start <= PACK_BLOB_BYTES_MAX as u64;
        // what is small does not wait behind what is large
        let turn = if is_small { None } else { Some(self.ranges.acquire().await) };
        if matches!(turn, Some(Err(_))) {
            return Err(Problem::passing("this node stops"));
        }
        let mut last = Problem::passing("nobody was asked");
        for _ in 0..TRIES {
            let asked = self.at.load(Ordering::Relaxed);
            match self.range_once(name, digest, range.clone()).await {
                Ok(bytes) => return Ok(bytes),
                Err(status) => last = self.tried(asked, status)?,
            }
        }
        Err(last)
    }

    /// Pieces of a blob, asked for when few others are: a client's question waits behind none of these.
    pub(super) async fn pieces_in_turn(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        ranges: Vec<Range<u64>>,
    ) -> Result<Pieces, Problem> {
        let _turn = self.shows.acquire().await.map_err(|_| Problem::passing("this node stops"))?;
        self.pieces(name, digest, ranges).await
    }

    /// Pieces of a blob, asked for side by side: all of them, or an error.
    pub(super) async fn pieces(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        ranges: Vec<Range<u64>>,
    ) -> Result<Pieces, Problem> {
        let asked = ranges.into_iter().map(|range| async move {
            let bytes = self.range(name, digest, range.clone()).await?;
            Ok::<_, Problem>((range, bytes))
        });
        try_join_all(asked).await
    }

    async fn range_once(&self, name: &RepositoryName, digest: &Digest, range: Range<u64>) -> Result<Bytes, Status> {
        let length = range.end - range.start;
        let request = proto::BlobRequest {
            repository: name.to_string(),
            digest: digest.to_string(),
            offset: range.start,
            length,
        };
        let silent = || Status::deadline_exceeded("no byte in time");
        let is_small = length <= PACK_BLOB_BYTES_MAX as u64;
        let client = self.client_of(if is_small { &self.channels } else { &self.bulk });
        let mut client = client.map_err(|problem| Status::unavailable(problem.to_string()))?;
        let answered = tokio::time::timeout(SILENCE_MAX, client.blob(request)).await.map_err(|_| silent())?;
        let (mut parts, wanted) = (answered?.into_inner(), usize::try_from(length).unwrap_or(usize::MAX));
        let mut bytes = BytesMut::with_capacity(wanted);
        while let Some(part) = tokio::time::timeout(SILENCE_MAX, parts.message()).await.map_err(|_| silent())?? {
            // a source that sends more than was asked for is cut off
            if bytes.len() + part.data.len() > wanted {
                return Err(Status::out_of_range("more bytes than were asked for"));
            }
            bytes.extend_from_slice(&part.data);
            self.fetched.increment(part.data.len() as u64);
            if let Some(pacer) = &self.pacer {
                pacer.pass(part.data.len() as u64).await;
            }
        }
        if bytes.len() == wanted { Ok(bytes.freeze()) } else { Err(Status::unavailable("the range broke off")) }
    }

    /// Its sums of these repositories, or of all that it sends here.
    pub(super) async fn sums(
        &self,
        names: &[RepositoryName],
        Seen { applied, filled, own }: Seen,
    ) -> Result<Replies<proto::SumsReply>, Problem> {
        let repositories = names.iter().map(ToString::to_string).collect();
        let request = proto::SumsRequest { repositories, applied, filled, own };
        Replies::begun(self.client()?.sums(request)).await
    }

    /// Its records of a repository where its sums differ from ours.
    pub(super) async fn differing(
        &self,
        name: &RepositoryName,
        scope: &Scope,
        seen: Seen,
        sums: &Sums,
    ) -> Result<Replies<proto::RecordsReply>, Problem> {
        let sums = sums.iter().map(|sum| (*sum).into()).collect();
        self.records(proto::RecordsRequest { sums, ..records_request(name, scope, seen) }).await
    }

    /// What it knows of registers of a repository, in their order; and the index of its log at which it does.
    pub(super) async fn asked(
        &self,
        name: &RepositoryName,
        scope: &Scope,
        seen: Seen,
        registers: &[Register],
    ) -> Result<(u64, Vec<Told>), Problem> {
        let asked = registers.iter().map(Into::into).collect();
        let request = proto::RecordsRequest { asked, ..records_request(name, scope, seen) };
        let reply = self.records(request).await?.next().await?;
        let reply = reply.ok_or_else(|| Problem::passing("the other region answered nothing"))?;
        let told = reply.records.into_iter().map(Told::try_from).collect::<Result<Vec<_>, _>>()?;
        let is_asked = told.iter().map(|told| &told.register).eq(registers);
        if is_asked {
            Ok((reply.index, told))
        } else {
            Err(Problem::lasting("the other region answered something else"))
        }
    }

    async fn records(&self, request: proto::RecordsRequest) -> Result<Replies<proto::RecordsReply>, Problem> {
        Replies::begun(self.client()?.records(request)).await
    }

    /// What its rules younger than index `done` have copied of what was before them, behind a place.
    pub(super) async fn backfill(
        &self,
        done: u64,
        after: Option<proto::Place>,
        applied: u64,
    ) -> Result<Replies<proto::BackfillReply>, Problem> {
        Replies::begun(self.client()?.backfill(proto::BackfillRequest { done, after, applied })).await
    }

    /// What has become there of a manifest that was sent; one of its nodes is asked.
    pub(super) async fn arrival(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        patience: Duration,
    ) -> Result<proto::ArrivalReply, Problem> {
        let mut client = self.client()?;
        let request = proto::ArrivalRequest { repository: name.to_string(), digest: digest.to_string() };
        let answered = tokio::time::timeout(patience, client.arrival(request)).await;
        let answered = answered.unwrap_or_else(|_| Err(late()));
        Ok(answered.inspect_err(|_| self.turn())?.into_inner())
    }

    /// The size of a blob, bytes.
    pub(super) async fn stat(&self, name: &RepositoryName, digest: &Digest) -> Result<u64, Problem> {
        let request = proto::StatRequest { repository: name.to_string(), digest: digest.to_string() };
        let ask = |mut client: Client| {
            let request = request.clone();
            async move { client.stat(request).await }
        };
        Ok(self.ask(ASKED_MAX, ask).await?.size_bytes)
    }

    /// Has all copies of a blob there read and hashed. `None` from a region whose nodes are too old to do so.
    pub(super) async fn verify(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<CheckedCopies>, Problem> {
        let request = proto::VerifyRequest { repository: name.to_string(), digest: digest.to_string() };
        let asked = self.at.load(Ordering::Relaxed);
        let mut client = self.client()?;
        // once: another node would read the same copies anew
        let answered = tokio::time::timeout(Duration::from_millis(VERIFY_TIMEOUT_MS), client.verify(request)).await;
        match answered.unwrap_or_else(|_| Err(late())) {
            Ok(reply) => {
                let proto::VerifyReply { good, bad, unread } = reply.into_inner();
                Ok(Some(CheckedCopies { good, bad, unread }))
            }
            Err(status) if status.code() == Code::Unimplemented => Ok(None),
            Err(status) => Err(self.tried(asked, status)?),
        }
    }

    /// What a tag names there now, with version and base.
    pub(super) async fn resolve(
        &self,
        name: &RepositoryName,
        tag: &Tag,
    ) -> Result<(Digest, Version, Version), Problem> {
        let request = proto::ResolveRequest { repository: name.to_string(), tag: tag.to_string() };
        let ask = |mut client: Client| {
            let request = request.clone();
            async move { client.resolve(request).await }
        };
        let proto::ResolveReply { digest, version, base } = self.ask(ASKED_MAX, ask).await?;
        Ok((wire::digest(&digest)?, wire::version(version)?, wire::version(base)?))
    }

    /// Where it serves a client of its own; why not, if it doesn't.
    pub(super) async fn locate(&self, visit: Visit) -> Result<Result<Located, Declined>, Problem> {
        let request = proto::LocateRequest::from(visit);
        let ask = |mut client: Client| {
            let request = request.clone();
            async move { client.locate(request).await }
        };
        Ok(wire::located(self.ask(LOCATED_MAX, ask).await?))
    }

    /// What a failure of the node that was asked means: another one is worth asking, or not.
    fn tried(&self, asked: usize, status: Status) -> Result<Problem, Problem> {
        self.turn_from(asked);
        let is_worth_it = matches!(
            status.code(),
            Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Unknown | Code::Cancelled
        );
        let problem = Problem::from(status);
        if is_worth_it { Ok(problem) } else { Err(problem) }
    }
}

/// A question about records of a repository, without what is asked.
fn records_request(name: &RepositoryName, scope: &Scope, Seen { applied, filled, own }: Seen) -> proto::RecordsRequest {
    let (repository, sums, asked) = (name.to_string(), Vec::new(), Vec::new());
    let Since { own: since, others: others_since, settings: settings_since } = scope.since;
    let tags = wire::tags_told(&scope.tags);
    proto::RecordsRequest { repository, since, sums, asked, applied, filled, others_since, own, settings_since, tags }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    // A region whose nodes do not know how to hash a blob when asked says so, and is no failure; one that does not
    // answer is.
    #[tokio::test]
    async fn old_regions_hash_nothing() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let knows_nothing = transport::server().add_routes(tonic::service::Routes::default());
        let stop = CancellationToken::new();
        let serving = tokio::spawn(transport::serve(listener, knows_nothing, None, stop.clone().cancelled_owned()));
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        let source = Source {
            number: 2,
            region: RegionName::parse("eu").unwrap(),
            channels: vec![channel],
            bulk: Vec::new(),
            ranges: Semaphore::new(1),
            shows: Semaphore::new(1),
            looks: Semaphore::new(1),
            fetched: Counter::noop(),
            pacer: None,
            at: AtomicUsize::new(0),
        };
        let (name, digest) = (RepositoryName::parse("team/app").unwrap(), Digest::sha256(b"layer"));
        assert_eq!(source.verify(&name, &digest).await, Ok(None));
        assert!(matches!(source.stat(&name, &digest).await, Err(Problem::Lasting(_))));
        stop.cancel();
        serving.await.unwrap().unwrap();
        assert!(matches!(source.verify(&name, &digest).await, Err(Problem::Passing(_))));
    }
}
