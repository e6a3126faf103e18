//! The rules of replication of each registry, and since when each of them counts.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, SYSTEM, Slot};
use super::reply::Reply;
use super::tables::{Tables, TablesRead};
use super::upgrade::{self, LEVEL_3};
use super::{clock, cluster, peer};
use crate::decide::replication::compare::{Scope, Since};
use crate::decide::replication::rules::{self, Prefix, ReadThrough, Rule};
use crate::decide::replication::tags::TagScope;
use crate::vocabulary::ids::RegistryId;
use crate::vocabulary::limits::CLOCK_AHEAD_MS_MAX;
use crate::vocabulary::names::RegionName;
use crate::vocabulary::refusal::Refusal;
use crate::vocabulary::repository_name::RepositoryName;
use crate::vocabulary::tag::Tag;

/// A rule, and since when it is one.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StandingRule {
    /// The rule.
    pub rule: Rule,
    /// Log index of the command that made it: what was pushed before is not copied by it.
    pub since_index: u64,
    /// When that was, replicated milliseconds since 1970: what was pushed before is not compared.
    pub since_ms: u64,
}

/// All rules of a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct RulesRow(pub Vec<StandingRule>);

impl Stored for RulesRow {}

/// The last hybrid logical time of a millisecond: what was made in it may have been made before the rule.
fn hlc_of(since_ms: u64) -> u64 {
    clock::hlc_at(since_ms + 1, LEVEL_3) - 1
}

impl RulesRow {
    /// Whether a change of a repository, made at a log index, is sent to a region; `is_own`: this region made it, it
    /// did not come from another one.
    pub fn sends(&self, name: &RepositoryName, region: &RegionName, (index, is_own): (u64, bool)) -> bool {
        let mut sending = self.sending(name, region);
        sending.any(|standing| standing.since_index < index && (is_own || standing.rule.transitive))
    }

    /// Whether settings of a repository that were set at a log index are sent to a region; `is_own`: by this region.
    /// Others' are where any rule sends on what others made.
    pub fn sends_settings(&self, name: &RepositoryName, region: &RegionName, (index, is_own): (u64, bool)) -> bool {
        let by = |is_meant: fn(&Rule) -> bool| {
            let mut sending = self.sending(name, region);
            sending.any(|standing| is_meant(&standing.rule) && standing.since_index < index)
        };
        by(|rule| rule.settings) && (is_own || by(|rule| rule.transitive))
    }

    /// Whether settings of a repository are copied to any region.
    pub fn copies_settings(&self, name: &RepositoryName) -> bool {
        self.0.iter().any(|standing| standing.rule.settings && rules::covers(&standing.rule.filters, name))
    }

    /// Whether a rule copies a repository to any region with some of its tags only.
    pub fn filters_tags(&self, name: &RepositoryName) -> bool {
        self.0.iter().any(|standing| !standing.rule.tags.is_all() && rules::covers(&standing.rule.filters, name))
    }

    /// Whether a delete in a repository, made at a log index, is to be followed in a region.
    pub fn deletes(&self, name: &RepositoryName, region: &RegionName, index: u64) -> bool {
        self.sending(name, region).any(|standing| standing.rule.deletes && standing.since_index < index)
    }

    /// Hybrid logical time after which deletes in a repository are followed in a region; `None` if they are not.
    pub fn deletes_since(&self, name: &RepositoryName, region: &RegionName) -> Option<u64> {
        let rules = self.sending(name, region).filter(|standing| standing.rule.deletes);
        rules.map(|standing| standing.since_ms).min().map(hlc_of)
    }

    /// Which tags of a repository are sent to a region: all rules that send it there say the same.
    pub fn tags(&self, name: &RepositoryName, region: &RegionName) -> TagScope {
        self.sending(name, region).next().map_or(TagScope::ALL, |standing| standing.rule.tags.clone())
    }

    /// Whether anything of a repository may be sent to a region.
    pub fn serves(&self, name: &RepositoryName, region: &RegionName) -> bool {
        self.sending(name, region).next().is_some()
    }

