//! Users, access keys and the policies attached to them. Every change raises one number, so that a cached decision can
//! be told from a fresh one.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, SYSTEM, Slot, table};
use super::reply::Reply;
use super::tables::{Row, Tables, TablesRead};
use crate::vocabulary::ids::RegistryId;
use crate::vocabulary::limits::{
    KEY_ID_BYTES_MAX, KEYS_PER_USER_MAX, POLICIES_PER_PRINCIPAL_MAX, POLICY_BYTES_MAX, SEALED_SECRET_BYTES_MAX,
    USER_NAME_BYTES_MAX, USERS_MAX,
};
use crate::vocabulary::refusal::Refusal;

/// Name under which policies for requests without a credential are kept; no user may have it.
pub const ANONYMOUS: &str = "anonymous";

/// Kinds of users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum UserKind {
    /// May do everything, whatever its policies say; made at first start.
    Root,
    /// May do what its policies allow.
    Ordinary,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct UserRow {
    /// Root or not.
    pub kind: UserKind,
    /// A disabled user's keys and tokens are refused.
    pub enabled: bool,
    /// When it was made, replicated milliseconds since 1970.
    pub created_at_ms: u64,
}

impl Stored for UserRow {}

/// An access key.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct KeyRow {
    /// The registry of its owner.
    pub registry: RegistryId,
    /// Its owner.
    pub user: String,
    /// The secret itself, sealed under a key derived from the cluster's secret: SigV4 needs it, nothing shows it.
    pub sealed_secret: Vec<u8>,
    /// Keyed hash of the secret, for Basic authentication.
    pub secret_hash: [u8; 32],
    /// A disabled key is refused.
    pub enabled: bool,
    /// When it was made, replicated milliseconds since 1970.
    pub created_at_ms: u64,
    /// When it ends; 0 for never.
    pub expires_at_ms: u64,
}

impl Stored for KeyRow {}

impl std::fmt::Debug for KeyRow {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "KeyRow({}/{}, ***)", self.registry, self.user)
    }
}

/// A policy document attached to a principal, checked by the evaluator before it was proposed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PolicyRow {
    /// The JSON text as it was given.
    pub document: String,
}

impl Stored for PolicyRow {}

/// Counts every change of users, keys and policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct AuthVersion(pub u64);

impl Stored for AuthVersion {}

/// The present number.
pub fn auth_version(tables: &impl TablesRead) -> AuthVersion {
    tables.get(&keys::system(table::AUTH_VERSION)).map_or(AuthVersion::default(), |bytes| codec::row(&bytes))
}

fn changed(tables: &mut impl Tables) {
    let next = AuthVersion(auth_version(tables).0 + 1);
    tables.put(keys::system(table::AUTH_VERSION), codec::encode(&next));
}

/// Reads a user.
pub fn user(tables: &impl TablesRead, registry: RegistryId, name: &str) -> Option<UserRow> {
    tables.get(&keys::user(registry, name)).map(|bytes| codec::row(&bytes))
}

/// The users of a registry by name.
pub fn users(tables: &impl TablesRead, registry: RegistryId) -> Vec<(String, UserRow)> {
    let rows = tables.prefix(&keys::user(registry, ""), USERS_MAX);
    rows.iter().map(|(key, value)| (String::from_utf8_lossy(&key[11..]).into_owned(), codec::row(value))).collect()
}

/// Reads an access key.
pub fn key(tables: &impl TablesRead, key_id: &str) -> Option<KeyRow> {
    tables.get(&keys::access_key(key_id)).map(|bytes| codec::row(&bytes))
}

/// The access keys of a user by id.
pub fn keys_of(tables: &impl TablesRead, registry: RegistryId, name: &str) -> Vec<(String, KeyRow)> {
    let prefix = keys::key_of(registry, name, "");
    let rows = tables.prefix(&prefix, KEYS_PER_USER_MAX);
    let read = |(key_of, _): &Row| {
        let key_id = String::from_utf8_lossy(&key_of[prefix.len()..]).into_owned();
        let row = key(tables, &key_id).expect("a user's key has a row");
        (key_id, row)
    };
    rows.iter().map(read).collect()
}

