//! Slows guessing down, per account and per address, without ever locking anybody out (T8).
//!
//! After a few failures each further attempt waits before it is looked at, twice as long each time up to a bound; the
//! count fades with time. An address from which an account was used rightly lately is spared that account's delay, so
//! that a stranger who guesses cannot slow the owner down. Kept per node, in memory: a drawn secret has 240 bits, this
//! bounds noise and cost, not the odds.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use registry_core::vocabulary::limits::{
    GUESS_DELAY_MS, GUESS_DELAY_MS_MAX, GUESS_FADE_MS, GUESSES_FREE, GUESSES_TRACKED_MAX, GUESSES_WAITING_MAX,
};

/// Failures of one account, address or both.
#[derive(Clone, Copy, Debug, Default)]
struct Tries {
    failures: u32,
    last_ms: u64,
}

impl Tries {
    fn faded(self, now_ms: u64) -> u32 {
        let halvings = now_ms.saturating_sub(self.last_ms) / GUESS_FADE_MS;
        self.failures.checked_shr(u32::try_from(halvings).unwrap_or(u32::MAX)).unwrap_or(0)
    }

    fn delay_ms(self, now_ms: u64) -> u64 {
        match self.faded(now_ms).checked_sub(GUESSES_FREE) {
            None | Some(0) => 0,
            Some(over) => GUESS_DELAY_MS_MAX.min(GUESS_DELAY_MS.saturating_mul(1 << (over - 1).min(16))),
        }
    }

    fn failed(&mut self, now_ms: u64) {
        // bounded, so that a long attack is forgotten as soon as a short one
        self.failures = self.faded(now_ms).saturating_add(1).min(GUESSES_FREE + 16);
        self.last_ms = now_ms;
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    Address(IpAddr),
    Account(Box<str>),
}

#[derive(Debug, Default)]
struct Book {
    tries: HashMap<Subject, Tries>,
    /// Account and address that belonged together lately.
    trusted: HashMap<(Box<str>, IpAddr), u64>,
}

/// The failures of this node.
#[derive(Debug, Default)]
pub(super) struct Guesses {
    book: Mutex<Book>,
    waiting: Arc<AtomicUsize>,
    /// How often anybody failed.
    failures: AtomicU64,
}

/// A place among those who wait.
#[derive(Debug)]
pub(super) struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One customer's share of IPv6 is a /64: its addresses count as one.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

impl Guesses {
    /// How long this attempt must wait before it is looked at, in milliseconds.
    pub(super) fn delay_ms(&self, account: &str, address: IpAddr, now_ms: u64) -> u64 {
        let address = network(address);
        let book = self.book.lock();
        if book.tries.is_empty() {
            return 0;
        }
        let delay = |subject| book.tries.get(&subject).map_or(0, |tries| tries.delay_ms(now_ms));
        let trusted = book.trusted.contains_key(&(account.into(), address));
        if trusted { 0 } else { delay(Subject::Address(address)).max(delay(Subject::Account(account.into()))) }
    }

    /// Takes a place among the waiting; `None` when too many wait already.
    pub(super) fn wait(&self) -> Option<Waiting> {
        let place = Waiting(Arc::clone(&self.waiting));
        (self.waiting.fetch_add(1, Ordering::Relaxed) < GUESSES_WAITING_MAX).then_some(place)
    }

    /// Notes a credential that did not hold.
    pub(super) fn failed(&self, account: &str, address: IpAddr, now_ms: u64) {
        let address = network(address);
        let mut book = self.book.lock();
        book.trusted.remove(&(account.into(), address));
        self.failures.fetch_add(1, Ordering::Relaxed);
        make_room(&mut book.tries, now_ms, |tries| tries.last_ms);
        for subject in [Subject::Address(address), Subject::Account(account.into())] {
            book.tries.entry(subject).or_default().failed(now_ms);
        }
    }

