//! Kill −9 of any node at any step of a push.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use registry_core::vocabulary::Digest;

use super::push::{Acknowledged, Random, Step, content};
use super::{NODES, get, pusher};
use crate::support::Cluster;

/// How long a push may take while one node is killed and comes back.
const PATIENCE: Duration = Duration::from_secs(60);
/// Seconds of killing in `make test`; more by `PORTOLAN_KILL_SECONDS`, then every step meets every victim.
const SECONDS: u64 = 60;

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    /// The node that the client talks to.
    Asked,
    /// The node that holds the upload first.
    Primary,
    /// The node that holds it second.
    Backup,
    /// The leader of consensus.
    Leader,
}

const VICTIMS: [Victim; 4] = [Victim::Asked, Victim::Primary, Victim::Backup, Victim::Leader];

/// What happens once in a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Blow {
    step: Step,
    victim: Victim,
}

fn all_blows(random: &mut Random) -> Vec<Blow> {
    let blow = |step| VICTIMS.map(|victim| Blow { step, victim });
    let mut all: Vec<Blow> = Step::ALL.into_iter().flat_map(blow).collect();
    random.shuffle(&mut all);
    // short runs meet every step, whoever the victim is
    let mut seen = BTreeSet::new();
    let (mut first, rest): (Vec<Blow>, Vec<Blow>) = all.into_iter().partition(|blow| seen.insert(blow.step));
    first.extend(rest);
    first
}

/// Kills once, at its step, and starts the victim again.
struct Assassin<'scope, 'a> {
    cluster: &'a Cluster,
    threads: &'scope std::thread::Scope<'scope, 'a>,
    blow: Blow,
    /// Between the step and its end: the step may be over by then, or not.
    delay: Duration,
    /// Between the end and the new beginning.
    away: Duration,
    struck: Option<(u8, std::thread::ScopedJoinHandle<'scope, ()>)>,
}

impl Assassin<'_, '_> {
    fn victim(&self, asked: u8, upload: Option<&str>) -> u8 {
        // a holder has the upload's staging; the one that was asked to begin it is the primary
        let holds =
            |n: &u8| upload.is_some_and(|id| self.cluster.node_dir(*n).join("data/blobs/staging").join(id).exists());
        let mut holders = (1..=NODES).filter(holds);
        let holder = match self.blow.victim {
            Victim::Asked => None,
            Victim::Primary => holders.next(),
            Victim::Backup => holders.nth(1),
            Victim::Leader => self.cluster.leader(),
        };
        holder.unwrap_or(asked)
    }

    fn at(&mut self, step: Step, asked: u8, upload: Option<&str>) {
        if step != self.blow.step || self.struck.is_some() {
            return;
        }
        let victim = self.victim(asked, upload);
        let (cluster, delay, away) = (self.cluster, self.delay, self.away);
        let work = self.threads.spawn(move || {
            std::thread::sleep(delay);
            cluster.kill_node(victim);
            std::thread::sleep(away);
            cluster.spawn_node(victim);
        });
        self.struck = Some((victim, work));
    }
}

/// One push with one blow; what was acknowledged.
fn push(cluster: &Cluster, blow: Blow, random: &mut Random, tag: &str) -> Vec<Acknowledged> {
    std::thread::scope(|threads| {
        let mut assassin = Assassin {
            cluster,
            threads,
            blow,
            delay: Duration::from_micros(random.below(25_000)),
            away: Duration::from_millis(random.below(1_500)),
            struck: None,
        };
        let layer = content(random.next(), 70_000 + usize::try_from(random.below(1_500_000)).unwrap());
        let mut client = pusher(cluster, PATIENCE, |step, asked, upload| assassin.at(step, asked, upload));
        client.turn_to(u8::try_from(random.below(u64::from(NODES))).unwrap() + 1);
        // chunks at different nodes in turn, or all at one
        client.image("it/kill", tag, &layer, random.below(2) == 0);
        let acknowledged = std::mem::take(&mut client.acknowledged);
        drop(client);
        let (victim, work) = assassin.struck.expect("every step is met");
        work.join().unwrap();
        cluster.wait_node_ready(victim);
        eprintln!("{tag}: node {victim} as {:?} at {:?}", blow.victim, blow.step);
        acknowledged
    })
}

/// Pushes small images without a pause, whatever happens, until told to stop.
fn push_beside(cluster: &Cluster, number: u64, stop: &AtomicBool) -> Vec<Acknowledged> {
    let mut client = pusher(cluster, PATIENCE, |_, _, _| {});
    for round in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        client.turn_to(u8::try_from((number + round) % u64::from(NODES)).unwrap() + 1);
        client.image("it/beside", &format!("{number}-{round}"), &content((number << 32) | round, 2_000), false);
        std::thread::sleep(Duration::from_millis(300));
    }
    client.acknowledged
}