/// The policies of a principal by name.
pub fn policies(tables: &impl TablesRead, registry: RegistryId, principal: &str) -> Vec<(String, PolicyRow)> {
    let prefix = keys::policy(registry, principal, "");
    let rows = tables.prefix(&prefix, POLICIES_PER_PRINCIPAL_MAX);
    let name = |key: &[u8]| String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
    rows.iter().map(|(key, value)| (name(key), codec::row(value))).collect()
}

fn unknown(kind: &str, name: &str) -> Refusal {
    Refusal::PrincipalUnknown { kind: kind.into(), name: name.into() }
}

fn exists(kind: &str, name: &str) -> Refusal {
    Refusal::PrincipalExists { kind: kind.into(), name: name.into() }
}

fn name_refusal(name: &str) -> Refusal {
    let detail = if name == ANONYMOUS {
        format!("'{ANONYMOUS}' stands for requests without a credential")
    } else {
        format!("1 to {USER_NAME_BYTES_MAX} letters, digits and + = , . @ _ - are allowed")
    };
    Refusal::ParameterInvalid { parameter: "name".into(), detail }
}

/// Whether this can be a principal's or a policy's name: 1–64 of `A–Z a–z 0–9 + = , . @ _ -`, as IAM's.
pub fn name_valid(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b);
    !name.is_empty() && name.len() <= USER_NAME_BYTES_MAX && name.bytes().all(legal)
}

/// Whether this can be an access key's id, as IAM's: letters and digits.
pub fn key_id_valid(key_id: &str) -> bool {
    !key_id.is_empty() && key_id.len() <= KEY_ID_BYTES_MAX && key_id.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Makes a user, or changes whether it is enabled. The last enabled root can't be disabled.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PutUser {
    /// Its registry.
    pub registry: RegistryId,
    /// Its name.
    pub name: String,
    /// Root or not; of an existing user it can't change.
    pub kind: UserKind,
    /// Whether its keys work.
    pub enabled: bool,
    /// Refuse if the user exists.
    pub must_be_new: bool,
}

impl Apply for PutUser {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        if !name_valid(&self.name) || self.name == ANONYMOUS {
            return Err(name_refusal(&self.name));
        }
        let before = user(tables, self.registry, &self.name);
        match &before {
            Some(_) if self.must_be_new => return Err(exists("user", &self.name)),
            Some(row) if row.kind != self.kind => return Err(exists("user", &self.name)),
            Some(_) if !self.enabled => keep_an_administrator(tables, self.registry, &self.name)?,
            None if users(tables, self.registry).len() >= USERS_MAX => {
                return Err(Refusal::LimitReached { limit: "users".into(), allowed: USERS_MAX as u64 });
            }
            Some(_) | None => {}
        }
        let created_at_ms = before.map_or(context.clock.now_ms, |row| row.created_at_ms);
        let row = UserRow { kind: self.kind, enabled: self.enabled, created_at_ms };
        tables.put(keys::user(self.registry, &self.name), codec::encode(&row));
        changed(tables);
        Ok(Reply::Done)
    }
}

/// Refuses what would leave a registry without an enabled root user.
fn keep_an_administrator(tables: &impl TablesRead, registry: RegistryId, without: &str) -> Result<(), Refusal> {
    let is_other = |(name, row): &(String, UserRow)| row.kind == UserKind::Root && row.enabled && name != without;
    let is_root = user(tables, registry, without).is_some_and(|row| row.kind == UserKind::Root);
    if is_root && !users(tables, registry).iter().any(is_other) { Err(Refusal::LastAdministrator) } else { Ok(()) }
}

/// Enables or disables a user that is there: unlike [`PutUser`] it never makes one anew that was deleted meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SetUserEnabled {
    /// Its registry.
    pub registry: RegistryId,
    /// Its name.
    pub name: String,
    /// Whether its keys and tokens work.
    pub enabled: bool,
}

