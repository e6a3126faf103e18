//! Manifests, tags and referrers: get, put, delete, list.

use bytes::Bytes;
use registry_core::decide::permit::Permit;
use registry_core::metadata::manifest::{self, ManifestRow};
use registry_core::metadata::reply::{Reply, TagMove};
use registry_core::metadata::repository::RepositoryKey;
use registry_core::metadata::tables::TablesRead;
use registry_core::metadata::{referrer, tag};
use registry_core::vocabulary::ids::Revision;
use registry_core::vocabulary::limits::{
    MANIFEST_INLINE_BYTES_MAX, REFERRER_ANNOTATIONS_BYTES_MAX, REFERRERS_LOOKED_AT_MAX, REFERRERS_PAGE_BYTES_MAX,
    REFERRERS_PAGE_ENTRIES_MAX,
};
use registry_core::vocabulary::manifest::ParsedManifest;
use registry_core::vocabulary::{Digest, MediaType, Reference, Refusal, Tag};

use super::{At, Consistency, Page, Registry, find};
use crate::metadata::revision;

/// A manifest without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestInfo {
    /// Its digest.
    pub digest: Digest,
    /// The type it was put with.
    pub media_type: MediaType,
    /// Its size, bytes.
    pub size_bytes: u64,
}

/// A manifest with its bytes as they were received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredManifest {
    /// What it is.
    pub info: ManifestInfo,
    /// Its bytes.
    pub bytes: Bytes,
}

/// A manifest to be put.
#[derive(Clone, Debug)]
pub struct PutManifest {
    /// Under which tag or digest.
    pub reference: Reference,
    /// What the request says its type is.
    pub content_type: Option<MediaType>,
    /// Its bytes.
    pub body: Bytes,
    /// Further tags to set.
    pub tags: Vec<Tag>,
    /// What the tag of the reference must name now; `Some(None)` for nothing.
    pub expected: Option<Option<Digest>>,
}

/// A manifest that was put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestPut {
    /// Its digest.
    pub digest: Digest,
    /// What it is attached to.
    pub subject: Option<Digest>,
    /// The tags that were set, with what they named before.
    pub tags: Vec<TagMove>,
    /// Whether it was not there before.
    pub created: bool,
}

/// A referrer of a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferrerInfo {
    /// Digest, type and size.
    pub info: ManifestInfo,
    /// Its effective artifact type.
    pub artifact_type: Option<String>,
    /// Its annotations.
    pub annotations: Vec<(String, String)>,
}

/// A page of referrers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrers {
    /// Its entries, in digest order; may be none although there is a next page, behind a filter.
    pub items: Vec<ReferrerInfo>,
    /// Behind which referrer the next page begins; `None` if this is the last one.
    pub next: Option<Digest>,
}

/// What a reference names in a view.
struct Resolved {
    repository: RepositoryKey,
    digest: Digest,
    row: ManifestRow,
    inline: Option<Vec<u8>>,
    revision: Revision,
}

impl Resolved {
    fn info(&self) -> ManifestInfo {
        let ManifestRow { media_type, size_bytes, .. } = &self.row;
        ManifestInfo { digest: self.digest, media_type: media_type.clone(), size_bytes: *size_bytes }
    }
}

impl Registry {
    /// Resolves a reference. By digest a fresh local state is enough, but its *no* is confirmed before it is given.
    async fn resolve(
        &self,
        permit: &Permit,
        reference: &Reference,
        consistency: Consistency,
        with_bytes: bool,
    ) -> Result<Resolved, Refusal> {
        self.metadata().ready(consistency).await?;
        let look = || self.metadata().peek(|view| resolve_in(view, revision(view), permit, reference, with_bytes));
        match look() {
            Err(Refusal::ManifestUnknown { .. } | Refusal::RepositoryUnknown { .. })
                if consistency != Consistency::Linearizable =>
            {
                self.metadata().ready(Consistency::Linearizable).await?;
                look()
            }
            answer => answer,
        }
    }

    /// A manifest's type and size.
    pub async fn stat_manifest(
        &self,
        permit: &Permit,
        reference: &Reference,
        consistency: Consistency,
    ) -> Result<At<ManifestInfo>, Refusal> {
        let found = self.resolve(permit, reference, consistency, false).await?;
        Ok(At { value: found.info(), revision: found.revision })
    }

