//! What an action acts on, and the patterns that name it.

use std::fmt;

use super::key::ConditionKey;
use super::pattern::{Pattern, Syntax};
use crate::vocabulary::RepositoryName;
use crate::vocabulary::ids::RegistryId;
use crate::vocabulary::names::RegionName;

/// What an action acts on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// One repository, existing or to be made.
    Repository {
        /// The region.
        region: RegionName,
        /// The registry it belongs to.
        registry: RegistryId,
        /// Its name, parsed once: the policy sees the same bytes as the storage (A24).
        name: RepositoryName,
    },
    /// All repositories of a registry: a list without names. Only a pattern that covers every name covers this.
    AllRepositories {
        /// The region.
        region: RegionName,
        /// The registry.
        registry: RegistryId,
    },
    /// The registry itself. Only `Resource: "*"` covers this.
    Registry {
        /// The region.
        region: RegionName,
        /// The registry.
        registry: RegistryId,
    },
}

impl Resource {
    /// The registry that owns it.
    pub fn registry(&self) -> RegistryId {
        match self {
            Resource::Repository { registry, .. }
            | Resource::AllRepositories { registry, .. }
            | Resource::Registry { registry, .. } => *registry,
        }
    }

    /// Its region.
    pub fn region(&self) -> &RegionName {
        match self {
            Resource::Repository { region, .. }
            | Resource::AllRepositories { region, .. }
            | Resource::Registry { region, .. } => region,
        }
    }

    /// The last part of the ARN.
    fn path(&self) -> Option<String> {
        match self {
            Resource::Repository { name, .. } => Some(format!("repository/{name}")),
            Resource::AllRepositories { .. } => Some("repository/*".to_owned()),
            Resource::Registry { .. } => None,
        }
    }
}

/// The ARN as messages show it; `*` for the registry itself.
impl fmt::Display for Resource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path() {
            Some(path) => write!(out, "arn:aws:ecr:{}:{}:{path}", self.region(), self.registry()),
            None => out.write_str("*"),
        }
    }
}