impl Apply for SetUserEnabled {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let Some(mut row) = user(tables, self.registry, &self.name) else { return Err(unknown("user", &self.name)) };
        if row.enabled == self.enabled {
            return Ok(Reply::Unchanged);
        }
        if !self.enabled {
            keep_an_administrator(tables, self.registry, &self.name)?;
        }
        row.enabled = self.enabled;
        tables.put(keys::user(self.registry, &self.name), codec::encode(&row));
        changed(tables);
        Ok(Reply::Done)
    }
}

/// Removes a user with its keys and policies. The last enabled root stays.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeleteUser {
    /// Its registry.
    pub registry: RegistryId,
    /// Its name.
    pub name: String,
}

impl Apply for DeleteUser {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        if user(tables, self.registry, &self.name).is_none() {
            return Err(unknown("user", &self.name));
        }
        keep_an_administrator(tables, self.registry, &self.name)?;
        for (key_id, _) in keys_of(tables, self.registry, &self.name) {
            tables.delete(keys::access_key(&key_id));
            tables.delete(keys::key_of(self.registry, &self.name, &key_id));
        }
        for (policy, _) in policies(tables, self.registry, &self.name) {
            tables.delete(keys::policy(self.registry, &self.name, &policy));
        }
        tables.delete(keys::user(self.registry, &self.name));
        changed(tables);
        Ok(Reply::Done)
    }
}

/// Makes an access key, or changes whether it is enabled. The proposer drew, hashed and sealed the secret.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PutKey {
    /// Its id.
    pub key_id: String,
    /// The row; `created_at_ms` is set by apply.
    pub row: KeyRow,
}

impl Apply for PutKey {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let mut row = self.row;
        if !key_id_valid(&self.key_id) || row.sealed_secret.len() > SEALED_SECRET_BYTES_MAX {
            let detail = format!("an id has 1 to {KEY_ID_BYTES_MAX} letters and digits, a secret a bounded length");
            return Err(Refusal::ParameterInvalid { parameter: "access key".into(), detail });
        }
        if user(tables, row.registry, &row.user).is_none() {
            return Err(unknown("user", &row.user));
        }
        match key(tables, &self.key_id) {
            Some(before) if before.user != row.user || before.registry != row.registry => {
                return Err(exists("access key", &self.key_id));
            }
            Some(before) => row.created_at_ms = before.created_at_ms,
            None => {
                if keys_of(tables, row.registry, &row.user).len() >= KEYS_PER_USER_MAX {
                    return Err(Refusal::LimitReached {
                        limit: "access keys".into(),
                        allowed: KEYS_PER_USER_MAX as u64,
                    });
                }
                row.created_at_ms = context.clock.now_ms;
            }
        }
        tables.put(keys::key_of(row.registry, &row.user, &self.key_id), Vec::new());
        tables.put(keys::access_key(&self.key_id), codec::encode(&row));
        changed(tables);
        Ok(Reply::Done)
    }
}

/// Enables or disables an access key that is there: unlike [`PutKey`] it never makes one anew that was deleted
/// meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SetKeyEnabled {
    /// The registry of its owner.
    pub registry: RegistryId,
    /// Its owner; a key of somebody else is unknown.
    pub user: String,
    /// Its id.
    pub key_id: String,
    /// Whether it works.
    pub enabled: bool,
}

impl Apply for SetKeyEnabled {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let found = key(tables, &self.key_id).filter(|row| row.user == self.user && row.registry == self.registry);
        let Some(mut row) = found else { return Err(unknown("access key", &self.key_id)) };
        if row.enabled == self.enabled {
            return Ok(Reply::Unchanged);
        }
        row.enabled = self.enabled;
        tables.put(keys::access_key(&self.key_id), codec::encode(&row));
        changed(tables);
        Ok(Reply::Done)
    }
}

/// Removes an access key of a user.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeleteKey {
    /// The registry of its owner.
    pub registry: RegistryId,
    /// Its owner; a key of somebody else is unknown.
    pub user: String,
    /// Its id.
    pub key_id: String,
}

