//! Users, access keys, policies: what an administrator does. Each act asks for its right itself, whichever door it came
//! by.

use registry_core::decide::policy::grants::{self, Grant};
use registry_core::decide::policy::{self, Policy, PolicyKind, Resource};
use registry_core::metadata::cluster;
use registry_core::metadata::principal::{
    self, ANONYMOUS, DeleteKey, DeletePolicy, DeleteUser, KeyRow, PutKey, PutPolicy, PutUser, SetKeyEnabled,
    SetUserEnabled, UserKind, UserRow,
};
use registry_core::metadata::tables::TablesRead;
use registry_core::vocabulary::ids::Revision;
use registry_core::vocabulary::limits::RETRY_AFTER_MS;
use registry_core::vocabulary::names::{RegionName, UserName};
use registry_core::vocabulary::{Refusal, RepositoryName};

use super::caller::Caller;
use super::rights::Rights;
use super::secret::SecretKeys;
use super::{Auth, Freshness, Refused};
use crate::ground::{Secret, random};

/// A user as administrators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserInfo {
    /// Its name.
    pub name: String,
    /// Whether it may do everything.
    pub is_root: bool,
    /// Whether its keys and tokens work.
    pub enabled: bool,
    /// When it was made, replicated milliseconds since 1970.
    pub created_at_ms: u64,
}

/// An access key as administrators see it. The secret is write-only (T11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its id.
    pub key_id: String,
    /// Whether it works.
    pub enabled: bool,
    /// When it was made, replicated milliseconds since 1970.
    pub created_at_ms: u64,
    /// When it ends, if ever.
    pub expires_at_ms: Option<u64>,
    /// First bytes of the keyed hash of its secret, to tell two secrets apart.
    pub fingerprint: String,
}

/// An access key just made: the only time its secret is shown.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Its id.
    pub key_id: String,
    /// Its secret.
    pub secret: Secret<String>,
    /// Where it was committed.
    pub revision: Revision,
}

/// A policy attached to a principal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyInfo {
    /// Its name.
    pub name: String,
    /// Its JSON text as it was given.
    pub document: String,
}

/// A decision with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Whether it would be allowed.
    pub allowed: bool,
    /// Who, as the policy language writes it.
    pub principal: String,
    /// What.
    pub action: policy::Action,
    /// On what.
    pub resource: String,
    /// Which statement decided, or which is missing.
    pub reason: String,
}

impl UserInfo {
    fn new((name, row): (String, UserRow)) -> UserInfo {
        let UserRow { kind, enabled, created_at_ms } = row;
        UserInfo { name, is_root: kind == UserKind::Root, enabled, created_at_ms }
    }
}

impl KeyInfo {
    fn new((key_id, row): (String, KeyRow)) -> KeyInfo {
        KeyInfo {
            key_id,
            enabled: row.enabled,
            created_at_ms: row.created_at_ms,
            expires_at_ms: (row.expires_at_ms != 0).then_some(row.expires_at_ms),
            fingerprint: data_encoding::HEXLOWER.encode(&row.secret_hash[..4]),
        }
    }
}

/// The name under which [`Auth::put_grants`] keeps its policy.
pub const GRANTS_POLICY: &str = "grants";

impl Auth {
    fn manage(&self, by: &Caller) -> Result<(), Refused> {
        self.permit_admin(by, policy::Action::ManageIdentities)
    }

    async fn look<R>(
        &self,
        by: &Caller,
        read: impl FnOnce(&dyn TablesRead) -> Result<R, Refusal>,
    ) -> Result<R, Refused> {
        self.manage(by)?;
        self.0.state.ready(Freshness::Linearizable).await?;
        Ok(self.0.state.peek(|tables, _| read(tables))?)
    }

    fn owner(&self, by: &Caller, tables: &dyn TablesRead, name: &str) -> Result<UserRow, Refusal> {
        let unknown = || Refusal::PrincipalUnknown { kind: "user".into(), name: name.into() };
        principal::user(&tables, by.registry(), name).ok_or_else(unknown)
    }

    /// Every user of the caller's registry by name.
    pub async fn users(&self, by: &Caller) -> Result<Vec<UserInfo>, Refused> {
        let registry = by.registry();
        self.look(by, |tables| Ok(principal::users(&tables, registry).into_iter().map(UserInfo::new).collect())).await
    }

