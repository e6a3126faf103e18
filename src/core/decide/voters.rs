//! Which members vote: three or five, spread over zones, so that the loss of a zone never loses the quorum.
//!
//! Source: consensus-and-faults §1, rule 6. Never takes a vote away by itself.

use std::collections::BTreeMap;

use crate::vocabulary::ids::NodeId;
use crate::vocabulary::names::ZoneName;

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The node.
    pub node: NodeId,
    /// Its failure domain.
    pub zone: ZoneName,
    /// Whether it votes.
    pub votes: bool,
    /// Whether it may be made a voter: caught up, not draining.
    pub is_fit: bool,
}

/// How many voters so many members should have.
pub fn voters_wanted(members: usize) -> usize {
    match members {
        0..=2 => members,
        3..=4 => 3,
        _ => 5,
    }
}

/// The member to make a voter next, if any: of the zone with the fewest voters, the lowest id.
pub fn next_voter(members: &[Standing]) -> Option<NodeId> {
    let voting = members.iter().filter(|member| member.votes).count();
    let wanted = voters_wanted(members.len());
    if voting >= wanted {
        return None;
    }
    let mut by_zone: BTreeMap<&ZoneName, usize> = members.iter().map(|member| (&member.zone, 0)).collect();
    for member in members.iter().filter(|member| member.votes) {
        *by_zone.entry(&member.zone).or_default() += 1;
    }
    let candidates = members.iter().filter(|member| !member.votes && member.is_fit);
    let best = candidates.min_by_key(|member| (by_zone[&member.zone], member.node))?;
    // with three or more zones none may hold a majority of the voters; with fewer that can't be helped
    let is_balanced = by_zone.len() < 3 || by_zone[&best.zone] < wanted.div_ceil(2).max(2) - usize::from(wanted == 3);
    is_balanced.then_some(best.node)
}

/// How a voter is doing, as another node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fitness {
    /// It answered lately.
    pub is_reachable: bool,
    /// The volume of its log is nearly full.
    pub is_short_of_room: bool,
}

/// Whether changes that make the state grow may be proposed: only while the voters with room are a majority by
/// themselves. A follower can't choose what it appends, and one whose volume fills up ends; so those who propose look.
pub fn admits_growth(voters: &[Fitness]) -> bool {
    let fit = voters.iter().filter(|voter| voter.is_reachable && !voter.is_short_of_room).count();
    // without a short one, a lost quorum is consensus' own affair
    fit * 2 > voters.len() || voters.iter().all(|voter| !voter.is_short_of_room)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Growth stops exactly when a nearly full voter is needed for the quorum.
    #[test]
    fn growth_table() {
        for (text, admitted) in [
            ("", true),
            (".", true),
            ("s", false),
            ("...", true),
            ("..s", true),
            (".ss", false),
            (".sx", false),
            (".xx", true),
            ("...ss", true),
            ("..sss", false),
            ("..xss", false),
        ] {
            let voter = |is: char| Fitness { is_reachable: is != 'x', is_short_of_room: is == 's' };
            let voters: Vec<Fitness> = text.chars().map(voter).collect();
            assert_eq!(admits_growth(&voters), admitted, "{text}");
        }
    }

    fn members(text: &str) -> Vec<Standing> {
        let member = |(at, word): (usize, &str)| Standing {
            node: NodeId(at as u64 + 1),
            zone: ZoneName::parse(&word[..1]).unwrap(),
            votes: word.contains('v'),
            is_fit: !word.contains('x'),
        };
        text.split(' ').enumerate().map(member).collect()
    }

    // Voters grow to three, then five, one per zone first; the unfit wait; no zone of three holds a majority.
    #[test]
    fn table() {
        for (text, next) in [
            ("av", None),
            ("av b", Some(2)),
            ("av bx", None),
            ("av b c", Some(2)),
            ("av bv c", Some(3)),
            ("av bv cv", None),
            ("av a b c", Some(3)),
            ("av bv cv a", None),
            ("av bv cv a b", Some(4)),
            ("av bv cv av b", Some(5)),
            ("av bv cv av bv c", None),
            ("av av bv a a", Some(4)),
            ("av bx cx a", None),
        ] {
            assert_eq!(next_voter(&members(text)), next.map(NodeId), "{text}");
        }
    }
}
