//! Which packets are dropped for which partition: pure. A rule names sender and receiver by address, because every node
//! binds its own also for what it sends (`node.bind_source`); the clients of the harness have another one and reach
//! every node all the time.

use std::net::IpAddr;

use super::kind::FaultKind;
use crate::cluster::Seat;

/// Offset of the port of consensus, as `portolan dev` lays the ports out.
const RAFT_PORT: u16 = 1;
/// Packets that `loss` takes, in per cent.
const LOSS_PERCENT: [u8; 4] = [2, 5, 10, 20];

/// Packets of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    from: IpAddr,
    to: IpAddr,
    /// Only those to this port: then connections the other way go on.
    port: Option<u16>,
    /// Only so many of them, by chance.
    percent: Option<u8>,
}

/// Rules for iptables, without chain and target, that do `kind` to `chosen`.
pub(crate) fn rules(kind: FaultKind, chosen: &[usize], seats: &[Seat], draw: u64) -> Vec<Vec<String>> {
    let mut random = fastrand::Rng::with_seed(draw);
    let others: Vec<usize> = (0..seats.len()).filter(|at| !chosen.contains(at)).collect();
    let links = match (kind, chosen) {
        (FaultKind::IsolateLeader | FaultKind::Halves, _) => between(chosen, &others, seats),
        (FaultKind::OneWay, [from, ..]) => one_way(*from, &others, seats, &mut random),
        (FaultKind::Ring, [one, ..]) => ring(*one, &others, seats, &mut random),
        (FaultKind::Loss, _) => {
            let percent = random.choice(LOSS_PERCENT);
            between(chosen, &others, seats).into_iter().map(|link| Link { percent, ..link }).collect()
        }
        _ => Vec::new(),
    };
    links.iter().map(rule).collect()
}

/// All packets between two sets of nodes.
fn between(ones: &[usize], others: &[usize], seats: &[Seat]) -> Vec<Link> {
    let pairs = ones.iter().flat_map(|one| others.iter().map(move |other| (*one, *other)));
    pairs.flat_map(|(one, other)| both(one, other, seats)).collect()
}

fn both(one: usize, other: usize, seats: &[Seat]) -> [Link; 2] {
    let link = |from: usize, to: usize| Link { from: ip(seats, from), to: ip(seats, to), port: None, percent: None };
    [link(one, other), link(other, one)]
}

/// `from` can't call the others' consensus, or one of them; they can call it.
fn one_way(from: usize, others: &[usize], seats: &[Seat], random: &mut fastrand::Rng) -> Vec<Link> {
    let some = if random.bool() { others.to_vec() } else { random.choice(others).copied().into_iter().collect() };
    let port = |at: usize| Some(seats[at].public.port() + RAFT_PORT);
    some.iter().map(|to| Link { from: ip(seats, from), to: ip(seats, *to), port: port(*to), percent: None }).collect()
}

/// Of five and more: each node hears its neighbours, enough of them for a majority. Of fewer: one link is cut.
fn ring(one: usize, others: &[usize], seats: &[Seat], random: &mut fastrand::Rng) -> Vec<Link> {
    let nodes = seats.len();
    if nodes < 5 {
        let other = random.choice(others).copied();
        return other.map(|other| both(one, other, seats).to_vec()).unwrap_or_default();
    }
    let reach = (nodes / 2).div_ceil(2);
    let distance = |a: usize, b: usize| (b - a).min(nodes - (b - a));
    let pairs = (0..nodes).flat_map(|a| (a + 1..nodes).map(move |b| (a, b)));
    pairs.filter(|(a, b)| distance(*a, *b) > reach).flat_map(|(a, b)| both(a, b, seats)).collect()
}

fn ip(seats: &[Seat], at: usize) -> IpAddr {
    seats[at].public.ip()
}

fn rule(link: &Link) -> Vec<String> {
    let mut rule: Vec<String> = ["-s", &link.from.to_string(), "-d", &link.to.to_string()].map(str::to_owned).to_vec();
    if let Some(port) = link.port {
        rule.extend(["-p", "tcp", "--dport", &port.to_string()].map(str::to_owned));
    }
    if let Some(percent) = link.percent {
        let probability = format!("{:.2}", f64::from(percent) / 100.0);
        rule.extend(["-m", "statistic", "--mode", "random", "--probability", &probability].map(str::to_owned));
    }
    rule
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn seats(count: u8) -> Vec<Seat> {
        let seat = |at: u8| {
            let ip = IpAddr::from([127, 9, at % 3 + 1, at / 3 + 1]);
            Seat { name: at.to_string(), public: (ip, 7000).into(), admin: (ip, 7003).into() }
        };
        (0..count).map(seat).collect()
    }

    fn shown(kind: FaultKind, chosen: &[usize], count: u8, draw: u64) -> Vec<String> {
        rules(kind, chosen, &seats(count), draw).iter().map(|rule| rule.join(" ")).collect()
    }

    // Isolated is cut off in both directions from each other node, and from nobody else.
    #[test]
    fn isolated() {
        let cut = shown(FaultKind::IsolateLeader, &[1], 3, 1);
        assert_eq!(
            cut,
            [
                "-s 127.9.2.1 -d 127.9.1.1",
                "-s 127.9.1.1 -d 127.9.2.1",
                "-s 127.9.2.1 -d 127.9.3.1",
                "-s 127.9.3.1 -d 127.9.2.1"
            ]
        );
        assert_eq!(shown(FaultKind::Halves, &[1, 3], 5, 1).len(), 2 * 3 * 2);
        assert!(shown(FaultKind::Kill, &[1], 3, 1).is_empty());
    }

    // One way drops only what goes to the port of consensus; both forms of it come.
    #[test]
    fn one_way_rules() {
        let forms: BTreeSet<Vec<String>> = (0..40).map(|draw| shown(FaultKind::OneWay, &[0], 3, draw)).collect();
        let to_b = "-s 127.9.1.1 -d 127.9.2.1 -p tcp --dport 7001".to_owned();
        let to_c = "-s 127.9.1.1 -d 127.9.3.1 -p tcp --dport 7001".to_owned();
        assert_eq!(forms, BTreeSet::from([vec![to_b.clone()], vec![to_c.clone()], vec![to_b, to_c]]));
    }

    // Three nodes lose one link; of more, each node still hears a majority, itself included, and no two the same.
    #[test]
    fn rings() {
        assert_eq!(shown(FaultKind::Ring, &[1], 3, 1).len(), 2);
        for count in [5u8, 6, 7, 9] {
            let cut: BTreeSet<String> = shown(FaultKind::Ring, &[0], count, 1).into_iter().collect();
            assert!(!cut.is_empty(), "{count}");
            let all = seats(count);
            let hears = |one: &Seat| -> BTreeSet<String> {
                let is_cut = |other: &Seat| cut.contains(&format!("-s {} -d {}", other.public.ip(), one.public.ip()));
                all.iter().filter(|other| !is_cut(other)).map(|other| other.name.clone()).collect()
            };
            let heard: BTreeSet<_> = all.iter().map(hears).collect();
            assert_eq!(heard.len(), usize::from(count), "no two hear the same");
            assert!(heard.iter().all(|who| who.len() * 2 > usize::from(count)), "{count}: {heard:?}");
        }
    }

    // Lost packets are some of all.
    #[test]
    fn losses() {
        let lost = shown(FaultKind::Loss, &[2], 3, 1);
        assert_eq!(lost.len(), 4);
        assert!(
            lost[0].starts_with("-s 127.9.3.1 -d 127.9.1.1 -m statistic --mode random --probability 0."),
            "{lost:?}"
        );
    }
}