    /// One user. Refuses with `PrincipalUnknown`.
    pub async fn user(&self, by: &Caller, name: &str) -> Result<UserInfo, Refused> {
        self.look(by, |tables| Ok(UserInfo::new((name.to_owned(), self.owner(by, tables, name)?)))).await
    }

    /// Makes an ordinary user, enabled, without keys and without rights. Refuses with `PrincipalExists`.
    pub async fn create_user(&self, by: &Caller, name: &str) -> Result<Revision, Refused> {
        self.manage(by)?;
        let (registry, name) = (by.registry(), name.to_owned());
        let command = PutUser { registry, name, kind: UserKind::Ordinary, enabled: true, must_be_new: true };
        Ok(self.0.state.propose(by.name(), vec![command.into()]).await?)
    }

    /// Enables or disables a user with all of its keys and tokens. Refuses with `LastAdministrator`.
    pub async fn set_user_enabled(&self, by: &Caller, name: &str, enabled: bool) -> Result<Revision, Refused> {
        self.manage(by)?;
        let command = SetUserEnabled { registry: by.registry(), name: name.to_owned(), enabled };
        Ok(self.0.state.propose(by.name(), vec![command.into()]).await?)
    }

    /// Deletes a user with its keys and policies. Refuses with `LastAdministrator`.
    pub async fn delete_user(&self, by: &Caller, name: &str) -> Result<Revision, Refused> {
        self.manage(by)?;
        let command = DeleteUser { registry: by.registry(), name: name.to_owned() };
        Ok(self.0.state.propose(by.name(), vec![command.into()]).await?)
    }

    /// The access keys of a user by id.
    pub async fn keys(&self, by: &Caller, user: &str) -> Result<Vec<KeyInfo>, Refused> {
        self.look(by, |tables| {
            self.owner(by, tables, user)?;
            Ok(principal::keys_of(&tables, by.registry(), user).into_iter().map(KeyInfo::new).collect())
        })
        .await
    }

    /// Makes an access key for a user; it ends by itself after `lifetime_ms`, if given.
    pub async fn create_key(&self, by: &Caller, user: &str, lifetime_ms: Option<u64>) -> Result<NewKey, Refused> {
        let seal = |tables: &dyn TablesRead| {
            self.owner(by, tables, user)?;
            let cluster = cluster::read(&tables);
            Ok(SecretKeys::of(&cluster.ok_or(Refusal::Unavailable { retry_after_ms: RETRY_AFTER_MS })?))
        };
        let secrets = self.look(by, seal).await?;
        let (key_id, secret) = (random::access_key_id(), random::secret_access_key());
        let row = KeyRow {
            registry: by.registry(),
            user: user.to_owned(),
            sealed_secret: secrets.seal(&key_id, &secret),
            secret_hash: secrets.hash(&key_id, &secret),
            enabled: true,
            created_at_ms: 0,
            expires_at_ms: lifetime_ms.map_or(0, |lifetime_ms| self.0.clock.wall_ms().saturating_add(lifetime_ms)),
        };
        let command = PutKey { key_id: key_id.clone(), row };
        let revision = self.0.state.propose(by.name(), vec![command.into()]).await?;
        Ok(NewKey { key_id, secret, revision })
    }

    /// Enables or disables an access key.
    pub async fn set_key_enabled(
        &self,
        by: &Caller,
        user: &str,
        key_id: &str,
        enabled: bool,
    ) -> Result<Revision, Refused> {
        self.manage(by)?;
        self.not_own_key(by, key_id)?;
        let (registry, user, key_id) = (by.registry(), user.to_owned(), key_id.to_owned());
        let command = SetKeyEnabled { registry, user, key_id, enabled };
        Ok(self.0.state.propose(by.name(), vec![command.into()]).await?)
    }

    /// Deletes an access key.
    pub async fn delete_key(&self, by: &Caller, user: &str, key_id: &str) -> Result<Revision, Refused> {
        self.manage(by)?;
        self.not_own_key(by, key_id)?;
        let command = DeleteKey { registry: by.registry(), user: user.to_owned(), key_id: key_id.to_owned() };
        Ok(self.0.state.propose(by.name(), vec![command.into()]).await?)
    }

