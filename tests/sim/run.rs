//! One run: a cluster is founded, clients and faults go at it, then all faults end and everything must be well again.

use std::collections::BTreeSet;
use std::time::Duration;

use portolan::ground::simulated;
use registry_core::metadata::absence::Patience;
use registry_core::metadata::blob;
use registry_core::metadata::check::stored::{Record, records};
use registry_core::metadata::cluster::{FEATURE_LEVEL, InitCluster};
use registry_core::metadata::keys::SLOTS;
use registry_core::metadata::manifest;
use registry_core::metadata::node;
use registry_core::vocabulary::Digest;
use registry_core::vocabulary::ids::{Lineage, NodeId, StoreId};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::consensus::Log;
use crate::dice::Dice;
use crate::faults::{Nemesis, are_registered};
use crate::host::{CLUSTER, Hosts};
use crate::network::Network;
use crate::oracle::{Ledger, Oracle};
use crate::trace::Trace;
use crate::workload::{Client, pull_everything};

/// How long everything may take to be well again, of simulated time.
const RECOVERY: Duration = Duration::from_secs(180);

/// What came of a run.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) seed: u64,
    /// What is wrong.
    pub(crate) failure: Option<String>,
    /// Hash and length of the trace.
    pub(crate) sum: (u64, u64),
    /// Its last lines.
    pub(crate) last: String,
    /// Pushes acknowledged, images pulled.
    pub(crate) counts: (u64, u64),
    /// Log entries.
    pub(crate) entries: u64,
}

/// What a seed makes of a run.
struct Plan {
    zones: Vec<&'static str>,
    tick_ms: u64,
    clients: u64,
    lasts: Duration,
}

impl Plan {
    fn of(dice: &Dice) -> Plan {
        let zones = match dice.below(4) {
            0 => vec!["a", "b", "c", "a"],
            1 => vec!["a", "b", "c", "b", "c"],
            _ => vec!["a", "b", "c"],
        };
        let tick_ms = *dice.pick(&[100, 100, 300, 1000]);
        Plan { zones, tick_ms, clients: dice.between(2, 5), lasts: dice.wait(8_000, 30_000) }
    }
}

/// Runs a seed. Equal seeds have equal traces.
pub(crate) fn run(seed: u64) -> Verdict {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime of one thread");
    let verdict = runtime.block_on(live(seed));
    simulated::end();
    drop(runtime);
    verdict
}

struct Stage {
    dice: Dice,
    trace: Trace,
    oracle: Oracle,
    network: Network,
    log: Log,
    hosts: Hosts,
    ledger: Ledger,
}

impl Stage {
    fn new(seed: u64) -> Stage {
        let dice = Dice::new(seed);
        let source = dice.fork();
        simulated::begin(move |out| source.fill(out));
        let trace = Trace::begin();
        let oracle = Oracle::new(trace.clone());
        let network = Network::new(dice.fork());
        let log = Log::new(seed, dice.fork(), network.clone(), trace.clone(), oracle.clone());
        // some are replaced while they are away for a moment, some never
        let waits = Duration::from_secs(*dice.pick(&[3, 8, 1000]));
        let patience = Patience { node: waits, zone: waits * 2 };
        let hosts = Hosts::new(dice.fork(), network.clone(), log.clone(), oracle.clone(), trace.clone(), patience);
        Stage { dice, trace, oracle, network, log, hosts, ledger: Ledger::default() }
    }

    fn client(&self, number: u64) -> Client {
        Client {
            number,
            dice: self.dice.fork(),
            hosts: self.hosts.clone(),
            network: self.network.clone(),
            ledger: self.ledger.clone(),
            trace: self.trace.clone(),
        }
    }

    /// Founds the cluster and waits until every node is registered.
    async fn found(&self, plan: &Plan) -> Result<(), String> {
        for (number, zone) in (1..).zip(&plan.zones) {
            self.hosts.add(NodeId(number), StoreId(number), zone);
            self.hosts.start(NodeId(number));
        }
        tokio::spawn(self.log.clone().govern());
        let init = InitCluster {
            cluster: CLUSTER,
            lineage: Lineage(1),
            region: "here".into(),
            region_number: 1,
            token_secret: [7; 32],
            tick_ms: plan.tick_ms,
            feature_level: FEATURE_LEVEL,
        };
        let (_, first) = self.hosts.running(NodeId(1)).ok_or("the first node does not run")?;
        for _ in 0..20 {
            if first.metadata.propose("operator", vec![init.clone().into()]).await.is_ok() {
                break;
            }
        }
        self.until("every node is registered", || are_registered(&self.oracle, &self.hosts.all())).await
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) -> Result<(), String> {
        let step = Duration::from_millis(100);
        let mut waited = Duration::ZERO;
        while !holds() {
            if let Some(failure) = self.trace.failure() {
                return Err(failure);
            }
            if waited >= RECOVERY {
                return Err(format!("not within {} s of simulated time: {what}", RECOVERY.as_secs()));
            }
            sleep(step).await;
            waited += step;
        }
        Ok(())
    }

