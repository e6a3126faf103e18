//! One cycle: where it is, what it does next, what it has done. Proposes nothing itself.

use registry_core::decide::fuse::Fuse;
use registry_core::metadata::clock;
use registry_core::metadata::command::Command;
use registry_core::metadata::gc::{Ending, Phase, Tally, UnderWay};
use registry_core::metadata::idle::{self, Found};
use registry_core::metadata::keys::{SLOTS, Slot};
use registry_core::metadata::link;
use registry_core::metadata::reply::Reply;
use registry_core::metadata::sweep;
use registry_core::metadata::tables::TablesRead;
use registry_core::metadata::untagged::{self, Wish};
use tokio::time::Instant;

/// How much a batch does at a time: while it looks its thread serves nobody, and while its commands are applied no
/// others are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Portion {
    /// Rows it looks at.
    pub(super) rows: usize,
    /// Rows it reads at once, and commands after which it is proposed.
    pub(super) page: usize,
}

/// What a cycle goes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// How much it may condemn.
    pub(super) fuse: Fuse,
    /// Which manifests it deletes by age.
    pub(super) wish: Wish,
    /// How far this node has applied the log.
    pub(super) applied_index: u64,
    /// How much a batch does.
    pub(super) portion: Portion,
}

/// What a batch came to.
pub(super) struct Batch {
    /// What to propose.
    pub(super) commands: Vec<Command>,
    /// The phase has walked over all slots.
    pub(super) is_over: bool,
}

/// A cycle under way at this leader.
#[derive(Debug)]
pub(super) struct Cycle {
    /// Of the row that it rests on.
    pub(super) version: u64,
    /// It is what an operator asked for, and has not said so yet.
    pub(super) takes_asked: bool,
    /// It is written down.
    pub(super) is_noted: bool,
    /// When it was written down last, or began.
    pub(super) noted: Instant,
    pub(super) began: Instant,
    pub(super) began_at_ms: u64,
    pub(super) phase: Phase,
    slot: Slot,
    after: Option<Vec<u8>>,
    pub(super) allow_percent: Option<u8>,
    pub(super) tally: Tally,
    /// Bytes that were not condemned because it would have been too much.
    held_bytes: u64,
}

impl Cycle {
    /// A new one.
    pub(super) fn begin(version: u64, allow_percent: Option<u8>, now_ms: u64, takes_asked: bool) -> Cycle {
        let tally = Tally::default();
        let under_way = UnderWay { phase: Phase::ALL[0], slot: 0, allow_percent, began_at_ms: now_ms, tally };
        Cycle { takes_asked, is_noted: false, ..Cycle::resume(version, under_way) }
    }

    /// One that another leader began, or this one before an operator's word.
    pub(super) fn resume(version: u64, under_way: UnderWay) -> Cycle {
        let UnderWay { phase, slot, allow_percent, began_at_ms, mut tally } = under_way;
        let now = Instant::now();
        let mut slot = slot;
        if phase == Phase::Survey {
            // counted anew: a slot counted twice would make the whole look larger than it is
            slot = 0;
            tally.count(&sweep::Survey::default());
        }
        Cycle {
            version,
            takes_asked: false,
            is_noted: true,
            noted: now,
            began: now,
            began_at_ms,
            phase,
            slot,
            after: None,
            allow_percent,
            tally,
            held_bytes: 0,
        }
    }

    /// What is written down about it.
    pub(super) fn under_way(&self) -> UnderWay {
        let Cycle { phase, slot, allow_percent, began_at_ms, tally, .. } = *self;
        UnderWay { phase, slot, allow_percent, began_at_ms, tally }
    }

    /// Whether what it proposes in this phase may end in a refusal: a use is forgotten only when its time has come.
    pub(super) fn may_refuse(&self) -> bool {
        self.phase == Phase::Settle
    }

    /// Walks on until there is enough to propose or the batch has looked at enough.
    pub(super) fn batch(&mut self, tables: &impl TablesRead, plan: &Plan) -> Batch {
        let mut commands = Vec::new();
        let mut looked_at = 0;
        while self.slot < SLOTS && looked_at < plan.portion.rows && commands.len() < plan.portion.page {
            let found = self.page(tables, plan, &commands);
            looked_at += found.looked_at;
            commands.extend(found.commands);
            match found.next {
                Some(next) => self.after = Some(next),
                None => (self.slot, self.after) = (self.slot + 1, None),
            }
        }
        self.tally.looked_at += looked_at as u64;
        Batch { commands, is_over: self.slot >= SLOTS }
    }