impl Apply for DeleteKey {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        match key(tables, &self.key_id) {
            Some(row) if row.user == self.user && row.registry == self.registry => {}
            Some(_) | None => return Err(unknown("access key", &self.key_id)),
        }
        tables.delete(keys::access_key(&self.key_id));
        tables.delete(keys::key_of(self.registry, &self.user, &self.key_id));
        changed(tables);
        Ok(Reply::Done)
    }
}

/// Attaches a policy to a user, or to [`ANONYMOUS`], in place of the one of that name.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PutPolicy {
    /// The registry.
    pub registry: RegistryId,
    /// The principal.
    pub principal: String,
    /// The policy's name.
    pub name: String,
    /// The JSON text, already checked.
    pub document: String,
}

impl Apply for PutPolicy {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        if !name_valid(&self.name) {
            return Err(name_refusal(&self.name));
        }
        if self.principal != ANONYMOUS && user(tables, self.registry, &self.principal).is_none() {
            return Err(unknown("user", &self.principal));
        }
        if self.document.len() > POLICY_BYTES_MAX {
            return Err(Refusal::LimitReached { limit: "policy bytes".into(), allowed: POLICY_BYTES_MAX as u64 });
        }
        let key = keys::policy(self.registry, &self.principal, &self.name);
        let count = policies(tables, self.registry, &self.principal).len();
        if !tables.contains(&key) && count >= POLICIES_PER_PRINCIPAL_MAX {
            let allowed = POLICIES_PER_PRINCIPAL_MAX as u64;
            return Err(Refusal::LimitReached { limit: "policies of one principal".into(), allowed });
        }
        tables.put(key, codec::encode(&PolicyRow { document: self.document }));
        changed(tables);
        Ok(Reply::Done)
    }
}

/// Takes a policy away from a principal.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeletePolicy {
    /// The registry.
    pub registry: RegistryId,
    /// The principal.
    pub principal: String,
    /// The policy's name.
    pub name: String,
}

