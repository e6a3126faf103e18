//! Replicated time: `now`, the largest leader's stamp seen, and the tick, the measure of passed time that frees bytes.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, SYSTEM, Slot, table};
use super::reply::Reply;
use super::tables::{Tables, TablesRead};
use super::upgrade::LEVEL_3;
use crate::vocabulary::limits::TICKS_PER_GRACE;
use crate::vocabulary::refusal::Refusal;

/// The replicated clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct ClockRow {
    /// Largest stamp of a leader so far, milliseconds since 1970. For display and order, never for freeing bytes.
    pub now_ms: u64,
    /// How many times a leader's monotonic clock passed one tick's length.
    pub tick: u64,
    /// Length of a tick, milliseconds: an eighth of the grace time.
    pub tick_ms: u64,
}

impl Stored for ClockRow {}

impl ClockRow {
    /// Whether a whole grace time has passed since something happened in `since_tick`: the tick it happened in was
    /// under way already, so it does not count.
    pub fn is_past_grace(&self, since_tick: u64) -> bool {
        self.tick.saturating_sub(since_tick) > TICKS_PER_GRACE
    }

    /// Ticks until [`ClockRow::is_past_grace`]; 0 from then on.
    pub fn grace_left(&self, since_tick: u64) -> u64 {
        since_tick.saturating_add(TICKS_PER_GRACE + 1).saturating_sub(self.tick)
    }
}

/// Reads the clock.
pub fn read(tables: &impl TablesRead) -> ClockRow {
    tables.get(&keys::system(table::CLOCK)).map_or(ClockRow::default(), |bytes| codec::row(&bytes))
}

/// Moves `now` forward to `at_ms`, never back.
pub(crate) fn advance(tables: &mut impl Tables, at_ms: u64) -> ClockRow {
    let mut clock = read(tables);
    if at_ms > clock.now_ms {
        clock.now_ms = at_ms;
        tables.put(keys::system(table::CLOCK), codec::encode(&clock));
    }
    clock
}

/// One tick has passed on the leader's monotonic clock. `expected` makes a repeated or late one harmless.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Tick {
    /// The tick the leader saw when it proposed.
    pub expected: u64,
}

impl Apply for Tick {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let mut clock = read(tables);
        if clock.tick != self.expected {
            return Ok(Reply::Unchanged);
        }
        clock.tick += 1;
        tables.put(keys::system(table::CLOCK), codec::encode(&clock));
        Ok(Reply::Done)
    }
}

/// The last hybrid logical time of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SlotClockRow {
    hlc: u64,
}

impl Stored for SlotClockRow {}

/// What is made in a slot from now on is later than this.
pub(crate) fn raise_hlc(tables: &mut impl Tables, slot: Slot, hlc: u64) {
    let key = keys::slot_clock(slot);
    if tables.get(&key).is_none_or(|bytes| codec::row::<SlotClockRow>(&bytes).hlc < hlc) {
        tables.put(key, codec::encode(&SlotClockRow { hlc }));
    }
}

/// A replicated time as hybrid logical time. Microseconds, so that no slot has more changes than it has times: counted
/// in milliseconds, a thousand changes a second would run ahead of the clock, and another region take ours to be
/// wrong.
pub(crate) fn hlc_at(at_ms: u64, level: u16) -> u64 {
    if level >= LEVEL_3 { at_ms.saturating_mul(1000) } else { at_ms }
}

/// The next hybrid logical time of a slot: at least `now`, larger than any before in this slot.
pub(crate) fn next_hlc(tables: &mut impl Tables, slot: Slot, now: u64) -> u64 {
    let key = keys::slot_clock(slot);
    let last = tables.get(&key).map_or(0, |bytes| codec::row::<SlotClockRow>(&bytes).hlc);
    let hlc = now.max(last + 1);
    tables.put(key, codec::encode(&SlotClockRow { hlc }));
    hlc
}