/// Pulls everything from every node.
fn pull_all(cluster: &Cluster, acknowledged: &[Acknowledged]) {
    let mut lost = Vec::new();
    for one in acknowledged {
        for n in 1..=NODES {
            match get(cluster, n, &format!("/v2/{}", one.path)) {
                Ok(answer) if answer.status == 200 && Digest::sha256(&answer.body) == one.digest => {}
                Ok(answer) => lost.push(format!("{} from node {n}: {} {}", one.path, answer.status, answer.body.len())),
                Err(error) => lost.push(format!("{} from node {n}: {error}", one.path)),
            }
        }
    }
    assert!(lost.is_empty(), "{} of {} acknowledged:\n{}", lost.len(), acknowledged.len(), lost.join("\n"));
}

fn number(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

// Any node, killed at any step of a push, takes nothing with it that was acknowledged; the client goes on by repeating
// at other nodes, from the last acknowledged byte.
#[test]
fn nothing_acknowledged_is_lost_at_any_step() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = number("PORTOLAN_SEED").unwrap_or_else(|| u64::from(now.subsec_nanos()));
    let seconds = number("PORTOLAN_KILL_SECONDS").unwrap_or(SECONDS);
    eprintln!("PORTOLAN_SEED={seed} PORTOLAN_KILL_SECONDS={seconds}");
    let mut random = Random(seed);
    let cluster = Cluster::start(93);
    let (stop, mut acknowledged) = (AtomicBool::new(false), Vec::new());
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut met = BTreeSet::new();
    std::thread::scope(|scope| {
        let beside: Vec<_> = (0..2)
            .map(|number| {
                scope.spawn({
                    let (cluster, stop) = (&cluster, &stop);
                    move || push_beside(cluster, number, stop)
                })
            })
            .collect();
        let stopped = StopWhenDropped(&stop);
        let mut blows = Vec::new();
        for round in 0.. {
            if Instant::now() >= until {
                break;
            }
            if blows.is_empty() {
                blows = all_blows(&mut random);
                blows.reverse();
            }
            let blow: Blow = blows.pop().expect("refilled");
            acknowledged.extend(push(&cluster, blow, &mut random, &format!("r{round}")));
            met.insert(blow);
        }
        drop(stopped);
        for other in beside {
            acknowledged.extend(other.join().expect("a push beside failed"));
        }
    });
    let steps: BTreeSet<Step> = met.iter().map(|blow| blow.step).collect();
    eprintln!("{} blows at {} steps, {} acknowledgements", met.len(), steps.len(), acknowledged.len());
    assert!(acknowledged.len() > 30, "hardly anything was pushed");
    pull_all(&cluster, &acknowledged);
    // and the same after every node was killed at once
    (1..=NODES).for_each(|n| cluster.kill_node(n));
    (1..=NODES).for_each(|n| cluster.spawn_node(n));
    (1..=NODES).for_each(|n| cluster.wait_node_ready(n));
    pull_all(&cluster, &acknowledged);
}

/// Ends those beside also when a push fails.
struct StopWhenDropped<'a>(&'a AtomicBool);

impl Drop for StopWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
