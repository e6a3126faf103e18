//! The rules of replication of each registry, and since when each of them counts.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, SYSTEM, Slot};
use super::reply::Reply;
use super::tables::{Tables, TablesRead};
use super::upgrade::{self, LEVEL_3};
use super::{clock, cluster, outbox, peer};
use crate::decide::replication::compare::{Deletes, Scope, Since};
use crate::decide::replication::rules::{self, Prefix, ReadThrough, Rule};
use crate::decide::replication::tags::{SentTags, TagScope};
use crate::vocabulary::ids::RegistryId;
use crate::vocabulary::limits::{CLOCK_AHEAD_MS_MAX, TAG_CHANGES_KEPT_MAX};
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
    /// The tags that it had before those of now, the oldest first: what was made then is sent if they let it through as
    /// well.
    pub former: Vec<FormerTags>,
}

/// Tags that a rule had.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FormerTags {
    /// Which they were.
    pub tags: TagScope,
    /// Log index of the command that changed them.
    pub until_index: u64,
    /// When that was, replicated milliseconds since 1970.
    pub until_ms: u64,
}

impl StandingRule {
    /// Log index and time since which it asks for what was before to be copied; `None` if it doesn't. Of other tags
    /// than before it asks anew.
    fn asks_since(&self) -> Option<(u64, u64)> {
        let changed = self.former.last().filter(|_| self.rule.backfill);
        let since = changed.map_or((self.since_index, self.since_ms), |last| (last.until_index, last.until_ms));
        self.rule.reaches_back().then_some(since)
    }

    /// Its tags by log index.
    fn tags(&self) -> SentTags {
        let before = self.former.iter().map(|former| (former.until_index, former.tags.clone()));
        SentTags { now: self.rule.tags.clone(), before: before.collect() }
    }

    /// Its tags by hybrid logical time, where what rules up to index `filled` ask for is there: of what was before a
    /// change that it had copied, no other tags count.
    fn tags_by_time(&self, filled: u64) -> SentTags {
        let is_open = |former: &&FormerTags| !(self.rule.backfill && former.until_index <= filled);
        let before = self.former.iter().filter(is_open).map(|former| (hlc_of(former.until_ms), former.tags.clone()));
        SentTags { now: self.rule.tags.clone(), before: before.collect() }
    }

    /// The rule with other tags, from a log index and time on. What it had to send before stays to be sent; of very
    /// many changes the oldest are forgotten, with what was made then, once all regions have seen that.
    fn retagged(mut self, tags: TagScope, (index, now_ms): (u64, u64), seen: u64) -> Result<StandingRule, Refusal> {
        let tags = std::mem::replace(&mut self.rule.tags, tags);
        self.former.push(FormerTags { tags, until_index: index, until_ms: now_ms });
        if self.former.len() > TAG_CHANGES_KEPT_MAX {
            let FormerTags { until_index, until_ms, .. } = self.former.remove(0);
            if until_index > seen {
                let limit = "changes of the tags of a replication rule that a region has not caught up with".to_owned();
                return Err(Refusal::LimitReached { limit, allowed: TAG_CHANGES_KEPT_MAX as u64 });
            }
            (self.since_index, self.since_ms) = (until_index, until_ms);
        }
        Ok(self)
    }
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

    /// Which deletes in a repository are followed in a region, by hybrid logical time: those that the stream tells, so
    /// that all filters of before count, also where what they kept back was copied since.
    pub fn followed(&self, name: &RepositoryName, region: &RegionName) -> Deletes {
        let rules = self.sending(name, region).filter(|standing| standing.rule.deletes);
        let oldest = self.sending(name, region).min_by_key(|standing| standing.since_index);
        Deletes {
            since: rules.map(|standing| standing.since_ms).min().map(hlc_of),
            tags: oldest.map_or(SentTags::ALL, |standing| standing.tags_by_time(0)),
        }
    }

