//! What a registry may hold: one limit over all of its repositories, kept without a row that every push writes.
//!
//! The limit is dealt out in *rounds*: in a round each slot may hold its share, and all shares together are within the
//! limit. Where a slot's share is too small, somebody calls the next round ([`RecallShares`], from then on no slot
//! grows), reads what each slot holds now, and grants new shares ([`grants`], [`GrantShare`]), the largest to the slot
//! that asked. A slot whose grant is lost stands still until the next round, and never holds too much: the limit is
//! exact, and which grants arrive, in what order, decides only how soon. Why so: decision 6 in `src/docs/decisions`.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, SLOTS, SYSTEM, Slot};
use super::reply::Reply;
use super::repository::RepositoryKey;
use super::tables::{Tables, TablesRead};
use super::usage::{self, SlotUsageRow};
use crate::decide::quota::{self, Excess, Limits, Usage};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::ids::RegistryId;
use crate::vocabulary::refusal::Refusal;

/// What a registry may hold. Never deleted, so that rounds are never counted anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct QuotaRow {
    /// Its limits.
    pub limits: Limits,
    /// The round: shares of earlier ones are void.
    pub round: u64,
}

impl Stored for QuotaRow {}

/// What a registry may hold; nothing is set before somebody sets it.
pub fn read(tables: &impl TablesRead, registry: RegistryId) -> QuotaRow {
    tables.get(&keys::registry_quota(registry)).map_or(QuotaRow::default(), |bytes| codec::row(&bytes))
}

fn put(tables: &mut impl Tables, registry: RegistryId, row: &QuotaRow) {
    tables.put(keys::registry_quota(registry), codec::encode(row));
}

/// Whether the registry's repositories in a slot may hold `added` more.
pub(crate) fn allow(
    tables: &impl TablesRead,
    registry: RegistryId,
    slot: &SlotUsageRow,
    added: Usage,
) -> Result<(), Refusal> {
    let QuotaRow { limits, round } = read(tables, registry);
    if limits == Limits::NONE {
        return Ok(());
    }
    // a share of an earlier round is void: what does not grow goes on
    let share = if slot.round == round { slot.share } else { nothing(&limits) };
    share.allow(slot.used, added).map_err(|_| Refusal::QuotaShare { bytes: added.bytes, tags: added.tags })
}

/// No share, of what is limited.
fn nothing(limits: &Limits) -> Limits {
    Limits { bytes: limits.bytes.map(|_| 0), tags: limits.tags.map(|_| 0) }
}

/// The grants of a round that leave room for `wanted` in the slot `asker`, whose grant comes first. Only who called the
/// round proposes them, and only those of one call: shares of two calls may add up to more than there is. `tables` must
/// be of a time after the round was called: refuses with `Changed` if they are not, or a later round was called.
/// Refuses with `QuotaExceeded` if all slots together do not leave that room.
pub fn grants(
    tables: &impl TablesRead,
    registry: RegistryId,
    round: u64,
    asker: Slot,
    wanted: Usage,
) -> Result<Vec<GrantShare>, Refusal> {
    let row = read(tables, registry);
    if row.round != round {
        return Err(Refusal::Changed);
    }
    let mut slots = vec![(asker, usage::of_slot(tables, asker, registry))];
    slots.extend(usage::by_slot(tables, registry).into_iter().filter(|(slot, _)| *slot != asker));
    let used: Vec<Usage> = slots.iter().map(|(_, row)| row.used).collect();
    let shares = quota::deal(&row.limits, &used, 0, wanted).map_err(|Excess { unit, limit }| {
        let holder = format!("registry {registry}");
        Refusal::QuotaExceeded { holder, unit: unit.to_owned(), limit }
    })?;
    let grant = |((slot, _), share)| GrantShare { registry, slot, round, share };
    Ok(slots.into_iter().zip(shares).map(grant).collect())
}

/// Whether a blob would be allowed now, by the limits alone and however shares are dealt: asked before its bytes are
/// moved. `digest` makes one that is linked already add nothing. Refuses with `QuotaExceeded`; promises nothing.
pub fn room(
    tables: &impl TablesRead,
    repository: &RepositoryKey,
    digest: &Digest,
    size_bytes: u64,
) -> Result<(), Refusal> {
    match usage::admits(tables, repository, digest, size_bytes) {
        Err(Refusal::QuotaShare { bytes, tags }) => {
            let round = read(tables, repository.registry).round;
            grants(tables, repository.registry, round, repository.slot(), Usage { bytes, tags }).map(drop)
        }
        answer => answer,
    }
}

/// Whether anything limits what a repository may hold.
pub fn is_limited(tables: &impl TablesRead, repository: &RepositoryKey) -> bool {
    usage::read(tables, repository).limits != Limits::NONE || read(tables, repository.registry).limits != Limits::NONE
}

/// Sets what a registry may hold. What it holds already stays, also above a lower limit. Begins a round: nothing grows
/// under a share of the former limits.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SetRegistryQuota {
    /// Which.
    pub registry: RegistryId,
    /// Its limits from now on.
    pub limits: Limits,
}

impl Apply for SetRegistryQuota {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let row = read(tables, self.registry);
        if row.limits == self.limits {
            return Ok(Reply::Unchanged);
        }
        put(tables, self.registry, &QuotaRow { limits: self.limits, round: row.round + 1 });
        Ok(Reply::Done)
    }
}

/// Begins a round: every share is void from now on. A compare-and-set, so that of several who call one does.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RecallShares {
    /// Of which registry.
    pub registry: RegistryId,
    /// The round that ends.
    pub round: u64,
}

