//! The decision: may this principal do this to that, and which statement says so.
//!
//! Source: ecr-api §8.3. In order: an explicit deny anywhere is a no; the root user of the registry may; in the
//! registry of the principal an identity policy or a resource policy that names the principal is enough, across
//! registries both are needed; a boundary and a session policy must allow as well; silence is a no.
//!
//! Who has a credential never gets less than who has none (A22): where silence would be the answer, what the policies
//! give to the anonymous principal counts too, within boundary and session. The denies of the anonymous principal
//! bind nobody else.

use std::fmt;

use super::action::Action;
use super::arn::Resource;
use super::document::{Effect, Policy, Question};
use super::key::{ConditionKey, Context};
use super::principal::{Cover, Principal};
use crate::decide::tag_move::TagRights;
use crate::vocabulary::{Refusal, Timestamp, refusal};

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Request<'r> {
    /// Who.
    pub principal: &'r Principal,
    /// What.
    pub action: Action,
    /// On what.
    pub resource: &'r Resource,
    /// When, by the clock of whoever asks: `aws:CurrentTime`.
    pub at: Timestamp,
    /// What else is known.
    pub context: &'r Context,
}

/// A policy with the name it is attached under.
#[derive(Clone, Copy, Debug)]
pub struct Attached<'p> {
    /// Its name, for the reason.
    pub name: &'p str,
    /// The policy.
    pub policy: &'p Policy,
}

/// Every policy that bears on a request. Whoever collects them reads them from one state.
#[derive(Clone, Debug, Default)]
pub struct Policies<'p> {
    /// Of the principal (for an anonymous one: leave this empty, they are under `anonymous`).
    pub identity: Vec<Attached<'p>>,
    /// Of the anonymous principal, in the registry of the resource.
    pub anonymous: Vec<Attached<'p>>,
    /// Of the repository.
    pub repository: Option<&'p Policy>,
    /// Of the registry that owns the resource.
    pub registry: Option<&'p Policy>,
    /// The most that the principal may have, where one is set.
    pub boundary: Option<Attached<'p>>,
    /// The most that this session may have, where one is set.
    pub session: Option<Attached<'p>>,
}

/// The statement that decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grounds {
    /// Which kind of policy: "identity-based", "repository", "registry", "boundary", "session", "anonymous".
    pub kind: &'static str,
    /// The name of the policy; empty where there is only one of its kind.
    pub policy: String,
    /// The place of the statement, from 0.
    pub statement: usize,
    /// The statement's own name.
    pub sid: Option<String>,
}

/// The answer, with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The principal is the root user of the registry and nothing denies.
    AllowedToRoot,
    /// A statement gives it.
    Allowed(Grounds),
    /// A statement takes it, whatever gives.
    DeniedBy(Grounds),
    /// Nothing gives it. The text says which kind of policy is missing.
    NotAllowed(&'static str),
}

/// Decides a request.
pub fn decide(request: &Request<'_>, policies: &Policies<'_>) -> Decision {
    if *request.principal == Principal::Anonymous {
        return Asked { request, policies, identity: ("anonymous", &policies.anonymous) }.decide();
    }
    let own = Asked { request, policies, identity: ("identity-based", &policies.identity) }.decide();
    let Decision::NotAllowed(why) = own else { return own };
    let nobody = Request { principal: &Principal::Anonymous, ..*request };
    match (Asked { request: &nobody, policies, identity: ("anonymous", &policies.anonymous) }).decide() {
        allowed @ (Decision::Allowed(_) | Decision::AllowedToRoot) => allowed,
        Decision::DeniedBy(_) | Decision::NotAllowed(_) => Decision::NotAllowed(why),
    }
}

/// What the principal may do with tags of a repository: `PutImage`, asked once as for a new tag and once as for one
/// that exists and points elsewhere. The only way by which pushes ask, so that no door forgets the difference (A8,
/// A9).
pub fn tag_rights(request: &Request<'_>, policies: &Policies<'_>) -> TagRights {
    let may = |exists: &str| {
        let mut context = request.context.clone();
        context.replace(ConditionKey::TAG_EXISTS, exists);
        decide(&Request { action: Action::PutImage, context: &context, ..*request }, policies).is_allowed()
    };
    TagRights { create: may("false"), update: may("true") }
}