    fn page(&mut self, tables: &impl TablesRead, plan: &Plan, before: &[Command]) -> Found {
        let (slot, after, clock) = (self.slot, self.after.as_deref(), clock::read(tables));
        let limit = plan.portion.page;
        match self.phase {
            Phase::Manifests => untagged::due(tables, slot, &clock, plan.wish, after, limit),
            Phase::Links => idle::idle_links(tables, slot, &clock, after, limit),
            Phase::Uses => idle::idle_uses(tables, slot, after, limit),
            Phase::Settle => link::settlement(tables, slot, plan.applied_index, after, limit),
            Phase::Survey => {
                let mut survey = self.tally.surveyed();
                let found = sweep::survey(tables, slot, after, limit, &mut survey);
                self.tally.count(&survey);
                found
            }
            Phase::Sweep => {
                let proposed: u64 = before.iter().map(condemned_bytes).sum();
                let spent = self.tally.condemned_bytes + proposed;
                let mut allowed = plan.fuse.allowance(self.tally.bytes).saturating_sub(spent);
                let (found, held) = sweep::due(tables, slot, &clock, after, limit, &mut allowed);
                self.held_bytes += held;
                found
            }
        }
    }

    /// Counts what was done of a batch; answers how much.
    pub(super) fn count(&mut self, commands: &[Command], replies: &[Reply]) -> u64 {
        let mut done = 0;
        for (command, reply) in commands.iter().zip(replies) {
            if *reply != Reply::Unchanged {
                done += 1;
                self.count_one(command);
            }
        }
        done
    }

    fn count_one(&mut self, command: &Command) {
        let tally = &mut self.tally;
        let told = |what: &'static str, bytes: u64| {
            metrics::counter!("portolan_gc_collected_total", "what" => what).increment(1);
            metrics::counter!("portolan_gc_collected_bytes_total", "what" => what).increment(bytes);
        };
        if let Command::DeleteUntagged(_) = command {
            tally.manifests += 1;
            told("manifest", 0);
        } else if let Command::UnlinkIdle(_) = command {
            tally.links += 1;
            told("link", 0);
        } else if let Command::DropUse(_) = command {
            tally.uses += 1;
            told("use", 0);
        } else if let Command::Condemn(done) = command {
            tally.condemned += 1;
            tally.condemned_bytes += done.size_bytes;
            told("condemned", done.size_bytes);
        } else if let Command::Sweep(done) = command {
            tally.swept += 1;
            tally.swept_bytes += done.size_bytes;
            told("swept", done.size_bytes);
        }
    }

    /// Goes on to the next phase, or ends.
    pub(super) fn advance(&mut self, fuse: &Fuse) -> Option<Ending> {
        let is_held = self.phase == Phase::Survey && fuse.holds(&self.tally.surveyed());
        let next = self.phase.next().filter(|_| !is_held);
        match next {
            Some(phase) => {
                (self.phase, self.slot, self.after) = (phase, 0, None);
                None
            }
            None if is_held || self.held_bytes > 0 => Some(Ending::Held),
            None => Some(Ending::Done),
        }
    }
}

fn condemned_bytes(command: &Command) -> u64 {
    if let Command::Condemn(condemn) = command { condemn.size_bytes } else { 0 }
}

#[cfg(test)]
mod tests {
    use registry_core::metadata::blob;
    use registry_core::metadata::testing::World;

    use super::*;

    const BLOBS: u64 = 40;

    fn plan(percent: u8) -> Plan {
        let (fuse, portion) = (Fuse { percent, floor_bytes: 0 }, Portion { rows: 4096, page: 512 });
        Plan { fuse, wish: Wish::default(), applied_index: 0, portion }
    }

    fn world() -> World {
        let mut world = World::region(&["a", "b"]);
        let repository = world.repository("r", 1, Default::default());
        for number in 0..BLOBS {
            world.push_blob(&repository, &number.to_be_bytes(), number, &[1, 2]);
        }
        world
    }

