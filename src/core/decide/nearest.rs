//! Which node a client gets the bytes of a blob from: the one it asked, one in its own zone, or one of its own region,
//! which that region chooses.
//!
//! Pure: who is where, who answers and who has a copy is known before. A node that does not answer now, that takes no
//! more or hardly any more, or whose clock is off is never chosen; in doubt the node that was asked serves. Source:
//! consensus-and-faults §6.6.

use crate::vocabulary::ids::NodeId;
use crate::vocabulary::limits::NODE_FULL_PERCENT;
use crate::vocabulary::names::{RegionName, ZoneName};

/// A node that may serve a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub node: NodeId,
    /// Its zone.
    pub zone: ZoneName,
    /// It has a copy.
    pub has_copy: bool,
    /// It answers, and goes on for now; asked only of those that may be chosen.
    pub is_fit: bool,
    /// Its clock is not known to differ from that of the node that was asked by more than a link bears.
    pub is_on_time: bool,
    /// Nearly all its connections are taken, as it said when it answered; asked as `is_fit` is.
    pub is_full: bool,
    /// Round trip to it, microseconds.
    pub rtt_us: u64,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    /// The client's region, if its network is known and that is another one.
    pub region: Option<&'a RegionName>,
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
    /// Those that are left have hardly a connection left.
    Full,
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
            Why::Full => "full",
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
    /// From the client's own region, if that one says where.
    Region,
}

impl Choice {
    /// Its name in metrics and explanations; `is_reached`: the client knows a way to the other node.
    pub fn reason(self, is_reached: bool) -> &'static str {
        match self {
            Choice::Here(why) => why.as_str(),
            Choice::There(_) if is_reached => "zone",
            Choice::There(_) => "no_address",
            Choice::Region => "region",
        }
    }
}

/// Why a client of another region is served where it asked, and not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Declined {
    /// That region is not known, or this one has taken over from it.
    Unknown,
    /// Its rights hang on where it asks from, which the other region can't judge.
    Bound,
    /// Neither region sends the repository to the other.
    Apart,
    /// It does not answer in time, or did not a moment ago.
    Silent,
    /// It has no copy, or none that the other region may have.
    NoCopy,
    /// Clients know no way to the nodes that have one, or none as safe as the one they came by.
    NoAddress,
    /// None of those nodes answers now, or those that do have hardly a connection left.
    Unfit,
    /// Those that do have a clock that is off.
    Clock,
}

impl Declined {
    /// Its name in metrics and explanations.
    pub fn as_str(self) -> &'static str {
        match self {
            Declined::Unknown => "region_unknown",
            Declined::Bound => "region_bound",
            Declined::Apart => "region_apart",
            Declined::Silent => "region_silent",
            Declined::NoCopy => "region_no_copy",
            Declined::NoAddress => "region_no_address",
            Declined::Unfit => "region_unfit",
            Declined::Clock => "region_clock",
        }
    }
}

/// Whether a node that has so many connections, of so many that it takes, is sent no more clients.
pub fn is_full(taken: usize, most: usize) -> bool {
    taken.saturating_mul(100) >= most.saturating_mul(NODE_FULL_PERCENT)
}

/// What can be said before any node is looked at; `None` if one of this region may be nearer.
pub fn settled(asked: &Asked<'_>) -> Option<Choice> {
    match (asked.bytes_min, asked.zone) {
        (None, _) => Some(Choice::Here(Why::Off)),
        (Some(least), _) if asked.size_bytes < least => Some(Choice::Here(Why::Small)),
        (Some(_), _) if asked.region.is_some() => Some(Choice::Region),
        (Some(_), None) => Some(Choice::Here(Why::NoPlace)),
        (Some(_), Some(zone)) if zone == asked.own => Some(Choice::Here(Why::OwnZone)),
        (Some(_), Some(_)) => None,
    }
}

/// Chooses. Of several that are as near, the one with the shortest way to here is the one that answers best.
pub fn choose(asked: &Asked<'_>, candidates: &[Candidate]) -> Choice {
    if let Some(choice) = settled(asked) {
        return choice;
    }
    let near = candidates.iter().filter(|one| asked.zone == Some(&one.zone) && one.has_copy);
    let fit = near.clone().filter(|one| one.is_fit);
    let on_time = fit.clone().filter(|one| one.is_on_time);
    match on_time.clone().filter(|one| !one.is_full).min_by_key(|one| (one.rtt_us, one.node)) {
        Some(one) => Choice::There(one.node),
        None if on_time.count() > 0 => Choice::Here(Why::Full),
        None if fit.count() > 0 => Choice::Here(Why::Clock),
        None if near.count() == 0 => Choice::Here(Why::NoCopy),
        None => Choice::Here(Why::Unfit),
    }
}

