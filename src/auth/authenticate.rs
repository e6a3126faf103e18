//! Who is asking: from the headers of a request to a [`Caller`].

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use registry_core::metadata::principal::UserKind;
use registry_core::metadata::tables::TablesRead;
use registry_core::vocabulary::ids::{RegistryId, Revision};
use registry_core::vocabulary::limits::RETRY_AFTER_MS;
use registry_core::vocabulary::{Refusal, Timestamp};

use super::caller::{Caller, CallerKind, CredentialKind};
use super::credential::{self, Credential};
use super::identity::{Account, Identities, Invalid, anonymous_name};
use super::link::{Follower, Link, LinkClaims, NoLink};
use super::rights::{Circumstances, Rights};
use super::scope::Granted;
use super::secret::key_id_valid;
use super::{Auth, Challenge, ChallengeError, Evidence, Freshness, Refused, audit};

impl Auth {
    /// Finds out who sends this. Without `Authorization` the answer is an anonymous caller, not a refusal.
    ///
    /// Refuses credentials that do not hold with [`Refused::Unauthenticated`], too much guessing with
    /// [`Refusal::Throttled`], and a cluster without quorum with [`Refusal::Unavailable`]. A credential that does not
    /// hold on a merely fresh state is looked at again on a linearizable one: a key just made works on every node.
    pub async fn authenticate(&self, evidence: &Evidence<'_>, freshness: Freshness) -> Result<Caller, Refused> {
        let credential = credential::parse(evidence.headers);
        let delay_ms = self.slow_down(&credential, evidence.address).await?;
        let caller = match self.identify(&credential, evidence, freshness).await? {
            Err(_) if freshness == Freshness::Fresh => {
                self.identify(&credential, evidence, Freshness::Linearizable).await?
            }
            other => other,
        };
        match caller {
            Ok(caller) => Ok(caller),
            Err(invalid) => {
                self.note_failure(&credential, evidence.address, invalid, delay_ms);
                let error = Some(ChallengeError::InvalidToken);
                Err(Refused::Unauthenticated(Challenge { error, ..Challenge::default() }))
            }
        }
    }

    /// Lets an access key wait that was guessed at before (T8). Tokens need none of that: they hold 256 bits of MAC.
    async fn slow_down(&self, credential: &Credential, address: IpAddr) -> Result<u64, Refused> {
        let Credential::Basic { user, .. } = credential else { return Ok(0) };
        let delay_ms = self.0.guesses.delay_ms(account_of(user), address, self.0.clock.monotonic_ms());
        if delay_ms > 0 {
            metrics::counter!("portolan_auth_delayed_total").increment(1);
            let Some(_place) = self.0.guesses.wait() else {
                metrics::counter!("portolan_auth_throttled_total").increment(1);
                let retry_after_ms = u32::try_from(delay_ms).unwrap_or(RETRY_AFTER_MS);
                return Err(Refused::Refusal(Refusal::Throttled { retry_after_ms }));
            };
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        }
        Ok(delay_ms)
    }

    fn note_failure(&self, credential: &Credential, address: IpAddr, invalid: Invalid, delay_ms: u64) {
        let kind = match credential {
            Credential::Basic { user, .. } => {
                self.0.guesses.failed(account_of(user), address, self.0.clock.monotonic_ms());
                // what was sent as a user may be a password in the wrong field: only names that exist are written down
                let is_known = invalid == Invalid::Secret;
                audit::bad_credential(is_known.then_some(user.as_str()), address, delay_ms);
                "access key"
            }
            Credential::Bearer(_) => "bearer token",
            Credential::None | Credential::Unusable => "unusable",
        };
        metrics::counter!("portolan_auth_refused_total", "credential" => kind).increment(1);
    }

    async fn identify(
        &self,
        credential: &Credential,
        evidence: &Evidence<'_>,
        freshness: Freshness,
    ) -> Result<Result<Caller, Invalid>, Refused> {
        self.0.state.ready(freshness).await?;
        let found = self.0.state.peek(|tables, revision| self.identify_in(&tables, revision, credential, evidence));
        // before `cluster init` there is nobody to be
        found.ok_or(Refused::Refusal(Refusal::Unavailable { retry_after_ms: RETRY_AFTER_MS }))
    }

    /// Identifies at one revision; `None` before the cluster is initialised.
    fn identify_in(
        &self,
        tables: &impl TablesRead,
        revision: Revision,
        credential: &Credential,
        evidence: &Evidence<'_>,
    ) -> Option<Result<Caller, Invalid>> {
        let identities = self.0.latest.at(tables, revision.lineage)?;
        let now_ms = self.0.clock.wall_ms();
        let circumstances =
            Circumstances { address: evidence.address, secure: evidence.secure, at: Timestamp::from_ms(now_ms) };
        let making = Making { identities: &identities, circumstances, revision };
        let is_open = self.0.settings.anonymous;
        Some(match credential {
            Credential::None => Ok(making.anonymous(CredentialKind::None, None, is_open)),
            Credential::Unusable => Err(Invalid::Credential),
            Credential::Basic { user, password } => {
                identities.verify_key(tables, user, password, now_ms).map(|account| {
                    self.note_success(&account, evidence.address);
                    making.account(&account, CredentialKind::AccessKey, None)
                })
            }
            Credential::Bearer(token) => identities.verify_token(tables, token, now_ms).map(|(claims, account)| {
                let granted = Some(Arc::new(claims.granted));
                match account {
                    Some(account) => making.account(&account, CredentialKind::Bearer, granted),
                    None => making.anonymous(CredentialKind::Bearer, granted, is_open),
                }
            }),
        })
    }

