//! May this tag move? One decision function for every door: push by tag or digest, index push, `PutImage`, copy,
//! replication, restore.

use std::sync::Arc;

use bincode::{Decode, Encode};

use crate::vocabulary::limits::{TAG_BYTES_MAX, TAG_FILTER_WILDCARDS_MAX, TAG_FILTERS_MAX};
use crate::vocabulary::text::text;
use crate::vocabulary::{Digest, Refusal, RepositoryName, Tag};

/// Whether the tags of a repository may move, as ECR's `imageTagMutability` with its exclusion filters.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Mutability {
    /// Every tag may move.
    Mutable,
    /// No tag that exists may move.
    Immutable,
    /// Tags may move, but for those that a filter matches.
    MutableWithExclusion(TagFilters),
    /// No tag may move, but for those that a filter matches.
    ImmutableWithExclusion(TagFilters),
}

/// Why a text is not a tag filter, or a list not one of filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagFilterError {
    /// Outside the grammar.
    #[error(
        "a tag filter has 1 to {TAG_BYTES_MAX} letters, digits, '.', '_', '-' and '*', the last at most \
         {TAG_FILTER_WILDCARDS_MAX} times"
    )]
    Grammar,
    /// None, or too many.
    #[error("there must be 1 to {TAG_FILTERS_MAX} tag filters")]
    Count,
}

/// A pattern over tags: `*` stands for any characters, also none, and a dot is a dot. Source: ECR, ecr-api §5.9.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TagFilter(Arc<str>);

text!(TagFilter, TagFilterError);

/// One to [`TAG_FILTERS_MAX`] filters.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TagFilters(Vec<TagFilter>);

impl TagFilters {
    /// A list of filters.
    pub fn new(filters: impl IntoIterator<Item = TagFilter>) -> Result<TagFilters, TagFilterError> {
        let filters: Vec<TagFilter> = filters.into_iter().take(TAG_FILTERS_MAX + 1).collect();
        let is_legal = (1..=TAG_FILTERS_MAX).contains(&filters.len());
        if is_legal { Ok(TagFilters(filters)) } else { Err(TagFilterError::Count) }
    }

    /// The filters.
    pub fn iter(&self) -> impl Iterator<Item = &TagFilter> {
        self.0.iter()
    }

    /// Whether one of them matches the whole tag.
    pub fn matches(&self, tag: &Tag) -> bool {
        self.iter().any(|filter| filter.matches(tag.as_str()))
    }
}

impl TagFilter {
    /// Parses 1 to 128 characters of `[0-9a-zA-Z._*-]`, `*` at most twice.
    pub fn parse(text: &str) -> Result<TagFilter, TagFilterError> {
        let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._*-".contains(&byte);
        let wildcards = text.bytes().filter(|byte| *byte == b'*').count();
        let is_sized = (1..=TAG_BYTES_MAX).contains(&text.len()) && wildcards <= TAG_FILTER_WILDCARDS_MAX;
        if is_sized && text.bytes().all(is_legal) { Ok(TagFilter(text.into())) } else { Err(TagFilterError::Grammar) }
    }

    /// Whether the whole tag matches. Linear: greedy with one place to come back to.
    pub fn matches(&self, tag: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), tag.as_bytes());
        let (mut p, mut t, mut back) = (0, 0, None);
        while t < text.len() {
            if pattern.get(p) == Some(&b'*') {
                back = Some((p, t));
                p += 1;
            } else if pattern.get(p) == Some(&text[t]) {
                p += 1;
                t += 1;
            } else if let Some((star, from)) = back {
                back = Some((star, from + 1));
                p = star + 1;
                t = from + 1;
            } else {
                return false;
            }
        }
        pattern[p..].iter().all(|byte| *byte == b'*')
    }
}

impl Mutability {
    /// Whether this tag, once set, stays where it is.
    pub fn fixes(&self, tag: &Tag) -> bool {
        match self {
            Mutability::Mutable => false,
            Mutability::Immutable => true,
            Mutability::MutableWithExclusion(filters) => filters.matches(tag),
            Mutability::ImmutableWithExclusion(filters) => !filters.matches(tag),
        }
    }
}

