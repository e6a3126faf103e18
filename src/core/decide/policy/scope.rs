//! Token scopes: `repository:team/app:pull,push`, as clients ask for them and tokens carry them.
//!
//! Source: distribution's token scope grammar; T6, A17, A18. A token carries exactly what was asked for *and*
//! granted, per repository; each action of the policy language belongs to one scope action, so that a route that maps
//! to an action needs no second table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::action::{Action, Level};
use crate::vocabulary::RepositoryName;
use crate::vocabulary::limits::TOKEN_SCOPES_MAX;

/// What a token may be used for on one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScopeAction {
    /// Read content and lists.
    Pull,
    /// Write content.
    Push,
    /// Delete content.
    Delete,
}

/// What a scope is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ScopeResource {
    /// One repository.
    Repository(RepositoryName),
    /// The list of repositories (`registry:catalog:*`).
    Catalog,
}

/// Why a text is not a list of scopes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// More than [`TOKEN_SCOPES_MAX`].
    #[error("more than {TOKEN_SCOPES_MAX} scopes")]
    TooMany,
    /// Outside the grammar.
    #[error("'{0}' is not a scope: write for example repository:team/app:pull,push")]
    Form(String),
    /// The repository is not a name.
    #[error("'{0}' does not name a repository")]
    Name(String),
}

/// Scopes by resource: those of one resource folded together. Sorted, so that equal wishes make equal tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes(BTreeMap<ScopeResource, BTreeSet<ScopeAction>>);

impl Scopes {
    /// Parses the values of every `scope` parameter; each may hold several scopes with single spaces between them.
    ///
    /// A well-formed resource or action that does not exist here is left out: it is simply not granted. `*` asks for
    /// every action there is.
    pub fn parse<'t>(parameters: impl IntoIterator<Item = &'t str>) -> Result<Scopes, ScopeError> {
        let mut scopes = Scopes::default();
        let mut count = 0;
        for scope in parameters.into_iter().filter(|text| !text.is_empty()).flat_map(|text| text.split(' ')) {
            count += 1;
            if count > TOKEN_SCOPES_MAX {
                return Err(ScopeError::TooMany);
            }
            if let Some((resource, actions)) = parse_one(scope)? {
                scopes.0.entry(resource).or_default().extend(actions);
            }
        }
        Ok(scopes)
    }

    /// Adds an action on a resource.
    pub fn insert(&mut self, resource: ScopeResource, action: ScopeAction) {
        self.0.entry(resource).or_default().insert(action);
    }

    /// Whether a token with these scopes may be used for an action on a repository.
    pub fn covers(&self, repository: &RepositoryName, action: Action) -> bool {
        let Some(needed) = ScopeAction::of(action) else { return false };
        self.0.get(&ScopeResource::Repository(repository.clone())).is_some_and(|actions| actions.contains(&needed))
    }

    /// Whether a token with these scopes may be used for the catalog.
    pub fn covers_catalog(&self) -> bool {
        self.0.get(&ScopeResource::Catalog).is_some_and(|actions| actions.contains(&ScopeAction::Pull))
    }

    /// What was asked for, where `may` agrees: the result is never wider than either (A18).
    #[must_use]
    pub fn granted(&self, may: impl Fn(&ScopeResource, ScopeAction) -> bool) -> Scopes {
        let mut granted = Scopes::default();
        for (resource, actions) in &self.0 {
            let actions: BTreeSet<_> = actions.iter().copied().filter(|action| may(resource, *action)).collect();
            if !actions.is_empty() {
                granted.0.insert(resource.clone(), actions);
            }
        }
        granted
    }

    /// Resources and actions, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&ScopeResource, impl Iterator<Item = ScopeAction>)> {
        self.0.iter().map(|(resource, actions)| (resource, actions.iter().copied()))
    }

    /// Whether nothing is asked for: a login.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn parse_one(scope: &str) -> Result<Option<(ScopeResource, BTreeSet<ScopeAction>)>, ScopeError> {
    let form = || ScopeError::Form(scope.chars().take(100).collect());
    let parts: Vec<&str> = scope.split(':').collect();
    // A host with a port in the name would be a fourth part; names here have no host.
    let [kind, name, actions] = parts[..] else { return Err(form()) };
    let kind = match kind.split_once('(') {
        None => kind,
        Some((kind, class)) if class.strip_suffix(')').is_some_and(is_word) => kind,
        Some(_) => return Err(form()),
    };
    if !is_word(kind) || !actions.split(',').all(|action| action == "*" || is_word(action)) {
        return Err(form());
    }
    let resource = match (kind, name) {
        ("repository", name) => {
            let name = RepositoryName::parse(name).map_err(|_| ScopeError::Name(name.chars().take(100).collect()))?;
            ScopeResource::Repository(name)
        }
        ("registry", "catalog") => ScopeResource::Catalog,
        _ => return Ok(None),
    };
    let actions = actions.split(',').flat_map(|action| match action {
        "*" => &[ScopeAction::Pull, ScopeAction::Push, ScopeAction::Delete][..],
        "pull" => &[ScopeAction::Pull],
        "push" => &[ScopeAction::Push],
        "delete" => &[ScopeAction::Delete],
        _ => &[],
    });
    Ok(Some((resource, actions.copied().collect())))
}

/// `[a-z0-9]+`
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

