//! What has become of an image in the regions that rules send it to.
//!
//! Derived when it is asked for: from the rules, from how far a region has said it is, and from what it says of the
//! image now. Nothing is written for it. Source: ECR `DescribeImageReplicationStatus`.

use std::time::Duration;

use registry_core::decide::replication::compare::Scope;
use registry_core::metadata::tables::TablesRead;
use registry_core::metadata::{above, cluster, manifest, peer, replication_rules, repository};
use registry_core::vocabulary::ids::RegistryId;
use registry_core::vocabulary::limits::RETRY_AFTER_MS;
use registry_core::vocabulary::names::RegionName;
use registry_core::vocabulary::{Digest, Refusal, RepositoryName};

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

/// The regions that rules send an image to; `None` if there is no such image here.
fn sent(tables: &impl TablesRead, name: &RepositoryName, digest: &Digest) -> Option<Vec<Sent>> {
    let (key, _) = repository::find(tables, RegistryId::DEFAULT, name)?;
    let row = manifest::read(tables, &key, digest)?;
    let own = cluster::region_number(tables);
    let rules = replication_rules::read(tables, RegistryId::DEFAULT);
    let destinations = rules.0.iter().flat_map(|standing| &standing.rule.destinations);
    let mut regions: Vec<RegionName> = destinations.map(|to| to.region.clone()).collect();
    regions.sort_unstable();
    regions.dedup();
    let scope = |region: RegionName| {
        let number = peer::named(tables, &region).map(|(number, _)| number);
        // whether what was before a rule has arrived is for the region to say
        let scope = rules.scope(name, &region, (own, number.unwrap_or(own)), u64::MAX)?;
        Some((Sent { region, number }, scope))
    };
    let scopes: Vec<(Sent, Scope)> = regions.into_iter().filter_map(scope).collect();
    // without a filter the row tells it
    let is_filtered = scopes.iter().any(|(_, scope)| !scope.tags.is_all());
    let above = if is_filtered { above::read(tables, &key, digest) } else { above::TagsAbove::default() };
    let is_sent = scopes.into_iter().filter(|(_, scope)| above.are_in(scope, &row));
    Some(is_sent.map(|(sent, _)| sent).collect())
}

impl Replication {
    /// What has become of an image, region by region; `None` if there is no such image here. One that came from another
    /// region, that was pushed before the rule, or that only tags lead to which a rule leaves out, is sent nowhere
    /// unless a rule says so.
    pub async fn image(&self, name: &RepositoryName, digest: &Digest) -> Result<Option<Vec<ImageStatus>>, Refusal> {
        let (metadata, of, which) = (self.0.metadata.clone(), name.clone(), *digest);
        // the tags that lead to it may be many
        let looked = tokio::task::spawn_blocking(move || metadata.peek(|view| sent(view, &of, &which))).await;
        let looked = looked.map_err(|_| Refusal::Unavailable { retry_after_ms: RETRY_AFTER_MS })?;
        let Some(sent) = looked else { return Ok(None) };
        let asked = sent.into_iter().map(|sent| self.image_in(sent, name, digest));
        Ok(Some(futures_util::future::join_all(asked).await))
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