/// Chooses for a client that another region sends here, among nodes that it reaches (`is_reached`): those of its zone
/// come first, where that is known, and then those with the shortest way to here.
pub fn receive(
    zone: Option<&ZoneName>,
    candidates: &[Candidate],
    is_reached: impl Fn(NodeId) -> bool,
) -> Result<NodeId, Declined> {
    let mut left: Vec<&Candidate> = candidates.iter().collect();
    let mut keep = |is_good: &dyn Fn(&Candidate) -> bool, declined: Declined| {
        left.retain(|one| is_good(one));
        if left.is_empty() { Err(declined) } else { Ok(()) }
    };
    keep(&|one| one.has_copy, Declined::NoCopy)?;
    keep(&|one| is_reached(one.node), Declined::NoAddress)?;
    keep(&|one| one.is_fit, Declined::Unfit)?;
    keep(&|one| one.is_on_time, Declined::Clock)?;
    // the region that asks may be older, and has to know the word
    keep(&|one| !one.is_full, Declined::Unfit)?;
    let best = left.into_iter().min_by_key(|one| (zone != Some(&one.zone), one.rtt_us, one.node));
    best.map(|one| one.node).ok_or(Declined::Unfit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(name: &str) -> ZoneName {
        ZoneName::parse(name).unwrap()
    }

    fn candidate(node: u64, name: &str, has_copy: bool, is_fit: bool, rtt_us: u64) -> Candidate {
        let (node, zone) = (NodeId(node), zone(name));
        Candidate { node, zone, has_copy, is_fit, is_on_time: true, is_full: false, rtt_us }
    }

    // A nearer node is chosen if the client's place is known, the blob is worth it, and the node has it and answers.
    #[test]
    fn choices() {
        let (own, other) = (zone("a"), zone("b"));
        let asked = Asked { region: None, zone: Some(&other), own: &own, size_bytes: 100, bytes_min: Some(10) };
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

    // R18: a node that is full stands back behind one that is further away; where all are, clients stay. One whose
    // clock is off is no better than one that is full.
    #[test]
    fn r18_full_nodes_are_left_alone() {
        let (own, other) = (zone("a"), zone("b"));
        let asked = Asked { region: None, zone: Some(&other), own: &own, size_bytes: 100, bytes_min: Some(10) };
        let mut all = [candidate(2, "b", true, true, 300), candidate(3, "b", true, true, 200)];
        all[1].is_full = true;
        assert_eq!(choose(&asked, &all), Choice::There(NodeId(2)));
        all[0].is_full = true;
        assert_eq!(choose(&asked, &all), Choice::Here(Why::Full));
        assert_eq!(Choice::Here(Why::Full).reason(false), "full");
        all[0].is_on_time = false;
        assert_eq!(choose(&asked, &all), Choice::Here(Why::Full));
        all[1].is_on_time = false;
        assert_eq!(choose(&asked, &all), Choice::Here(Why::Clock));
        all[1] = candidate(3, "b", true, true, 200);
        assert_eq!(choose(&asked, &all), Choice::There(NodeId(3)), "again, as soon as it has room");
    }

    // From nine tenths of its connections on a node is full, and not before; however few or many it takes.
    #[test]
    fn how_full() {
        for (taken, most) in [(0, 1), (0, 10), (8, 10), (35, 40), (8_999, 10_000), (899_999, 1_000_000)] {
            assert!(!is_full(taken, most), "{taken} of {most}");
        }
        for (taken, most) in [(1, 1), (2, 2), (9, 10), (36, 40), (9_000, 10_000), (1_000_000, 1_000_000)] {
            assert!(is_full(taken, most), "{taken} of {most}");
        }
    }

    // A client of another region is that one's to place, if the blob is worth it; zones of this one are not its.
    #[test]
    fn other_regions() {
        let (own, us) = (zone("a"), RegionName::parse("us").unwrap());
        let asked = Asked { region: Some(&us), zone: None, own: &own, size_bytes: 100, bytes_min: Some(10) };
        let all = [candidate(1, "a", true, true, 0)];
        assert_eq!(choose(&asked, &all), Choice::Region);
        assert_eq!(choose(&Asked { zone: Some(&own), ..asked }, &all), Choice::Region);
        assert_eq!(choose(&Asked { bytes_min: None, ..asked }, &all), Choice::Here(Why::Off));
        assert_eq!(choose(&Asked { size_bytes: 9, ..asked }, &all), Choice::Here(Why::Small));
        assert_eq!(choose(&Asked { region: None, ..asked }, &all), Choice::Here(Why::NoPlace));
        assert_eq!(Choice::Region.reason(true), "region");
    }

    // Who is sent here gets a node with a copy that it reaches and that answers, in its zone if there is one; why there
    // is none is told by what fails first.
    #[test]
    fn received() {
        let b = zone("b");
        let mut all = [
            candidate(1, "a", true, true, 0),
            candidate(2, "b", true, true, 300),
            candidate(3, "b", true, true, 200),
            candidate(4, "b", false, true, 1),
        ];
        let any = |_: NodeId| true;
        assert_eq!(receive(Some(&b), &all, any), Ok(NodeId(3)));
        assert_eq!(receive(None, &all, any), Ok(NodeId(1)), "the one that is asked is as good as any");
        assert_eq!(receive(Some(&zone("c")), &all, any), Ok(NodeId(1)));
        assert_eq!(receive(Some(&b), &all, |node| node != NodeId(3)), Ok(NodeId(2)));
        assert_eq!(receive(Some(&b), &all[3..], any), Err(Declined::NoCopy));
        assert_eq!(receive(Some(&b), &[], any), Err(Declined::NoCopy));
        assert_eq!(receive(Some(&b), &all, |node| node == NodeId(4)), Err(Declined::NoAddress));
        all[2].is_on_time = false;
        assert_eq!(receive(Some(&b), &all, any), Ok(NodeId(2)));
        all[1].is_fit = false;
        assert_eq!(receive(Some(&b), &all, any), Ok(NodeId(1)), "another zone is better than none");
        all[0].is_full = true;
        assert_eq!(receive(Some(&b), &all, any), Err(Declined::Unfit), "one that is full is not");
        all[0].is_fit = false;
        assert_eq!(receive(Some(&b), &all, any), Err(Declined::Clock));
        all[2].is_fit = false;
        assert_eq!(receive(Some(&b), &all, any), Err(Declined::Unfit));
    }
}