    /// A manifest with its bytes. Large ones are read from the blobs and verified there.
    pub async fn manifest(
        &self,
        permit: &Permit,
        reference: &Reference,
        consistency: Consistency,
    ) -> Result<At<StoredManifest>, Refusal> {
        let mut found = self.resolve(permit, reference, consistency, true).await?;
        let bytes = match found.inline.take() {
            Some(bytes) => Bytes::from(bytes),
            None => self.whole_blob(&found.repository, &found.digest).await?,
        };
        Ok(At { value: StoredManifest { info: found.info(), bytes }, revision: found.revision })
    }

    /// Puts a manifest and sets its tags, all or nothing.
    pub async fn put_manifest(&self, permit: &Permit, put: PutManifest) -> Result<At<ManifestPut>, Refusal> {
        let parsed = ParsedManifest::parse(&put.body, put.content_type.as_ref())?;
        let mut tags = put.tags;
        let digest = match &put.reference {
            Reference::Digest(claimed) => {
                let actual = Digest::of(claimed.algorithm(), &put.body);
                if actual != *claimed {
                    return Err(Refusal::DigestMismatch { claimed: *claimed, actual: Box::new(actual) });
                }
                actual
            }
            Reference::Tag(tag) => {
                tags.insert(0, tag.clone());
                Digest::sha256(&put.body)
            }
        };
        let mut seen = std::collections::BTreeSet::new();
        tags.retain(|tag| seen.insert(tag.clone()));
        self.may_write(permit)?;
        let command = self.manifest_command(permit, digest, parsed, &put.body).await?;
        let (subject, repository) = (command.subject, command.repository.clone());
        let command = manifest::PutManifest { tags, expected: put.expected, ..command };
        let accepted = self.propose_growth(&permit.principal, &repository, vec![command.into()]).await?;
        match accepted.replies.into_iter().next() {
            Some(Reply::Manifest { created, tags }) => {
                Ok(At { value: ManifestPut { digest, subject, tags, created }, revision: accepted.revision })
            }
            _ => Err(Refusal::Changed),
        }
    }

    /// What puts a manifest, without tags and conditions. The repository is made if the permit allows it, and a
    /// manifest that is too large for the tables becomes a blob of it.
    pub(super) async fn manifest_command(
        &self,
        permit: &Permit,
        digest: Digest,
        parsed: ParsedManifest,
        body: &Bytes,
    ) -> Result<manifest::PutManifest, Refusal> {
        let repository = self.ensure_repository(permit).await?;
        let is_inline = body.len() <= MANIFEST_INLINE_BYTES_MAX;
        if !is_inline {
            let body = body.clone();
            let stream = Box::pin(futures_util::stream::once(async move { Ok(body) }));
            self.push_blob(permit, &digest, stream).await?;
        }
        let subject = parsed.subject.as_ref().map(|subject| subject.digest);
        let annotation_bytes: usize = parsed.annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
        let fits = annotation_bytes <= REFERRER_ANNOTATIONS_BYTES_MAX;
        Ok(manifest::PutManifest {
            repository,
            digest,
            media_type: parsed.media_type.clone(),
            size_bytes: body.len() as u64,
            inline: is_inline.then(|| body.to_vec()),
            references: parsed.references().to_vec(),
            subject,
            artifact_type: parsed.artifact_type.as_ref().map(|kind| kind.as_str().to_owned()),
            annotations: (subject.is_some() && fits).then(|| parsed.annotations.into_iter().collect()),
            tags: Vec::new(),
            rights: permit.tags,
            expected: None,
        })
    }

    /// Drops a tag, if it names what is `expected` of it, or deletes a manifest with its tags.
    pub async fn delete_manifest(
        &self,
        permit: &Permit,
        reference: &Reference,
        expected: Option<Digest>,
    ) -> Result<At<Vec<TagMove>>, Refusal> {
        let (repository, _) = self.metadata().read(Consistency::Linearizable, |view| find(view, permit)).await??;
        let command = match reference {
            Reference::Tag(tag) => tag::DeleteTag { repository, tag: tag.clone(), expected }.into(),
            Reference::Digest(digest) => manifest::DeleteManifest { repository, digest: *digest }.into(),
        };
        let accepted = self.metadata().propose(&permit.principal, vec![command]).await?;
        match accepted.replies.into_iter().next() {
            Some(Reply::Deleted { tags }) => Ok(At { value: tags, revision: accepted.revision }),
            _ => Err(Refusal::Changed),
        }
    }

    /// A page of tags, in byte order.
    pub async fn list_tags(
        &self,
        permit: &Permit,
        after: Option<&str>,
        limit: usize,
        consistency: Consistency,
    ) -> Result<At<Page<Tag>>, Refusal> {
        self.metadata()
            .read(consistency, |view| {
                let (repository, _) = find(view, permit)?;
                let tags = tag::list(view, &repository, after, limit + 1);
                let tags = tags.into_iter().map(|(tag, _)| tag).collect();
                Ok(At { value: Page::cut(tags, limit), revision: revision(view) })
            })
            .await?
    }

