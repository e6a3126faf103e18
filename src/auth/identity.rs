//! From a credential to its owner: what the state says, kept compiled in memory until users, keys or policies change.
//!
//! Every change of them raises one number (`AuthVersion`); whatever is kept here belongs to one number of one life of
//! the cluster and is never used for another (A21). Nothing of it outlives a restart.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use parking_lot::RwLock;
use registry_core::metadata::cluster;
use registry_core::metadata::principal::{self, ANONYMOUS, AuthVersion, UserKind};
use registry_core::metadata::tables::TablesRead;
use registry_core::vocabulary::ids::{Lineage, RegistryId};
use registry_core::vocabulary::limits::CREDENTIALS_CACHED_MAX;
use registry_core::vocabulary::names::UserName;

use super::link::{LinkClaims, Links, NoLink};
use super::rights::Rights;
use super::secret::{SecretKeys, key_id_valid};
use super::token::{Claims, TokenError, Tokens};

/// Which users, keys and policies something was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stamp {
    lineage: Lineage,
    version: AuthVersion,
}

/// An access key with its owner.
#[derive(Debug)]
pub(super) struct Account {
    pub key_id: Arc<str>,
    pub registry: RegistryId,
    pub user: Arc<str>,
    pub kind: UserKind,
    /// The key and its owner are both enabled.
    pub enabled: bool,
    /// 0 for never.
    pub expires_at_ms: u64,
    pub rights: Arc<Rights>,
    secret_hash: [u8; 32],
    /// Who used it rightly last, and in which minute: so that only news are noted.
    seen: AtomicU64,
}

/// A credential does not hold, or this state is too old to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Invalid {
    /// Unknown, disabled, expired, malformed: never told apart by an answer.
    Credential,
    /// The access key exists, and it or its owner is disabled, or the secret is another. For the audit only.
    Secret,
    /// The token was made from a newer state than this one.
    Behind,
}

/// Users, keys and policies at one version.
#[derive(Debug)]
pub(super) struct Identities {
    stamp: Stamp,
    pub tokens: Tokens,
    pub links: Links,
    pub secrets: SecretKeys,
    /// Of requests without a credential.
    pub anonymous: Arc<Rights>,
    /// Nothing at all.
    pub nobody: Arc<Rights>,
    region: String,
    accounts: RwLock<HashMap<Box<str>, Option<Arc<Account>>>>,
}

impl Identities {
    fn load(tables: &impl TablesRead, stamp: Stamp) -> Option<Identities> {
        let cluster = cluster::read(tables)?;
        let anonymous = Rights::of_anonymous(tables, RegistryId::DEFAULT, &cluster.region);
        Some(Identities {
            stamp,
            tokens: Tokens::of(&cluster),
            links: Links::of(&cluster),
            secrets: SecretKeys::of(&cluster),
            anonymous: Arc::new(anonymous),
            nobody: Arc::new(Rights::of_nobody(&cluster.region)),
            region: cluster.region,
            accounts: RwLock::default(),
        })
    }

    /// The version everything here belongs to.
    pub(super) fn version(&self) -> AuthVersion {
        self.stamp.version
    }

    /// The region, for the names of resources.
    pub(super) fn region(&self) -> &str {
        &self.region
    }

    /// The account of an access key id; unknown ids are remembered as well, so that they cost the same (T7).
    fn account(&self, tables: &impl TablesRead, key_id: &str) -> Option<Arc<Account>> {
        // what can't be a key id is not looked up, and takes no room
        if !key_id_valid(key_id) {
            return None;
        }
        if let Some(known) = self.accounts.read().get(key_id) {
            return known.clone();
        }
        let account = self.read_account(tables, key_id).map(Arc::new);
        let mut accounts = self.accounts.write();
        if accounts.len() >= CREDENTIALS_CACHED_MAX {
            accounts.clear();
        }
        accounts.insert(key_id.into(), account.clone());
        account
    }

    fn read_account(&self, tables: &impl TablesRead, key_id: &str) -> Option<Account> {
        let key = principal::key(tables, key_id)?;
        let user = principal::user(tables, key.registry, &key.user)?;
        let rights = match user.kind {
            UserKind::Root => Rights::of_root(key.registry, &self.region),
            UserKind::Ordinary => {
                let name = UserName::parse(&key.user).ok()?;
                Rights::of_user(tables, key.registry, &name, &self.region, Arc::clone(&self.anonymous))
            }
        };
        Some(Account {
            key_id: key_id.into(),
            registry: key.registry,
            user: key.user.as_str().into(),
            kind: user.kind,
            enabled: key.enabled && user.enabled,
            expires_at_ms: key.expires_at_ms,
            rights: Arc::new(rights),
            secret_hash: key.secret_hash,
            seen: AtomicU64::new(0),
        })
    }

