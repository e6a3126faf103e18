//! The past of tags, for who wants to know what happened to one, or to undo it.

use registry_core::decide::permit::Permit;
use registry_core::metadata::history::{self, Change, ThenAndNow};
use registry_core::metadata::tag;
use registry_core::vocabulary::{Digest, Reference, Refusal, Tag};

use super::{At, Consistency, Page, Registry, find};
use crate::metadata::revision;

/// What a tag names, and how it came to that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagHistory {
    /// What it names now.
    pub now: Option<Digest>,
    /// The changes that are kept, oldest first.
    pub changes: Vec<Change>,
}

impl Registry {
    /// The last changes of a tag. Refuses with `ManifestUnknown` if there never was such a tag.
    pub async fn tag_history(&self, permit: &Permit, tag: &Tag) -> Result<At<TagHistory>, Refusal> {
        self.metadata()
            .read(Consistency::Linearizable, |view| {
                let (repository, _) = find(view, permit)?;
                let now = tag::read(view, &repository, tag).map(|row| row.digest);
                let changes = history::of_tag(view, &repository, tag);
                if changes.is_empty() {
                    return Err(Refusal::ManifestUnknown { reference: Reference::Tag(tag.clone()) });
                }
                Ok(At { value: TagHistory { now, changes }, revision: revision(view) })
            })
            .await?
    }

    /// A page of what the tags of a repository named at `at_ms` (replicated milliseconds since 1970) and name now.
    pub async fn tags_at(
        &self,
        permit: &Permit,
        at_ms: u64,
        after: Option<&Tag>,
        limit: usize,
    ) -> Result<At<Page<ThenAndNow>>, Refusal> {
        self.metadata()
            .read(Consistency::Linearizable, |view| {
                let (repository, _) = find(view, permit)?;
                let found = history::at(view, &repository, at_ms, after, limit + 1);
                Ok(At { value: Page::cut(found, limit), revision: revision(view) })
            })
            .await?
    }
}
