//! The rules of replication of each registry, and since when each of them counts.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, SYSTEM, Slot};
use super::reply::Reply;
use super::tables::{Tables, TablesRead};
use super::{cluster, peer, upgrade};
use crate::decide::replication::rules::{self, Rule};
use crate::vocabulary::ids::RegistryId;
use crate::vocabulary::names::RegionName;
use crate::vocabulary::refusal::Refusal;
use crate::vocabulary::repository_name::RepositoryName;

/// A rule, and since when it is one.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StandingRule {
    /// The rule.
    pub rule: Rule,
    /// Log index of the command that made it: what was pushed before is not copied by it.
    pub since_index: u64,
}

/// All rules of a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct RulesRow(pub Vec<StandingRule>);

impl Stored for RulesRow {}

impl RulesRow {
    /// Whether a change of a repository, made at a log index, is sent to a region.
    pub fn sends(&self, name: &RepositoryName, region: &RegionName, index: u64) -> bool {
        self.0.iter().any(|standing| standing.since_index < index && standing.rule.sends(name, region))
    }

    /// Whether anything of a repository may be sent to a region.
    pub fn serves(&self, name: &RepositoryName, region: &RegionName) -> bool {
        self.0.iter().any(|standing| standing.rule.sends(name, region))
    }
}

/// The rules of a registry.
pub fn read(tables: &impl TablesRead, registry: RegistryId) -> RulesRow {
    tables.get(&keys::replication_rules(registry)).map_or(RulesRow::default(), |bytes| codec::row(&bytes))
}

/// Sets all rules of a registry. A rule that was there as it is goes on; one that changed begins anew: a wider filter
/// does not reach back. Source: ECR `PutReplicationConfiguration`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PutReplicationRules {
    /// Whose.
    pub registry: RegistryId,
    /// All of them.
    pub rules: Vec<Rule>,
}

impl Apply for PutReplicationRules {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let invalid =
            |detail: String| Refusal::ParameterInvalid { parameter: "replicationConfiguration".to_owned(), detail };
        let here = cluster::read(tables).and_then(|row| RegionName::parse(&row.region).ok());
        let Some(here) = here else { return Err(invalid("there is no cluster yet".to_owned())) };
        rules::check(&self.rules, (&here, self.registry))?;
        if upgrade::read(tables).is_some() {
            // a slot that is not there yet would not note its changes
            return Err(invalid("the upgrade is not over yet: set rules again in a minute".to_owned()));
        }
        for to in self.rules.iter().flat_map(|rule| &rule.destinations) {
            if peer::named(tables, &to.region).is_none() {
                let detail = format!("region '{}' is not known here: make it known first", to.region);
                return Err(invalid(detail));
            }
        }
        let before = read(tables, self.registry);
        let since = |rule: &Rule| {
            let same = before.0.iter().find(|standing| standing.rule == *rule);
            same.map_or(context.index, |standing| standing.since_index)
        };
        let row =
            RulesRow(self.rules.into_iter().map(|rule| StandingRule { since_index: since(&rule), rule }).collect());
        if row == before {
            return Ok(Reply::Unchanged);
        }
        let key = keys::replication_rules(self.registry);
        match row.0.is_empty() {
            true => tables.delete(key),
            false => tables.put(key, codec::encode(&row)),
        }
        Ok(Reply::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::replication::rules::{Destination, Prefix};
    use crate::metadata::testing::{World, peer, repository_key};

    fn rule(to: &str, filter: &str) -> Rule {
        let registry = RegistryId::DEFAULT;
        let region = RegionName::parse(to).unwrap();
        Rule { destinations: vec![Destination { region, registry }], filters: vec![Prefix::parse(filter).unwrap()] }
    }

    fn put(rules: &[Rule]) -> PutReplicationRules {
        PutReplicationRules { registry: RegistryId::DEFAULT, rules: rules.to_vec() }
    }

    // A rule counts from the command that made it; one that stays as it is keeps its beginning, beside others.
    #[test]
    fn since_when() {
        let mut world = World::cluster();
        assert!(
            matches!(world.refused(put(&[rule("eu", "team/")])), Refusal::ParameterInvalid { .. }),
            "unknown region"
        );
        world.ok(peer(2, "eu"));
        world.ok(put(&[rule("eu", "team/")]));
        let first = world.index;
        assert_eq!(world.ok(put(&[rule("eu", "team/")])), Reply::Unchanged);
        world.ok(put(&[rule("eu", "prod/"), rule("eu", "team/")]));
        let second = world.index;
        let row = read(&world.tables, RegistryId::DEFAULT);
        let eu = RegionName::parse("eu").unwrap();
        let (team, prod) = (repository_key("team/app", 1).name, repository_key("prod/app", 1).name);
        assert!(row.sends(&team, &eu, first + 1) && !row.sends(&team, &eu, first));
        assert!(row.sends(&prod, &eu, second + 1) && !row.sends(&prod, &eu, second));
        assert!(row.serves(&prod, &eu) && !row.serves(&repository_key("other", 1).name, &eu));
        world.ok(put(&[]));
        assert_eq!(read(&world.tables, RegistryId::DEFAULT), RulesRow::default());
        assert!(matches!(world.refused(put(&[rule("here", "team/")])), Refusal::ParameterInvalid { .. }));
    }
}
