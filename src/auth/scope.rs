//! What a request wants to do, and what a bearer token allows, in the compact form that tokens carry.
//!
//! The grammar of scopes and which actions each covers are core's ([`registry_core::decide::policy::scope`]).

use bincode::{Decode, Encode};
use registry_core::decide::policy::scope::{ScopeAction, ScopeResource, Scopes};
use registry_core::vocabulary::RepositoryName;

/// What a request wants to do in a repository. Every method of every route maps to one of them (T6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read manifests, blobs, referrers.
    Pull,
    /// List tags.
    List,
    /// Upload blobs, put manifests, set tags.
    Push,
    /// Delete manifests, tags, blobs.
    Delete,
    /// Look at the repository itself and its settings.
    Describe,
    /// Make the repository, other than by a push.
    Create,
    /// Change its settings.
    Configure,
    /// Delete the repository itself.
    Remove,
}

impl Action {
    /// The scope action a bearer token must carry for it; none reaches a repository's settings (A17).
    pub(super) fn scope(self) -> Option<ScopeAction> {
        match self {
            Action::Pull | Action::List => Some(ScopeAction::Pull),
            Action::Push => Some(ScopeAction::Push),
            Action::Delete => Some(ScopeAction::Delete),
            Action::Describe | Action::Create | Action::Configure | Action::Remove => None,
        }
    }

    /// Its word in messages.
    pub fn name(self) -> &'static str {
        match self {
            Action::Pull => "pull from",
            Action::List => "list the tags of",
            Action::Push => "push to",
            Action::Delete => "delete from",
            Action::Describe => "describe",
            Action::Create => "create",
            Action::Configure => "change the settings of",
            Action::Remove => "delete",
        }
    }

    /// What a client is asked to come back with. A push asks for pull as well: clients look before they send.
    pub(super) fn wanted(self, repository: &RepositoryName) -> Scopes {
        let resource = ScopeResource::Repository(repository.clone());
        let mut scopes = Scopes::default();
        if let Some(action) = self.scope() {
            scopes.insert(resource.clone(), action);
            if action == ScopeAction::Push {
                scopes.insert(resource, ScopeAction::Pull);
            }
        }
        scopes
    }
}

/// Exactly what a token was given. A list, because tokens name one or two repositories and a request looks for one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Granted {
    catalog: bool,
    repositories: Vec<(RepositoryName, u8)>,
}

fn bit(action: ScopeAction) -> u8 {
    match action {
        ScopeAction::Pull => 1,
        ScopeAction::Push => 2,
        ScopeAction::Delete => 4,
    }
}

impl Granted {
    /// The compact form of these scopes.
    pub(super) fn of(scopes: &Scopes) -> Granted {
        let mut granted = Granted::default();
        for (resource, actions) in scopes.iter() {
            match resource {
                ScopeResource::Catalog => granted.catalog = true,
                ScopeResource::Repository(name) => {
                    let bits = actions.fold(0, |bits, action| bits | bit(action));
                    granted.repositories.push((name.clone(), bits));
                }
            }
        }
        granted
    }

    /// Whether the token may be used for this.
    pub(super) fn covers(&self, repository: &RepositoryName, action: Action) -> bool {
        let Some(needed) = action.scope() else { return false };
        self.repositories.iter().any(|(name, bits)| bits & bit(needed) != 0 && name == repository)
    }

    /// Whether the token may be used for the catalog.
    pub(super) fn covers_catalog(&self) -> bool {
        self.catalog
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A17, T6: the compact form covers what the scopes cover and nothing else.
    #[test]
    fn covers_what_was_granted() {
        let scopes = Scopes::parse(["repository:team/app:pull", "repository:b:*", "registry:catalog:*"]).unwrap();
        let granted = Granted::of(&scopes);
        let name = |text| RepositoryName::parse(text).unwrap();
        for (repository, action, covered) in [
            ("team/app", Action::Pull, true),
            ("team/app", Action::List, true),
            ("team/app", Action::Push, false),
            ("team/app", Action::Delete, false),
            ("team", Action::Pull, false),
            ("team/app-2", Action::Pull, false),
            ("b", Action::Push, true),
            ("b", Action::Delete, true),
            ("b", Action::Configure, false),
            ("b", Action::Create, false),
            ("b", Action::Remove, false),
        ] {
            assert_eq!(granted.covers(&name(repository), action), covered, "{repository} {action:?}");
        }
        assert!(granted.covers_catalog() && !Granted::default().covers_catalog());
    }

    // clients §1: the challenge names what to come back with.
    #[test]
    fn wanted_scopes() {
        let name = RepositoryName::parse("a/b").unwrap();
        for (action, text) in [
            (Action::Pull, "repository:a/b:pull"),
            (Action::List, "repository:a/b:pull"),
            (Action::Push, "repository:a/b:pull,push"),
            (Action::Delete, "repository:a/b:delete"),
            (Action::Configure, ""),
        ] {
            assert_eq!(action.wanted(&name).to_string(), text);
        }
    }
}