    /// Who follows a link, at one revision; `None` before the cluster is initialised.
    pub(super) fn follow_in(
        &self,
        tables: &impl TablesRead,
        revision: Revision,
        text: &str,
        evidence: &Evidence<'_>,
    ) -> Option<Result<(Follower, Link), NoLink>> {
        let identities = self.0.latest.at(tables, revision.lineage)?;
        let now_ms = self.0.clock.wall_ms();
        let circumstances =
            Circumstances { address: evidence.address, secure: evidence.secure, at: Timestamp::from_ms(now_ms) };
        let making = Making { identities: &identities, circumstances, revision };
        let verified = identities.verify_link(tables, text, now_ms);
        Some(verified.map(|(LinkClaims { claims, link }, account)| {
            if let Some(guest) = &link.guest {
                return (Follower::Guest(guest.region.clone()), link);
            }
            let granted = Some(Arc::new(claims.granted));
            let caller = match account {
                Some(account) => making.account(&account, CredentialKind::Bearer, granted),
                None => making.anonymous(CredentialKind::Bearer, granted, self.0.settings.anonymous),
            };
            (Follower::Caller(caller), link)
        }))
    }

    fn note_success(&self, account: &Account, address: IpAddr) {
        static HASHES: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let mut hasher = HASHES.build_hasher();
        // after a failure the next success counts anew: an owner who mistyped is an owner again at once
        std::hash::Hash::hash(&(address, self.0.guesses.failures()), &mut hasher);
        let now_ms = self.0.clock.monotonic_ms();
        if account.is_news(hasher.finish(), now_ms) {
            self.0.guesses.succeeded(&account.key_id, address, now_ms);
        }
    }

    /// An operator who showed a client certificate of the cluster's authority on the admin listener: may administer,
    /// and nothing else. `name` is the certificate's.
    pub async fn operator(&self, name: &str, evidence: &Evidence<'_>) -> Result<Caller, Refused> {
        self.0.state.ready(Freshness::Linearizable).await?;
        let at = Timestamp::from_ms(self.0.clock.wall_ms());
        let circumstances = Circumstances { address: evidence.address, secure: evidence.secure, at };
        self.0.state.peek(|tables, revision| {
            let identities = self.0.latest.at(&tables, revision.lineage);
            let identities = identities.ok_or(Refusal::Unavailable { retry_after_ms: RETRY_AFTER_MS })?;
            let rights = Arc::new(Rights::of_root(RegistryId::DEFAULT, identities.region()));
            let making = Making { identities: &identities, circumstances, revision };
            let name = format!("operator/{name}").into();
            Ok(making.caller(CallerKind::Root, name, RegistryId::DEFAULT, CredentialKind::Certificate, rights))
        })
    }
}

/// The account guessed at. What can't be an access key id counts as one, so that nothing of any length is remembered.
fn account_of(user: &str) -> &str {
    if key_id_valid(user) { user } else { "" }
}

/// What every caller of one look at the state has in common.
struct Making<'a> {
    identities: &'a Identities,
    circumstances: Circumstances,
    revision: Revision,
}

impl Making<'_> {
    fn caller(
        &self,
        kind: CallerKind,
        name: Arc<str>,
        registry: RegistryId,
        credential: CredentialKind,
        rights: Arc<Rights>,
    ) -> Caller {
        Caller {
            kind,
            name,
            registry,
            credential,
            key_id: None,
            granted: None,
            rights,
            circumstances: self.circumstances.clone(),
            revision: self.revision,
            version: self.identities.version(),
        }
    }

    fn anonymous(&self, credential: CredentialKind, granted: Option<Arc<Granted>>, is_open: bool) -> Caller {
        let rights = if is_open { &self.identities.anonymous } else { &self.identities.nobody };
        let rights = Arc::clone(rights);
        let caller = self.caller(CallerKind::Anonymous, anonymous_name(), RegistryId::DEFAULT, credential, rights);
        Caller { granted, ..caller }
    }

    fn account(&self, account: &Account, credential: CredentialKind, granted: Option<Arc<Granted>>) -> Caller {
        let kind = match account.kind {
            UserKind::Root => CallerKind::Root,
            UserKind::Ordinary => CallerKind::User,
        };
        let name = Arc::clone(&account.user);
        let caller = self.caller(kind, name, account.registry, credential, Arc::clone(&account.rights));
        Caller { granted, key_id: Some(Arc::clone(&account.key_id)), ..caller }
    }
}
