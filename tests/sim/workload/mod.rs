//! What clients do: push images by every way there is, pull them, move and drop tags, delete, cancel; each at any node,
//! repeating what is refused for now.
//!
//! Start at [`Client`]; `push` makes images, `read` looks at what was promised.

mod push;
mod read;

use std::time::Duration;

use bytes::Bytes;
use portolan::node::simulated::SimulatedNode;
use registry_core::decide::permit::Permit;
use registry_core::decide::tag_move::TagRights;
use registry_core::vocabulary::ids::{NodeId, RegistryId};
use registry_core::vocabulary::{Digest, Reference, Refusal, RepositoryName, Tag};
use tokio::time::{sleep, timeout};

pub(crate) use self::read::pull_everything;

use crate::dice::Dice;
use crate::host::Hosts;
use crate::network::Network;
use crate::oracle::{Image, Ledger};
use crate::trace::Trace;

/// Repositories that all clients share.
const REPOSITORIES: [&str; 3] = ["team/app", "team/tool", "base"];
/// Sizes of the blobs that all images are made of: some go to packs, some are staged.
const BLOB_BYTES: [usize; 8] = [5, 900, 4_000, 65_536, 65_537, 70_000, 140_000, 300_000];
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it repeats what was refused for now.
const TRIES: usize = 5;

/// Why an act did not succeed.
#[derive(Debug)]
pub(crate) enum Failed {
    /// It was refused.
    Refused(Box<Refusal>),
    /// No answer came.
    Unknown,
}

impl Failed {
    /// Whether it is worth a repeat at another node.
    fn is_passing(&self) -> bool {
        match self {
            Failed::Refused(refusal) => matches!(
                **refusal,
                Refusal::Unavailable { .. }
                    | Refusal::UploadBusy
                    | Refusal::Throttled { .. }
                    | Refusal::Changed
                    | Refusal::ProposalExpired
                    | Refusal::StaleEpoch { .. }
                    | Refusal::PlacementInvalid { .. }
            ),
            Failed::Unknown => true,
        }
    }
}

/// One client.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) number: u64,
    pub(crate) dice: Dice,
    pub(crate) hosts: Hosts,
    pub(crate) network: Network,
    pub(crate) ledger: Ledger,
    pub(crate) trace: Trace,
}

/// What a client remembers of its own.
#[derive(Default)]
struct Memory {
    images: Vec<(Image, Option<Tag>)>,
    made: u64,
}

/// The bytes of the `number`th blob.
fn blob(number: usize) -> Bytes {
    let mut bytes = vec![0; BLOB_BYTES[number % BLOB_BYTES.len()]];
    Dice::new(number as u64).fill(&mut bytes);
    bytes.into()
}

impl Client {
    /// Acts until told to stop.
    pub(crate) async fn act(self, is_over: tokio::sync::watch::Receiver<bool>) {
        let mut memory = Memory::default();
        while !*is_over.borrow() && self.trace.failure().is_none() {
            sleep(self.dice.wait(1, 400)).await;
            match self.dice.below(100) {
                0..45 => self.push(&mut memory).await,
                45..70 => self.pull().await,
                70..80 => self.read_tag().await,
                80..86 => self.drop_tag(&mut memory).await,
                86..94 => self.delete_image(&mut memory).await,
                94..97 => self.delete_blob().await,
                _ => self.give_up_upload().await,
            }
        }
    }

    fn permit(&self, repository: &RepositoryName) -> Permit {
        Permit {
            principal: format!("client-{}", self.number),
            registry: RegistryId::DEFAULT,
            repository: repository.clone(),
            create_repository: true,
            tags: TagRights::FULL,
        }
    }

    fn repository(&self) -> RepositoryName {
        RepositoryName::parse(self.dice.pick::<&str>(&REPOSITORIES)).expect("a good name")
    }

    /// A running node, any.
    async fn node(&self) -> (NodeId, u64, SimulatedNode) {
        loop {
            let running: Vec<_> =
                self.hosts.all().into_iter().filter_map(|id| Some((id, self.hosts.running(id)?))).collect();
            if !running.is_empty() {
                let (id, (life, node)) = self.dice.pick(&running);
                return (*id, *life, node.clone());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Asks a node; its death breaks the connection.
    async fn ask<T, F>(&self, act: impl FnOnce(SimulatedNode) -> F) -> Result<T, Failed>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Refusal>> + Send + 'static,
    {
        let (id, life, node) = self.node().await;
        let mut asked = tokio::spawn(act(node));
        let mut waited = Duration::ZERO;
        let look = Duration::from_millis(50);
        while waited < PATIENCE {
            match timeout(look, &mut asked).await {
                Ok(Ok(answer)) => return answer.map_err(|refusal| Failed::Refused(Box::new(refusal))),
                Ok(Err(_)) => return Err(Failed::Unknown),
                Err(_) => waited += look,
            }
            if !self.network.is_alive(id, life) {
                return Err(Failed::Unknown);
            }
        }
        Err(Failed::Unknown)
    }

    /// Drops a tag of its own. The image stays, by its digest.
    async fn drop_tag(&self, memory: &mut Memory) {
        let tagged: Vec<usize> = (0..memory.images.len()).filter(|at| memory.images[*at].1.is_some()).collect();
        if tagged.is_empty() {
            return;
        }
        let at = *self.dice.pick(&tagged);
        let (image, tag) = memory.images[at].clone();
        let Some(tag) = tag else { return };
        memory.images[at].1 = None;
        self.ledger.moving(&image.repository, &tag, None);
        let permit = self.permit(&image.repository);
        let reference = Reference::Tag(tag.clone());
        let done =
            self.ask(move |node| async move { node.registry.delete_manifest(&permit, &reference, None).await }).await;
        match done {
            Ok(_) => self.ledger.moving(&image.repository, &tag, None),
            Err(_) => self.ledger.forget_tag(&image.repository, &tag),
        }
    }

    async fn delete_image(&self, memory: &mut Memory) {
        if memory.images.len() < 2 {
            return;
        }
        let at = self.dice.below(memory.images.len() as u64) as usize;
        let (image, tag) = memory.images.swap_remove(at);
        if let Some(tag) = &tag {
            self.ledger.forget_tag(&image.repository, tag);
        }
        self.ledger.forget_image(&image.repository, &image.digest);
        let (permit, reference) = (self.permit(&image.repository), Reference::Digest(image.digest));
        let done =
            self.ask(move |node| async move { node.registry.delete_manifest(&permit, &reference, None).await }).await;
        self.trace.note(format!("client {} deletes {}: {}", self.number, image.digest, done.is_ok()));
    }

    /// Deletes a blob, which is refused as long as an image needs it.
    async fn delete_blob(&self) {
        let digest = Digest::sha256(&blob(self.dice.below(BLOB_BYTES.len() as u64) as usize));
        let permit = self.permit(&self.repository());
        drop(self.ask(move |node| async move { node.registry.delete_blob(&permit, &digest).await }).await);
    }
}
