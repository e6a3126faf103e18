//! The records that two regions should both have, read from the rows, for whoever wants to compare them himself.

use registry_core::decide::replication::compare::{Record, Register, Scope, Since};
use registry_core::decide::replication::tags::SentTags;
use registry_core::metadata::tables::TablesRead;
use registry_core::metadata::{cluster, offer, register, replication_rules, repository};
use registry_core::vocabulary::RepositoryName;
use registry_core::vocabulary::ids::RegistryId;
use registry_core::vocabulary::names::RegionName;

use super::Cluster;

/// Records of one page.
const PAGE_RECORDS: usize = 2000;

/// Which way the records go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Sent to the region by a rule: made here, or also elsewhere where the rule says so.
    To,
    /// What the region sends, as it is here.
    From,
}

/// Where a page ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportPlace {
    /// In which repository.
    pub repository: RepositoryName,
    /// Behind which register; `None`: behind the repository.
    pub register: Option<Register>,
}

/// Some records of one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportPage {
    /// Number of the region that sends the records.
    pub origin: u16,
    /// Index of this cluster's log that they were read at.
    pub index: u64,
    /// The repository; `None` when there are no more.
    pub repository: Option<RepositoryName>,
    /// Hybrid logical times that they are newer than.
    pub since: Since,
    /// Of which tags they are; of some only, manifests are those that are attached to others. Of what a region sends
    /// here, what it sent before they were changed is not known here.
    pub tags: SentTags,
    /// The records, manifests before tags.
    pub records: Vec<(Register, Record)>,
    /// Where the next page begins; `None` after the last.
    pub rest: Option<ExportPlace>,
}

impl Cluster {
    /// A page of the records that this region and another one should both have; `None` if that region is not known.
    pub fn export(&self, region: &RegionName, direction: Direction, after: Option<&ExportPlace>) -> Option<ExportPage> {
        let number = self.region_number(region)?;
        Some(self.metadata.peek(|view| {
            let own = cluster::region_number(view);
            let (source, destination) = if direction == Direction::To { (own, number) } else { (number, own) };
            let (origin, index, since, tags) = (source, view.index(), Since::default(), SentTags::ALL);
            let none = ExportPage { origin, index, repository: None, since, tags, records: vec![], rest: None };
            let scope = |name: &RepositoryName| scope(view, name, (direction, region), (source, destination));
            let within = after.filter(|after| after.register.is_some()).map(|after| after.repository.clone());
            let behind = after.map(|after| after.repository.as_str());
            let next = || repository::list(view, RegistryId::DEFAULT, behind, 1, |name| scope(name).is_some()).pop();
            let Some(name) = within.clone().or_else(next) else { return none };
            let found = repository::find(view, RegistryId::DEFAULT, &name).zip(scope(&name));
            let register = after.filter(|_| within.is_some()).and_then(|after| after.register.as_ref());
            let Some(((key, _), scope)) = found else {
                let rest = Some(ExportPlace { repository: name.clone(), register: None });
                return ExportPage { repository: Some(name), rest, ..none };
            };
            let (records, rest) = register::page(view, &key, &scope, register, PAGE_RECORDS);
            let rest = Some(ExportPlace { repository: name.clone(), register: rest });
            ExportPage { repository: Some(name), since: scope.since, tags: scope.tags, records, rest, ..none }
        }))
    }
}

/// Which records of a repository are meant. What a rule has copied of what was before it counts as copied.
fn scope(
    tables: &impl TablesRead,
    name: &RepositoryName,
    (direction, region): (Direction, &RegionName),
    (source, destination): (u16, u16),
) -> Option<Scope> {
    if direction == Direction::To {
        let rules = replication_rules::read(tables, RegistryId::DEFAULT);
        return rules.scope(name, region, (source, destination), u64::MAX);
    }
    let offered = offer::read(tables, source);
    let (others, settings) = (offered.is_transitive(name).then_some(0), offered.sends_settings(name).then_some(0));
    let since = Since { own: 0, others, settings };
    Some(Scope { source, destination, since, tags: offered.tags(name).into() })
}
