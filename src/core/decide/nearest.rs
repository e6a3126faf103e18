//! Which node a client gets the bytes of a blob from: the one it asked, or one in its own zone.
//!
//! Pure: who is where, who answers and who has a copy is known before. A node that does not answer now, that takes no
//! more, or whose clock is off is never chosen; in doubt the node that was asked serves. Source: consensus-and-faults
//! §6.6.

use crate::vocabulary::ids::NodeId;
use crate::vocabulary::names::ZoneName;

/// A node that may serve a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub node: NodeId,
    /// Its zone.
    pub zone: ZoneName,
    /// It has a copy.
    pub has_copy: bool,
    /// It answers, and goes on for now.
    pub is_fit: bool,
    /// Its clock is not known to differ from that of the node that was asked by more than a link bears.
    pub is_on_time: bool,
    /// Round trip to it, microseconds.
    pub rtt_us: u64,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    /// The client's zone in this region, if its network is known.
    pub zone: Option<&'a ZoneName>,
    /// The zone of the node that was asked.
    pub own: &'a ZoneName,
    /// Bytes of the blob.
    pub size_bytes: u64,
    /// Blobs from this size on are redirected; `None`: none are.
    pub bytes_min: Option<u64>,
}

/// Why the node that was asked serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Nothing is redirected.
    Off,
    /// The blob is too small to be worth a second request.
    Small,
    /// Nobody said where the client is.
    NoPlace,
    /// The client is in this node's own zone.
    OwnZone,
    /// No node of the client's zone has a copy.
    NoCopy,
    /// None of those that have one answers now.
    Unfit,
    /// Those that do have a clock that is off: what a link to them says about time would be judged by another one.
    Clock,
}

impl Why {
    /// Its name in metrics and explanations.
    pub fn as_str(self) -> &'static str {
        match self {
            Why::Off => "off",
            Why::Small => "small",
            Why::NoPlace => "no_place",
            Why::OwnZone => "own_zone",
            Why::NoCopy => "no_copy",
            Why::Unfit => "unfit",
            Why::Clock => "clock",
        }
    }
}

/// Where the bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// From the node that was asked.
    Here(Why),
    /// From another one, in the client's zone.
    There(NodeId),
}

impl Choice {
    /// Its name in metrics and explanations; `is_reached`: the client knows a way to the other node.
    pub fn reason(self, is_reached: bool) -> &'static str {
        match self {
            Choice::Here(why) => why.as_str(),
            Choice::There(_) if is_reached => "zone",
            Choice::There(_) => "no_address",
        }
    }
}

/// What can be said before any node is looked at; `None` if one may be nearer.
pub fn settled(asked: &Asked<'_>) -> Option<Why> {
    match (asked.bytes_min, asked.zone) {
        (None, _) => Some(Why::Off),
        (Some(least), _) if asked.size_bytes < least => Some(Why::Small),
        (Some(_), None) => Some(Why::NoPlace),
        (Some(_), Some(zone)) if zone == asked.own => Some(Why::OwnZone),
        (Some(_), Some(_)) => None,
    }
}

/// Chooses. Of several that are as near, the one with the shortest way to here is the one that answers best.
pub fn choose(asked: &Asked<'_>, candidates: &[Candidate]) -> Choice {
    if let Some(why) = settled(asked) {
        return Choice::Here(why);
    }
    let near = candidates.iter().filter(|one| asked.zone == Some(&one.zone) && one.has_copy);
    let fit = near.clone().filter(|one| one.is_fit);
    match fit.clone().filter(|one| one.is_on_time).min_by_key(|one| (one.rtt_us, one.node)) {
        Some(one) => Choice::There(one.node),
        None if fit.count() > 0 => Choice::Here(Why::Clock),
        None if near.count() == 0 => Choice::Here(Why::NoCopy),
        None => Choice::Here(Why::Unfit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(name: &str) -> ZoneName {
        ZoneName::parse(name).unwrap()
    }

    fn candidate(node: u64, name: &str, has_copy: bool, is_fit: bool, rtt_us: u64) -> Candidate {
        Candidate { node: NodeId(node), zone: zone(name), has_copy, is_fit, is_on_time: true, rtt_us }
    }

    // A nearer node is chosen if the client's place is known, the blob is worth it, and the node has it and answers.
    #[test]
    fn choices() {
        let (own, other) = (zone("a"), zone("b"));
        let asked = Asked { zone: Some(&other), own: &own, size_bytes: 100, bytes_min: Some(10) };
        let all = [
            candidate(1, "a", true, true, 0),
            candidate(2, "b", true, true, 300),
            candidate(3, "b", true, true, 200),
            candidate(4, "b", true, false, 1),
            candidate(5, "b", false, true, 1),
        ];
        let here = |asked: Asked<'_>, why| assert_eq!(choose(&asked, &all), Choice::Here(why));
        assert_eq!(choose(&asked, &all), Choice::There(NodeId(3)));
        here(Asked { bytes_min: None, ..asked }, Why::Off);
        here(Asked { bytes_min: Some(101), ..asked }, Why::Small);
        here(Asked { zone: None, ..asked }, Why::NoPlace);
        here(Asked { zone: Some(&own), ..asked }, Why::OwnZone);
        assert_eq!(choose(&asked, &all[..1]), Choice::Here(Why::NoCopy));
        assert_eq!(choose(&asked, &all[4..]), Choice::Here(Why::NoCopy));
        assert_eq!(choose(&asked, &all[3..]), Choice::Here(Why::Unfit));
        // one whose clock is off stands back behind one that is further away, and nobody is sent to it
        let mut off = all.clone();
        off[2].is_on_time = false;
        assert_eq!(choose(&asked, &off), Choice::There(NodeId(2)));
        off[1].is_on_time = false;
        assert_eq!(choose(&asked, &off), Choice::Here(Why::Clock));
        off[1].is_fit = false;
        assert_eq!(choose(&asked, &off), Choice::Here(Why::Clock));
        off[2].is_fit = false;
        assert_eq!(choose(&asked, &off), Choice::Here(Why::Unfit));
    }
}