    /// Which tags of a repository are sent to a region, by log index: all rules that send it there say the same, and
    /// said so since there are two of them. The oldest one tells of what was before.
    pub fn tags(&self, name: &RepositoryName, region: &RegionName) -> SentTags {
        let oldest = self.sending(name, region).min_by_key(|standing| standing.since_index);
        oldest.map_or(SentTags::ALL, StandingRule::tags)
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
        let oldest = self.sending(name, region).min_by_key(|standing| since(standing))?;
        let (own, tags) = (since(oldest), oldest.tags_by_time(filled));
        let others = self.sending(name, region).filter(|standing| standing.rule.transitive).map(since).min();
        let settings = self.sending(name, region).filter(|standing| standing.rule.settings).map(settings).min();
        Some(Scope { source, destination, since: Since { own, others, settings }, tags })
    }

    /// Log index of the youngest rule that has what was before it, or settings, copied to a region, or of the last
    /// change of its tags; zero if there is none.
    pub fn backfill(&self, region: &RegionName) -> u64 {
        let reaching = self.0.iter().filter(|standing| standing.rule.reaches(region));
        reaching.filter_map(StandingRule::asks_since).map(|(index, _)| index).max().unwrap_or(0)
    }

    /// What a rule younger than index `filled` has copied to a region of what was before it in a repository; `None` if
    /// none does.
    pub fn fills(&self, name: &RepositoryName, region: &RegionName, filled: u64) -> Option<Fill> {
        let asks = |standing: &StandingRule| standing.asks_since().filter(|(index, _)| *index > filled);
        let is_asking = |standing: &&StandingRule| asks(standing).is_some();
        let asking = || self.sending(name, region).filter(is_asking);
        let filling = || asking().filter(|standing| standing.rule.backfill);
        // a slot's time may be ahead of the clock; what comes twice does no harm
        let until_ms = asking().filter_map(asks).map(|(_, since_ms)| since_ms).max()?;
        let until = hlc_of(until_ms.saturating_add(CLOCK_AHEAD_MS_MAX));
        let any = |is_meant: fn(&Rule) -> bool| self.sending(name, region).any(|standing| is_meant(&standing.rule));
        let beginning = |is_so: bool| if is_so { 0 } else { u64::MAX };
        let fills_others = filling().any(|standing| standing.rule.transitive);
        let is_with_settings = asking().any(|standing| standing.rule.settings);
        let own = beginning(filling().next().is_some());
        let others = any(|rule| rule.transitive).then(|| beginning(fills_others));
        let settings = (is_with_settings || fills_others && any(|rule| rule.settings)).then_some(0);
        Some(Fill { until, since: Since { own, others, settings }, tags: self.tags(name, region).now })
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

/// Rules as they stand when they are set at a log index and a time: one that was there as it is keeps its beginning,
/// and so does one of which only the tags are others. `seen`: up to which index all regions have applied all changes.
pub(super) fn stand(
    before: &RulesRow,
    all: Vec<Rule>,
    (since_index, since_ms): (u64, u64),
    seen: u64,
) -> Result<RulesRow, Refusal> {
    let stand = |rule: Rule| {
        let found = |is_it: &dyn Fn(&Rule) -> bool| before.0.iter().find(|standing| is_it(&standing.rule)).cloned();
        if let Some(same) = found(&|standing| *standing == rule) {
            return Ok(same);
        }
        match found(&|standing| standing.is_but_for_tags(&rule)) {
            Some(other) => other.retagged(rule.tags, (since_index, since_ms), seen),
            None => Ok(StandingRule { rule, since_index, since_ms, former: Vec::new() }),
        }
    };
    all.into_iter().map(stand).collect::<Result<Vec<_>, _>>().map(RulesRow)
}

/// Sets all rules of a registry. A rule that was there as it is goes on, and so does one of which only the tags are
/// others: what was to be sent by both is sent. One that changed in anything else begins anew: a wider filter does not
/// reach back. Source: ECR `PutReplicationConfiguration`.
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
        let seen = outbox::seen_by_all(tables, self.registry);
        let row = stand(&before, self.rules, (context.index, context.clock.now_ms), seen)?;
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
    use crate::metadata::cursor::NoteDestination;
    use crate::metadata::testing::{World, peer, repository_key};
    use crate::vocabulary::ids::Lineage;
    use crate::vocabulary::version::Version;

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
        // a filter of tags travels with all that is said of a rule
        let tags = TagScope::new([TagFilter::parse("v*").unwrap()], []).unwrap();
        let some = Rule { backfill: true, tags: tags.clone(), ..rule("eu", "team/") };
        world.ok(put(std::slice::from_ref(&some)));
        let row = read(&world.tables, RegistryId::DEFAULT);
        assert!(row.sends(&team, &eu, (world.index + 1, true)) && !row.sends(&team, &eu, (world.index, true)));
        let sent = SentTags::from(tags.clone());
        assert_eq!((row.tags(&team, &eu), row.tags(&prod, &eu)), (sent.clone(), SentTags::ALL));
        assert_eq!(row.scope(&team, &eu, (1, 2), 0).unwrap().tags, sent);
        assert_eq!(row.fills(&team, &eu, 0).unwrap().tags, tags);
        assert_eq!(row.sent(&eu)[0].tags, tags);
        assert!(matches!(world.refused(put(&[some, rule("eu", "team/app")])), Refusal::ParameterInvalid { .. }));
        world.ok(put(&[]));
        assert_eq!(read(&world.tables, RegistryId::DEFAULT), RulesRow::default());
        assert!(matches!(world.refused(put(&[rule("here", "team/")])), Refusal::ParameterInvalid { .. }));
    }
    fn tags(texts: &[&str]) -> TagScope {
        TagScope::new(texts.iter().map(|text| TagFilter::parse(text).unwrap()), []).unwrap()
    }

