//! What goes wrong between two regions and in them. Kinds come from a deck that the seed shuffles again and again, so
//! that every kind comes soon, in an order that nobody knows.

use std::time::Duration;

use crate::fault::Fault;

/// Kinds of faults, as the history names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Both links.
    CutLinks,
    /// The one that brings changes to a region.
    CutOneLink,
    /// Both ways, and nobody is told.
    HangOneLink,
    /// One way only: no request of a region arrives.
    LoseRequests,
    /// One way only: no answer comes back to it.
    LoseAnswers,
    /// The leader of a region dies, and returns.
    KillLeader,
    KillBothLeaders,
    /// All clocks of a region are ahead, by less than another region puts up with.
    ClockAhead,
    /// They are behind.
    ClockBehind,
    /// They are ahead by more than that: the other region puts changes aside.
    ClockFarAhead,
    /// All nodes of a region are lost, and it goes on from a backup.
    Restore,
    /// Rows of a region are altered beneath it, on all of its nodes.
    Drift,
}

/// What a shuffled deck holds.
const DECK: [Kind; 17] = [
    Kind::CutLinks,
    Kind::CutLinks,
    Kind::CutOneLink,
    Kind::HangOneLink,
    Kind::LoseRequests,
    Kind::LoseAnswers,
    Kind::KillLeader,
    Kind::KillLeader,
    Kind::KillLeader,
    Kind::KillBothLeaders,
    Kind::KillBothLeaders,
    Kind::ClockAhead,
    Kind::ClockAhead,
    Kind::ClockBehind,
    Kind::ClockFarAhead,
    Kind::Restore,
    Kind::Drift,
];

/// How far another region's clock may be ahead before changes of it are put aside, as `src/docs/operations.md` says.
pub(super) const AHEAD_MAX_S: i64 = 300;

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::CutLinks => "cut-links",
            Kind::CutOneLink => "cut-one-link",
            Kind::HangOneLink => "hang-one-link",
            Kind::LoseRequests => "lose-requests",
            Kind::LoseAnswers => "lose-answers",
            Kind::KillLeader => "kill-leader",
            Kind::KillBothLeaders => "kill-both-leaders",
            Kind::ClockAhead => "clock-ahead",
            Kind::ClockBehind => "clock-behind",
            Kind::ClockFarAhead => "clock-far-ahead",
            Kind::Restore => "restore",
            Kind::Drift => "drift",
        }
    }

    /// Whether clocks are set for it.
    pub(super) fn sets_clocks(self) -> bool {
        matches!(self, Kind::ClockAhead | Kind::ClockBehind | Kind::ClockFarAhead)
    }
}

/// Kinds by their names; all of them for none.
pub(super) fn parse(names: &[String]) -> Result<Vec<Kind>, Fault> {
    let all = || DECK.into_iter();
    let known = || {
        let mut known: Vec<&str> = all().map(Kind::name).collect();
        known.dedup();
        known.join(", ")
    };
    let wrong = names.iter().find(|name| !all().any(|kind| kind.name() == name.as_str()));
    if let Some(wrong) = wrong {
        return Err(Fault::new(format!("no fault {wrong:?} of two regions; there are {}", known())));
    }
    Ok(all().filter(|kind| names.is_empty() || names.iter().any(|name| kind.name() == name)).collect())
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) kind: Kind,
    /// The region it is about, where it is about one.
    pub(super) at: usize,
    /// How long it lasts.
    pub(super) window: Duration,
    /// How wrong clocks are, in seconds.
    pub(super) offset_s: i64,
    /// Of a restore: the links are cut between the backup and the loss, so that the other region has not got all. Of
    /// drift: they are cut before, so that changes are dropped that it has not got.
    pub(super) is_apart: bool,
    /// Everything else that is drawn.
    pub(super) draw: u64,
}