    /// A page of the referrers of a subject, in digest order; none for a subject nobody knows. A page costs no more
    /// than its bounds, whatever the filter hides and however large annotations are.
    pub async fn referrers(
        &self,
        permit: &Permit,
        subject: &Digest,
        artifact_type: Option<&str>,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<At<Referrers>, Refusal> {
        let (repository, (rows, mut next), revision) = self
            .metadata()
            .read(Consistency::Linearizable, |view| {
                let (repository, _) = find(view, permit)?;
                let rows = referrers_in(view, &repository, subject, artifact_type, after, limit);
                Ok::<_, Refusal>((repository, rows, revision(view)))
            })
            .await??;
        let mut items: Vec<ReferrerInfo> = Vec::with_capacity(rows.len());
        let mut page_bytes = 0;
        for (digest, row) in rows {
            // annotations that are not in the row cost a look at their manifest
            page_bytes += row.annotations.as_ref().map_or(row.size_bytes, |annotations| {
                annotations.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
            });
            if let Some(last) = items.last()
                && page_bytes > REFERRERS_PAGE_BYTES_MAX as u64
            {
                next = Some(last.info.digest);
                break;
            }
            let annotations = match row.annotations {
                Some(annotations) => annotations,
                None => self.annotations(&repository, &digest).await?,
            };
            let info = ManifestInfo { digest, media_type: row.media_type, size_bytes: row.size_bytes };
            items.push(ReferrerInfo { info, artifact_type: row.artifact_type, annotations });
        }
        Ok(At { value: Referrers { items, next }, revision })
    }

    /// Annotations that are too large for a row, from the manifest itself.
    async fn annotations(&self, repository: &RepositoryKey, digest: &Digest) -> Result<Vec<(String, String)>, Refusal> {
        let inline = self.metadata().peek(|view| manifest::inline_bytes(view, repository, digest));
        let bytes = match inline {
            Some(bytes) => Bytes::from(bytes),
            None => self.whole_blob(repository, digest).await?,
        };
        let parsed = ParsedManifest::parse(&bytes, None)?;
        Ok(parsed.annotations.into_iter().collect())
    }
}

fn resolve_in(
    tables: &impl TablesRead,
    revision: Revision,
    permit: &Permit,
    reference: &Reference,
    with_bytes: bool,
) -> Result<Resolved, Refusal> {
    let (repository, _) = find(tables, permit)?;
    let unknown = || Refusal::ManifestUnknown { reference: reference.clone() };
    let digest = match reference {
        Reference::Tag(tag) => tag::read(tables, &repository, tag).ok_or_else(unknown)?.digest,
        Reference::Digest(digest) => *digest,
    };
    let row = manifest::read(tables, &repository, &digest).ok_or_else(unknown)?;
    let inline = if with_bytes { manifest::inline_bytes(tables, &repository, &digest) } else { None };
    Ok(Resolved { repository, digest, row, inline, revision })
}

/// Up to `limit` referrers of that type, and behind which one the next page begins, if there is one. A filter that
/// hides most reads on in steps, as far as one page may look.
fn referrers_in(
    tables: &impl TablesRead,
    repository: &RepositoryKey,
    subject: &Digest,
    artifact_type: Option<&str>,
    after: Option<&Digest>,
    limit: usize,
) -> (Vec<(Digest, referrer::ReferrerRow)>, Option<Digest>) {
    let (mut found, mut looked_at) = (Vec::new(), 0);
    let mut after = after.copied();
    if limit == 0 {
        return (found, None);
    }
    let step = if artifact_type.is_some() { REFERRERS_PAGE_ENTRIES_MAX.max(limit + 1) } else { limit + 1 };
    loop {
        let rows = referrer::list(tables, repository, subject, after.as_ref(), step);
        let is_last = rows.len() < step;
        looked_at += rows.len();
        after = rows.last().map(|(digest, _)| *digest).or(after);
        let wanted =
            |row: &referrer::ReferrerRow| artifact_type.is_none() || row.artifact_type.as_deref() == artifact_type;
        found.extend(rows.into_iter().filter(|(_, row)| wanted(row)));
        if found.len() > limit {
            found.truncate(limit);
            let next = found.last().map(|(digest, _)| *digest);
            return (found, next);
        }
        if is_last {
            return (found, None);
        }
        if looked_at >= REFERRERS_LOOKED_AT_MAX {
            return (found, after);
        }
    }
}
