//! Rules of replication: which repositories are copied to which regions.
//!
//! Source: ECR `PutReplicationConfiguration` (ecr-api §3.9, §5.2) with its effective limits.

use std::collections::BTreeSet;
use std::sync::Arc;

use bincode::{Decode, Encode};

use super::tags::TagScope;
use crate::vocabulary::ids::RegistryId;
use crate::vocabulary::limits::{
    REPLICATION_DESTINATIONS_MAX, REPLICATION_FILTERS_MAX, REPLICATION_RULES_MAX, REPOSITORY_NAME_BYTES_MAX,
};
use crate::vocabulary::names::RegionName;
use crate::vocabulary::refusal::Refusal;
use crate::vocabulary::repository_name::RepositoryName;
use crate::vocabulary::stored::stored_enum;
use crate::vocabulary::text::text;

/// Why a text is not a filter of repositories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a filter is the beginning of a repository name: 2 to {REPOSITORY_NAME_BYTES_MAX} lower-case letters, digits, '.', \
     '_', '-' and '/', where what stands before a '/' begins with a letter or digit"
)]
pub struct PrefixError;

/// The beginning of repository names (ECR `PREFIX_MATCH`).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix(Arc<str>);

text!(Prefix, PrefixError);

impl Prefix {
    /// Parses what ECR's model takes for a `PREFIX_MATCH` filter.
    pub fn parse(text: &str) -> Result<Prefix, PrefixError> {
        let is_sized = (2..=REPOSITORY_NAME_BYTES_MAX).contains(&text.len());
        let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let is_legal = |byte: u8| is_word(byte) || b"._-".contains(&byte);
        let (whole, last) = text.rsplit_once('/').map_or((None, text), |(whole, last)| (Some(whole), last));
        let is_part = |part: &str| part.bytes().next().is_some_and(is_word) && part.bytes().all(is_legal);
        let fits = last.bytes().all(is_legal) && whole.is_none_or(|whole| whole.split('/').all(is_part));
        if is_sized && fits { Ok(Prefix(text.into())) } else { Err(PrefixError) }
    }

    /// Whether a name begins so.
    pub fn matches(&self, name: &RepositoryName) -> bool {
        name.as_str().starts_with(&*self.0)
    }

    /// Whether some name may begin with both: one of them is the beginning of the other.
    fn meets(&self, other: &Prefix) -> bool {
        self.0.starts_with(&*other.0) || other.0.starts_with(&*self.0)
    }
}

/// Where images are copied to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Destination {
    /// The region.
    pub region: RegionName,
    /// The registry there.
    pub registry: RegistryId,
}

stored_enum! {
    /// What a destination may fetch from here while a client waits, because it has not arrived yet.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
    pub enum ReadThrough {
        /// Nothing: a client gets 404 until it has arrived.
        #[default]
        Off = 0,
        /// What is named by digest.
        Digest = 1,
        /// Tags too.
        Full = 2,
    }
}

/// What is copied where.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Rule {
    /// To where: at least one.
    pub destinations: Vec<Destination>,
    /// Beginnings of names, one of which must match; all repositories if there is none.
    pub filters: Vec<Prefix>,
    /// What is deleted here is deleted there too (ECR `deleteReplication`).
    pub deletes: bool,
    /// What was pushed before the rule is copied as well.
    pub backfill: bool,
    /// What a client there gets of what has not arrived.
    pub read_through: ReadThrough,
    /// What came here from other regions is sent on, but for what the destination made itself. ECR sends nothing on.
    pub transitive: bool,
    /// The settings of its repositories are copied as well, those from before the rule too. ECR copies none.
    pub settings: bool,
    /// Which tags are copied. ECR copies all.
    pub tags: TagScope,
}

impl Rule {
    /// A rule that copies what is pushed from then on, and nothing else.
    pub fn plain(destinations: Vec<Destination>, filters: Vec<Prefix>) -> Rule {
        Rule {
            destinations,
            filters,
            deletes: false,
            backfill: false,
            read_through: ReadThrough::Off,
            transitive: false,
            settings: false,
            tags: TagScope::ALL,
        }
    }

    /// Whether it copies repositories of this name to a region.
    pub fn sends(&self, name: &RepositoryName, region: &RegionName) -> bool {
        covers(&self.filters, name) && self.reaches(region)
    }

