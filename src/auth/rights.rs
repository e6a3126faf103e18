//! What a principal may do: its policies, parsed once per version of them, and the answers kept where they can be.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::RwLock;
use registry_core::decide::policy::{
    self, Attached, ConditionKey, Context, Decision, Policies, Policy, PolicyKind, Principal, Request, Resource,
};
use registry_core::metadata::principal::{self, ANONYMOUS};
use registry_core::metadata::tables::TablesRead;
use registry_core::vocabulary::ids::RegistryId;
use registry_core::vocabulary::limits::DECISIONS_CACHED_MAX;
use registry_core::vocabulary::names::{RegionName, UserName};
use registry_core::vocabulary::{RepositoryName, Timestamp};

use super::scope::Action;

/// What a condition of a policy may ask about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Circumstances {
    pub address: IpAddr,
    pub secure: bool,
    pub at: Timestamp,
}

impl Circumstances {
    fn context(&self) -> Context {
        let context = Context::new().with(ConditionKey::SOURCE_IP, self.address.to_canonical().to_string());
        context.with(ConditionKey::SECURE_TRANSPORT, self.secure.to_string())
    }
}

/// The answers for one repository; one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RightSet(u16);

impl RightSet {
    const PULL: RightSet = RightSet(1);
    const LIST: RightSet = RightSet(1 << 1);
    const UPLOAD: RightSet = RightSet(1 << 2);
    const TAG_CREATE: RightSet = RightSet(1 << 3);
    const TAG_MOVE: RightSet = RightSet(1 << 4);
    const DELETE: RightSet = RightSet(1 << 5);
    const DESCRIBE: RightSet = RightSet(1 << 6);
    const CREATE: RightSet = RightSet(1 << 7);
    const CONFIGURE: RightSet = RightSet(1 << 8);
    const REMOVE: RightSet = RightSet(1 << 9);
    const ALL: RightSet = RightSet((1 << 10) - 1);

    fn add(&mut self, right: RightSet, is_given: bool) {
        if is_given {
            self.0 |= right.0;
        }
    }

    fn holds(self, one: RightSet) -> bool {
        self.0 & one.0 == one.0
    }

    fn holds_any(self, some: RightSet) -> bool {
        self.0 & some.0 != 0
    }

    /// Whether a request of this kind may go on. A push may set tags in one way at least; which way, the permit says.
    pub(super) fn allows(self, action: Action) -> bool {
        match action {
            Action::Pull => self.holds(RightSet::PULL),
            Action::List => self.holds(RightSet::LIST),
            Action::Push => {
                self.holds(RightSet::UPLOAD) && self.holds_any(RightSet(RightSet::TAG_CREATE.0 | RightSet::TAG_MOVE.0))
            }
            Action::Delete => self.holds(RightSet::DELETE),
            Action::Describe => self.holds(RightSet::DESCRIBE),
            Action::Create => self.holds(RightSet::CREATE),
            Action::Configure => self.holds(RightSet::CONFIGURE),
            Action::Remove => self.holds(RightSet::REMOVE),
        }
    }

    pub(super) fn may_create_tags(self) -> bool {
        self.holds(RightSet::TAG_CREATE)
    }

    pub(super) fn may_move_tags(self) -> bool {
        self.holds(RightSet::TAG_MOVE)
    }

    /// Whether the repository's existence is no secret to the principal: it may do something with what is in it. The
    /// right to create is not enough, a refusal to create tells enough by itself.
    pub(super) fn sees(self) -> bool {
        self.holds_any(RightSet(RightSet::ALL.0 & !RightSet::CREATE.0))
    }
}

/// Which policy actions make a right; all of them must be allowed. What may be done with tags is asked apart, by
/// [`policy::tag_rights`]. Source: ecr-api §9.
const RIGHTS: [(RightSet, &[policy::Action]); 8] = {
    use policy::Action as A;
    [
        (RightSet::PULL, &[A::BatchGetImage, A::GetDownloadUrlForLayer]),
        (RightSet::LIST, &[A::ListImages]),
        (RightSet::UPLOAD, &[A::InitiateLayerUpload, A::UploadLayerPart, A::CompleteLayerUpload]),
        (RightSet::DELETE, &[A::BatchDeleteImage]),
        (RightSet::DESCRIBE, &[A::DescribeRepositories]),
        (RightSet::CREATE, &[A::CreateRepository]),
        (RightSet::CONFIGURE, &[A::PutImageTagMutability]),
        (RightSet::REMOVE, &[A::DeleteRepository]),
    ]
};

/// Policies with their names.
type Named = Vec<(String, Policy)>;

/// The policies of one principal.
#[derive(Debug)]
pub(super) struct Rights {
    principal: Principal,
    region: RegionName,
    /// `None` when a stored policy can't be read by this binary: then nothing is allowed, for it may hold a deny.
    own: Option<Named>,
    anonymous: Option<Arc<Rights>>,
    is_constant: bool,
    decided: RwLock<HashMap<(RegistryId, RepositoryName), RightSet>>,
}

fn region_of(text: &str) -> RegionName {
    RegionName::parse(text).unwrap_or_else(|_| RegionName::parse("local").expect("a legal name"))
}

fn read(tables: &impl TablesRead, registry: RegistryId, principal: &str) -> Option<Named> {
    let parse = |(name, row): (String, principal::PolicyRow)| match Policy::parse(&row.document, PolicyKind::Identity) {
        Ok(policy) => Some((name, policy)),
        Err(error) => {
            tracing::error!(principal, policy = name, %error, "a stored policy can't be read; its owner may do nothing");
            None
        }
    };
    principal::policies(tables, registry, principal).into_iter().map(parse).collect()
}

