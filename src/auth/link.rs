//! Links to a blob at another node, which carry their own right: clients drop their credential when they are sent to
//! another host.
//!
//! A link is for one repository (by its internal id), one digest, one node, one client's address and one minute. Who
//! it was made for is looked at again where it leads, with the rights of then (T14, T15, A26, A27).

use std::net::IpAddr;

use bincode::{Decode, Encode};
use registry_core::decide::seal::{Purpose, Sealer};
use registry_core::metadata::cluster::ClusterRow;
use registry_core::vocabulary::ids::{NodeId, RepositoryId};
use registry_core::vocabulary::limits::{LINK_LIFETIME_MS, TOKEN_SKEW_MS};
use registry_core::vocabulary::{Digest, RepositoryName};

use super::caller::{Caller, CredentialKind};
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
}

/// A link with who follows it.
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
    /// That can't be told now.
    Unavailable,
}

impl Auth {
    /// A link for a caller who may pull from a repository; `None` for one that shows a certificate, or while there is
    /// no cluster.
    pub fn link(&self, caller: &Caller, repository: &RepositoryName, link: Link) -> Option<String> {
        if caller.credential() == CredentialKind::Certificate {
            return None;
        }
        let lineage = caller.revision().lineage;
        let now_ms = self.0.clock.wall_ms();
        let identities = self.0.state.peek(|tables, _| self.0.latest.at(&tables, lineage))?;
        let claims = Claims {
            cluster: identities.tokens.cluster(),
            lineage,
            registry: caller.registry(),
            key_id: caller.key_id().map(str::to_owned),
            granted: Granted::of(&Action::Pull.wanted(repository)),
            not_before_ms: now_ms.saturating_sub(TOKEN_SKEW_MS),
            expires_at_ms: now_ms + LINK_LIFETIME_MS,
            version: caller.version(),
        };
        Some(identities.links.seal(&LinkClaims { claims, link }))
    }

    /// Who follows a link, and where it leads. Whether it leads here, and whether they may, is for the asker to see.
    pub async fn follow(&self, text: &str, evidence: &Evidence<'_>) -> Result<(Caller, Link), NoLink> {
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
    ) -> Result<(Caller, Link), NoLink> {
        self.0.state.ready(freshness).await.map_err(|_| NoLink::Unavailable)?;
        let found = self.0.state.peek(|tables, revision| self.follow_in(&tables, revision, text, evidence));
        found.unwrap_or(Err(NoLink::Unavailable))
    }
}
