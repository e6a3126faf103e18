//! Links to a blob at another node, which carry their own right: clients drop their credential when they are sent to
//! another host.
//!
//! A link is for one repository (by its internal id), one digest, one node, one client's address and one minute. Who
//! it was made for is looked at again where it leads, with the rights of then (T14, T15, A26, A27). A client of another
//! region's cluster can't be: its minute is the bound, and whether that region may have the blob is looked at instead.

use std::net::IpAddr;

use bincode::{Decode, Encode};
use registry_core::decide::permit::Permit;
use registry_core::decide::policy::ConditionKey;
use registry_core::decide::seal::{Purpose, Sealer};
use registry_core::decide::tag_move::TagRights;
use registry_core::metadata::cluster::ClusterRow;
use registry_core::metadata::{repository, shared};
use registry_core::vocabulary::ids::{Lineage, NodeId, RegistryId, RepositoryId};
use registry_core::vocabulary::limits::{LINK_LIFETIME_MS, TOKEN_SKEW_MS};
use registry_core::vocabulary::names::RegionName;
use registry_core::vocabulary::{Digest, Refusal, RepositoryName};

use super::caller::{Caller, CredentialKind};
use super::identity::Identities;
use super::scope::{Action, Granted};
use super::token::Claims;
use super::{Auth, Evidence, Freshness};

/// What a link leads to.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Link {
    /// The repository, by its internal id: one that takes its name later is another.
    pub repository: RepositoryId,
    /// The blob.
    pub digest: Digest,
    /// The node that is to serve it.
    pub node: NodeId,
    /// The client that is sent there.
    pub client: IpAddr,
    /// Scheme, host and port where the client was before.
    pub back: String,
    /// Of a client that another region sent here.
    pub guest: Option<Guest>,
}

/// A client of another region.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Guest {
    /// Which region vouched for it.
    pub region: RegionName,
    /// The repository, by the name that it has in both regions.
    pub repository: RepositoryName,
    /// The link of that region by which it is served where it was before; empty if there is none.
    pub right: String,
}

/// Who follows a link.
#[derive(Clone, Debug)]
pub enum Follower {
    /// A caller of this cluster, with its rights of now.
    Caller(Caller),
    /// A client that a region vouched for.
    Guest(RegionName),
}

impl Follower {
    /// The name it goes by in the journal and the audit.
    pub fn name(&self) -> String {
        match self {
            Follower::Caller(caller) => caller.name().to_owned(),
            Follower::Guest(region) => format!("region/{region}"),
        }
    }
}

/// A link with who follows it; of a guest the claims name nobody.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct LinkClaims {
    pub(super) claims: Claims,
    pub(super) link: Link,
}

/// Makes and reads links of one cluster.
#[derive(Clone, Debug)]
pub(super) struct Links(Sealer);

impl Links {
    pub(super) fn of(cluster: &ClusterRow) -> Links {
        Links(Sealer::of(cluster, Purpose::Link))
    }

    pub(super) fn seal(&self, claims: &LinkClaims) -> String {
        self.0.seal(claims)
    }

    pub(super) fn open(&self, text: &str) -> Option<LinkClaims> {
        self.0.open(text).ok()
    }
}

/// Why a link is not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoLink {
    /// It was made here, and it is not its time: back to where the client was.
    Expired(Link),
    /// It holds for nobody: not made here, changed, or its owner is gone.
    Foreign,
    /// Whether it holds can't be told now; if it was made here, this is what it says.
    Unavailable(Option<Link>),
}

impl Auth {
    /// A link for a caller who may pull from a repository; `None` for one that shows a certificate, or while there is
    /// no cluster.
    pub fn link(&self, caller: &Caller, repository: &RepositoryName, link: Link) -> Option<String> {
        if caller.credential() == CredentialKind::Certificate {
            return None;
        }
        let lineage = caller.revision().lineage;
        let identities = self.0.state.peek(|tables, _| self.0.latest.at(&tables, lineage))?;
        let claims = self.link_claims(&identities, lineage, caller.registry(), repository);
        let claims = Claims { key_id: caller.key_id().map(str::to_owned), version: caller.version(), ..claims };
        Some(identities.links.seal(&LinkClaims { claims, link }))
    }

