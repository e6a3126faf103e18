//! What was made in another region, made here: by rank, bottom-up, any number of times.
//!
//! Orders the steps of an arrival; which record wins is decided where it is applied, in the core. Who may send what to
//! whom is decided before, by rules. Source: consensus-and-faults §6.1, §6.3.

use bytes::Bytes;
use registry_core::decide::permit::Permit;
use registry_core::metadata::command::Command;
use registry_core::metadata::remote::{
    DropRemoteManifest, DropRemoteTag, PutRemoteManifest, PutRemoteSettings, SetRemoteTag,
};
use registry_core::metadata::reply::Reply;
use registry_core::metadata::repository::{RepositoryKey, Settings};
use registry_core::metadata::settings::Home;
use registry_core::vocabulary::manifest::ParsedManifest;
use registry_core::vocabulary::{Digest, MediaType, Refusal, Tag, Version};

use super::{Registry, find};

/// What came of a record of another region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// It is what is here now.
    Applied,
    /// What is here ranks above it, and stays.
    Superseded,
}

/// A manifest of another region, with its bytes as they came.
#[derive(Clone, Debug)]
pub struct RemoteManifest {
    /// Its digest, as the other region names it; verified here.
    pub digest: Digest,
    /// The type it has there.
    pub media_type: MediaType,
    /// Its bytes.
    pub body: Bytes,
    /// Version of its presence.
    pub presence: Version,
}

/// The versions of a tag's setting in another region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteSetting {
    /// Its own.
    pub version: Version,
    /// What it ranks by.
    pub base: Version,
    /// Of what its maker saw and replaced, where that is known.
    pub previous: Option<Version>,
}

/// A delete that another region tells of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoteDelete {
    /// Of a manifest, with the tags that name it.
    Manifest {
        /// Which.
        digest: Digest,
        /// Version of the delete.
        version: Version,
        /// Number of the region that tells of it.
        from: u16,
        /// It may be of what was never sent: see [`DropRemoteManifest`].
        is_filtered: bool,
    },
    /// Of a tag.
    Tag {
        /// Which.
        tag: Tag,
        /// Version of the delete, or of the setting that ended with its manifest.
        version: Version,
        /// What that setting ranked by; `None` of a delete.
        base: Option<Version>,
        /// Version of what was dropped there, where that is known.
        previous: Option<Version>,
    },
}

impl Registry {
    /// Puts a manifest of another region. All blobs and manifests that it names must have come before.
    pub async fn put_remote_manifest(&self, permit: &Permit, manifest: RemoteManifest) -> Result<Merged, Refusal> {
        let RemoteManifest { digest, media_type, body, presence } = manifest;
        let actual = Digest::of(digest.algorithm(), &body);
        if actual != digest {
            return Err(Refusal::DigestMismatch { claimed: digest, actual: Box::new(actual) });
        }
        let parsed = ParsedManifest::parse(&body, Some(&media_type))?;
        let put = self.manifest_command(permit, digest, parsed, &body).await?;
        let repository = put.repository.clone();
        self.merge(permit, &repository, PutRemoteManifest { put, presence }.into()).await
    }

    /// Sets a tag as it is in another region. Its manifest must be here.
    pub async fn set_remote_tag(
        &self,
        permit: &Permit,
        tag: &Tag,
        digest: &Digest,
        setting: RemoteSetting,
    ) -> Result<Merged, Refusal> {
        let (repository, _) = self.metadata().peek(|view| find(view, permit))?;
        let RemoteSetting { version, base, previous } = setting;
        let (tag, digest) = (tag.clone(), *digest);
        let set = SetRemoteTag { repository: repository.clone(), tag, digest, version, base, previous };
        self.merge(permit, &repository, set.into()).await
    }

    /// Drops what was deleted in another region.
    pub async fn drop_remote(&self, permit: &Permit, delete: RemoteDelete) -> Result<Merged, Refusal> {
        let (repository, _) = self.metadata().peek(|view| find(view, permit))?;
        let key = repository.clone();
        let drop = match delete {
            RemoteDelete::Manifest { digest, version, from, is_filtered } => {
                DropRemoteManifest { repository: key, digest, version, from, is_filtered }.into()
            }
            RemoteDelete::Tag { tag, version, base, previous } => {
                DropRemoteTag { repository: key, tag, version, base, previous }.into()
            }
        };
        self.merge(permit, &repository, drop).await
    }

    /// Sets the settings of a repository, and where it is written, as they are in another region.
    pub async fn put_remote_settings(
        &self,
        permit: &Permit,
        (settings, home): (&Settings, &Home),
        version: Version,
    ) -> Result<Merged, Refusal> {
        let (repository, _) = self.metadata().peek(|view| find(view, permit))?;
        let (settings, home) = (settings.clone(), home.clone());
        let put = PutRemoteSettings { repository: repository.clone(), settings, home, version };
        self.merge(permit, &repository, put.into()).await
    }

    async fn merge(&self, permit: &Permit, repository: &RepositoryKey, command: Command) -> Result<Merged, Refusal> {
        let accepted = self.propose_growth(&permit.principal, repository, vec![command]).await?;
        match accepted.replies.first() {
            Some(Reply::Superseded) => Ok(Merged::Superseded),
            Some(_) => Ok(Merged::Applied),
            None => Err(Refusal::Changed),
        }
    }
}
