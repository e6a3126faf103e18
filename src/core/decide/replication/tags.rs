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

/// Tags that a rule sends, which may have sent others before. What was made while it had another filter is sent if that
/// one lets it through, and the one of now does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SentTags {
    /// Those of now.
    pub now: TagScope,
    /// Those of before, the oldest first, and up to when each counted: hybrid logical times where records are compared,
    /// indexes of the log where changes are sent.
    pub before: Vec<(u64, TagScope)>,
}

impl SentTags {
    /// All tags, and all manifests, and never any others.
    pub const ALL: SentTags = SentTags { now: TagScope::ALL, before: Vec::new() };

    /// Whether manifests are sent for their own sake, whenever they were made.
    pub fn is_all(&self) -> bool {
        self.now.is_all() && self.before.iter().all(|(_, tags)| tags.is_all())
    }

    /// Whether a tag is sent that was set, or deleted, then.
    pub fn passes(&self, tag: &Tag, at: u64) -> bool {
        self.now.passes(tag) && self.of(at).passes(tag)
    }

    /// Whether a manifest that was put then is sent for its own sake.
    pub fn passes_manifests(&self, at: u64) -> bool {
        self.now.is_all() && self.of(at).is_all()
    }

    /// What counted then.
    fn of(&self, at: u64) -> &TagScope {
        self.before.iter().find(|(until, _)| at <= *until).map_or(&self.now, |(_, tags)| tags)
    }
}

impl From<TagScope> for SentTags {
    fn from(now: TagScope) -> SentTags {
        SentTags { now, before: Vec::new() }
    }
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

    // What is of a time of another filter has to pass both; what is newer goes by the one of now alone.
    #[test]
    fn filters_of_before() {
        let tag = |text: &str| Tag::parse(text).unwrap();
        let before = vec![(10, scope(&["v*"], &[])), (20, scope(&["dev"], &[]))];
        let sent = SentTags { now: scope(&["v*", "dev"], &["*-rc*"]), before };
        let passing = |at: u64| ["v1", "dev", "v1-rc1"].map(|text| sent.passes(&tag(text), at));
        assert_eq!([1, 10].map(passing), [[true, false, false]; 2]);
        assert_eq!([11, 20].map(passing), [[false, true, false]; 2]);
        assert_eq!(passing(21), [true, true, false]);
        assert!(![10, 20, 21].iter().any(|at| sent.passes_manifests(*at)) && !sent.is_all());
        let freed = SentTags { now: TagScope::ALL, before: vec![(10, scope(&["v*"], &[]))] };
        assert_eq!([10, 11].map(|at| freed.passes_manifests(at)), [false, true]);
        assert!(freed.passes(&tag("dev"), 11) && !freed.passes(&tag("dev"), 10) && !freed.is_all());
        let bound = SentTags { now: scope(&["v*"], &[]), before: vec![(10, TagScope::ALL)] };
        assert!(bound.passes(&tag("v1"), 1) && !bound.passes_manifests(1) && !bound.is_all());
        assert!(SentTags::ALL.is_all() && SentTags::from(TagScope::ALL) == SentTags::ALL);
    }
}
