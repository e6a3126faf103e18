//! Which tags a rule sends, where it does not send all.
//!
//! A rule that says so sends what its tags name, and no manifest for its own sake, but for one that is attached to
//! another one (OCI `subject`): whether a record is sent has to be told from that record alone, the same in both
//! regions. What belongs to a manifest by its name, or by its subject, travels therefore whatever tags that manifest
//! has.

use bincode::{Decode, Encode};

use crate::decide::tag_move::{TagFilter, TagFilterError, TagFilters};
use crate::vocabulary::limits::TAG_FILTERS_MAX;
use crate::vocabulary::tag::Tag;

/// Tags that a rule sends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct TagScope {
    /// One of these must match; `None`: any tag will do.
    include: Option<TagFilters>,
    /// None of these may match.
    exclude: Option<TagFilters>,
}

impl TagScope {
    /// All tags, and all manifests.
    pub const ALL: TagScope = TagScope { include: None, exclude: None };

    /// What one of `include` matches, or anything if there is none of it, and none of `exclude` does. Their order is of
    /// no account, nor is one that stands there twice.
    ///
    /// # Errors
    /// More than [`TAG_FILTERS_MAX`] filters in a list.
    pub fn new(
        include: impl IntoIterator<Item = TagFilter>,
        exclude: impl IntoIterator<Item = TagFilter>,
    ) -> Result<TagScope, TagFilterError> {
        Ok(TagScope { include: some(include)?, exclude: some(exclude)? })
    }

    /// Filters of which one must match; none of them where any tag will do.
    pub fn include(&self) -> impl Iterator<Item = &TagFilter> {
        self.include.iter().flat_map(TagFilters::iter)
    }

    /// Filters of which none may match.
    pub fn exclude(&self) -> impl Iterator<Item = &TagFilter> {
        self.exclude.iter().flat_map(TagFilters::iter)
    }

    /// Whether there is no filter: manifests are sent for their own sake.
    pub fn is_all(&self) -> bool {
        *self == TagScope::ALL
    }

    /// Whether a tag is sent. Those that are made of a digest are: signatures travel with what they are of.
    pub fn passes(&self, tag: &Tag) -> bool {
        let matches = |filters: &TagFilters| filters.matches(tag);
        let is_meant = self.include.as_ref().is_none_or(matches) && !self.exclude.as_ref().is_some_and(matches);
        is_meant || tag.is_of_digest()
    }
}

/// A list of filters, sorted, each once; `None` for an empty one.
fn some(filters: impl IntoIterator<Item = TagFilter>) -> Result<Option<TagFilters>, TagFilterError> {
    let mut filters: Vec<TagFilter> = filters.into_iter().take(TAG_FILTERS_MAX + 1).collect();
    if filters.len() > TAG_FILTERS_MAX {
        return Err(TagFilterError::Count);
    }
    filters.sort_unstable();
    filters.dedup();
    (!filters.is_empty()).then(|| TagFilters::new(filters)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(texts: &[&str]) -> Vec<TagFilter> {
        texts.iter().map(|text| TagFilter::parse(text).unwrap()).collect()
    }

    fn scope(include: &[&str], exclude: &[&str]) -> TagScope {
        TagScope::new(filters(include), filters(exclude)).unwrap()
    }

    // One of those that include, if there are any, and none of those that exclude; signatures always.
    #[test]
    fn what_passes() {
        let signature = format!("sha256-{}.sig", "0".repeat(64));
        type Texts<'a> = &'a [&'a str];
        let table: [(Texts<'_>, Texts<'_>, Texts<'_>, Texts<'_>); 4] = [
            (&[], &[], &["v1", "dev"], &[]),
            (&["v*"], &[], &["v1", "v"], &["dev", "1v"]),
            (&[], &["*-rc*", "dev"], &["v1", "dev2"], &["v1-rc1", "dev"]),
            (&["v*", "latest"], &["*-rc*"], &["v1", "latest"], &["v1-rc1", "dev"]),
        ];
        for (include, exclude, passing, others) in table {
            let scope = scope(include, exclude);
            let passes = |text: &&str| scope.passes(&Tag::parse(text).unwrap());
            assert!(passing.iter().all(passes), "{scope:?}");
            assert!(!others.iter().any(passes), "{scope:?}");
            assert!(passes(&&*signature), "{scope:?}");
        }
        assert!(!scope(&[], &["sha256-*.sig"]).passes(&Tag::parse("sha256-12.sig").unwrap()), "a plain tag");
    }

    // Without a filter all is meant; the same filters in another order are the same; lists are bounded.
    #[test]
    fn lists() {
        assert!(scope(&[], &[]).is_all() && TagScope::default().is_all());
        assert!(!scope(&["*"], &[]).is_all(), "all tags, and no manifest for its own sake");
        assert_eq!(scope(&["a", "b"], &["c", "d"]), scope(&["b", "a"], &["d", "c"]));
        assert_ne!(scope(&["a"], &[]), scope(&[], &["a"]));
        let many: Vec<String> = (0..=TAG_FILTERS_MAX).map(|number| format!("a{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(TagScope::new(filters(&many), []), Err(TagFilterError::Count));
        assert_eq!(TagScope::new([], filters(&many)), Err(TagFilterError::Count));
        assert_eq!(scope(&many[1..], &["b"]).include().count(), TAG_FILTERS_MAX);
        assert_eq!(scope(&["a"], &["b"]).exclude().map(TagFilter::as_str).collect::<Vec<_>>(), ["b"]);
    }

    // One that stands there twice is the same as once, and too many are too many all the same.
    #[test]
    fn twice_the_same() {
        assert_eq!(scope(&["b", "a", "b"], &["c", "c"]), scope(&["a", "b"], &["c"]));
        assert_eq!(scope(&["b", "a", "b"], &[]).include().count(), 2);
        assert_eq!(TagScope::new(filters(&["a"; TAG_FILTERS_MAX + 1]), []), Err(TagFilterError::Count));
    }
}