impl Rights {
    fn new(principal: Principal, region: &str, own: Option<Named>, anonymous: Option<Arc<Rights>>) -> Rights {
        let is_constant = own.iter().flatten().all(|(_, policy)| policy.is_constant())
            && anonymous.as_ref().is_none_or(|anonymous| anonymous.is_constant);
        Rights { principal, region: region_of(region), own, anonymous, is_constant, decided: RwLock::default() }
    }

    /// Whether any of them may hang on this key of a request.
    pub(super) fn names(&self, key: &ConditionKey) -> bool {
        self.own.iter().flatten().any(|(_, policy)| policy.names(key))
            || self.anonymous.as_ref().is_some_and(|anonymous| anonymous.names(key))
    }

    /// Whose they are.
    pub(super) fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Of requests without a credential: what the policies of `anonymous` say.
    pub(super) fn of_anonymous(tables: &impl TablesRead, registry: RegistryId, region: &str) -> Rights {
        Rights::new(Principal::Anonymous, region, read(tables, registry, ANONYMOUS), None)
    }

    /// None at all: of requests without a credential where those are switched off.
    pub(super) fn of_nobody(region: &str) -> Rights {
        Rights::new(Principal::Anonymous, region, Some(Vec::new()), None)
    }

    /// Of a root user.
    pub(super) fn of_root(registry: RegistryId, region: &str) -> Rights {
        Rights::new(Principal::Root { registry }, region, Some(Vec::new()), None)
    }

    /// Of a user: its own policies, and what anybody may (A22).
    pub(super) fn of_user(
        tables: &impl TablesRead,
        registry: RegistryId,
        name: &UserName,
        region: &str,
        anonymous: Arc<Rights>,
    ) -> Rights {
        let own = read(tables, registry, name.as_str());
        Rights::new(Principal::User { registry, name: name.clone() }, region, own, Some(anonymous))
    }

    /// What the principal may do in a repository, existing or not.
    pub(super) fn on(&self, registry: RegistryId, name: &RepositoryName, now: &Circumstances) -> RightSet {
        if self.is_root_of(registry) {
            return RightSet::ALL;
        }
        if !self.is_constant {
            return self.decide_all(registry, name, now);
        }
        // the lookup needs an owned key: a name is an `Arc`, so this copies a pointer
        let key = (registry, name.clone());
        if let Some(known) = self.decided.read().get(&key) {
            return *known;
        }
        let decided = self.decide_all(registry, name, now);
        let mut kept = self.decided.write();
        if kept.len() >= DECISIONS_CACHED_MAX {
            kept.clear();
        }
        kept.insert(key, decided);
        decided
    }

    fn is_root_of(&self, registry: RegistryId) -> bool {
        self.principal == Principal::Root { registry }
    }

    fn decide_all(&self, registry: RegistryId, name: &RepositoryName, now: &Circumstances) -> RightSet {
        let Some(policies) = self.policies() else { return RightSet::default() };
        let resource = Resource::Repository { region: self.region.clone(), registry, name: name.clone() };
        let context = now.context();
        let request = |action| self.request(action, &resource, now.at, &context);
        let is_allowed = |action: &policy::Action| policy::decide(&request(*action), &policies).is_allowed();
        let mut set = RightSet::default();
        for (right, actions) in RIGHTS {
            set.add(right, actions.iter().all(is_allowed));
        }
        let tags = policy::tag_rights(&request(policy::Action::PutImage), &policies);
        set.add(RightSet::TAG_CREATE, tags.create);
        set.add(RightSet::TAG_MOVE, tags.update);
        set
    }

    fn request<'r>(
        &'r self,
        action: policy::Action,
        resource: &'r Resource,
        at: Timestamp,
        context: &'r Context,
    ) -> Request<'r> {
        Request { principal: &self.principal, action, resource, at, context }
    }

    fn policies(&self) -> Option<Policies<'_>> {
        fn attached(named: &Named) -> Vec<Attached<'_>> {
            named.iter().map(|(name, policy)| Attached { name, policy }).collect()
        }
        let own = attached(self.own.as_ref()?);
        let others = self.anonymous.as_ref().and_then(|anonymous| anonymous.own.as_ref()).map(attached);
        Some(match self.principal {
            Principal::Anonymous => Policies { anonymous: own, ..Policies::default() },
            Principal::Root { .. } | Principal::User { .. } => {
                Policies { identity: own, anonymous: others.unwrap_or_default(), ..Policies::default() }
            }
        })
    }

    /// Decides one action on one repository with its reason: what `explain` shows.
    pub(super) fn explain(
        &self,
        action: policy::Action,
        registry: RegistryId,
        repository: Option<&RepositoryName>,
        tag_exists: Option<bool>,
        now: &Circumstances,
    ) -> Decision {
        let region = self.region.clone();
        let resource = match repository {
            Some(name) => Resource::Repository { region, registry, name: name.clone() },
            None => Resource::Registry { region, registry },
        };
        let mut context = now.context();
        if let Some(exists) = tag_exists {
            context.set(ConditionKey::TAG_EXISTS, exists.to_string());
        }
        let Some(policies) = self.policies() else {
            return Decision::NotAllowed("no policy that this version can read");
        };
        policy::decide(&self.request(action, &resource, now.at, &context), &policies)
    }

    /// Whether the principal may do this to the registry itself, not to one repository.
    pub(super) fn allows_on_registry(&self, action: policy::Action, registry: RegistryId, now: &Circumstances) -> bool {
        self.explain(action, registry, None, None, now).is_allowed()
    }
}
