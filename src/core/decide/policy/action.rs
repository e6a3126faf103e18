//! Every action that a policy can name, and sets of them.

use std::fmt;

use super::pattern::Pattern;

/// Access level of an action, as the published table groups them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Reads content or settings.
    Read,
    /// Lists names.
    List,
    /// Changes content or settings.
    Write,
    /// Changes who may do what.
    Permissions,
    /// Changes resource tags.
    Tagging,
}

macro_rules! actions {
    ($($service:literal $level:ident $on:ident: $($name:ident)*;)*) => {
        /// One action. Named as ECR names it (ecr-api §9); the surfaces map each route and operation to one of these.
        #[expect(missing_docs, reason = "the names are ECR's own; its reference says what each does")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Action { $($($name),*),* }

        impl Action {
            /// All actions.
            pub const ALL: &[Action] = &[$($(Action::$name),*),*];

            /// The full name, for example `ecr:PutImage`.
            pub fn name(self) -> &'static str {
                match self { $($(Action::$name => concat!($service, ":", stringify!($name))),*),* }
            }

            /// Its access level.
            pub fn level(self) -> Level {
                match self { $($(Action::$name)|* => Level::$level),* }
            }

            /// Whether it acts on one repository; otherwise on the registry, and only `Resource: "*"` covers it.
            pub fn is_on_repository(self) -> bool {
                match self { $($(Action::$name)|* => actions!(@ $on)),* }
            }
        }
    };
    (@ repository) => { true };
    (@ registry) => { false };
}

actions! {
    "ecr" Read repository: BatchCheckLayerAvailability BatchGetImage BatchGetRepositoryScanningConfiguration
        DescribeImageReplicationStatus DescribeImageScanFindings DescribeImageSigningStatus DescribeRepositories
        GetDownloadUrlForLayer GetImageCopyStatus GetLifecyclePolicy GetLifecyclePolicyPreview GetRepositoryPolicy
        ListTagsForResource;
    "ecr" List repository: DescribeImages ListImages;
    "ecr" Write repository: BatchDeleteImage BatchImportUpstreamImage CompleteLayerUpload CreateRepository
        DeleteLifecyclePolicy DeleteRepository InitiateLayerUpload PutImage PutImageScanningConfiguration
        PutImageTagMutability PutLifecyclePolicy ReplicateImage StartImageScan StartLifecyclePolicyPreview
        UpdateImageStorageClass UploadLayerPart;
    "ecr" Permissions repository: DeleteRepositoryPolicy SetRepositoryPolicy;
    "ecr" Tagging repository: TagResource UntagResource;
    "ecr" Read registry: DescribeRegistry DescribeReplicationBackfillResults DescribeRepositoryCreationTemplates
        GetAccountSetting GetAuthorizationToken GetRegistryPolicy GetRegistryScanningConfiguration
        GetSigningConfiguration ValidatePullThroughCacheRule;
    "ecr" List registry: DescribePullThroughCacheRules ListPullTimeUpdateExclusions ListReplicationBackfills;
    "ecr" Write registry: CreatePullThroughCacheRule CreateRepositoryCreationTemplate DeletePullThroughCacheRule
        DeleteRepositoryCreationTemplate DeleteSigningConfiguration DeregisterPullTimeUpdateExclusion
        PutAccountSetting PutRegistryScanningConfiguration PutReplicationConfiguration PutSigningConfiguration
        RegisterPullTimeUpdateExclusion StartReplicationBackfill StopReplicationBackfill UpdatePullThroughCacheRule
        UpdateRepositoryCreationTemplate;
    "ecr" Permissions registry: DeleteRegistryPolicy PutRegistryPolicy;
    "portolan" Read registry: ReadCluster;
    "portolan" Write registry: ManageCluster;
    "portolan" Permissions registry: ManageIdentities;
}

impl Action {
    /// The action of this full name; case does not matter.
    pub fn parse(name: &str) -> Option<Action> {
        Action::ALL.iter().copied().find(|action| action.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for Action {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// A set of actions; one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActionSet(u128);

const _: () = assert!(Action::ALL.len() <= 128);

impl ActionSet {
    /// Whether the action is in the set.
    pub fn contains(self, action: Action) -> bool {
        self.0 >> action as u32 & 1 == 1
    }

    /// Adds the actions of the other set.
    #[must_use]
    pub fn union(self, other: ActionSet) -> ActionSet {
        ActionSet(self.0 | other.0)
    }

    /// The actions that a name with `*` and `?` covers; `None` if it covers none, which is a mistake of whoever wrote
    /// it.
    pub(super) fn matching(name: &str) -> Option<ActionSet> {
        let pattern = Pattern::wildcards(&name.to_ascii_lowercase());
        let is_covered = |action: &&Action| pattern.matches(&action.name().to_ascii_lowercase());
        let set: ActionSet = Action::ALL.iter().filter(is_covered).copied().collect();
        (set.0 != 0).then_some(set)
    }
}

impl FromIterator<Action> for ActionSet {
    fn from_iter<I: IntoIterator<Item = Action>>(actions: I) -> ActionSet {
        ActionSet(actions.into_iter().fold(0, |set, action| set | 1 << action as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A23: names match without regard to case, with wildcards; what covers nothing is nothing.
    #[test]
    fn matching_table() {
        for (name, covered, not_covered) in [
            ("ecr:PutImage", Action::PutImage, Action::PutImageTagMutability),
            ("ECR:putimage", Action::PutImage, Action::PutImageTagMutability),
            ("ecr:PutImage*", Action::PutImageTagMutability, Action::PutLifecyclePolicy),
            ("ecr:Batch*Image", Action::BatchDeleteImage, Action::BatchCheckLayerAvailability),
            ("ecr:?atchGetImage", Action::BatchGetImage, Action::BatchDeleteImage),
            ("ecr:**", Action::PutImage, Action::ManageCluster),
            ("portolan:*", Action::ManageCluster, Action::PutImage),
        ] {
            let set = ActionSet::matching(name).unwrap();
            assert!(set.contains(covered) && !set.contains(not_covered), "{name}");
        }
        let all = ActionSet::matching("*").unwrap();
        assert!(Action::ALL.iter().all(|action| all.contains(*action)));
        for bad in ["", "ecr", "ecr:", "PutImage", "ecr:PutImages", "s3:*", "ecr :*", "ecr:Put Image", "*:*x"] {
            assert_eq!(ActionSet::matching(bad), None, "{bad}");
        }
    }

    // Names read back, and the levels are those of the published table.
    #[test]
    fn names() {
        assert!(Action::ALL.iter().all(|action| Action::parse(action.name()) == Some(*action)));
        assert_eq!(Action::ALL.len(), 67);
        assert!(Action::PutImage.is_on_repository() && !Action::GetAuthorizationToken.is_on_repository());
        assert_eq!(
            (Action::SetRepositoryPolicy.level(), Action::ListImages.level()),
            (Level::Permissions, Level::List)
        );
    }
}