impl ScopeAction {
    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            ScopeAction::Pull => "pull",
            ScopeAction::Push => "push",
            ScopeAction::Delete => "delete",
        }
    }

    /// The scope action that covers an action of the policy language; none covers settings, policies and the cluster.
    pub fn of(action: Action) -> Option<ScopeAction> {
        if action == Action::BatchDeleteImage {
            return Some(ScopeAction::Delete);
        }
        let is_content = [
            Action::BatchCheckLayerAvailability,
            Action::BatchGetImage,
            Action::GetDownloadUrlForLayer,
            Action::DescribeImages,
            Action::ListImages,
            Action::CompleteLayerUpload,
            Action::CreateRepository,
            Action::InitiateLayerUpload,
            Action::PutImage,
            Action::UploadLayerPart,
        ]
        .contains(&action);
        match action.level() {
            Level::Read | Level::List if is_content => Some(ScopeAction::Pull),
            Level::Write if is_content => Some(ScopeAction::Push),
            Level::Read | Level::List | Level::Write | Level::Permissions | Level::Tagging => None,
        }
    }

    /// Actions of the policy language of which the caller must have one for this scope action to be granted at all.
    /// Each request is decided again by its own action.
    pub fn granted_by(self) -> &'static [Action] {
        match self {
            ScopeAction::Pull => &[Action::BatchGetImage, Action::GetDownloadUrlForLayer, Action::ListImages],
            ScopeAction::Push => &[Action::PutImage, Action::InitiateLayerUpload],
            ScopeAction::Delete => &[Action::BatchDeleteImage],
        }
    }
}

impl fmt::Display for ScopeResource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScopeResource::Repository(name) => write!(out, "repository:{name}"),
            ScopeResource::Catalog => out.write_str("registry:catalog"),
        }
    }
}

/// The scopes as one parameter.
impl fmt::Display for Scopes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (resource, actions)) in self.0.iter().enumerate() {
            let actions: Vec<&str> = actions.iter().map(|action| action.name()).collect();
            write!(out, "{}{resource}:{}", if at == 0 { "" } else { " " }, actions.join(","))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, ScopeError> {
        Scopes::parse([text]).map(|scopes| scopes.to_string())
    }

    // T6: scopes by grammar; repeated ones fold, unknown ones vanish, malformed ones are refused.
    #[test]
    fn t6_parse_table() {
        for (text, want) in [
            ("", ""),
            ("repository:a/b:pull", "repository:a/b:pull"),
            ("repository:a/b:push,pull", "repository:a/b:pull,push"),
            ("repository:a/b:pull repository:a/b:push", "repository:a/b:pull,push"),
            ("repository:b:pull repository:a:pull", "repository:a:pull repository:b:pull"),
            ("repository:a:*", "repository:a:pull,push,delete"),
            ("repository:a:pull,fly", "repository:a:pull"),
            ("repository(plugin):a:pull", "repository:a:pull"),
            ("registry:catalog:*", "registry:catalog:pull,push,delete"),
            ("widget:a:pull", ""),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(want), "{text}");
        }
        for bad in [
            "repository",
            "repository:a",
            "repository:a:",
            "repository:a:pull,",
            "repository:a:PULL",
            "repository:a: pull",
            "repository:a:pull  repository:b:pull",
            " repository:a:pull",
            "repository:host:5000/a:pull",
            "repository:A:pull",
            "repository::pull",
            "repository:../a:pull",
            "repository(:a:pull",
            "repository():a:pull",
            "Repository:a:pull",
            "repository:a:pull\n",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        let many = vec!["repository:a:pull"; TOKEN_SCOPES_MAX + 1].join(" ");
        assert_eq!(parse(&many), Err(ScopeError::TooMany));
        assert_eq!(Scopes::parse(vec!["repository:a:pull"; TOKEN_SCOPES_MAX + 1]), Err(ScopeError::TooMany));
    }

    // T6, A17: a scope covers its own repository and its own actions only, and none covers settings.
    #[test]
    fn a17_covers() {
        let scopes = Scopes::parse(["repository:a:pull"]).unwrap();
        let (a, b) = (RepositoryName::parse("a").unwrap(), RepositoryName::parse("a/b").unwrap());
        assert!(scopes.covers(&a, Action::BatchGetImage) && scopes.covers(&a, Action::ListImages));
        assert!(!scopes.covers(&b, Action::BatchGetImage) && !scopes.covers(&a, Action::PutImage));
        assert!(!scopes.covers(&a, Action::BatchDeleteImage) && !scopes.covers_catalog());
        let all = Scopes::parse(["repository:a:*"]).unwrap();
        let covered: Vec<_> = Action::ALL.iter().copied().filter(|action| all.covers(&a, *action)).collect();
        assert_eq!(covered.len(), 11, "{covered:?}");
        assert!(!all.covers(&a, Action::SetRepositoryPolicy) && !all.covers(&a, Action::ManageIdentities));
    }

    // A18: what is granted is never more than what was asked for, nor more than what the caller may.
    #[test]
    fn a18_intersection() {
        let asked = Scopes::parse(["repository:a:pull,push repository:b:pull"]).unwrap();
        let granted =
            asked.granted(|resource, action| resource.to_string() == "repository:a" && action != ScopeAction::Push);
        assert_eq!(granted.to_string(), "repository:a:pull");
        assert!(asked.granted(|_, _| false).is_empty());
    }
}