    fn sending<'a>(
        &'a self,
        name: &'a RepositoryName,
        region: &'a RegionName,
    ) -> impl Iterator<Item = &'a StandingRule> {
        self.0.iter().filter(move |standing| standing.rule.sends(name, region))
    }

    /// Which records of a repository are to be equal in a region: those that this one made, or has from others where a
    /// rule sends that on, since the oldest rule that sends them there; or all of them once the region has what a rule
    /// up to index `filled` has copied of what there was before. `None` if no rule sends it there. The numbers are
    /// those of this region and of that one.
    pub fn scope(
        &self,
        name: &RepositoryName,
        region: &RegionName,
        (source, destination): (u16, u16),
        filled: u64,
    ) -> Option<Scope> {
        let begins = |standing: &StandingRule, is_copied: bool| match is_copied && standing.since_index <= filled {
            true => 0,
            false => hlc_of(standing.since_ms),
        };
        let since = |standing: &StandingRule| begins(standing, standing.rule.backfill);
        let settings = |standing: &StandingRule| begins(standing, standing.rule.settings);
        let own = self.sending(name, region).map(since).min()?;
        let others = self.sending(name, region).filter(|standing| standing.rule.transitive).map(since).min();
        let settings = self.sending(name, region).filter(|standing| standing.rule.settings).map(settings).min();
        Some(Scope { source, destination, since: Since { own, others, settings }, tags: self.tags(name, region) })
    }

    /// Log index of the youngest rule that has what was before it, or settings, copied to a region; zero if there is
    /// none.
    pub fn backfill(&self, region: &RegionName) -> u64 {
        let asking = self.0.iter().filter(|standing| standing.rule.reaches_back() && standing.rule.reaches(region));
        asking.map(|standing| standing.since_index).max().unwrap_or(0)
    }

    /// What a rule younger than index `filled` has copied to a region of what was before it in a repository; `None` if
    /// none does.
    pub fn fills(&self, name: &RepositoryName, region: &RegionName, filled: u64) -> Option<Fill> {
        let is_asking = |standing: &&StandingRule| standing.rule.reaches_back() && standing.since_index > filled;
        let asking = || self.sending(name, region).filter(is_asking);
        let filling = || asking().filter(|standing| standing.rule.backfill);
        // a slot's time may be ahead of the clock; what comes twice does no harm
        let until = asking().map(|standing| hlc_of(standing.since_ms.saturating_add(CLOCK_AHEAD_MS_MAX))).max()?;
        let any = |is_meant: fn(&Rule) -> bool| self.sending(name, region).any(|standing| is_meant(&standing.rule));
        let beginning = |is_so: bool| if is_so { 0 } else { u64::MAX };
        let fills_others = filling().any(|standing| standing.rule.transitive);
        let is_with_settings = asking().any(|standing| standing.rule.settings);
        let own = beginning(filling().next().is_some());
        let others = any(|rule| rule.transitive).then(|| beginning(fills_others));
        let settings = (is_with_settings || fills_others && any(|rule| rule.settings)).then_some(0);
        Some(Fill { until, since: Since { own, others, settings }, tags: self.tags(name, region) })
    }

    /// What a region is sent, as it is told: beginnings of names, none for all, and what it may fetch for a client.
    pub fn sent(&self, region: &RegionName) -> Vec<SentRow> {
        let reaching = self.0.iter().filter(|standing| standing.rule.reaches(region));
        let sent = |standing: &StandingRule| SentRow {
            filters: standing.rule.filters.clone(),
            read_through: standing.rule.read_through,
            transitive: standing.rule.transitive,
            settings: standing.rule.settings,
            tags: standing.rule.tags.clone(),
        };
        reaching.map(sent).collect()
    }
}

/// What of before a rule is copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Up to which hybrid logical time.
    pub until: u64,
    /// Which records of before that.
    pub since: Since,
    /// Of which tags.
    pub tags: TagScope,
}

/// What another region sends, by one of its rules.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SentRow {
    /// Beginnings of names; all repositories if there is none.
    pub filters: Vec<Prefix>,
    /// What may be fetched for a client before it has arrived.
    pub read_through: ReadThrough,
    /// What that region has from others is among it.
    pub transitive: bool,
    /// So are settings.
    pub settings: bool,
    /// Of which tags.
    pub tags: TagScope,
}