    /// Changes with every failure: what was noted of a success before may be gone.
    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Notes that account and address belong together. Cheap while nobody guesses.
    pub(super) fn succeeded(&self, account: &str, address: IpAddr, now_ms: u64) {
        let address = network(address);
        let mut book = self.book.lock();
        make_room(&mut book.trusted, now_ms, |last_ms| *last_ms);
        match book.trusted.entry((account.into(), address)) {
            Entry::Occupied(mut entry) => *entry.get_mut() = now_ms,
            Entry::Vacant(entry) => drop(entry.insert(now_ms)),
        }
    }
}

/// Forgets the older half of a full table; what has faded goes first.
fn make_room<K: Clone + Eq + std::hash::Hash, V>(table: &mut HashMap<K, V>, now_ms: u64, last_ms: impl Fn(&V) -> u64) {
    if table.len() + 2 <= GUESSES_TRACKED_MAX {
        return;
    }
    table.retain(|_, value| now_ms.saturating_sub(last_ms(value)) < GUESS_FADE_MS * 16);
    if table.len() + 2 > GUESSES_TRACKED_MAX {
        let mut times: Vec<u64> = table.values().map(&last_ms).collect();
        let middle = times.len() / 2;
        let (_, median, _) = times.select_nth_unstable(middle);
        let median = *median;
        let mut left = table.len() - middle;
        table.retain(|_, value| {
            let goes = last_ms(value) <= median && left > 0;
            left -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    // T8: the delay grows with failures, per account and per address, has a bound, and fades by itself.
    #[test]
    fn delays_grow_and_fade() {
        let guesses = Guesses::default();
        let (here, there) = (address("10.0.0.1"), address("10.0.0.2"));
        let mut last = 0;
        for attempt in 1..=40 {
            guesses.failed("KEY", here, 1000);
            let delay = guesses.delay_ms("KEY", here, 1000);
            assert!(delay >= last && delay <= GUESS_DELAY_MS_MAX, "{attempt}: {delay}");
            assert!((delay == 0) == (attempt <= GUESSES_FREE), "{attempt}: {delay}");
            last = delay;
        }
        assert_eq!(last, GUESS_DELAY_MS_MAX);
        assert_eq!(guesses.delay_ms("KEY", there, 1000), GUESS_DELAY_MS_MAX);
        assert_eq!(guesses.delay_ms("OTHER", here, 1000), GUESS_DELAY_MS_MAX);
        assert_eq!(guesses.delay_ms("OTHER", there, 1000), 0);
        assert_eq!(guesses.delay_ms("KEY", here, 1000 + GUESS_FADE_MS * 8), 0);
    }

    // T8: a stranger's guessing does not slow the owner; the owner's address loses that when it guesses itself.
    #[test]
    fn owners_are_spared() {
        let guesses = Guesses::default();
        let (owner, stranger) = (address("10.0.0.1"), address("10.9.9.9"));
        guesses.succeeded("KEY", owner, 1000);
        (0..50).for_each(|_| guesses.failed("KEY", stranger, 1000));
        assert_eq!(guesses.delay_ms("KEY", owner, 1000), 0);
        assert!(guesses.delay_ms("KEY", stranger, 1000) > 0);
        guesses.failed("KEY", owner, 1000);
        assert!(guesses.delay_ms("KEY", owner, 1000) > 0);
    }

    // T8: 10^5 accounts from 10^5 addresses keep memory bounded; an IPv6 network counts as one address.
    #[test]
    fn memory_is_bounded() {
        let guesses = Guesses::default();
        for number in 0..100_000u32 {
            let from = IpAddr::from(number.to_be_bytes());
            guesses.failed(&format!("KEY{number}"), from, 1000);
            guesses.succeeded(&format!("KEY{number}"), from, 1000);
        }
        let book = guesses.book.lock();
        assert!(book.tries.len() <= GUESSES_TRACKED_MAX && book.trusted.len() <= GUESSES_TRACKED_MAX);
        assert_eq!(network(address("2001:db8:1:2:3::4")), network(address("2001:db8:1:2:ffff::")));
        assert_ne!(network(address("2001:db8:1:2::")), network(address("2001:db8:1:3::")));
        assert_eq!(network(address("::ffff:10.0.0.1")), address("10.0.0.1"));
    }

    // T5, T8: only so many wait at once; a place is free again when its holder goes.
    #[test]
    fn waiting_is_bounded() {
        let guesses = Guesses::default();
        let mut places: Vec<Waiting> = (0..GUESSES_WAITING_MAX).map(|_| guesses.wait().unwrap()).collect();
        assert!(guesses.wait().is_none());
        places.pop();
        assert!(guesses.wait().is_some());
    }
}
