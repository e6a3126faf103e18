//! Proof that a check passed: what the room that knows who is asking hands to the rooms that do not.

use crate::decide::tag_move::TagRights;
use crate::vocabulary::RepositoryName;
use crate::vocabulary::ids::RegistryId;

/// A caller may do what it asks for in one repository. Made by the `auth` room only, after its decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    /// Who asks, as the journal and the audit name it. Uploads are bound to it.
    pub principal: String,
    /// The registry of the repository.
    pub registry: RegistryId,
    /// The repository.
    pub repository: RepositoryName,
    /// It may be made by this request if it is not there.
    pub create_repository: bool,
    /// What may be done with tags.
    pub tags: TagRights,
}
