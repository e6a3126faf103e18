//! Who is asking, and may they: credentials and tokens become a [`Caller`], a caller's wish becomes a [`Permit`].
//!
//! Never looks at the body of a request, never writes a response. A surface asks in this order:
//!
//! 1. [`Auth::authenticate`]: headers → [`Caller`], read at a revision ([`Freshness`]);
//! 2. [`Auth::permit`] (or [`Auth::permit_catalog`], [`Auth::permit_base`], [`Auth::may_see`]) → a permit, or
//!    [`Refused`];
//! 3. the registry, with `AtLeast(caller.revision())`, so that both share one round through consensus.
//!
//! [`Auth::authorize`] does 1 and 2 in one. A [`Refused::Unauthenticated`] is rendered with [`Auth::challenge`]. Every
//! change, made or refused, is told to [`audit`]. The rules of visibility are in `decide.rs`, users and keys in
//! `users.rs`, the token service in `service.rs`, links that carry their own right in `link.rs`.

pub mod audit;
mod authenticate;
mod bootstrap;
mod caller;
mod challenge;
mod credential;
mod decide;
mod guess;
mod identity;
mod link;
mod rights;
mod scope;
mod secret;
mod service;
mod state;
mod token;
mod users;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::HeaderMap;
use registry_core::decide::permit::Permit;
use registry_core::decide::policy;
use registry_core::decide::policy::scope::Scopes;
use registry_core::vocabulary::ids::RegistryId;
use registry_core::vocabulary::limits::{TOKEN_LIFETIME_S_MAX, TOKEN_LIFETIME_S_MIN};
use registry_core::vocabulary::{Refusal, RepositoryName};

use crate::ground::Clock;
use crate::metadata::Metadata;

pub use bootstrap::{ROOT, RootKey};
pub use caller::{Caller, CallerKind, CredentialKind};
pub use challenge::{SERVICE, TOKEN_PATH};
pub use link::{Follower, Guest, Link, NoLink};
pub use scope::Action;
pub use secret::{KeyFileError, parse_key_file};
pub use service::IssuedToken;
pub use users::{Explanation, GRANTS_POLICY, KeyInfo, NewKey, PolicyInfo, UserInfo};

use guess::Guesses;
use identity::Latest;
use state::State;

/// What auth looks at in a request.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// Its headers; only `Authorization` is read, all lines of it.
    pub headers: &'a HeaderMap,
    /// Where it came from, after the trusted-proxy rule (T19, T20).
    pub address: IpAddr,
    /// Whether it came through TLS, after the trusted-proxy rule.
    pub secure: bool,
}

/// How new the state must be that identity and rights are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Everything acknowledged before: writes, reads by tag, lists.
    Linearizable,
    /// At most 60 s old, the published bound for withdrawn rights: pulls by digest.
    Fresh,
}

/// Why a request goes no further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// 401 with [`Auth::challenge`].
    Unauthenticated(Challenge),
    /// Anything else: not visible, denied, asked too often, no quorum.
    Refusal(Refusal),
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        Refused::Refusal(refusal)
    }
}

/// What a client is asked to come back with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Challenge {
    /// The scopes a token must have; empty for "any credential".
    pub scopes: Scopes,
    /// A credential was sent and does not hold, or does not reach far enough.
    pub error: Option<ChallengeError>,
}

/// Error codes of RFC 6750 §3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChallengeError {
    /// `invalid_token`: unknown, expired, withdrawn or wrong.
    InvalidToken,
    /// `insufficient_scope`: it holds, but for less.
    InsufficientScope,
}

/// Which way to authenticate clients are told about. Both always work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChallengeKind {
    /// Fetch a token from the token service, then send that: the access key travels seldom.
    #[default]
    Bearer,
    /// Send the access key with every request: one request less, for clients without a token flow.
    Basic,
}

