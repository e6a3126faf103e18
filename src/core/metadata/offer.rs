//! What another region says that its rules send here: known also while nobody there answers.
//!
//! A client that asks for what has not arrived is told that it is not there only if no region would have sent it.
//! Source: consensus-and-faults §6.6.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, SYSTEM, Slot};
use super::replication_rules::SentRow;
use super::reply::Reply;
use super::tables::{Tables, TablesRead};
use super::{peer, region_link};
use crate::decide::replication::rules::ReadThrough;
use crate::decide::replication::tags::TagScope;
use crate::vocabulary::limits::{REPLICATION_FILTERS_MAX, REPLICATION_RULES_MAX};
use crate::vocabulary::refusal::Refusal;
use crate::vocabulary::repository_name::RepositoryName;
use crate::vocabulary::tag::Tag;

/// What a region sends here, rule by rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct OfferRow(pub Vec<SentRow>);

impl Stored for OfferRow {}

impl OfferRow {
    /// Whether a repository is among what the region sends.
    pub fn covers(&self, name: &RepositoryName) -> bool {
        self.covering(name).next().is_some()
    }

    /// How much of a repository the region serves before it has arrived.
    pub fn read_through(&self, name: &RepositoryName) -> ReadThrough {
        self.covering(name).map(|sent| sent.read_through).max().unwrap_or_default()
    }

    /// Whether the region says what a tag names before it has arrived.
    pub fn resolves(&self, name: &RepositoryName, tag: &Tag) -> bool {
        self.covering(name).any(|sent| sent.resolves(tag))
    }

    /// Which tags of a repository the region sends: all of its rules that cover it say the same.
    pub fn tags(&self, name: &RepositoryName) -> TagScope {
        self.covering(name).next().map_or(TagScope::ALL, |sent| sent.tags.clone())
    }

    /// Whether the region sends on what it has of a repository from other regions.
    pub fn is_transitive(&self, name: &RepositoryName) -> bool {
        self.covering(name).any(|sent| sent.transitive)
    }

    /// Whether the region sends settings of a repository.
    pub fn sends_settings(&self, name: &RepositoryName) -> bool {
        self.covering(name).any(|sent| sent.settings)
    }

    fn covering(&self, name: &RepositoryName) -> impl Iterator<Item = &SentRow> {
        self.0.iter().filter(move |sent| sent.covers(name))
    }
}

/// What a region sends here, as it said last.
pub fn read(tables: &impl TablesRead, number: u16) -> OfferRow {
    tables.get(&keys::offer(number)).map_or(OfferRow::default(), |bytes| codec::row(&bytes))
}

/// The regions that would serve what has not arrived of a repository: what is asked for by digest, or also what a tag
/// names.
pub fn reading_through(tables: &impl TablesRead, name: &RepositoryName, tag: Option<&Tag>) -> Vec<u16> {
    let serves = |number: &u16| {
        let offer = read(tables, *number);
        tag.map_or(offer.read_through(name) != ReadThrough::Off, |tag| offer.resolves(name, tag))
    };
    peer::list(tables).into_iter().map(|(number, _)| number).filter(serves).collect()
}

/// A region is forgotten.
pub(super) fn forget(tables: &mut impl Tables, number: u16) {
    tables.delete_present(keys::offer(number));
}

/// A region has said what it sends.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NoteOffer {
    /// The region's number.
    pub number: u16,
    /// What it sends.
    pub offer: OfferRow,
}

