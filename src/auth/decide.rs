//! May they: a caller's wish becomes a permit or a refusal. Pure: everything was read when the caller was
//! authenticated.
//!
//! The rules, in order (A19, A22):
//!
//! - Whatever a request without a credential may do, everybody may, unless an own policy denies it explicitly.
//! - Allowed, and the token (if it is one) reaches that far: a permit. Allowed, and the token does not: a challenge
//!   with the scope to ask for, never 403, so that clients fetch a wider token.
//! - Not allowed and no credential: a challenge, the same for every repository, existing or not.
//! - Not allowed and the caller may do something else in the repository: denied.
//! - Otherwise the repository does not exist, whether it does or not.

use registry_core::decide::permit::Permit;
use registry_core::decide::policy;
use registry_core::decide::policy::scope::{ScopeAction, ScopeResource, Scopes};
use registry_core::decide::tag_move::TagRights;
use registry_core::metadata::repository;
use registry_core::vocabulary::ids::RegistryId;
use registry_core::vocabulary::{Refusal, RepositoryName, refusal};

use super::caller::{Caller, CallerKind, CredentialKind};
use super::scope::Action;
use super::{Challenge, ChallengeError, Refused};

/// See [`Auth::permit`](super::Auth::permit).
pub(super) fn permit(
    caller: &Caller,
    action: Action,
    registry: RegistryId,
    repository: &RepositoryName,
) -> Result<Permit, Refused> {
    let rights = caller.rights.on(registry, repository, &caller.circumstances);
    if rights.allows(action) {
        if caller.granted.as_ref().is_some_and(|granted| !granted.covers(repository, action)) {
            let error = Some(ChallengeError::InsufficientScope);
            return Err(Refused::Unauthenticated(Challenge { scopes: action.wanted(repository), error }));
        }
        let is_push = action == Action::Push;
        return Ok(Permit {
            principal: caller.name().to_owned(),
            registry,
            repository: repository.clone(),
            create_repository: action == Action::Create || is_push && rights.allows(Action::Create),
            tags: TagRights { create: is_push && rights.may_create_tags(), update: is_push && rights.may_move_tags() },
        });
    }
    if caller.kind == CallerKind::Anonymous {
        return Err(Refused::Unauthenticated(Challenge { scopes: action.wanted(repository), error: None }));
    }
    Err(Refused::Refusal(if rights.sees() {
        let who = caller.name();
        Refusal::Denied { detail: refusal::detail(format_args!("{who} may not {} '{repository}'", action.name())) }
    } else {
        repository::unknown(registry, repository)
    }))
}

/// See [`Auth::may_see`](super::Auth::may_see).
pub(super) fn may_see(caller: &Caller, registry: RegistryId, repository: &RepositoryName) -> bool {
    caller.rights.on(registry, repository, &caller.circumstances).sees()
}

/// See [`Auth::permit_catalog`](super::Auth::permit_catalog).
pub(super) fn permit_catalog(caller: &Caller) -> Result<(), Refused> {
    let mut scopes = Scopes::default();
    scopes.insert(ScopeResource::Catalog, ScopeAction::Pull);
    match &caller.granted {
        Some(granted) if granted.covers_catalog() => Ok(()),
        Some(_) => {
            let error = Some(ChallengeError::InsufficientScope);
            Err(Refused::Unauthenticated(Challenge { scopes, error }))
        }
        None if caller.credential == CredentialKind::None => {
            Err(Refused::Unauthenticated(Challenge { scopes, error: None }))
        }
        None => Ok(()),
    }
}

/// See [`Auth::permit_base`](super::Auth::permit_base).
pub(super) fn permit_base(caller: &Caller) -> Result<(), Refused> {
    match caller.credential {
        CredentialKind::None => Err(Refused::Unauthenticated(Challenge::default())),
        CredentialKind::AccessKey | CredentialKind::Bearer | CredentialKind::Certificate => Ok(()),
    }
}

/// See [`Auth::permit_admin`](super::Auth::permit_admin). No bearer token reaches this far (A17).
pub(super) fn permit_admin(caller: &Caller, action: policy::Action) -> Result<(), Refused> {
    match caller.credential {
        CredentialKind::None | CredentialKind::Bearer => Err(Refused::Unauthenticated(Challenge::default())),
        CredentialKind::Certificate => Ok(()),
        CredentialKind::AccessKey => {
            if caller.rights.allows_on_registry(action, caller.registry, &caller.circumstances) {
                return Ok(());
            }
            let text = format_args!("{} may not perform {action}", caller.name());
            Err(Refused::Refusal(Refusal::Denied { detail: refusal::detail(text) }))
        }
    }
}

/// What of the scopes asked for a token for this caller may carry: never more than the caller may (A18).
pub(super) fn grantable(caller: &Caller, asked: &Scopes) -> Scopes {
    asked.granted(|resource, action| match resource {
        ScopeResource::Catalog => action == ScopeAction::Pull,
        ScopeResource::Repository(name) => {
            let rights = caller.rights.on(caller.registry, name, &caller.circumstances);
            match action {
                ScopeAction::Pull => rights.allows(Action::Pull) || rights.allows(Action::List),
                ScopeAction::Push => rights.allows(Action::Push),
                ScopeAction::Delete => rights.allows(Action::Delete),
            }
        }
    })
}