impl Apply for DeletePolicy {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let key = keys::policy(self.registry, &self.principal, &self.name);
        if !tables.contains(&key) {
            return Err(Refusal::PolicyUnknown);
        }
        tables.delete(key);
        changed(tables);
        Ok(Reply::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::command::Command;
    use crate::metadata::testing::World;

    const REGISTRY: RegistryId = RegistryId::DEFAULT;

    fn put_user(name: &str, kind: UserKind, enabled: bool) -> PutUser {
        PutUser { registry: REGISTRY, name: name.to_owned(), kind, enabled, must_be_new: false }
    }

    fn delete_user(name: &str) -> DeleteUser {
        DeleteUser { registry: REGISTRY, name: name.to_owned() }
    }

    fn put_key(user: &str, key_id: &str) -> PutKey {
        let row = KeyRow {
            registry: REGISTRY,
            user: user.to_owned(),
            sealed_secret: vec![1],
            secret_hash: [2; 32],
            enabled: true,
            created_at_ms: 0,
            expires_at_ms: 0,
        };
        PutKey { key_id: key_id.to_owned(), row }
    }

    fn put_policy(principal: &str, name: &str) -> PutPolicy {
        let document = "{}".to_owned();
        PutPolicy { registry: REGISTRY, principal: principal.to_owned(), name: name.to_owned(), document }
    }

    // Every change of users, keys and policies raises the version; a refusal does not.
    #[test]
    fn changes_raise_the_version() {
        let mut world = World::cluster();
        let changes: Vec<Command> = vec![
            put_user("ann", UserKind::Ordinary, true).into(),
            put_key("ann", "K1").into(),
            put_policy("ann", "p").into(),
            put_policy(ANONYMOUS, "p").into(),
            DeleteKey { registry: REGISTRY, user: "ann".into(), key_id: "K1".into() }.into(),
            DeletePolicy { registry: REGISTRY, principal: "ann".into(), name: "p".into() }.into(),
            delete_user("ann").into(),
        ];
        for (number, change) in (1..).zip(changes) {
            world.ok(change.clone());
            assert_eq!(auth_version(&world.tables), AuthVersion(number), "{change:?}");
        }
        for bad in ["ann", ANONYMOUS] {
            assert!(matches!(world.refused(delete_user(bad)), Refusal::PrincipalUnknown { .. }));
        }
        assert_eq!(auth_version(&world.tables), AuthVersion(7));
    }

    // A user goes with everything of it and nothing of others; one made anew under the name has nothing.
    #[test]
    fn delete_takes_all() {
        let mut world = World::cluster();
        for user in ["ann", "anna"] {
            world.ok(put_user(user, UserKind::Ordinary, true));
            for number in 0..KEYS_PER_USER_MAX {
                world.ok(put_key(user, &format!("{user}{number}")));
            }
            assert!(matches!(world.refused(put_key(user, "onemore")), Refusal::LimitReached { .. }));
            for number in 0..POLICIES_PER_PRINCIPAL_MAX {
                world.ok(put_policy(user, &format!("p{number}")));
            }
            assert!(matches!(world.refused(put_policy(user, "onemore")), Refusal::LimitReached { .. }));
        }
        world.ok(delete_user("ann"));
        world.ok(put_user("ann", UserKind::Ordinary, true));
        assert_eq!(keys_of(&world.tables, REGISTRY, "ann"), []);
        assert_eq!(policies(&world.tables, REGISTRY, "ann"), []);
        assert_eq!(key(&world.tables, "ann0"), None);
        assert_eq!(keys_of(&world.tables, REGISTRY, "anna").len(), KEYS_PER_USER_MAX);
        assert_eq!(policies(&world.tables, REGISTRY, "anna").len(), POLICIES_PER_PRINCIPAL_MAX);
    }

    // A12: a key belongs to its owner on every path. Ids and names are bounded.
    #[test]
    fn keys_have_one_owner() {
        let mut world = World::cluster();
        for user in ["ann", "bob"] {
            world.ok(put_user(user, UserKind::Ordinary, true));
        }
        world.ok(put_key("ann", "K1"));
        assert!(matches!(world.refused(put_key("bob", "K1")), Refusal::PrincipalExists { .. }));
        assert!(matches!(world.refused(put_key("eve", "K2")), Refusal::PrincipalUnknown { .. }));
        let stolen = DeleteKey { registry: REGISTRY, user: "bob".into(), key_id: "K1".into() };
        assert!(matches!(world.refused(stolen), Refusal::PrincipalUnknown { .. }));
        for bad in ["", "a b", "a\0b", &"x".repeat(KEY_ID_BYTES_MAX + 1)] {
            assert!(matches!(world.refused(put_key("ann", bad)), Refusal::ParameterInvalid { .. }), "{bad}");
        }
        for bad in ["", ANONYMOUS, "a/b", "a\0b"] {
            let refusal = world.refused(put_user(bad, UserKind::Ordinary, true));
            assert!(matches!(refusal, Refusal::ParameterInvalid { .. }), "{bad}");
        }
    }

    // The last enabled root can neither go nor be disabled; with another one it can.
    #[test]
    fn the_last_root_stays() {
        let mut world = World::cluster();
        world.ok(put_user("root", UserKind::Root, true));
        world.ok(put_user("spare", UserKind::Root, false));
        assert_eq!(world.refused(delete_user("root")), Refusal::LastAdministrator);
        assert_eq!(world.refused(put_user("root", UserKind::Root, false)), Refusal::LastAdministrator);
        assert!(matches!(world.refused(put_user("root", UserKind::Ordinary, true)), Refusal::PrincipalExists { .. }));
        world.ok(put_user("spare", UserKind::Root, true));
        world.ok(put_user("root", UserKind::Root, false));
        world.ok(delete_user("root"));
        assert_eq!(world.refused(delete_user("spare")), Refusal::LastAdministrator);
    }
}
