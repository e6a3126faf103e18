//! Who asks, and the patterns that name principals in resource policies.

use std::fmt;

use crate::vocabulary::ids::RegistryId;
use crate::vocabulary::names::UserName;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Principal {
    /// A request without a credential.
    Anonymous,
    /// The root user of a registry: may do there what nothing denies.
    Root {
        /// Its registry.
        registry: RegistryId,
    },
    /// A user of a registry.
    User {
        /// Its registry.
        registry: RegistryId,
        /// Its name.
        name: UserName,
    },
}

impl Principal {
    /// The registry it belongs to; none for an anonymous one.
    pub fn registry(&self) -> Option<RegistryId> {
        match self {
            Principal::Anonymous => None,
            Principal::Root { registry } | Principal::User { registry, .. } => Some(*registry),
        }
    }

    /// The name of a user.
    pub fn user_name(&self) -> Option<&str> {
        match self {
            Principal::User { name, .. } => Some(name.as_str()),
            Principal::Anonymous | Principal::Root { .. } => None,
        }
    }

    /// Value of `aws:PrincipalType`.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Principal::Anonymous => "Anonymous",
            Principal::Root { .. } => "Account",
            Principal::User { .. } => "User",
        }
    }

    /// Its ARN; none for an anonymous one.
    pub fn arn(&self) -> Option<String> {
        match self {
            Principal::Anonymous => None,
            Principal::Root { registry } => Some(format!("arn:aws:iam::{registry}:root")),
            Principal::User { registry, name } => Some(format!("arn:aws:iam::{registry}:user/{name}")),
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.arn().as_deref().unwrap_or("anonymous"))
    }
}

/// One entry of `Principal` or `NotPrincipal`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PrincipalPattern {
    /// `*`: whoever has a credential. It covers a request without one only in a deny: anonymous access is never given
    /// by the way, only by its own name.
    Everyone,
    /// A whole registry: `000000000012` or its root ARN.
    Registry(RegistryId),
    /// One user, role or session by ARN. Roles and sessions are legal and, until there are any, nobody.
    Arn(String),
    /// A service of the cluster itself, for example `ecr.amazonaws.com`.
    Service(String),
    /// Requests without a credential.
    Anonymous,
}

/// How a principal is covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cover {
    /// Not at all.
    No,
    /// Through its registry: inside that registry the decision stays with its identity policies.
    Registry,
    /// By name, or as one of everybody.
    Direct,
}

impl PrincipalPattern {
    /// Parses one value under the key `AWS`.
    pub(super) fn parse_aws(text: &str) -> Option<PrincipalPattern> {
        if text == "*" {
            return Some(PrincipalPattern::Everyone);
        }
        if let Some(registry) = RegistryId::parse(text) {
            return Some(PrincipalPattern::Registry(registry));
        }
        let rest = text.strip_prefix("arn:aws:")?;
        let (service, rest) = rest.split_once("::")?;
        let (registry, path) = rest.split_once(':')?;
        let registry = RegistryId::parse(registry)?;
        // No wildcards inside an ARN: `user/*` would silently mean a user of that name.
        let is_path = |text: &str| {
            let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-/".contains(&byte);
            !text.is_empty() && text.len() <= 512 && text.bytes().all(is_legal)
        };
        let is_known = match (service, path.split_once('/')) {
            ("iam", None) if path == "root" => return Some(PrincipalPattern::Registry(registry)),
            ("iam", Some(("user" | "role", name))) | ("sts", Some(("assumed-role", name))) => is_path(name),
            _ => false,
        };
        is_known.then(|| PrincipalPattern::Arn(text.to_owned()))
    }

    /// Parses one value under the key `Service`.
    pub(super) fn parse_service(text: &str) -> Option<PrincipalPattern> {
        let host = text.strip_suffix(".amazonaws.com")?;
        let is_legal = !host.is_empty()
            && host.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b));
        is_legal.then(|| PrincipalPattern::Service(text.to_owned()))
    }

    /// Parses one value under the key `Portolan`.
    pub(super) fn parse_own(text: &str) -> Option<PrincipalPattern> {
        (text == "anonymous").then_some(PrincipalPattern::Anonymous)
    }

    pub(super) fn cover(&self, principal: &Principal, is_deny: bool) -> Cover {
        let is_direct = match self {
            PrincipalPattern::Everyone => is_deny || *principal != Principal::Anonymous,
            PrincipalPattern::Registry(registry) if principal.registry() == Some(*registry) => return Cover::Registry,
            PrincipalPattern::Registry(_) | PrincipalPattern::Service(_) => false,
            PrincipalPattern::Arn(arn) => principal.arn().as_ref() == Some(arn),
            PrincipalPattern::Anonymous => *principal == Principal::Anonymous,
        };
        if is_direct { Cover::Direct } else { Cover::No }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A23: principals have known shapes without wildcards; nothing empty, nothing half.
    #[test]
    fn parse_table() {
        for (text, want) in [
            ("*", Some(PrincipalPattern::Everyone)),
            ("000000000012", Some(PrincipalPattern::Registry(RegistryId::from_number(12).unwrap()))),
            ("arn:aws:iam::000000000012:root", Some(PrincipalPattern::Registry(RegistryId::from_number(12).unwrap()))),
            (
                "arn:aws:iam::000000000012:user/ann",
                Some(PrincipalPattern::Arn("arn:aws:iam::000000000012:user/ann".into())),
            ),
        ] {
            assert_eq!(PrincipalPattern::parse_aws(text), want, "{text}");
        }
        for bad in [
            "",
            "12",
            "**",
            "ann",
            "arn:aws:iam::12:root",
            "arn:aws:iam::000000000012:user/*",
            "arn:aws:iam::000000000012:user/",
            "arn:aws:iam::*:root",
            "arn:aws:iam::000000000012:group/x",
            "arn:aws:iam::000000000012:user/a\n",
            "anonymous",
        ] {
            assert_eq!(PrincipalPattern::parse_aws(bad), None, "{bad}");
        }
        assert!(PrincipalPattern::parse_aws("arn:aws:sts::000000000012:assumed-role/r/s").is_some());
        assert!(PrincipalPattern::parse_service("ecr.amazonaws.com").is_some());
        assert!(PrincipalPattern::parse_service("*").is_none() && PrincipalPattern::parse_own("*").is_none());
    }

    // `*` is everybody with a credential when it gives, and everybody at all when it takes.
    #[test]
    fn everyone_and_anonymous() {
        let user = Principal::User { registry: RegistryId::DEFAULT, name: UserName::parse("ann").unwrap() };
        assert_eq!(PrincipalPattern::Everyone.cover(&user, false), Cover::Direct);
        assert_eq!(PrincipalPattern::Everyone.cover(&Principal::Anonymous, false), Cover::No);
        assert_eq!(PrincipalPattern::Everyone.cover(&Principal::Anonymous, true), Cover::Direct);
        assert_eq!(PrincipalPattern::Anonymous.cover(&Principal::Anonymous, false), Cover::Direct);
        assert_eq!(PrincipalPattern::Anonymous.cover(&user, true), Cover::No);
        assert_eq!(PrincipalPattern::Registry(RegistryId::DEFAULT).cover(&user, false), Cover::Registry);
    }
}
