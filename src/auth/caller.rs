//! Who is asking, as the rest of a request knows it.

use std::net::IpAddr;
use std::sync::Arc;

use registry_core::metadata::principal::AuthVersion;
use registry_core::vocabulary::ids::{RegistryId, Revision};

use super::rights::{Circumstances, Rights};
use super::scope::Granted;

/// Kinds of callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerKind {
    /// May do everything in its registry.
    Root,
    /// May do what its policies allow, and what anybody may.
    User,
    /// Sent no credential, or holds a token that was given without one.
    Anonymous,
}

/// How the caller showed who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialKind {
    /// Not at all.
    None,
    /// Access key id and secret (`Authorization: Basic`).
    AccessKey,
    /// A token of our token service (`Authorization: Bearer`).
    Bearer,
    /// An operator's client certificate, on the admin listener.
    Certificate,
}

/// The identity of one request and what it may do, decided on the state at one revision.
///
/// Cheap to clone; lives as long as its request and is never kept longer: rights are those of [`Caller::revision`].
#[derive(Clone, Debug)]
pub struct Caller {
    pub(super) kind: CallerKind,
    pub(super) name: Arc<str>,
    pub(super) registry: RegistryId,
    pub(super) credential: CredentialKind,
    pub(super) key_id: Option<Arc<str>>,
    /// What a bearer token is limited to; `None` for other credentials, which carry all rights of their owner.
    pub(super) granted: Option<Arc<Granted>>,
    pub(super) rights: Arc<Rights>,
    pub(super) circumstances: Circumstances,
    pub(super) revision: Revision,
    pub(super) version: AuthVersion,
}

impl Caller {
    /// Root, user or anonymous.
    pub fn kind(&self) -> CallerKind {
        self.kind
    }

    /// The user's name; `anonymous` without one. What the journal and the audit show.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The registry the caller belongs to, and whose repositories are meant when a request names none.
    pub fn registry(&self) -> RegistryId {
        self.registry
    }

    /// How it showed who it is.
    pub fn credential(&self) -> CredentialKind {
        self.credential
    }

    /// The access key behind it (no secret), if any.
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// Where the request came from, after the trusted-proxy rule.
    pub fn address(&self) -> IpAddr {
        self.circumstances.address
    }

    /// The revision its rights were read at. Reading on with `AtLeast(revision)` needs no second round through
    /// consensus.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The version of users, keys and policies its rights were read at.
    pub fn version(&self) -> AuthVersion {
        self.version
    }

    /// Whether it may do everything in its registry.
    pub fn is_root(&self) -> bool {
        self.kind == CallerKind::Root
    }
}
