//! How many connections and requests there may be at once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::ground::Crowd;

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionRefused {
    /// There are too many.
    Total,
    /// There are too many of this address.
    Address,
}

impl ConnectionRefused {
    /// The label in metrics.
    pub(super) fn label(self) -> &'static str {
        match self {
            ConnectionRefused::Total => "total",
            ConnectionRefused::Address => "address",
        }
    }
}

/// Counts open connections, in all and by address, and notes whether there are nearly as many as there may be.
#[derive(Debug)]
pub(super) struct ConnectionSlots {
    total_max: usize,
    per_address_max: usize,
    crowd: Crowd,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One open connection; free again when dropped.
#[derive(Debug)]
pub(super) struct ConnectionSlot {
    slots: Arc<ConnectionSlots>,
    counted: Option<IpAddr>,
}

impl ConnectionSlots {
    pub(super) fn new(total_max: usize, per_address_max: usize, crowd: Crowd) -> Arc<ConnectionSlots> {
        Arc::new(ConnectionSlots { total_max, per_address_max, crowd, open: Mutex::default() })
    }

    /// Takes a slot. `is_proxy`: many clients are behind the address, so it is not counted by itself.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr, is_proxy: bool) -> Result<ConnectionSlot, ConnectionRefused> {
        let mut open = self.open.lock();
        if open.total >= self.total_max {
            return Err(ConnectionRefused::Total);
        }
        if !is_proxy {
            let count = open.by_address.entry(address).or_insert(0);
            if *count >= self.per_address_max {
                return Err(ConnectionRefused::Address);
            }
            *count += 1;
        }
        open.total += 1;
        self.crowd.note(open.total, self.total_max);
        Ok(ConnectionSlot { slots: Arc::clone(self), counted: (!is_proxy).then_some(address) })
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut open = self.slots.open.lock();
        open.total -= 1;
        self.slots.crowd.note(open.total, self.slots.total_max);
        if let Some(address) = self.counted
            && let Some(count) = open.by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                open.by_address.remove(&address);
            }
        }
    }
}

/// Counts requests under way.
#[derive(Debug)]
pub(super) struct RequestSlots {
    max: usize,
    taken: AtomicUsize,
}

/// One request under way; free again when dropped.
#[derive(Debug)]
pub(super) struct RequestSlot(Arc<RequestSlots>);

impl RequestSlots {
    pub(super) fn new(max: usize) -> Arc<RequestSlots> {
        Arc::new(RequestSlots { max, taken: AtomicUsize::new(0) })
    }

    /// Takes a slot, if one is free.
    pub(super) fn take(self: &Arc<Self>) -> Option<RequestSlot> {
        let slot = RequestSlot(Arc::clone(self));
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        (before < self.max).then_some(slot)
    }
}

impl Drop for RequestSlot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // H7: neither one address nor all together take more than their share, a proxy counts in all only, and slots come
    // back.
    #[test]
    fn connections_are_bounded() {
        let slots = ConnectionSlots::new(4, 2, Crowd::default());
        let (a, b): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let first = slots.take(a, false).unwrap();
        let second = slots.take(a, false).unwrap();
        assert_eq!(slots.take(a, false).unwrap_err(), ConnectionRefused::Address);
        let third = slots.take(b, true).unwrap();
        let fourth = slots.take(b, true).unwrap();
        assert_eq!(slots.take(b, true).unwrap_err(), ConnectionRefused::Total);
        drop(first);
        let again = slots.take(a, false).unwrap();
        drop((second, third, fourth, again));
        assert_eq!(slots.open.lock().total, 0);
        assert!(slots.open.lock().by_address.is_empty(), "no memory is kept for an address without connections");
    }

    // R18: that nine of ten are taken is noted at once, and that it is not so any more as well; addresses don't count.
    #[test]
    fn r18_a_crowd_is_noted() {
        let crowd = Crowd::default();
        let slots = ConnectionSlots::new(10, 4, crowd.clone());
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let four: Vec<_> = (0..4).map(|_| slots.take(address, false).unwrap()).collect();
        assert!(slots.take(address, false).is_err() && !crowd.is_full(), "one address has its share");
        let others: Vec<_> = (0..4).map(|_| slots.take(address, true).unwrap()).collect();
        assert!(!crowd.is_full());
        let ninth = slots.take(address, true).unwrap();
        assert!(crowd.is_full());
        let tenth = slots.take(address, true).unwrap();
        assert!(slots.take(address, true).is_err() && crowd.is_full());
        drop(ninth);
        assert!(crowd.is_full());
        drop(tenth);
        assert!(!crowd.is_full());
        drop((four, others));
    }

    // Requests over the bound get no slot, and a refused one leaves no trace.
    #[test]
    fn requests_are_bounded() {
        let slots = RequestSlots::new(2);
        let (first, second) = (slots.take(), slots.take());
        assert!(first.is_some() && second.is_some());
        assert!(slots.take().is_none() && slots.take().is_none());
        drop(first);
        assert!(slots.take().is_some());
        assert_eq!(slots.taken.load(Ordering::Relaxed), 1);
    }
}