    /// Whether it is the same as another one, or would be with that one's tags.
    pub fn is_but_for_tags(&self, other: &Rule) -> bool {
        Rule { tags: other.tags.clone(), ..self.clone() } == *other
    }

    /// Whether it has anything copied that there was before it.
    pub fn reaches_back(&self) -> bool {
        self.backfill || self.settings
    }

    /// Whether it copies anything to a region.
    pub fn reaches(&self, region: &RegionName) -> bool {
        self.destinations.iter().any(|to| to.region == *region)
    }

    /// A destination to which another rule may copy the same repository.
    fn meets(&self, other: &Rule) -> Option<&Destination> {
        let is_all = self.filters.is_empty() || other.filters.is_empty();
        let do_meet = is_all || self.filters.iter().any(|filter| other.filters.iter().any(|its| filter.meets(its)));
        self.destinations.iter().find(|to| do_meet && other.destinations.contains(to))
    }
}

/// Whether filters let a repository of this name through: all do if there is none.
pub fn covers(filters: &[Prefix], name: &RepositoryName) -> bool {
    filters.is_empty() || filters.iter().any(|filter| filter.matches(name))
}

/// Two rules that may copy the same repository to the same region, and of it different tags: which records are to be
/// equal there could not be told. Counted from one, with that region.
fn contradiction(rules: &[Rule]) -> Option<(usize, usize, &RegionName)> {
    rules.iter().enumerate().find_map(|(second, other)| {
        let mut differing = rules[..second].iter().enumerate().filter(|(_, one)| one.tags != other.tags);
        differing.find_map(|(first, one)| Some((first + 1, second + 1, &one.meets(other)?.region)))
    })
}