impl SentRow {
    /// Whether a repository of this name is among it.
    pub fn covers(&self, name: &RepositoryName) -> bool {
        rules::covers(&self.filters, name)
    }

    /// Whether who gets it may ask what a tag names before that has arrived.
    pub fn resolves(&self, tag: &Tag) -> bool {
        self.read_through == ReadThrough::Full && self.tags.passes(tag)
    }
}

/// The rules of a registry.
pub fn read(tables: &impl TablesRead, registry: RegistryId) -> RulesRow {
    tables.get(&keys::replication_rules(registry)).map_or(RulesRow::default(), |bytes| codec::row(&bytes))
}

/// Whether a registry's rules may be set so now.
pub(super) fn check(tables: &impl TablesRead, registry: RegistryId, all: &[Rule]) -> Result<(), Refusal> {
    let invalid =
        |detail: String| Refusal::ParameterInvalid { parameter: "replicationConfiguration".to_owned(), detail };
    let here = cluster::read(tables).and_then(|row| RegionName::parse(&row.region).ok());
    let Some(here) = here else { return Err(invalid("there is no cluster yet".to_owned())) };
    rules::check(all, (&here, registry))?;
    if upgrade::read(tables).is_some() {
        // a slot that is not there yet would not note its changes
        return Err(invalid("the upgrade is not over yet: set rules again in a minute".to_owned()));
    }
    for to in all.iter().flat_map(|rule| &rule.destinations) {
        if peer::named(tables, &to.region).is_none() {
            let detail = format!("region '{}' is not known here: make it known first", to.region);
            return Err(invalid(detail));
        }
    }
    Ok(())
}