/// What is configured of this room.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What 401 asks for.
    pub challenge: ChallengeKind,
    /// Scheme and host that clients know this service by; without it the request's own are used (H8).
    pub public_url: Option<String>,
    /// Whether policies of `anonymous` give anything to requests without a credential; false refuses those whatever
    /// policies say.
    pub anonymous: bool,
    /// Life of a bearer token in seconds, from [`TOKEN_LIFETIME_S_MIN`] to [`TOKEN_LIFETIME_S_MAX`]. It does not delay
    /// the withdrawal of rights: those are read at every request.
    pub token_lifetime_s: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { challenge: ChallengeKind::default(), public_url: None, anonymous: true, token_lifetime_s: 900 }
    }
}

/// The room's handle; cheap to clone.
#[derive(Clone, Debug)]
pub struct Auth(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: State,
    clock: Arc<dyn Clock>,
    settings: Settings,
    latest: Latest,
    guesses: Guesses,
}

impl Auth {
    /// Over the cluster's metadata.
    pub fn new(metadata: Metadata, clock: Arc<dyn Clock>, settings: Settings) -> Auth {
        Auth::over(State::Cluster(metadata), clock, settings)
    }

    fn over(state: State, clock: Arc<dyn Clock>, mut settings: Settings) -> Auth {
        settings.token_lifetime_s = settings.token_lifetime_s.clamp(TOKEN_LIFETIME_S_MIN, TOKEN_LIFETIME_S_MAX);
        Auth(Arc::new(Inner { state, clock, settings, latest: Latest::default(), guesses: Guesses::default() }))
    }

    /// Decides whether the caller may do this in a repository, whether or not it exists.
    ///
    /// A repository that the caller may not see is [`Refusal::RepositoryUnknown`], exactly as a missing one; one that
    /// it sees and may not use so is [`Refusal::Denied`]; an anonymous caller, or a token that reaches less far than
    /// its owner may, gets a challenge naming the scope to ask for.
    pub fn permit(
        &self,
        caller: &Caller,
        action: Action,
        registry: RegistryId,
        repository: &RepositoryName,
    ) -> Result<Permit, Refused> {
        decide::permit(caller, action, registry, repository).inspect_err(count_denied)
    }

    /// [`Auth::authenticate`] and [`Auth::permit`]: who asks, with the decision. A no that was decided on a merely
    /// fresh state is decided again on a linearizable one, so that a right just given works on every node.
    pub async fn authorize(
        &self,
        evidence: &Evidence<'_>,
        freshness: Freshness,
        action: Action,
        registry: RegistryId,
        repository: &RepositoryName,
    ) -> Result<(Caller, Result<Permit, Refused>), Refused> {
        let caller = self.authenticate(evidence, freshness).await?;
        let decided = self.permit(&caller, action, registry, repository);
        if decided.is_ok() || freshness == Freshness::Linearizable {
            return Ok((caller, decided));
        }
        let caller = self.authenticate(evidence, Freshness::Linearizable).await?;
        let decided = self.permit(&caller, action, registry, repository);
        Ok((caller, decided))
    }

    /// Whether the caller may know that the repository exists: filters lists before they are cut into pages (A19).
    pub fn may_see(&self, caller: &Caller, registry: RegistryId, repository: &RepositoryName) -> bool {
        decide::may_see(caller, registry, repository)
    }

    /// Whether the caller may ask for the catalog, of which it gets what it [may see](Auth::may_see).
    pub fn permit_catalog(&self, caller: &Caller) -> Result<(), Refused> {
        decide::permit_catalog(caller)
    }

    /// Whether `GET /v2/` answers 200: only with a credential, else `docker login` would take any password.
    pub fn permit_base(&self, caller: &Caller) -> Result<(), Refused> {
        decide::permit_base(caller)
    }

    /// Whether the caller may administer: `ReadCluster`, `ManageCluster` or `ManageIdentities`. Access keys and
    /// operator certificates may, by their policies; bearer tokens never.
    pub fn permit_admin(&self, caller: &Caller, action: policy::Action) -> Result<(), Refused> {
        decide::permit_admin(caller, action).inspect_err(count_denied)
    }
}

/// A no to a known caller; a challenge is part of every login.
fn count_denied(refused: &Refused) {
    if let Refused::Refusal(_) = refused {
        metrics::counter!("portolan_auth_denied_total").increment(1);
    }
}