    /// A link for a client of another region, of which that one says that it may pull; `None` while there is no
    /// cluster. Whether the region may have the blob is for the asker to see.
    pub fn guest_link(&self, repository: &RepositoryName, link: Link) -> Option<String> {
        let (identities, lineage) = self.0.state.peek(|tables, revision| {
            let identities = self.0.latest.at(&tables, revision.lineage)?;
            Some((identities, revision.lineage))
        })?;
        let claims = self.link_claims(&identities, lineage, RegistryId::DEFAULT, repository);
        Some(identities.links.seal(&LinkClaims { claims, link }))
    }

    /// That a repository may be pulled from, for a minute, by nobody in particular.
    fn link_claims(
        &self,
        identities: &Identities,
        lineage: Lineage,
        registry: RegistryId,
        repository: &RepositoryName,
    ) -> Claims {
        let now_ms = self.0.clock.wall_ms();
        Claims {
            cluster: identities.tokens.cluster(),
            lineage,
            registry,
            key_id: None,
            granted: Granted::of(&Action::Pull.wanted(repository)),
            not_before_ms: now_ms.saturating_sub(TOKEN_SKEW_MS),
            expires_at_ms: now_ms + LINK_LIFETIME_MS,
            version: identities.version(),
        }
    }

    /// Whether what a caller may do hangs on the address it asks from. Another region can't judge that, so that such a
    /// caller is not sent there.
    pub fn is_bound_to_address(&self, caller: &Caller) -> bool {
        caller.rights.names(&ConditionKey::SOURCE_IP)
    }

    /// That a client of another region may be given a blob here: the region is known still, and may have the blob, in
    /// the repository that the link was made for. A no is confirmed before it is given.
    ///
    /// Errors: [`Refusal::Denied`]; `Unavailable` when a no can't be confirmed now.
    pub async fn permit_guest(
        &self,
        region: &RegionName,
        name: &RepositoryName,
        link: &Link,
    ) -> Result<Permit, Refusal> {
        let may = || {
            self.0.state.peek(|tables, _| {
                let found = repository::find(&tables, RegistryId::DEFAULT, name).map(|(key, _)| key);
                let found = found.filter(|key| key.id == link.repository);
                found.is_some_and(|key| shared::may_have(&tables, region, &key, &link.digest))
            })
        };
        if !may() {
            self.0.state.ready(Freshness::Linearizable).await?;
        }
        if !may() {
            let detail = format!("region '{region}' may not have that any more");
            return Err(Refusal::Denied { detail });
        }
        Ok(Permit {
            principal: Follower::Guest(region.clone()).name(),
            registry: RegistryId::DEFAULT,
            repository: name.clone(),
            create_repository: false,
            tags: TagRights { create: false, update: false },
        })
    }

    /// Who follows a link, and where it leads. Whether it leads here, and whether they may, is for the asker to see.
    pub async fn follow(&self, text: &str, evidence: &Evidence<'_>) -> Result<(Follower, Link), NoLink> {
        let fresh = self.follow_at(text, evidence, Freshness::Fresh).await;
        match fresh {
            // its owner may be newer than this state
            Err(NoLink::Foreign) => self.follow_at(text, evidence, Freshness::Linearizable).await,
            found => found,
        }
    }

    async fn follow_at(
        &self,
        text: &str,
        evidence: &Evidence<'_>,
        freshness: Freshness,
    ) -> Result<(Follower, Link), NoLink> {
        if self.0.state.ready(freshness).await.is_err() {
            return Err(NoLink::Unavailable(self.made_here(text)));
        }
        let found = self.0.state.peek(|tables, revision| self.follow_in(&tables, revision, text, evidence));
        found.unwrap_or(Err(NoLink::Unavailable(None)))
    }

    /// What a link says that was made here, whatever has become of its owner. It gives no right: it tells the way back.
    fn made_here(&self, text: &str) -> Option<Link> {
        let identities = self.0.state.peek(|tables, revision| self.0.latest.at(&tables, revision.lineage))?;
        identities.links.open(text).map(|opened| opened.link)
    }
}