/// `*`, or an ARN whose six parts are matched each for itself: a wildcard never reaches across a colon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ResourcePattern {
    Everything,
    Repository(Box<RepositoryPattern>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RepositoryPattern {
    partition: Pattern,
    service: Pattern,
    region: Pattern,
    registry: Pattern,
    path: Pattern,
}

impl ResourcePattern {
    /// Parses a resource of a policy. What could never name a repository is an error in words, not a silent mismatch.
    pub(super) fn parse(text: &str, variables: bool) -> Result<ResourcePattern, String> {
        let pattern = Pattern::parse(text, Syntax { wildcards: true, variables })?;
        if pattern.is_any() {
            return Ok(ResourcePattern::Everything);
        }
        let parts: Option<[Pattern; 6]> = pattern.split_at_colons(6).and_then(|parts| parts.try_into().ok());
        let [scheme, partition, service, region, registry, path] =
            parts.ok_or_else(|| format!("'{text}' is neither * nor an ARN of six parts"))?;
        if scheme.literal_prefix() != ("arn".to_owned(), true) {
            return Err(format!("'{text}' does not begin with arn:"));
        }
        if !service.matches("ecr") {
            return Err(format!("'{text}' is not a resource of ecr"));
        }
        check_path(&path).map_err(|problem| format!("'{text}' {problem}"))?;
        let parts = RepositoryPattern { partition, service, region, registry, path };
        Ok(ResourcePattern::Repository(Box::new(parts)))
    }

    /// Whether what it matches depends on the request.
    pub(super) fn has_variable(&self) -> bool {
        match self {
            ResourcePattern::Everything => false,
            ResourcePattern::Repository(parts) => {
                let RepositoryPattern { partition, service, region, registry, path } = &**parts;
                [partition, service, region, registry, path].into_iter().any(Pattern::has_variable)
            }
        }
    }

    /// Whether what it matches depends on this key of the request.
    pub(super) fn names(&self, key: &ConditionKey) -> bool {
        match self {
            ResourcePattern::Everything => false,
            ResourcePattern::Repository(parts) => {
                let RepositoryPattern { partition, service, region, registry, path } = &**parts;
                [partition, service, region, registry, path].into_iter().any(|part| part.names(key))
            }
        }
    }

    pub(super) fn matches(&self, resource: &Resource, value_of: &dyn Fn(&ConditionKey) -> Option<String>) -> bool {
        match (self, resource.path()) {
            (ResourcePattern::Everything, _) => true,
            (ResourcePattern::Repository(_), None) => false,
            (ResourcePattern::Repository(parts), Some(path)) => {
                parts.partition.matches_with("aws", value_of)
                    && parts.service.matches_with("ecr", value_of)
                    && parts.region.matches_with(resource.region().as_str(), value_of)
                    && parts.registry.matches_with(&resource.registry().to_string(), value_of)
                    && parts.path.matches_with(&path, value_of)
            }
        }
    }
}

const REPOSITORY: &str = "repository/";

fn check_path(path: &Pattern) -> Result<(), String> {
    let (prefix, is_all) = path.literal_prefix();
    if !(prefix.starts_with(REPOSITORY) || !is_all && REPOSITORY.starts_with(&prefix)) {
        return Err(format!("does not name a repository: its last part begins with {REPOSITORY}"));
    }
    let is_name = |character: &char| matches!(character, 'a'..='z' | '0'..='9' | '.' | '_' | '-' | '/');
    match path.literals().find(|character| !is_name(character)) {
        Some(character) => Err(format!("can match no repository: no name contains {character:?}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(name: &str) -> Resource {
        Resource::Repository {
            region: RegionName::parse("eu-1").unwrap(),
            registry: RegistryId::from_number(12).unwrap(),
            name: RepositoryName::parse(name).unwrap(),
        }
    }

    // A23, A24: wildcards stay inside their part of the ARN; `team` is not `team-2`; look-alikes cannot be written.
    #[test]
    fn matching_table() {
        for (pattern, name, is_match) in [
            ("*", "a", true),
            ("arn:aws:ecr:*:*:repository/*", "a/b", true),
            ("arn:aws:ecr:eu-1:000000000012:repository/a/b", "a/b", true),
            ("arn:aws:ecr:eu-1:000000000012:repository/a", "a/b", false),
            ("arn:aws:ecr:eu-1:000000000012:repository/team/*", "team/a", true),
            ("arn:aws:ecr:eu-1:000000000012:repository/team/*", "team-2/a", false),
            ("arn:aws:ecr:eu-1:000000000012:repository/team*", "team-2/a", true),
            ("arn:aws:ecr:eu-2:000000000012:repository/*", "a", false),
            ("arn:aws:ecr:eu-1:000000000013:repository/*", "a", false),
            ("arn:aws:ecr:eu-?:0000000000??:repo*/a", "a", true),
            ("arn:aws:*:*:*:*", "a", true),
            ("arn:aws-cn:ecr:*:*:repository/*", "a", false),
        ] {
            let pattern = ResourcePattern::parse(pattern, true).unwrap();
            assert_eq!(pattern.matches(&repository(name), &|_| None), is_match, "{pattern:?} {name}");
        }
        for bad in [
            "",
            "a",
            "**x",
            "arn:*",
            "arn:aws:ecr:*",
            "arn:aws:ecr:*:*:repo/x",
            "arn:aws:ecr:*:*:repository",
            "arn:aws:ecr:*:*:image/*",
            "arn:aws:s3:::bucket",
            "*:aws:ecr:*:*:repository/*",
            "arn:aws:ecr:*:*:repository/Team",
            "arn:aws:ecr:*:*:repository/a%2fb",
            "arn:aws:ecr:*:*:repository/a:b",
            "arn:aws:ecr:*:*:repository/${nosuch}",
        ] {
            assert!(ResourcePattern::parse(bad, true).is_err(), "{bad}");
        }
        assert_eq!(ResourcePattern::parse("**", true), Ok(ResourcePattern::Everything));
    }

    // A list needs a pattern that covers every name; the registry needs `*`.
    #[test]
    fn lists_and_registry() {
        let (region, registry) = (RegionName::parse("eu-1").unwrap(), RegistryId::DEFAULT);
        let all = Resource::AllRepositories { region: region.clone(), registry };
        let itself = Resource::Registry { region, registry };
        for (pattern, covers_all, covers_itself) in [
            ("*", true, true),
            ("arn:aws:ecr:*:*:repository/*", true, false),
            ("arn:aws:ecr:*:*:repository/team/*", false, false),
            ("arn:aws:ecr:*:*:*", true, false),
        ] {
            let pattern = ResourcePattern::parse(pattern, true).unwrap();
            assert_eq!(pattern.matches(&all, &|_| None), covers_all, "{pattern:?}");
            assert_eq!(pattern.matches(&itself, &|_| None), covers_itself, "{pattern:?}");
        }
        assert_eq!(all.to_string(), "arn:aws:ecr:eu-1:000000000000:repository/*");
    }
}