/// Checks the rules of a registry against ECR's limits, that nothing is copied to where it is, and that rules for the
/// same repositories agree on their tags.
pub fn check(rules: &[Rule], here: (&RegionName, RegistryId)) -> Result<(), Refusal> {
    let limit =
        |limit: &str, allowed: usize| Refusal::LimitReached { limit: limit.to_owned(), allowed: allowed as u64 };
    let invalid = |detail: &str| Refusal::ParameterInvalid {
        parameter: "replicationConfiguration".to_owned(),
        detail: detail.to_owned(),
    };
    if rules.len() > REPLICATION_RULES_MAX {
        return Err(limit("replication rules of a registry", REPLICATION_RULES_MAX));
    }
    if rules.iter().any(|rule| rule.filters.len() > REPLICATION_FILTERS_MAX) {
        return Err(limit("filters of a replication rule", REPLICATION_FILTERS_MAX));
    }
    if rules.iter().any(|rule| rule.destinations.is_empty()) {
        return Err(invalid("a rule needs a destination"));
    }
    let all: BTreeSet<&Destination> = rules.iter().flat_map(|rule| &rule.destinations).collect();
    if all.len() > REPLICATION_DESTINATIONS_MAX {
        return Err(limit("replication destinations of a registry", REPLICATION_DESTINATIONS_MAX));
    }
    if all.iter().any(|to| (&to.region, to.registry) == here) {
        return Err(invalid("Replication destination cannot be the same as the source registry"));
    }
    if all.iter().any(|to| to.registry != here.1) {
        return Err(invalid("images are copied to the registry of the same id; another one is not supported yet"));
    }
    if let Some((first, second, region)) = contradiction(rules) {
        let detail = format!(
            "rules {first} and {second} cover the same repositories for region '{region}', with different \"tags\": give \
             both the same, or filters of which none begins with one of the other rule"
        );
        return Err(invalid(&detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::tag_move::TagFilter;

    fn name(text: &str) -> RepositoryName {
        RepositoryName::parse(text).unwrap()
    }

    fn region(text: &str) -> RegionName {
        RegionName::parse(text).unwrap()
    }

    fn rule(to: &[&str], filters: &[&str]) -> Rule {
        let to = to.iter().map(|text| Destination { region: region(text), registry: RegistryId::DEFAULT });
        let filters = filters.iter().map(|text| Prefix::parse(text).unwrap()).collect();
        Rule::plain(to.collect(), filters)
    }

    // ECR's own pattern: whole parts begin with a letter or digit, the last one may be cut off anywhere.
    #[test]
    fn prefixes() {
        for good in ["ab", "team/", "team/app", "a-", "a.b_c-d/e", "prod-", "0/1/2", "a..b", "-a"] {
            assert_eq!(Prefix::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "a", "A/", "/a", "a//b", "-a/b", "team/*", "ä/", "./", "a b", &"a".repeat(257)] {
            assert_eq!(Prefix::parse(bad), Err(PrefixError), "{bad}");
        }
    }

    // Filters are alternatives, beginnings of the whole name; a rule without one takes all; the region must be named.
    #[test]
    fn what_is_sent() {
        let (eu, us) = (region("eu"), region("us"));
        let some = rule(&["eu"], &["prod", "team/app"]);
        for (text, sent) in
            [("prod", true), ("production/x", true), ("team/app2", true), ("team/ap", false), ("x/prod", false)]
        {
            assert_eq!(some.sends(&name(text), &eu), sent, "{text}");
            assert!(!some.sends(&name(text), &us));
        }
        assert!(rule(&["eu", "us"], &[]).sends(&name("anything"), &us));
    }

    // Rules that may cover one repository for one region agree on its tags; any others need not.
    #[test]
    fn tags_of_a_repository_are_of_one_mind() {
        let tags = |text: &str| TagScope::new([TagFilter::parse(text).unwrap()], []).unwrap();
        let with = |to: &[&str], filters: &[&str], text: &str| Rule { tags: tags(text), ..rule(to, filters) };
        let home = region("home");
        let check = |rules: &[Rule]| check(rules, (&home, RegistryId::DEFAULT));
        let one = with(&["eu", "us"], &["team/", "prod"], "v*");
        for other in [
            with(&["eu", "us"], &["team/app"], "v*"),
            with(&["us"], &["other/", "team-b/"], "dev*"),
            with(&["ap"], &["team/app"], "dev*"),
            rule(&["ap"], &[]),
        ] {
            assert_eq!(check(&[one.clone(), other.clone()]), Ok(()), "{other:?}");
        }
        for (other, to) in [
            (with(&["us"], &["team/app"], "dev*"), "us"),
            (with(&["ap", "eu"], &["other/", "te"], "dev*"), "eu"),
            (rule(&["us"], &["production"]), "us"),
            (rule(&["us"], &[]), "us"),
        ] {
            let rules = [rule(&["sa"], &["team/"]), one.clone(), other];
            let Err(Refusal::ParameterInvalid { detail, .. }) = check(&rules) else { panic!("{rules:?}") };
            assert!(
                detail.starts_with(&format!("rules 2 and 3 cover the same repositories for region '{to}'")),
                "{detail}"
            );
            let turned = [&rules[2], &rules[1]].map(Rule::clone);
            assert!(check(&turned).is_err(), "{turned:?}");
        }
    }

    // ECR's limits, and a copy onto itself.
    #[test]
    fn limits() {
        let home = region("home");
        let check = |rules: &[Rule]| check(rules, (&home, RegistryId::DEFAULT));
        let numbered = |count: usize| (0..count).map(|number| format!("r{number}")).collect::<Vec<_>>();
        let many = |count: usize| numbered(count).iter().map(|text| rule(&[text], &[])).collect::<Vec<_>>();
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&many(REPLICATION_RULES_MAX)), Ok(()));
        assert!(matches!(check(&many(REPLICATION_RULES_MAX + 1)), Err(Refusal::LimitReached { .. })));
        let regions = numbered(REPLICATION_DESTINATIONS_MAX + 1);
        let to = |count: usize| rule(&regions[..count].iter().map(String::as_str).collect::<Vec<_>>(), &[]);
        assert_eq!(check(&[to(REPLICATION_DESTINATIONS_MAX), to(3)]), Ok(()));
        assert!(matches!(check(&[to(REPLICATION_DESTINATIONS_MAX + 1)]), Err(Refusal::LimitReached { .. })));
        let filters = vec!["ab"; REPLICATION_FILTERS_MAX + 1];
        assert!(matches!(check(&[rule(&["eu"], &filters)]), Err(Refusal::LimitReached { .. })));
        let other = RegistryId::parse("123456789012").unwrap();
        let to = |region: &str, registry| Destination { region: RegionName::parse(region).unwrap(), registry };
        for bad in [vec![], vec![to("home", RegistryId::DEFAULT)], vec![to("eu", other)]] {
            let rule = Rule { destinations: bad, ..rule(&["eu"], &[]) };
            assert!(matches!(check(&[rule]), Err(Refusal::ParameterInvalid { .. })));
        }
    }
}