    /// All faults end. Everything that was promised must be had at every node, in as many copies as there should be,
    /// and what nobody names must go.
    async fn recover(&self) -> Result<(), String> {
        self.trace.note("all faults end");
        self.network.heal();
        self.hosts.all().into_iter().for_each(|node| self.hosts.start(node));
        self.until("every node has applied the log", || {
            let length = self.log.length();
            self.hosts.all().into_iter().all(|node| self.log.applied(node) == Some(length))
        })
        .await?;
        self.until("every node is registered", || are_registered(&self.oracle, &self.hosts.all())).await?;
        self.until("no zone needs a copy", || self.needs() == 0).await?;
        self.until("every zone has a copy", || self.thin() == 0).await?;
        self.until("no zone has a copy too many", || self.surplus() == 0).await?;
        pull_everything(&self.client(99)).await?;
        self.until("what nobody names is collected", || self.garbage() == 0).await?;
        pull_everything(&self.client(99)).await
    }

    fn needs(&self) -> usize {
        self.oracle.facts(|facts| {
            let zones = ["a", "b", "c"];
            let of_slot =
                |slot| zones.iter().map(move |zone| blob::needs(&facts.rows, slot, zone, 9).len()).sum::<usize>();
            (0..SLOTS).map(of_slot).sum()
        })
    }

    /// Records that are used and not named on volumes of all zones, whatever the needs say.
    fn thin(&self) -> usize {
        self.oracle.facts(|facts| {
            let topology = node::topology(&facts.rows);
            let zones = topology.zones().len();
            let of = |record: &Record| {
                record.row.stores.iter().filter_map(|store| topology.zone_of(*store)).collect::<BTreeSet<_>>().len()
            };
            records(&facts.rows).filter(|record| record.used && of(record) < zones).count()
        })
    }

    /// Records that are named on two volumes of a zone.
    fn surplus(&self) -> usize {
        self.oracle.facts(|facts| {
            let topology = node::topology(&facts.rows);
            let has_twice = |record: &Record| {
                let zones: BTreeSet<_> = record.row.stores.iter().map(|store| topology.zone_of(*store)).collect();
                zones.len() < record.row.stores.len()
            };
            records(&facts.rows).filter(has_twice).count()
        })
    }

    /// Records that no manifest names.
    fn garbage(&self) -> usize {
        self.oracle.facts(|facts| {
            let is_named = |digest: &Digest| {
                let users = blob::users(&facts.rows, digest, 9);
                users.iter().any(|repository| manifest::holder(&facts.rows, repository, digest).is_some())
            };
            records(&facts.rows).filter(|record| !is_named(&record.digest)).count()
        })
    }
}

async fn live(seed: u64) -> Verdict {
    let stage = Stage::new(seed);
    let plan = Plan::of(&stage.dice);
    if let Err(what) = play(&stage, &plan).await {
        stage.trace.fail(what);
    }
    stage.hosts.all().into_iter().for_each(|node| stage.hosts.stop(node, false));
    Verdict {
        seed,
        failure: stage.trace.failure(),
        sum: stage.trace.sum(),
        last: stage.trace.last(),
        counts: stage.ledger.counts(),
        entries: stage.log.length(),
    }
}

async fn play(stage: &Stage, plan: &Plan) -> Result<(), String> {
    stage.found(plan).await?;
    let (over, is_over) = watch::channel(false);
    let nemesis = Nemesis::new(
        stage.dice.fork(),
        stage.hosts.clone(),
        stage.network.clone(),
        stage.log.clone(),
        stage.oracle.clone(),
        stage.trace.clone(),
    );
    let mut acting = vec![tokio::spawn(nemesis.rage(is_over.clone()))];
    acting.extend((1..=plan.clients).map(|number| tokio::spawn(stage.client(number).act(is_over.clone()))));
    let mut left = plan.lasts;
    while left > Duration::ZERO && stage.trace.failure().is_none() {
        let step = left.min(Duration::from_millis(200));
        sleep(step).await;
        left -= step;
    }
    over.send_replace(true);
    for actor in acting {
        actor.await.map_err(|error| format!("an actor of the run itself failed: {error}"))?;
    }
    match stage.trace.failure() {
        Some(failure) => Err(failure),
        None => stage.recover().await,
    }
}
