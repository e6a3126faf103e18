//! May this tag move? One decision function for every door: push by tag or digest, index push, `PutImage`, copy,
//! replication, restore.

use bincode::{Decode, Encode};

use crate::vocabulary::{Digest, Refusal, RepositoryName, Tag};

/// Whether the tags of a repository may move, as ECR's `imageTagMutability` with its exclusion filters.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Mutability {
    /// Every tag may move.
    Mutable,
    /// No tag that exists may move.
    Immutable,
    /// Tags may move, but for those that a filter matches.
    MutableWithExclusion(Vec<TagFilter>),
    /// No tag may move, but for those that a filter matches.
    ImmutableWithExclusion(Vec<TagFilter>),
}

/// A pattern over tags: `*` stands for any characters, also none.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TagFilter(pub String);

impl TagFilter {
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
        let matched = |filters: &[TagFilter]| filters.iter().any(|filter| filter.matches(tag.as_str()));
        match self {
            Mutability::Mutable => false,
            Mutability::Immutable => true,
            Mutability::MutableWithExclusion(filters) => matched(filters),
            Mutability::ImmutableWithExclusion(filters) => !matched(filters),
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
        let except = |filter: &str| Mutability::ImmutableWithExclusion(vec![TagFilter(filter.into())]);
        let but = |filter: &str| Mutability::MutableWithExclusion(vec![TagFilter(filter.into())]);
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
            ("", "a", false),
        ] {
            assert_eq!(TagFilter(filter.into()).matches(tag), matches, "{filter} {tag}");
        }
        assert!(!TagFilter("*a".repeat(200)).matches(&"a".repeat(128)));
    }
}
