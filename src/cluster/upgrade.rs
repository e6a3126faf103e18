//! The step to the feature level of a newer release, once all nodes run it.

use registry_core::metadata::cluster::FEATURE_LEVEL;
use registry_core::metadata::upgrade::RaiseLevel;

use super::Cluster;
use crate::metadata::ProposeError;

impl Cluster {
    /// The cluster works at this program's feature level from now on, for good; the level. Refused while a node runs an
    /// older release. What the level counts on is made slot by slot meanwhile.
    pub async fn finalize(&self, principal: &str) -> Result<u16, ProposeError> {
        self.metadata.propose(principal, vec![RaiseLevel { level: FEATURE_LEVEL }.into()]).await?;
        Ok(FEATURE_LEVEL)
    }
}