/// Rules as they stand when they are set at a log index and a time: one that was there as it is keeps its beginning.
pub(super) fn stand(before: &RulesRow, all: Vec<Rule>, (since_index, since_ms): (u64, u64)) -> RulesRow {
    let stand = |rule: Rule| {
        let same = before.0.iter().find(|standing| standing.rule == rule).cloned();
        same.unwrap_or(StandingRule { rule, since_index, since_ms })
    };
    RulesRow(all.into_iter().map(stand).collect())
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
        check(tables, self.registry, &self.rules)?;
        let before = read(tables, self.registry);
        let row = stand(&before, self.rules, (context.index, context.clock.now_ms));
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
    use crate::decide::replication::rules::Destination;
    use crate::decide::tag_move::TagFilter;
    use crate::metadata::testing::{World, peer, repository_key};

    fn rule(to: &str, filter: &str) -> Rule {
        let registry = RegistryId::DEFAULT;
        let region = RegionName::parse(to).unwrap();
        let filters = vec![Prefix::parse(filter).unwrap()];
        let destinations = vec![Destination { region, registry }];
        Rule::plain(destinations, filters)
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
        let sends = |name, index| row.sends(name, &eu, (index, true));
        assert!(sends(&team, first + 1) && !sends(&team, first));
        assert!(sends(&prod, second + 1) && !sends(&prod, second));
        assert!(!row.sends(&team, &eu, (first + 1, false)), "what came from elsewhere is not sent on");
        assert!(row.serves(&prod, &eu) && !row.serves(&repository_key("other", 1).name, &eu));
        // what there was before counts once the region has it
        let filling = Rule { backfill: true, ..rule("eu", "prod/") };
        world.ok(put(&[filling, rule("eu", "team/")]));
        let third = world.index;
        let row = read(&world.tables, RegistryId::DEFAULT);
        assert_eq!((row.backfill(&eu), row.backfill(&RegionName::parse("us").unwrap())), (third, 0));
        let fills = |name: &RepositoryName, filled: u64| row.fills(name, &eu, filled).is_some();
        assert!(fills(&prod, second) && !fills(&prod, third) && !fills(&team, 0));
        let since = |name: &RepositoryName, filled: u64| row.scope(name, &eu, (1, 2), filled).unwrap().since.own;
        assert!(since(&prod, second) > since(&team, second) && since(&team, third) > 0);
        assert_eq!(since(&prod, third), 0);
        assert_eq!(row.fills(&prod, &eu, second).unwrap().since, Since { own: 0, others: None, settings: None });
        assert_eq!(row.sent(&eu).iter().filter(|sent| sent.covers(&prod)).count(), 1);
        // settings are sent where a rule says so, those from before it once the region has them
        let sends = |row: &RulesRow, name, index, is_own| row.sends_settings(name, &eu, (index, is_own));
        assert!(!sends(&row, &team, u64::MAX, true));
        let with = Rule { settings: true, ..rule("eu", "team/") };
        world.ok(put(&[with.clone(), rule("eu", "prod/")]));
        let (row, fourth) = (read(&world.tables, RegistryId::DEFAULT), world.index);
        assert!(sends(&row, &team, fourth + 1, true) && !sends(&row, &team, fourth, true));
        assert!(!sends(&row, &team, fourth + 1, false) && !sends(&row, &prod, fourth + 1, true));
        let compared = |name, filled| row.scope(name, &eu, (1, 2), filled).unwrap().since.settings;
        assert!(compared(&team, third) > Some(0) && compared(&team, fourth) == Some(0));
        assert_eq!(compared(&prod, fourth), None);
        let fill = row.fills(&team, &eu, third).unwrap().since;
        assert_eq!(fill, Since { own: u64::MAX, others: None, settings: Some(0) });
        assert!(fill.is_of_settings() && row.backfill(&eu) == fourth);
        // and what others set where another rule sends on what others made
        let on = Rule { transitive: true, ..rule("eu", "team/app") };
        world.ok(put(&[with, on]));
        let row = read(&world.tables, RegistryId::DEFAULT);
        assert!(sends(&row, &team, world.index + 1, false));
        let fill = row.fills(&team, &eu, third).unwrap().since;
        assert_eq!(fill, Since { own: u64::MAX, others: Some(u64::MAX), settings: Some(0) });
        assert!(row.scope(&team, &eu, (1, 2), fourth).unwrap().since.others.is_some());
        // a walk through what others made takes their settings along
        let filling = Rule { transitive: true, backfill: true, ..rule("eu", "team/app") };
        world.ok(put(&[Rule { settings: true, ..rule("eu", "team/") }, filling]));
        let fill = read(&world.tables, RegistryId::DEFAULT).fills(&team, &eu, world.index - 1).unwrap().since;
        assert_eq!(fill, Since { own: 0, others: Some(0), settings: Some(0) });
        world.ok(put(&[rule("eu", "team/")]));
        // one that sends on does so from its own beginning
        let on = Rule { transitive: true, ..rule("eu", "team/") };
        world.ok(put(&[rule("eu", "team/"), on]));
        let row = read(&world.tables, RegistryId::DEFAULT);
        assert!(row.sends(&team, &eu, (world.index + 1, false)) && !row.sends(&team, &eu, (world.index, false)));
        let since = row.scope(&team, &eu, (1, 2), 0).unwrap().since;
        assert!(since.others.is_some_and(|others| others > since.own));
        // a filter of tags that changes is another rule, and travels with all that is said of it
        let tags = TagScope::new([TagFilter::parse("v*").unwrap()], []).unwrap();
        let some = Rule { backfill: true, tags: tags.clone(), ..rule("eu", "team/") };
        world.ok(put(std::slice::from_ref(&some)));
        let row = read(&world.tables, RegistryId::DEFAULT);
        assert!(row.sends(&team, &eu, (world.index + 1, true)) && !row.sends(&team, &eu, (world.index, true)));
        assert_eq!((row.tags(&team, &eu), row.tags(&prod, &eu)), (tags.clone(), TagScope::ALL));
        assert_eq!(row.scope(&team, &eu, (1, 2), 0).unwrap().tags, tags);
        assert_eq!(row.fills(&team, &eu, 0).unwrap().tags, tags);
        assert_eq!(row.sent(&eu)[0].tags, tags);
        assert!(matches!(world.refused(put(&[some, rule("eu", "team/app")])), Refusal::ParameterInvalid { .. }));
        world.ok(put(&[]));
        assert_eq!(read(&world.tables, RegistryId::DEFAULT), RulesRow::default());
        assert!(matches!(world.refused(put(&[rule("here", "team/")])), Refusal::ParameterInvalid { .. }));
    }
}