impl Trouble {
    /// The regions it is about.
    pub(super) fn regions(&self) -> Vec<usize> {
        let is_of_both = matches!(self.kind, Kind::CutLinks | Kind::KillBothLeaders);
        if is_of_both { vec![0, 1] } else { vec![self.at] }
    }
}

/// Faults, one after the other.
#[derive(Debug)]
pub(super) struct Deck {
    random: fastrand::Rng,
    whole: Vec<Kind>,
    left: Vec<Kind>,
}

impl Deck {
    /// Of these kinds, as often as each is in it.
    pub(super) fn new(seed: u64, whole: Vec<Kind>) -> Deck {
        Deck { random: fastrand::Rng::with_seed(seed), whole, left: Vec::new() }
    }

    /// The next fault.
    pub(super) fn draw(&mut self) -> Trouble {
        if self.left.is_empty() {
            self.left.clone_from(&self.whole);
            self.random.shuffle(&mut self.left);
        }
        let kind = self.left.pop().expect("a deck has cards");
        let random = &mut self.random;
        let lasts_ms = match kind {
            // other faults come meanwhile
            Kind::ClockAhead | Kind::ClockBehind => 15_000..40_000,
            Kind::ClockFarAhead => 10_000..20_000,
            // from the backup to the loss, and how long the links are cut before the damage
            Kind::Restore | Kind::Drift => 2000..8000,
            Kind::CutLinks
            | Kind::CutOneLink
            | Kind::HangOneLink
            | Kind::LoseRequests
            | Kind::LoseAnswers
            | Kind::KillLeader
            | Kind::KillBothLeaders => 2000..15_000,
        };
        let mut offset_s = 0;
        if kind == Kind::ClockFarAhead {
            offset_s = random.i64(AHEAD_MAX_S + 60..AHEAD_MAX_S + 90);
        } else if kind.sets_clocks() {
            offset_s = random.i64(2..AHEAD_MAX_S - 60) * if kind == Kind::ClockBehind { -1 } else { 1 };
        }
        let window = Duration::from_millis(random.u64(lasts_ms));
        Trouble { kind, at: random.usize(0..2), window, offset_s, is_apart: random.bool(), draw: random.u64(..) }
    }

    /// How long nothing new goes wrong before the next one.
    pub(super) fn pause(&mut self) -> Duration {
        Duration::from_millis(self.random.u64(3000..7000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Each kind comes within a deck, clocks are as wrong as their kind says, and a seed gives the same again.
    #[test]
    fn decks() {
        let drawn = |seed| {
            let mut deck = Deck::new(seed, DECK.to_vec());
            (0..DECK.len()).map(|_| deck.draw()).collect::<Vec<_>>()
        };
        for seed in 0..50 {
            let all = drawn(seed);
            assert_eq!(all, drawn(seed));
            assert!(DECK.iter().all(|kind| all.iter().any(|trouble| trouble.kind == *kind)));
            for trouble in all {
                let (is_near, offset_s) = (|offset_s| (1..AHEAD_MAX_S).contains(&offset_s), trouble.offset_s);
                assert_eq!(is_near(offset_s), trouble.kind == Kind::ClockAhead, "{trouble:?}");
                assert_eq!(is_near(-offset_s), trouble.kind == Kind::ClockBehind, "{trouble:?}");
                assert_eq!(offset_s > AHEAD_MAX_S, trouble.kind == Kind::ClockFarAhead, "{trouble:?}");
            }
        }
        assert_ne!(drawn(1), drawn(2));
    }

    // A deck may be of some kinds only; a wrong name is told with the right ones.
    #[test]
    fn names() {
        let parsed = |names: &str| parse(&names.split(',').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(parsed("restore,cut-links").unwrap(), [Kind::CutLinks, Kind::CutLinks, Kind::Restore]);
        assert_eq!(parse(&[]).unwrap(), DECK);
        let told = parsed("cut").unwrap_err().to_string();
        assert!(
            told.contains("\"cut\"") && told.contains("cut-links, cut-one-link") && told.contains("restore"),
            "{told}"
        );
    }
}