    /// Checks an access key. An unknown id costs the same hash as a wrong secret (T7).
    pub(super) fn verify_key(
        &self,
        tables: &impl TablesRead,
        key_id: &str,
        secret: &str,
        now_ms: u64,
    ) -> Result<Arc<Account>, Invalid> {
        let account = self.account(tables, key_id);
        let hash = account.as_ref().map_or([0; 32], |account| account.secret_hash);
        let is_right = self.secrets.verify(key_id, secret, &hash);
        match account {
            Some(account) if is_right && account.holds(now_ms) => Ok(account),
            Some(_) => Err(Invalid::Secret),
            None => Err(Invalid::Credential),
        }
    }

    /// Checks a token and that its owner is still there; `None` for the owner of a token given without a credential.
    pub(super) fn verify_token(
        &self,
        tables: &impl TablesRead,
        token: &str,
        now_ms: u64,
    ) -> Result<(Claims, Option<Arc<Account>>), Invalid> {
        let claims = self.tokens.read(token, now_ms).map_err(|_| Invalid::Credential)?;
        let account = self.owner(tables, &claims, now_ms)?;
        Ok((claims, account))
    }

    /// Checks a link and that who it was made for is still there; `None` as above.
    pub(super) fn verify_link(
        &self,
        tables: &impl TablesRead,
        text: &str,
        now_ms: u64,
    ) -> Result<(LinkClaims, Option<Arc<Account>>), NoLink> {
        let opened = self.links.open(text).ok_or(NoLink::Foreign)?;
        match self.tokens.check(&opened.claims, now_ms) {
            Ok(()) => {}
            Err(TokenError::Expired | TokenError::Early) => return Err(NoLink::Expired(opened.link)),
            Err(TokenError::Foreign) => return Err(NoLink::Foreign),
        }
        let account = self.owner(tables, &opened.claims, now_ms).map_err(|_| NoLink::Foreign)?;
        Ok((opened, account))
    }

    /// Whose claims these are, if that is somebody still; `None` where no credential was shown for them.
    fn owner(&self, tables: &impl TablesRead, claims: &Claims, now_ms: u64) -> Result<Option<Arc<Account>>, Invalid> {
        if claims.version > self.stamp.version {
            return Err(Invalid::Behind);
        }
        let Some(key_id) = &claims.key_id else { return Ok(None) };
        let account = self.account(tables, key_id).filter(|account| account.holds(now_ms));
        match account {
            Some(account) if account.registry == claims.registry => Ok(Some(account)),
            Some(_) | None => Err(Invalid::Credential),
        }
    }
}

impl Account {
    fn holds(&self, now_ms: u64) -> bool {
        self.enabled && (self.expires_at_ms == 0 || now_ms < self.expires_at_ms)
    }

    /// Whether this use is news: under another mark than last time, or in another minute.
    pub(super) fn is_news(&self, mark: u64, now_ms: u64) -> bool {
        let mark = mark ^ (now_ms / 60_000).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.seen.swap(mark, Ordering::Relaxed) != mark
    }
}

/// The latest [`Identities`].
#[derive(Debug, Default)]
pub(super) struct Latest(ArcSwapOption<Identities>);

impl Latest {
    /// What holds at this state; `None` before the cluster is initialised. An older state than the latest gets its own.
    pub(super) fn at(&self, tables: &impl TablesRead, lineage: Lineage) -> Option<Arc<Identities>> {
        let stamp = Stamp { lineage, version: principal::auth_version(tables) };
        let latest = self.0.load_full();
        if let Some(latest) = latest.as_ref().filter(|latest| latest.stamp == stamp) {
            return Some(Arc::clone(latest));
        }
        let loaded = Arc::new(Identities::load(tables, stamp)?);
        let is_newer = latest.is_none_or(|latest| latest.stamp.lineage != lineage || latest.stamp < stamp);
        if is_newer {
            self.0.store(Some(Arc::clone(&loaded)));
        }
        Some(loaded)
    }
}

/// The name the anonymous principal goes by everywhere.
pub(super) fn anonymous_name() -> Arc<str> {
    ANONYMOUS.into()
}