    /// Nobody saws off the branch: the last working key of the last administrator could go otherwise.
    fn not_own_key(&self, by: &Caller, key_id: &str) -> Result<(), Refused> {
        if by.key_id() != Some(key_id) {
            return Ok(());
        }
        let detail = "this key signs the request itself: use another one to take it away".to_owned();
        Err(Refused::Refusal(Refusal::ParameterInvalid { parameter: "key".into(), detail }))
    }

    /// The policies of a user, or of `anonymous`, by name.
    pub async fn policies(&self, by: &Caller, principal: &str) -> Result<Vec<PolicyInfo>, Refused> {
        self.look(by, |tables| {
            if principal != ANONYMOUS {
                self.owner(by, tables, principal)?;
            }
            let rows = principal::policies(&tables, by.registry(), principal).into_iter();
            Ok(rows.map(|(name, row)| PolicyInfo { name, document: row.document }).collect())
        })
        .await
    }

    /// Attaches a policy to a user, or to `anonymous`, in place of the one of that name. Refuses with `PolicyInvalid`
    /// what is not understood to the last word (A23).
    pub async fn put_policy(
        &self,
        by: &Caller,
        principal: &str,
        name: &str,
        document: &str,
    ) -> Result<Revision, Refused> {
        self.manage(by)?;
        Policy::parse(document, PolicyKind::Identity).map_err(Refusal::from)?;
        let (registry, principal) = (by.registry(), principal.to_owned());
        let command = PutPolicy { registry, principal, name: name.to_owned(), document: document.to_owned() };
        Ok(self.0.state.propose(by.name(), vec![command.into()]).await?)
    }

    /// Gives a user, or `anonymous`, exactly these grants, in place of those given so before. None takes them away.
    pub async fn put_grants(&self, by: &Caller, principal: &str, grants: &[Grant]) -> Result<Revision, Refused> {
        if grants.is_empty() {
            return self.delete_policy(by, principal, GRANTS_POLICY).await;
        }
        self.put_policy(by, principal, GRANTS_POLICY, &grants::compile(grants)).await
    }

    /// Takes a policy away. Refuses with `PolicyUnknown`.
    pub async fn delete_policy(&self, by: &Caller, principal: &str, name: &str) -> Result<Revision, Refused> {
        self.manage(by)?;
        let (registry, principal) = (by.registry(), principal.to_owned());
        let command = DeletePolicy { registry, principal, name: name.to_owned() };
        Ok(self.0.state.propose(by.name(), vec![command.into()]).await?)
    }

    /// Says what would be decided for a user, or `anonymous`, and which statement decides. Conditions are judged by the
    /// circumstances of this request.
    pub async fn explain(
        &self,
        by: &Caller,
        principal: &str,
        action: policy::Action,
        repository: Option<&RepositoryName>,
        tag_exists: Option<bool>,
    ) -> Result<Explanation, Refused> {
        let registry = by.registry();
        self.look(by, |tables| {
            let region = cluster::read(&tables).map_or_else(String::new, |row| row.region);
            let anonymous = Rights::of_anonymous(&tables, registry, &region);
            let rights = if principal == ANONYMOUS {
                anonymous
            } else {
                let unknown = || Refusal::PrincipalUnknown { kind: "user".into(), name: principal.into() };
                let name = UserName::parse(principal).map_err(|_| unknown())?;
                match self.owner(by, tables, principal)?.kind {
                    UserKind::Root => Rights::of_root(registry, &region),
                    UserKind::Ordinary => Rights::of_user(&tables, registry, &name, &region, anonymous.into()),
                }
            };
            let decision = rights.explain(action, registry, repository, tag_exists, &by.circumstances);
            let region = RegionName::parse(&region).map_err(|_| Refusal::Changed)?;
            let resource = match repository {
                Some(name) => Resource::Repository { region, registry, name: name.clone() },
                None => Resource::Registry { region, registry },
            };
            Ok(Explanation {
                allowed: decision.is_allowed(),
                principal: rights.principal().to_string(),
                action,
                resource: resource.to_string(),
                reason: decision.to_string(),
            })
        })
        .await
    }
}
