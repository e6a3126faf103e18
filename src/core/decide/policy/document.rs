//! A policy as parsed: statements that can be asked one by one.

use super::action::{Action, ActionSet};
use super::arn::{Resource, ResourcePattern};
use super::condition::Condition;
use super::key::ConditionKey;
use super::principal::{Cover, Principal, PrincipalPattern};

/// What a policy hangs on, which decides its elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyKind {
    /// On a user (or on the anonymous principal): no `Principal`, `Resource` required.
    Identity,
    /// On a repository: `Principal` required, `Resource` optional (the repository is meant).
    Repository,
    /// On a registry: `Principal` and `Resource` required.
    Registry,
}

/// What a statement does where it applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Gives.
    Allow,
    /// Takes, whatever gives.
    Deny,
}

/// A policy, checked and ready to be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub(super) kind: PolicyKind,
    pub(super) statements: Vec<Statement>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Statement {
    pub(super) sid: Option<String>,
    pub(super) effect: Effect,
    /// `None` for identity policies.
    pub(super) principals: Option<Except<Vec<PrincipalPattern>>>,
    pub(super) actions: Except<ActionSet>,
    /// `None` where the repository itself is meant.
    pub(super) resources: Option<Except<Vec<ResourcePattern>>>,
    pub(super) conditions: Vec<Condition>,
}

/// What is listed, or everything but that (`NotAction`, `NotResource`, `NotPrincipal`).
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Except<T> {
    Only(T),
    AllBut(T),
}

/// What a statement is asked about.
pub(super) struct Question<'q> {
    pub(super) principal: &'q Principal,
    pub(super) action: Action,
    pub(super) resource: &'q Resource,
    pub(super) lookup: &'q dyn Fn(&ConditionKey) -> Option<Vec<String>>,
}

impl Policy {
    /// What it hangs on.
    pub fn kind(&self) -> PolicyKind {
        self.kind
    }

    /// How many statements it has.
    pub fn len(&self) -> usize {
        self.statements.len()
    }

    /// Whether it has no statement; a parsed policy always has one.
    pub fn is_empty(&self) -> bool {
        self.statements.is_empty()
    }

    /// Whether its answers follow from principal, action, resource and [`ConditionKey::TAG_EXISTS`] alone, whatever
    /// else the request is: then they may be kept for as long as the policy is.
    pub fn is_constant(&self) -> bool {
        let has_variable = |list: &[ResourcePattern]| list.iter().any(ResourcePattern::has_variable);
        self.statements.iter().all(|statement| {
            let is_varying = match &statement.resources {
                None => false,
                Some(Except::Only(list) | Except::AllBut(list)) => has_variable(list),
            };
            !is_varying && statement.conditions.iter().all(|condition| condition.is_only_on(&ConditionKey::TAG_EXISTS))
        })
    }

    /// Whether any of its answers may hang on this key of the request.
    pub fn names(&self, key: &ConditionKey) -> bool {
        self.statements.iter().any(|statement| {
            let is_in_resources = match &statement.resources {
                None => false,
                Some(Except::Only(list) | Except::AllBut(list)) => list.iter().any(|one| one.names(key)),
            };
            is_in_resources || statement.conditions.iter().any(|condition| condition.names(key))
        })
    }

    /// The first statement of this effect that applies, and how it covers the principal.
    pub(super) fn first(&self, effect: Effect, at_least: Cover, question: &Question<'_>) -> Option<usize> {
        let applies = |statement: &Statement| {
            statement.effect == effect && statement.cover(question.principal) >= at_least && statement.applies(question)
        };
        self.statements.iter().position(applies)
    }
}

impl Statement {
    /// How it covers a principal; an identity policy covers whoever it hangs on.
    fn cover(&self, principal: &Principal) -> Cover {
        let is_deny = self.effect == Effect::Deny;
        let best =
            |list: &[PrincipalPattern]| list.iter().map(|one| one.cover(principal, is_deny)).max().unwrap_or(Cover::No);
        match &self.principals {
            None => Cover::Direct,
            Some(Except::Only(list)) => best(list),
            Some(Except::AllBut(list)) if best(list) == Cover::No => Cover::Direct,
            Some(Except::AllBut(_)) => Cover::No,
        }
    }

    fn applies(&self, question: &Question<'_>) -> bool {
        let is_action = match self.actions {
            Except::Only(set) => set.contains(question.action),
            Except::AllBut(set) => !set.contains(question.action),
        };
        is_action && self.is_on(question) && self.conditions.iter().all(|condition| condition.holds(question.lookup))
    }

    fn is_on(&self, question: &Question<'_>) -> bool {
        let value_of = |key: &ConditionKey| {
            let values = (question.lookup)(key)?;
            <[String; 1]>::try_from(values).ok().map(|[one]| one)
        };
        let is_listed = |list: &[ResourcePattern]| list.iter().any(|one| one.matches(question.resource, &value_of));
        match &self.resources {
            None => true,
            Some(Except::Only(list)) => is_listed(list),
            Some(Except::AllBut(list)) => !is_listed(list),
        }
    }
}
