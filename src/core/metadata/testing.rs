//! A cluster's state in memory, for tests of commands and for the simulator: numbers the entries, lands each batch, and
//! looks after every command whether the rows still fit together.

use super::apply::{Entry, Machine};
use super::blob::{AddUse, CommitBlob};
use super::cluster::{FEATURE_LEVEL, InitCluster};
use super::command::{Command, Proposal};
use super::link::Link;
use super::node::{RegisterNode, RegisterStore};
use super::reply::{Outcome, Reply};
use super::repository::{CreateRepository, RepositoryKey, Settings};
use super::tables::MemoryTables;
use super::upload::FinishUpload;
use crate::vocabulary::digest::Digest;
use crate::vocabulary::ids::{
    ClusterId, Lineage, NodeId, RegistryId, RepositoryId, RequestId, StoreId, UploadId, UseId,
};
use crate::vocabulary::refusal::Refusal;
use crate::vocabulary::repository_name::RepositoryName;

/// A running state machine over [`MemoryTables`].
#[derive(Debug, Default)]
pub struct World {
    /// The rows.
    pub tables: MemoryTables,
    /// The view beside them.
    pub machine: Machine,
    /// Index of the last entry.
    pub index: u64,
    /// The leader's clock, milliseconds; each entry moves it by one.
    pub at_ms: u64,
    /// In whose name commands are proposed.
    pub principal: String,
}

impl World {
    /// Nothing at all.
    pub fn empty() -> World {
        World { principal: "tester".to_owned(), at_ms: 1_000, ..World::default() }
    }

    /// A cluster without a node.
    pub fn cluster() -> World {
        let mut world = World::empty();
        world.ok(InitCluster {
            cluster: ClusterId(1),
            lineage: Lineage(1),
            region: "here".to_owned(),
            region_number: 1,
            token_secret: [7; 32],
            tick_ms: 1_000,
            feature_level: FEATURE_LEVEL,
        });
        world
    }

    /// A cluster with node and store 1, 2, … in these zones.
    pub fn region(zones: &[&str]) -> World {
        let mut world = World::cluster();
        for (number, zone) in (1..).zip(zones) {
            world.add_node(number, zone);
        }
        world
    }

    /// Registers a node and a store of the same number.
    pub fn add_node(&mut self, number: u64, zone: &str) {
        self.ok(RegisterNode {
            node: NodeId(number),
            zone: crate::vocabulary::names::ZoneName::parse(zone).unwrap(),
            raft_address: format!("127.0.0.{number}:7401"),
            blob_address: format!("127.0.0.{number}:7402"),
            public_url: format!("http://127.0.0.{number}:7400"),
            version: "test".to_owned(),
            feature_level: FEATURE_LEVEL,
        });
        self.ok(RegisterStore { store: StoreId(number), node: NodeId(number), weight: 100 });
    }

    /// One envelope as one entry.
    pub fn propose(&mut self, commands: Vec<Command>) -> Outcome {
        let proposal = self.proposal(commands);
        self.enter(&proposal)
    }

    /// The next proposal, not yet entered.
    pub fn proposal(&self, commands: Vec<Command>) -> Proposal {
        let request = RequestId(u128::from(self.index) + 1);
        Proposal { request, base: self.index, min_level: FEATURE_LEVEL, principal: self.principal.clone(), commands }
    }

    /// Enters a proposal at the next index.
    pub fn enter(&mut self, proposal: &Proposal) -> Outcome {
        self.index += 1;
        self.at_ms += 1;
        let payload = proposal.encode();
        let entry = Entry { index: self.index, at_ms: self.at_ms, payload: &payload };
        let mut applied = self.machine.apply(&self.tables, &[entry]).expect("our own proposals decode");
        self.tables.write(applied.writes);
        Outcome::decode(&applied.replies.remove(0)).expect("our own outcomes decode")
    }

    /// One command that must succeed.
    pub fn ok(&mut self, command: impl Into<Command>) -> Reply {
        let command = command.into();
        let told = format!("{command:?}");
        let mut outcome = self.propose(vec![command]);
        assert_eq!(outcome.refusal, None, "{told}");
        outcome.replies.remove(0)
    }

    /// One command that must be refused.
    pub fn refused(&mut self, command: impl Into<Command>) -> Refusal {
        let command = command.into();
        let told = format!("{command:?}");
        self.propose(vec![command]).refusal.unwrap_or_else(|| panic!("not refused: {told}"))
    }

    /// Makes a repository; `number` is its internal id.
    pub fn repository(&mut self, name: &str, number: u128, settings: Settings) -> RepositoryKey {
        let key = repository_key(name, number);
        self.ok(CreateRepository { key: key.clone(), settings, must_be_new: true });
        key
    }

    /// Pushes a blob into a repository the way a node does, with a hold and an upload of that number.
    pub fn push_blob(&mut self, repository: &RepositoryKey, bytes: &[u8], number: u64, stores: &[u64]) -> Digest {
        let digest = Digest::sha256(bytes);
        let outcome = self.propose(push(repository, bytes, number, stores));
        assert_eq!(outcome.refusal, None);
        digest
    }
}

/// The key of a repository of the default registry.
pub fn repository_key(name: &str, number: u128) -> RepositoryKey {
    let name = RepositoryName::parse(name).expect("a test's names are names");
    RepositoryKey { registry: RegistryId::DEFAULT, name, id: RepositoryId(number) }
}

/// The upload of that number, begun in tick 0.
pub fn upload(number: u64) -> UploadId {
    UploadId { tick: 0, random: number.into() }
}

/// The envelope of a push: these bytes, sealed on these stores.
pub fn push(repository: &RepositoryKey, bytes: &[u8], number: u64, stores: &[u64]) -> Vec<Command> {
    let (digest, size_bytes, hold) = (Digest::sha256(bytes), bytes.len() as u64, UseId(number));
    let stores: Vec<StoreId> = stores.iter().map(|store| StoreId(*store)).collect();
    let upload = upload(number);
    let finish = FinishUpload { upload, epoch: 1, digest, holders: (NodeId(1), Some(NodeId(2))) };
    let repository = repository.clone();
    let commit =
        CommitBlob { digest, size_bytes, upload, stores, repository: repository.clone(), hold, replace: false };
    vec![finish.into(), commit.into(), Link { repository, digest, size_bytes, hold }.into()]
}

/// The envelope of a mount.
pub fn mount(repository: &RepositoryKey, bytes: &[u8], number: u64) -> Vec<Command> {
    let (digest, size_bytes, hold) = (Digest::sha256(bytes), bytes.len() as u64, UseId(number));
    let repository = repository.clone();
    vec![
        AddUse { digest, size_bytes, repository: repository.clone(), hold }.into(),
        Link { repository, digest, size_bytes, hold }.into(),
    ]
}