/// What the caller may do with tags, decided by policy before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TagRights {
    /// Set a tag that does not exist.
    pub create: bool,
    /// Move a tag that exists. No name is special, `latest` neither.
    pub update: bool,
}

impl TagRights {
    /// Both.
    pub const FULL: TagRights = TagRights { create: true, update: true };
}

/// Decides whether `tag`, which names `present` now, may be set to `wanted`.
///
/// Setting it to what it names already is no move: allowed to whoever may set tags at all, fixed or not.
pub fn may_set(
    mutability: &Mutability,
    rights: TagRights,
    repository: &RepositoryName,
    tag: &Tag,
    present: Option<&Digest>,
    wanted: &Digest,
) -> Result<(), Refusal> {
    let denied = |what: &str| Refusal::Denied { detail: format!("you may not {what} tag '{tag}' in '{repository}'") };
    match present {
        None if !rights.create => Err(denied("create")),
        None => Ok(()),
        Some(_) if !rights.create && !rights.update => Err(denied("set")),
        Some(present) if present == wanted => Ok(()),
        Some(_) if !rights.update => Err(denied("move")),
        Some(_) if mutability.fixes(tag) => {
            Err(Refusal::TagImmutable { tag: tag.clone(), repository: repository.clone() })
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A8, A9, A11: who may create may not move; a fixed tag stays; setting what is set already is no move.
    #[test]
    fn table() {
        let (repository, tag) = (RepositoryName::parse("a/b").unwrap(), Tag::parse("latest").unwrap());
        let (one, two) = (Digest::sha256(b"1"), Digest::sha256(b"2"));
        let create = TagRights { create: true, update: false };
        let none = TagRights { create: false, update: false };
        let filters = |filter: &str| TagFilters::new([TagFilter::parse(filter).unwrap()]).unwrap();
        let except = |filter: &str| Mutability::ImmutableWithExclusion(filters(filter));
        let but = |filter: &str| Mutability::MutableWithExclusion(filters(filter));
        for (mutability, rights, present, allowed) in [
            (Mutability::Mutable, TagRights::FULL, Some(&one), true),
            (Mutability::Mutable, create, Some(&one), false),
            (Mutability::Mutable, create, Some(&two), true),
            (Mutability::Mutable, create, None, true),
            (Mutability::Mutable, none, None, false),
            (Mutability::Mutable, none, Some(&two), false),
            (Mutability::Immutable, TagRights::FULL, Some(&one), false),
            (Mutability::Immutable, TagRights::FULL, Some(&two), true),
            (Mutability::Immutable, TagRights::FULL, None, true),
            (except("lat*"), TagRights::FULL, Some(&one), true),
            (except("v*"), TagRights::FULL, Some(&one), false),
            (but("*test"), TagRights::FULL, Some(&one), false),
            (but("v*"), TagRights::FULL, Some(&one), true),
        ] {
            let answer = may_set(&mutability, rights, &repository, &tag, present, &two);
            assert_eq!(answer.is_ok(), allowed, "{mutability:?} {rights:?} {present:?}");
        }
    }

    // Filters match whole tags, in linear time.
    #[test]
    fn filters() {
        for (filter, tag, matches) in [
            ("*", "x", true),
            ("v1", "v1", true),
            ("v1", "v10", false),
            ("v*", "v10", true),
            ("*-rc*", "1.0-rc1", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b", false),
            ("1.0", "1x0", false),
            ("**", "a", true),
        ] {
            assert_eq!(TagFilter::parse(filter).unwrap().matches(tag), matches, "{filter} {tag}");
        }
        for bad in ["", "***", "a?", "a b", "ä", "a/b", &"a".repeat(129)] {
            assert_eq!(TagFilter::parse(bad), Err(TagFilterError::Grammar), "{bad}");
        }
        let filter = TagFilter::parse("a").unwrap();
        assert_eq!(TagFilters::new([]), Err(TagFilterError::Count));
        assert_eq!(TagFilters::new(vec![filter.clone(); 6]), Err(TagFilterError::Count));
        assert_eq!(TagFilters::new(vec![filter; 5]).unwrap().iter().count(), 5);
    }
}