struct Asked<'a> {
    request: &'a Request<'a>,
    policies: &'a Policies<'a>,
    identity: (&'static str, &'a [Attached<'a>]),
}

impl Asked<'_> {
    fn decide(&self) -> Decision {
        if let Some(grounds) = self.explicit_deny() {
            return Decision::DeniedBy(grounds);
        }
        let own_registry = self.request.principal.registry();
        let is_at_home = own_registry.is_none() || own_registry == Some(self.request.resource.registry());
        if is_at_home && matches!(self.request.principal, Principal::Root { .. }) {
            return Decision::AllowedToRoot;
        }
        let identity = self.identity_allow();
        // At home, a resource policy that names the whole registry leaves the decision to its identity policies.
        let resource = self.resource_allow(if is_at_home { Cover::Direct } else { Cover::Registry });
        let allow = match (identity, resource) {
            (Some(identity), Some(_)) => identity,
            (Some(one), None) | (None, Some(one)) if is_at_home => one,
            (None, None) if is_at_home => return Decision::NotAllowed("no identity-based policy allows"),
            (_, None) => return Decision::NotAllowed("no resource-based policy allows"),
            (None, _) => return Decision::NotAllowed("no identity-based policy allows"),
        };
        self.within_bounds(allow)
    }

    fn explicit_deny(&self) -> Option<Grounds> {
        let Policies { repository, registry, boundary, session, .. } = self.policies;
        let (kind, identity) = self.identity;
        let bounds = [("boundary", boundary), ("session", session)];
        let attached = identity
            .iter()
            .map(|one| (kind, *one))
            .chain(bounds.into_iter().filter_map(|(kind, one)| Some((kind, (*one)?))));
        let resource = [("repository", repository), ("registry", registry)];
        let single =
            resource.into_iter().filter_map(|(kind, policy)| Some((kind, Attached { name: "", policy: (*policy)? })));
        // A deny for the whole registry binds everybody in it.
        attached.chain(single).find_map(|(kind, one)| self.first(kind, one, Effect::Deny, Cover::Registry))
    }

    fn identity_allow(&self) -> Option<Grounds> {
        let (kind, identity) = self.identity;
        // The root user of another registry acts there by what that registry gives it.
        if let Principal::Root { registry } = self.request.principal {
            let grounds = Grounds { kind: "root", policy: registry.to_string(), statement: 0, sid: None };
            return Some(grounds);
        }
        identity.iter().find_map(|one| self.first(kind, *one, Effect::Allow, Cover::Direct))
    }

    fn resource_allow(&self, at_least: Cover) -> Option<Grounds> {
        let policies = [("repository", self.policies.repository), ("registry", self.policies.registry)];
        policies.into_iter().find_map(|(kind, policy)| {
            self.first(kind, Attached { name: "", policy: policy? }, Effect::Allow, at_least)
        })
    }

    fn within_bounds(&self, allow: Grounds) -> Decision {
        let allows = |kind, one: &Attached<'_>| self.first(kind, *one, Effect::Allow, Cover::Direct).is_some();
        match (&self.policies.boundary, &self.policies.session) {
            (Some(boundary), _) if !allows("boundary", boundary) => {
                Decision::NotAllowed("no permissions boundary allows")
            }
            (_, Some(session)) if !allows("session", session) => Decision::NotAllowed("no session policy allows"),
            _ => Decision::Allowed(allow),
        }
    }

    fn first(&self, kind: &'static str, one: Attached<'_>, effect: Effect, at_least: Cover) -> Option<Grounds> {
        let lookup = |key: &ConditionKey| self.request.values(key);
        let Request { principal, action, resource, .. } = *self.request;
        let question = Question { principal, action, resource, lookup: &lookup };
        let statement = one.policy.first(effect, at_least, &question)?;
        let sid = one.policy.statements[statement].sid.clone();
        Some(Grounds { kind, policy: one.name.to_owned(), statement, sid })
    }
}

impl Request<'_> {
    /// The values of a condition key: those that principal, resource and time give by themselves, else the context's.
    /// The context cannot override the former.
    fn values(&self, key: &ConditionKey) -> Option<Vec<String>> {
        let one = |value: Option<String>| value.map(|value| vec![value]);
        match key.as_str() {
            "aws:CurrentTime" => one(Some(self.at.to_string())),
            "aws:EpochTime" => one(Some(self.at.seconds().to_string())),
            "aws:PrincipalAccount" => one(self.principal.registry().map(|registry| registry.to_string())),
            "aws:PrincipalArn" => one(self.principal.arn()),
            "aws:PrincipalType" => one(Some(self.principal.kind().to_owned())),
            "aws:RequestedRegion" => one(Some(self.resource.region().to_string())),
            "aws:ResourceAccount" => one(Some(self.resource.registry().to_string())),
            "aws:username" => one(self.principal.user_name().map(str::to_owned)),
            _ => self.context.get(key).map(<[String]>::to_vec),
        }
    }
}

impl Decision {
    /// Whether the answer is yes.
    pub fn is_allowed(&self) -> bool {
        match self {
            Decision::AllowedToRoot | Decision::Allowed(_) => true,
            Decision::DeniedBy(_) | Decision::NotAllowed(_) => false,
        }
    }

    /// The answer as a result; a no in ECR's words (ecr-api §1.3). Whether the caller may learn that the repository
    /// exists is for whoever asks to decide.
    pub fn into_result(self, request: &Request<'_>) -> Result<(), Refusal> {
        let Request { principal, action, resource, .. } = request;
        let why = match self {
            Decision::AllowedToRoot | Decision::Allowed(_) => return Ok(()),
            Decision::DeniedBy(grounds) => format!("with an explicit deny in a {} policy", grounds.kind),
            Decision::NotAllowed(why) => format!("because {why} the {action} action"),
        };
        let text =
            format_args!("User: {principal} is not authorized to perform: {action} on resource: {resource} {why}");
        Err(Refusal::Denied { detail: refusal::detail(text) })
    }
}

/// What `explain` prints.
impl fmt::Display for Decision {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Decision::AllowedToRoot => out.write_str("allowed: root user of the registry, and nothing denies"),
            Decision::Allowed(grounds) => write!(out, "allowed by {grounds}"),
            Decision::DeniedBy(grounds) => write!(out, "denied by {grounds}"),
            Decision::NotAllowed(why) => write!(out, "not allowed: {why} it"),
        }
    }
}

impl fmt::Display for Grounds {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} policy", self.kind)?;
        if !self.policy.is_empty() {
            write!(out, " '{}'", self.policy)?;
        }
        write!(out, ", statement {}", self.statement)?;
        self.sid.as_ref().map_or(Ok(()), |sid| write!(out, " '{sid}'"))
    }
}
