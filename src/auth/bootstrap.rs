//! The first credential: a root user with one access key, made once per cluster. There is no default one (T9).

use registry_core::metadata::cluster;
use registry_core::metadata::command::Command;
use registry_core::metadata::principal::{self, KeyRow, PutKey, PutUser, UserKind};
use registry_core::vocabulary::Refusal;
use registry_core::vocabulary::ids::RegistryId;
use registry_core::vocabulary::limits::RETRY_AFTER_MS;

use super::secret::SecretKeys;
use super::state::State;
use super::{Auth, Freshness};
use crate::ground::{Secret, random};

/// Name of the user made at first start.
pub const ROOT: &str = "root";

/// Name under which the journal shows what the cluster does to set itself up.
const BOOTSTRAP: &str = "bootstrap";

/// The root user's access key, shown once by whoever made it.
#[derive(Clone, Debug)]
pub struct RootKey {
    /// Its id.
    pub key_id: String,
    /// Its secret.
    pub secret: Secret<String>,
}

impl Auth {
    /// Makes the root user and its first access key, after `cluster init`, on any node. `None` when there is one
    /// already: of several nodes that try, one succeeds.
    ///
    /// With a key `brought` from a file it is that key, and it is put in force also when the root user exists and does
    /// not have it: whoever may write the configuration of a node can get in again.
    pub async fn bootstrap(&self, brought: Option<RootKey>) -> Result<Option<RootKey>, Refusal> {
        bootstrap(&self.0.state, brought).await
    }

    /// Whether this node knows of a root user: then nothing is open any more without a credential.
    pub fn has_root(&self) -> bool {
        self.0.state.peek(|tables, _| principal::user(&tables, RegistryId::DEFAULT, ROOT).is_some())
    }
}

async fn bootstrap(state: &State, brought: Option<RootKey>) -> Result<Option<RootKey>, Refusal> {
    state.ready(Freshness::Linearizable).await?;
    let is_brought = brought.is_some();
    let key =
        brought.unwrap_or_else(|| RootKey { key_id: random::access_key_id(), secret: random::secret_access_key() });
    let registry = RegistryId::DEFAULT;
    let (cluster, root, present) = state.peek(|tables, _| {
        (cluster::read(&tables), principal::user(&tables, registry, ROOT), principal::key(&tables, &key.key_id))
    });
    let secrets = SecretKeys::of(&cluster.ok_or(Refusal::Unavailable { retry_after_ms: RETRY_AFTER_MS })?);
    let mut commands: Vec<Command> = Vec::new();
    match root {
        Some(_) if !is_brought => return Ok(None),
        Some(_) => {
            let is_in_force = |row: KeyRow| {
                row.user == ROOT && row.enabled && secrets.verify(&key.key_id, key.secret.expose(), &row.secret_hash)
            };
            if present.is_some_and(is_in_force) {
                return Ok(None);
            }
        }
        None => {
            let name = ROOT.to_owned();
            commands.push(PutUser { registry, name, kind: UserKind::Root, enabled: true, must_be_new: true }.into());
        }
    }
    let row = KeyRow {
        registry,
        user: ROOT.to_owned(),
        sealed_secret: secrets.seal(&key.key_id, &key.secret),
        secret_hash: secrets.hash(&key.key_id, &key.secret),
        enabled: true,
        created_at_ms: 0,
        expires_at_ms: 0,
    };
    commands.push(PutKey { key_id: key.key_id.clone(), row }.into());
    match state.propose(BOOTSTRAP, commands).await {
        Ok(_) => Ok(Some(key)),
        Err(Refusal::PrincipalExists { kind, .. }) if kind == "user" => Ok(None),
        // nobody knows whether it was made: if this very key is there, it was
        Err(Refusal::Unavailable { .. }) => {
            state.ready(Freshness::Linearizable).await?;
            let is_there = state.peek(|tables, _| principal::key(&tables, &key.key_id).is_some());
            if is_there { Ok(Some(key)) } else { Err(Refusal::Unavailable { retry_after_ms: RETRY_AFTER_MS }) }
        }
        Err(refusal) => Err(refusal),
    }
}