impl Apply for NoteOffer {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let NoteOffer { number, offer } = self;
        let is_lost = region_link::read(tables, number).taken_over.is_some();
        if peer::read(tables, number).is_none() || is_lost {
            return Err(Refusal::Changed);
        }
        let is_long = offer.0.iter().any(|sent| sent.filters.len() > REPLICATION_FILTERS_MAX);
        if is_long || offer.0.len() > REPLICATION_RULES_MAX {
            let limit = "replication rules of a registry".to_owned();
            return Err(Refusal::LimitReached { limit, allowed: REPLICATION_RULES_MAX as u64 });
        }
        if read(tables, number) == offer {
            return Ok(Reply::Unchanged);
        }
        match offer.0.is_empty() {
            true => tables.delete(keys::offer(number)),
            false => tables.put(keys::offer(number), codec::encode(&offer)),
        }
        Ok(Reply::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::replication::rules::Prefix;
    use crate::decide::tag_move::TagFilter;
    use crate::metadata::peer::DeletePeer;
    use crate::metadata::testing::{World, peer, repository_key, tags};

    fn sent(filters: &[&str], read_through: ReadThrough) -> SentRow {
        let filters = filters.iter().map(|text| Prefix::parse(text).unwrap()).collect();
        SentRow { filters, read_through, transitive: false, settings: false, tags: TagScope::ALL }
    }

    // The widest of a region's rules counts, none where it sends nothing; what it takes back is gone.
    #[test]
    fn who_serves_what_has_not_arrived() {
        let mut world = World::cluster();
        let note = |number, rows: &[SentRow]| NoteOffer { number, offer: OfferRow(rows.to_vec()) };
        assert_eq!(world.refused(note(2, &[])), Refusal::Changed);
        world.ok(peer(2, "eu"));
        world.ok(peer(3, "us"));
        assert_eq!(world.ok(note(2, &[])), Reply::Unchanged);
        world.ok(note(2, &[sent(&["team/"], ReadThrough::Digest), sent(&["team/app"], ReadThrough::Full)]));
        world.ok(note(3, &[sent(&[], ReadThrough::Off)]));
        let on = OfferRow(vec![SentRow { transitive: true, ..sent(&["team/"], ReadThrough::Off) }]);
        let is_on = |name: &str| on.is_transitive(&repository_key(name, 1).name);
        assert!(is_on("team/app") && !is_on("other"));
        let with = OfferRow(vec![SentRow { settings: true, ..sent(&["team/"], ReadThrough::Off) }]);
        let is_with = |name: &str| with.sends_settings(&repository_key(name, 1).name);
        assert!(is_with("team/app") && !is_with("other") && !on.sends_settings(&repository_key("team/app", 1).name));
        let through = |world: &World, name: &str, tag: &str| {
            let (name, tag) = (repository_key(name, 1).name, tags(&[tag]).remove(0));
            [None, Some(&tag)].map(|tag| reading_through(&world.tables, &name, tag))
        };
        assert_eq!(through(&world, "team/app", "v1"), [[2], [2]]);
        assert_eq!(through(&world, "team/other", "v1"), [vec![2], vec![]]);
        assert_eq!(through(&world, "other", "v1"), [[0; 0]; 2]);
        // a tag that is not sent is not asked for, in no repository that the filter is for
        let some = TagScope::new([TagFilter::parse("v*").unwrap()], []).unwrap();
        let full = SentRow { tags: some.clone(), ..sent(&["team/"], ReadThrough::Full) };
        world.ok(note(2, &[full, sent(&["apart/"], ReadThrough::Full)]));
        assert_eq!(through(&world, "team/app", "v1"), [[2], [2]]);
        assert_eq!(through(&world, "team/app", "dev"), [vec![2], vec![]]);
        assert_eq!(through(&world, "apart/app", "dev"), [[2], [2]]);
        let tags = |name: &str| read(&world.tables, 2).tags(&repository_key(name, 1).name);
        assert_eq!([tags("team/app"), tags("apart/app"), tags("other")], [some, TagScope::ALL, TagScope::ALL]);
        world.ok(note(2, &[]));
        assert_eq!(through(&world, "team/app", "v1"), [[0; 0]; 2]);
        let many = vec![sent(&[], ReadThrough::Off); REPLICATION_RULES_MAX + 1];
        assert!(matches!(world.refused(note(3, &many)), Refusal::LimitReached { .. }));
        world.ok(DeletePeer { number: 3 });
        assert_eq!(read(&world.tables, 3), OfferRow::default());
    }
}