    /// One batch and what is done of it; the ending, if it was the last one.
    fn step(world: &mut World, cycle: &mut Cycle, plan: &Plan) -> Option<Ending> {
        let Batch { commands, is_over } = cycle.batch(&world.tables, plan);
        if !commands.is_empty() {
            let outcome = world.propose(commands.clone());
            cycle.count(&commands, &outcome.replies);
        }
        if is_over { cycle.advance(&plan.fuse) } else { None }
    }

    fn run(world: &mut World, cycle: &mut Cycle, plan: &Plan) -> Ending {
        loop {
            if let Some(ending) = step(world, cycle, plan) {
                return ending;
            }
        }
    }

    fn records(world: &World) -> usize {
        (0..SLOTS).map(|slot| blob::list(&world.tables, slot, None, 99).len()).sum()
    }

    // Three cycles, a grace time apart, take everything away that nothing names, and count it.
    #[test]
    fn all_the_way() {
        let mut world = world();
        let all = Plan { portion: Portion { rows: 16, page: 4 }, ..plan(100) };
        let mut first = Cycle::begin(0, None, 0, false);
        assert_eq!(run(&mut world, &mut first, &all), Ending::Done);
        assert!(first.tally.is_idle() && first.tally.records == BLOBS && first.tally.bytes == BLOBS * 8);
        world.pass(9);
        let mut second = Cycle::begin(0, None, 0, false);
        assert_eq!(run(&mut world, &mut second, &all), Ending::Done);
        let tally = second.tally;
        assert_eq!((tally.links, tally.uses, tally.condemned, tally.swept), (BLOBS, BLOBS, BLOBS, 0));
        assert_eq!((tally.unused_bytes, tally.condemned_bytes), (BLOBS * 8, BLOBS * 8));
        world.pass(9);
        let mut third = Cycle::begin(0, None, 0, false);
        assert_eq!(run(&mut world, &mut third, &all), Ending::Done);
        assert_eq!((third.tally.swept, third.tally.swept_bytes, records(&world)), (BLOBS, BLOBS * 8, 0));
    }

    // The fuse: nothing is condemned when the survey finds too much; what becomes too much after the survey is left.
    #[test]
    fn the_fuse_holds() {
        let mut world = world();
        world.pass(9);
        let mut cycle = Cycle::begin(0, None, 0, false);
        assert_eq!(run(&mut world, &mut cycle, &plan(99)), Ending::Held);
        assert_eq!((cycle.tally.links, cycle.tally.unused, cycle.tally.condemned), (BLOBS, BLOBS, 0));
        // as if the survey had been made before the links went: only its share goes
        let tally = Tally { records: BLOBS, bytes: BLOBS * 8, ..Tally::default() };
        let under_way = UnderWay { phase: Phase::Sweep, slot: 0, allow_percent: None, began_at_ms: 0, tally };
        let mut cycle = Cycle::resume(0, under_way);
        assert_eq!(run(&mut world, &mut cycle, &plan(25)), Ending::Held);
        assert_eq!((cycle.tally.condemned, records(&world)), (BLOBS / 4, BLOBS as usize));
    }

    // G6: a leader that stops after any batch leaves a cycle that another one finishes, and nothing is done twice.
    #[test]
    fn g6_goes_on_where_it_was() {
        let mut world = world();
        world.pass(9);
        let all = plan(100);
        let mut cycle = Cycle::begin(0, None, 0, false);
        let ending = loop {
            if let Some(ending) = step(&mut world, &mut cycle, &all) {
                break ending;
            }
            cycle = Cycle::resume(0, cycle.under_way());
        };
        assert_eq!(ending, Ending::Done);
        let Tally { links, uses, condemned, records, .. } = cycle.tally;
        assert_eq!((links, uses, condemned, records), (BLOBS, BLOBS, BLOBS, BLOBS));
        assert_eq!(cycle.tally.condemned_bytes, BLOBS * 8);
    }

    // What an operator let through is kept by who goes on with the cycle.
    #[test]
    fn what_was_said_is_kept() {
        let mut cycle = Cycle::begin(0, Some(70), 5, true);
        cycle.phase = Phase::Sweep;
        let resumed = Cycle::resume(1, cycle.under_way());
        assert_eq!((resumed.allow_percent, resumed.began_at_ms, resumed.phase), (Some(70), 5, Phase::Sweep));
        assert!(!resumed.takes_asked);
        assert_eq!(resumed.under_way().slot, 0);
    }
}
