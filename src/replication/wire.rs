//! The generated messages, and their translation to and from the core's words. Nothing else knows the wire's forms;
//! what comes from another region is parsed here as strictly as a client's request.

use registry_core::metadata::outbox::Change;
use registry_core::vocabulary::{Digest, RepositoryName, Tag, Version};
use tonic::Status;

#[allow(
    unused_qualifications,
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated; what it trips over changes"
)]
pub(super) mod proto {
    tonic::include_proto!("portolan.region.v1");
}

use proto::change::Kind;

/// A change as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Travelling {
    /// Its index in the source's log.
    pub(super) index: u64,
    /// In which repository.
    pub(super) repository: RepositoryName,
    /// What changed.
    pub(super) change: Change,
    /// When, the source's replicated milliseconds since 1970.
    pub(super) at_ms: u64,
}

fn malformed(what: &str) -> Status {
    Status::invalid_argument(format!("malformed {what}"))
}

pub(super) fn digest(text: &str) -> Result<Digest, Status> {
    Digest::parse(text).map_err(|_| malformed("digest"))
}

pub(super) fn repository(text: &str) -> Result<RepositoryName, Status> {
    RepositoryName::parse(text).map_err(|_| malformed("repository name"))
}

fn tag(text: &str) -> Result<Tag, Status> {
    Tag::parse(text).map_err(|_| malformed("tag"))
}

pub(super) fn version(version: Option<proto::Version>) -> Result<Version, Status> {
    let proto::Version { home_epoch, hlc, region } = version.ok_or_else(|| malformed("version"))?;
    Ok(Version { home_epoch, hlc, region: u16::try_from(region).map_err(|_| malformed("version"))? })
}

impl From<Version> for proto::Version {
    fn from(Version { home_epoch, hlc, region }: Version) -> proto::Version {
        proto::Version { home_epoch, hlc, region: region.into() }
    }
}

impl From<&Travelling> for proto::Change {
    fn from(travelling: &Travelling) -> proto::Change {
        let manifest = |digest: &Digest, version: &Version| proto::ManifestChange {
            digest: digest.to_string(),
            version: Some((*version).into()),
        };
        let kind = match &travelling.change {
            Change::ManifestHere { digest, presence } => Kind::ManifestHere(manifest(digest, presence)),
            Change::ManifestGone { digest, version } => Kind::ManifestGone(manifest(digest, version)),
            Change::TagSet { tag, digest, version, base } => Kind::TagSet(proto::TagSet {
                tag: tag.to_string(),
                digest: digest.to_string(),
                version: Some((*version).into()),
                base: Some((*base).into()),
            }),
            Change::TagGone { tag, version } => {
                Kind::TagGone(proto::TagGone { tag: tag.to_string(), version: Some((*version).into()) })
            }
        };
        proto::Change {
            index: travelling.index,
            repository: travelling.repository.to_string(),
            at_ms: travelling.at_ms,
            kind: Some(kind),
        }
    }
}

impl TryFrom<proto::Change> for Travelling {
    type Error = Status;

    fn try_from(change: proto::Change) -> Result<Travelling, Status> {
        let proto::Change { index, repository: name, at_ms, kind } = change;
        let change = match kind.ok_or_else(|| malformed("change"))? {
            Kind::ManifestHere(here) => {
                Change::ManifestHere { digest: digest(&here.digest)?, presence: version(here.version)? }
            }
            Kind::ManifestGone(gone) => {
                Change::ManifestGone { digest: digest(&gone.digest)?, version: version(gone.version)? }
            }
            Kind::TagSet(set) => Change::TagSet {
                tag: tag(&set.tag)?,
                digest: digest(&set.digest)?,
                version: version(set.version)?,
                base: version(set.base)?,
            },
            Kind::TagGone(gone) => Change::TagGone { tag: tag(&gone.tag)?, version: version(gone.version)? },
        };
        Ok(Travelling { index, repository: repository(&name)?, change, at_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes() -> Vec<Change> {
        let (digest, tag) = (Digest::sha256(b"x"), Tag::parse("v1").unwrap());
        let version = Version { home_epoch: 1, hlc: 300, region: 2 };
        vec![
            Change::ManifestHere { digest, presence: version },
            Change::ManifestGone { digest, version },
            Change::TagSet { tag: tag.clone(), digest, version, base: Version::default() },
            Change::TagGone { tag, version },
        ]
    }

    fn travelling(change: Change) -> Travelling {
        Travelling { index: 7, repository: RepositoryName::parse("team/app").unwrap(), change, at_ms: 9 }
    }

    // Every change arrives as it was sent.
    #[test]
    fn there_and_back() {
        for change in changes() {
            let sent = travelling(change);
            assert_eq!(Travelling::try_from(proto::Change::from(&sent)).unwrap(), sent);
        }
    }

    // R16: what another region sends is parsed as strictly as a client's request.
    #[test]
    fn r16_malformed_changes_are_refused() {
        let good = || proto::Change::from(&travelling(changes().remove(2)));
        let spoilt = |spoil: &dyn Fn(&mut proto::TagSet)| {
            let mut change = good();
            let Some(Kind::TagSet(set)) = &mut change.kind else { panic!("another kind") };
            spoil(set);
            change
        };
        let bad = [
            proto::Change { kind: None, ..good() },
            proto::Change { repository: "../x".into(), ..good() },
            spoilt(&|set| set.tag = "-".repeat(200)),
            spoilt(&|set| set.digest = "sha256:12".into()),
            spoilt(&|set| set.version = None),
            spoilt(&|set| set.base = Some(proto::Version { home_epoch: 0, hlc: 1, region: 70_000 })),
        ];
        for change in bad {
            assert!(Travelling::try_from(change.clone()).is_err(), "{change:?}");
        }
    }
}
