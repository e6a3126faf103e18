//! What has become of an image in the regions that rules send it to.
//!
//! Derived when it is asked for: from the rules, from how far a region has said it is, and from what it says of the
//! image now. Nothing is written for it. Source: ECR `DescribeImageReplicationStatus`.

use std::time::Duration;

use registry_core::metadata::{above, cluster, manifest, peer, replication_rules, repository};
use registry_core::vocabulary::ids::RegistryId;
use registry_core::vocabulary::names::RegionName;
use registry_core::vocabulary::{Digest, RepositoryName};

use super::Replication;
use super::wire::proto::arrival_reply::State;

/// How long another region is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// How far an image is (ECR `ReplicationStatus`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It is on its way, or the region can't be asked.
    InProgress,
    /// It is there, or was and was deleted there.
    Complete,
    /// It can't be applied there.
    Failed,
}

/// What has become of an image in one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageStatus {
    /// Where.
    pub region: RegionName,
    /// The registry there.
    pub registry: RegistryId,
    /// How far it is.
    pub arrival: Arrival,
    /// Why it failed, or why nothing better is known.
    pub reason: Option<String>,
}

/// A region that rules send an image to.
struct Sent {
    region: RegionName,
    /// `None` where the rule names a region that is not known any more.
    number: Option<u16>,
}

impl Replication {
    /// What has become of an image, region by region; `None` if there is no such image here. One that came from another
    /// region, that was pushed before the rule, or that only tags lead to which a rule leaves out, is sent nowhere
    /// unless a rule says so.
    pub async fn image(&self, name: &RepositoryName, digest: &Digest) -> Option<Vec<ImageStatus>> {
        let sent = self.image_sent(name, digest)?;
        let asked = sent.into_iter().map(|sent| self.image_in(sent, name, digest));
        Some(futures_util::future::join_all(asked).await)
    }

    fn image_sent(&self, name: &RepositoryName, digest: &Digest) -> Option<Vec<Sent>> {
        self.0.metadata.peek(|view| {
            let (key, _) = repository::find(view, RegistryId::DEFAULT, name)?;
            let (row, above) = (manifest::read(view, &key, digest)?, above::read(view, &key, digest));
            let own = cluster::region_number(view);
            let rules = replication_rules::read(view, RegistryId::DEFAULT);
            let destinations = rules.0.iter().flat_map(|standing| &standing.rule.destinations);
            let mut regions: Vec<RegionName> = destinations.map(|to| to.region.clone()).collect();
            regions.sort_unstable();
            regions.dedup();
            let sent = |region: RegionName| {
                let number = peer::named(view, &region).map(|(number, _)| number);
                // whether what was before a rule has arrived is for the region to say
                let scope = rules.scope(name, &region, (own, number.unwrap_or(own)), u64::MAX)?;
                above.are_in(&scope, &row).then_some(Sent { region, number })
            };
            Some(regions.into_iter().filter_map(sent).collect())
        })
    }

    async fn image_in(&self, sent: Sent, name: &RepositoryName, digest: &Digest) -> ImageStatus {
        let registry = RegistryId::DEFAULT;
        let Some(source) = sent.number.and_then(|number| self.source(number)) else {
            let reason = Some("the region is not known here: make it known, with its card".to_owned());
            return ImageStatus { region: sent.region, registry, arrival: Arrival::Failed, reason };
        };
        let (arrival, reason) = match source.arrival(name, digest, PATIENCE).await {
            Ok(reply) => match reply.state() {
                State::Here | State::Gone => (Arrival::Complete, None),
                State::Absent => (Arrival::InProgress, None),
                State::Parked => (Arrival::Failed, Some(reply.reason)),
            },
            Err(problem) => (Arrival::InProgress, Some(format!("the region can't be asked now: {problem}"))),
        };
        ImageStatus { region: sent.region, registry, arrival, reason }
    }
}