    // Other tags leave a rule its beginning: what was to be sent is, if both filters let it through, and what is
    // compared are the same records. A filter that is set back lets through again what was made before it changed.
    #[test]
    fn other_tags() {
        let mut world = World::cluster();
        world.ok(peer(2, "eu"));
        let with = |texts: &[&str]| Rule { tags: tags(texts), ..rule("eu", "team/") };
        world.ok(put(&[with(&["v*"])]));
        let first = world.index;
        world.pass(1);
        world.ok(put(&[with(&["v1*", "dev"])]));
        let (row, second) = (read(&world.tables, RegistryId::DEFAULT), world.index);
        let (eu, team) = (RegionName::parse("eu").unwrap(), repository_key("team/app", 1).name);
        assert!(row.sends(&team, &eu, (first + 1, true)) && !row.sends(&team, &eu, (first, true)));
        const TAGS: [&str; 3] = ["v1", "v2", "dev"];
        let passing =
            |row: &RulesRow, at: u64| TAGS.map(|text| row.tags(&team, &eu).passes(&Tag::parse(text).unwrap(), at));
        assert_eq!(passing(&row, second), [true, false, false]);
        assert_eq!(passing(&row, second + 1), [true, false, true]);
        let compared = |row: &RulesRow, filled: u64, hlc: u64| {
            let (scope, version) =
                (row.scope(&team, &eu, (1, 2), filled).unwrap(), Version { home_epoch: 0, hlc, region: 1 });
            TAGS.map(|text| scope.covers_tag(&Tag::parse(text).unwrap(), version))
        };
        let (since, until) = (hlc_of(row.0[0].since_ms), hlc_of(row.0[0].former[0].until_ms));
        assert!(since < until);
        assert_eq!(compared(&row, 0, since), [false; 3]);
        assert_eq!(compared(&row, 0, until), [true, false, false]);
        assert_eq!(compared(&row, 0, until + 1), [true, false, true]);

        world.ok(put(&[with(&["v*"])]));
        let row = read(&world.tables, RegistryId::DEFAULT);
        assert_eq!([first + 1, second + 1].map(|at| passing(&row, at)), [[true, true, false], [true, false, false]]);
        assert_eq!(world.ok(put(&[with(&["v*"])])), Reply::Unchanged);
        // with anything else in it that is other, it is another rule
        world.ok(put(&[Rule { deletes: true, ..with(&["dev"]) }]));
        let row = read(&world.tables, RegistryId::DEFAULT);
        assert_eq!((row.0[0].since_index, row.0[0].former.len()), (world.index, 0));
    }