impl Apply for RecallShares {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let row = read(tables, self.registry);
        if row.round != self.round {
            return Err(Refusal::Changed);
        }
        put(tables, self.registry, &QuotaRow { round: row.round + 1, ..row });
        Ok(Reply::Done)
    }
}

/// Gives a slot its share of a round, once. Refused when the round is over.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct GrantShare {
    /// Of which registry.
    pub registry: RegistryId,
    /// To which slot.
    pub slot: Slot,
    /// In which round.
    pub round: u64,
    /// What its repositories may hold together; no limit where the registry has none.
    pub share: Limits,
}

impl Apply for GrantShare {
    fn slot(&self) -> Slot {
        self.slot
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        if self.slot >= SLOTS {
            let detail = format!("there are {SLOTS} slots");
            return Err(Refusal::ParameterInvalid { parameter: "slot".to_owned(), detail });
        }
        if read(tables, self.registry).round != self.round {
            return Err(Refusal::Changed);
        }
        Ok(usage::take_share(tables, self.slot, self.registry, self.round, self.share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::command::Command;
    use crate::metadata::repository::Settings;
    use crate::metadata::testing::{World, push};

    const REGISTRY: RegistryId = RegistryId::DEFAULT;

    fn set(world: &mut World, bytes: u64) -> u64 {
        world.ok(SetRegistryQuota { registry: REGISTRY, limits: Limits { bytes: Some(bytes), tags: None } });
        read(&world.tables, REGISTRY).round
    }

    fn short(bytes: u64) -> Option<Refusal> {
        Some(Refusal::QuotaShare { bytes, tags: 0 })
    }

    /// Two repositories in slots of their own.
    fn world() -> (World, [RepositoryKey; 2]) {
        let mut world = World::region(&["a", "b"]);
        let both = [("one", 1), ("two", 2)].map(|(name, number)| world.repository(name, number, Settings::default()));
        assert_ne!(both[0].slot(), both[1].slot());
        (world, both)
    }

    // B9: a slot grows up to its share and no further; a round moves what others do not use to who asks.
    #[test]
    fn rounds() {
        let (mut world, [one, two]) = world();
        world.push_blob(&one, b"before the limit", 1, &[1, 2]);
        let round = set(&mut world, 100);
        let refused = |world: &mut World, to: &RepositoryKey, size: usize, number| {
            world.propose(push(to, &vec![number as u8; size], number, &[1, 2])).refusal
        };
        assert_eq!(refused(&mut world, &one, 1, 2), short(1), "no share of this round yet");
        let wanted = Usage::of_bytes(70);
        let granted = grants(&world.tables, REGISTRY, round, two.slot(), wanted).unwrap();
        assert_eq!(granted[0].slot, two.slot());
        world.ok(granted[0].clone());
        assert_eq!(refused(&mut world, &two, 70, 3), None);
        assert_eq!(refused(&mut world, &one, 1, 4), short(1), "its grant has not come");
        assert_eq!(world.propose(granted.iter().cloned().map(Command::from).collect()).refusal, None);
        assert_eq!(refused(&mut world, &two, 14, 5), short(14), "one byte above its share");
        let stale = grants(&world.tables, REGISTRY, round, two.slot(), Usage::of_bytes(14)).unwrap();
        world.ok(RecallShares { registry: REGISTRY, round });
        assert_eq!(world.refused(RecallShares { registry: REGISTRY, round }), Refusal::Changed);
        assert_eq!(world.refused(stale[0].clone()), Refusal::Changed);
        assert_eq!(grants(&world.tables, REGISTRY, round, two.slot(), wanted), Err(Refusal::Changed));
        let none = grants(&world.tables, REGISTRY, round + 1, two.slot(), Usage::of_bytes(15));
        assert!(matches!(none, Err(Refusal::QuotaExceeded { limit: 100, .. })));
        let last = grants(&world.tables, REGISTRY, round + 1, two.slot(), Usage::of_bytes(14)).unwrap();
        world.ok(last[0].clone());
        assert_eq!(world.ok(last[0].clone()), Reply::Unchanged);
        assert_eq!(refused(&mut world, &two, 14, 6), None);
        assert_eq!(usage::of_registry(&world.tables, REGISTRY), Usage::of_bytes(100));
    }

    // A new limit ends every share of the old one at once; without a limit no share is asked for.
    #[test]
    fn limits_change() {
        let (mut world, [one, _]) = world();
        let round = set(&mut world, 100);
        let granted = grants(&world.tables, REGISTRY, round, one.slot(), Usage::of_bytes(1)).unwrap();
        world.ok(granted[0].clone());
        world.push_blob(&one, b"ten bytes.", 1, &[1, 2]);
        let next = set(&mut world, 5);
        assert_eq!(next, round + 1);
        assert_eq!(world.propose(push(&one, b"x", 2, &[1, 2])).refusal, short(1));
        world.push_blob(&one, b"ten bytes.", 3, &[1, 2]);
        assert!(grants(&world.tables, REGISTRY, next, one.slot(), Usage::default()).is_ok());
        assert_eq!(world.ok(SetRegistryQuota { registry: REGISTRY, limits: Limits::NONE }), Reply::Done);
        world.push_blob(&one, b"x", 4, &[1, 2]);
        let far = GrantShare { registry: REGISTRY, slot: SLOTS, round: next, share: Limits::NONE };
        assert!(matches!(world.refused(far), Refusal::ParameterInvalid { .. }));
    }
}