    // With backfill a rule asks anew for what was before when its tags change, and until that is there nothing is
    // compared that was not to be there; settings alone ask for nothing again.
    #[test]
    fn other_tags_with_backfill() {
        let mut world = World::cluster();
        world.ok(peer(2, "eu"));
        let filling = |texts: &[&str]| Rule { backfill: true, tags: tags(texts), ..rule("eu", "team/") };
        world.ok(put(&[filling(&["v*"])]));
        let first = world.index;
        world.ok(put(&[filling(&["v*", "dev"])]));
        let (row, second) = (read(&world.tables, RegistryId::DEFAULT), world.index);
        let (eu, team) = (RegionName::parse("eu").unwrap(), repository_key("team/app", 1).name);
        assert_eq!((row.0[0].since_index, row.backfill(&eu)), (first, second));
        let fill = row.fills(&team, &eu, first).unwrap();
        assert_eq!((fill.since.own, fill.tags), (0, tags(&["v*", "dev"])));
        assert!(fill.until > hlc_of(row.0[0].former[0].until_ms));
        assert_eq!(row.fills(&team, &eu, second), None);
        let old = Version { home_epoch: 0, hlc: 5, region: 1 };
        let compared = |filled: u64| {
            let scope = row.scope(&team, &eu, (1, 2), filled).unwrap();
            ["v1", "dev"].map(|text| scope.covers_tag(&Tag::parse(text).unwrap(), old))
        };
        assert_eq!([0, first, second].map(compared), [[false, false], [true, false], [true, true]]);
        // of deletes that were made before the change no more is followed for that
        assert_eq!(row.followed(&team, &eu), Deletes { since: None, tags: row.0[0].tags_by_time(0) });
        assert_eq!((row.0[0].tags_by_time(0).before.len(), row.0[0].tags_by_time(second).before.len()), (1, 0));
        world.ok(put(&[Rule { deletes: true, ..filling(&["v*"]) }]));
        let row = read(&world.tables, RegistryId::DEFAULT);
        assert_eq!(row.followed(&team, &eu).since, Some(hlc_of(row.0[0].since_ms)));
        assert_eq!(row.followed(&repository_key("other", 1).name, &eu), Deletes::default());

        let with = |texts: &[&str]| Rule { settings: true, tags: tags(texts), ..rule("eu", "team/") };
        world.ok(put(&[with(&["v*"])]));
        let third = world.index;
        world.ok(put(&[with(&["dev"])]));
        assert_eq!(read(&world.tables, RegistryId::DEFAULT).backfill(&eu), third);
    }

    // Of very many changes the oldest is forgotten, with what was made then, once the region has that; before, another
    // one is refused.
    #[test]
    fn very_many_changes_of_tags() {
        let mut world = World::cluster();
        world.ok(peer(2, "eu"));
        let with = |number: usize| Rule { tags: tags(&[&format!("v{number}")]), ..rule("eu", "team/") };
        let mut indexes = Vec::new();
        for number in 0..=TAG_CHANGES_KEPT_MAX {
            world.ok(put(&[with(number)]));
            indexes.push(world.index);
        }
        let more = put(&[with(99)]);
        assert!(matches!(world.refused(more.clone()), Refusal::LimitReached { .. }));
        world.ok(NoteDestination { number: 2, lineage: Lineage(1), index: indexes[1] });
        world.ok(more);
        let standing = read(&world.tables, RegistryId::DEFAULT).0.remove(0);
        assert_eq!((standing.since_index, standing.former.len()), (indexes[1], TAG_CHANGES_KEPT_MAX));
        assert_eq!((standing.former[0].until_index, standing.rule), (indexes[2], with(99)));
    }
}
