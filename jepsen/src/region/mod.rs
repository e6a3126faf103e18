//! `region`: two regions of three zones that copy everything to each other, deletes too. Tags are put, moved and
//! deleted in both at once, while links between them are cut or hang, both ways or one, leaders die on both sides, a
//! region's clocks are wrong, a region is restored from a backup, and rows of one are damaged beneath it; before that,
//! if asked, for long nothing gets through. Then all is well again, and both must come to the same by themselves.
//!
//! Start at [`play`]; `trouble` says what goes wrong, `disturb` does it; the judge is `checker::region`.

mod aside;
mod conflicts;
mod disturb;
mod drift;
mod link;
mod load;
mod long_cut;
mod trouble;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::cluster::{Cluster, Plan, Record, Seat, panics};
use crate::fault::{Fault, told};
use crate::history::{Act, Actor, Note, Recorder};
use crate::options::RunOptions;
use crate::run::concluded;
use crate::workload::Shared;
use crate::workload::nodes::Nodes;
use aside::Patience;
use disturb::Nemesis;
use link::Link;
use load::{Field, Place};

/// How long the regions may take to be equal when everything is up again.
const EQUAL_MAX: Duration = Duration::from_secs(420);
/// How long they may take what they have put aside: some ten a second on a busy machine.
const RETRY: Patience = Patience { all: Duration::from_secs(1800), idle: Duration::from_secs(120) };
const LEADER_MAX: Duration = Duration::from_secs(60);
const FINISH_MAX: Duration = Duration::from_secs(120);
/// Own tags read at the end, from each region.
const OWN_READ_MAX: usize = 4000;
/// Process number of the final reads: above all that the load can have used.
const FINAL: usize = 1 << 40;

/// A region of the run.
struct Region {
    cluster: Cluster,
    place: Place,
}

/// Everything between an empty directory and a whole history.
pub(crate) async fn play(options: &RunOptions, plan: &Plan, seed: u64) -> Result<(), Fault> {
    let document = serde_json::to_value(options).map_err(told("the options"))?;
    let plans = [of_region(plan, 1), of_region(plan, 2)];
    // each has a directory, and a record of what it made, of its own
    for plan in &plans {
        std::fs::create_dir_all(&plan.dir).map_err(told("a region's directory"))?;
    }
    let _whole = Record::create(&plan.dir, document.clone(), Vec::new())?;
    let mut regions = Vec::new();
    for (at, plan) in plans.iter().enumerate() {
        let addresses = plan.seats().iter().map(|seat| seat.public.to_string()).collect();
        let cluster = Cluster::start(plan, Record::create(&plan.dir, document.clone(), addresses)?).await?;
        let nodes = Nodes::new(&cluster.seats(), cluster.admin().credential())?;
        regions.push(Region { cluster, place: Place { region: at + 1, nodes, field: Field::new(seed) } });
    }
    let links = [(); 2].map(|()| Link::new(Duration::from_millis(options.link_delay_ms)));
    let [one, two] = &regions[..] else { return Err(Fault::new("there are two regions")) };
    introduce(&two.cluster, &one.cluster, &links[0]).await?;
    introduce(&one.cluster, &two.cluster, &links[1]).await?;
    send_all(&one.cluster, &name(2)).await?;
    send_all(&two.cluster, &name(1)).await?;
    println!("two regions of {} nodes are ready", plan.nodes);
    let recorder = Recorder::create(&plan.dir)?;
    let shared = Shared::new(&recorder, seed, options.layer_bytes_max, Duration::from_millis(options.pause_ms));
    let ended = perform(options, &mut regions, &links, &shared).await;
    for plan in &plans {
        recorder.note(Note::nemesis(Act::Logs, None, json!({"panics": panics(plan)?})));
    }
    concluded(&recorder, ended)
}

fn name(number: usize) -> String {
    format!("region-{number}")
}

/// As histories name a region.
fn region_name(at: usize) -> String {
    format!("r{}", at + 1)
}

fn of_region(plan: &Plan, number: u8) -> Plan {
    let mut settings = plan.settings.clone();
    settings.push(format!("node.region={}", name(number.into())));
    Plan { region: plan.region + number - 1, dir: plan.dir.join(name(number.into())), settings, ..plan.clone() }
}

/// What is wrong with names of faults of two regions.
pub(crate) fn refuse_unknown(names: &[String]) -> Result<(), Fault> {
    trouble::parse(names).map(drop)
}

/// Where everything of both regions' nodes lies.
pub(crate) fn data(plan: &Plan) -> Vec<PathBuf> {
    [1, 2].map(|number| of_region(plan, number).data()).to_vec()
}

/// Makes `source` known to `destination`, whose nodes reach it through a link.
async fn introduce(source: &Cluster, destination: &Cluster, link: &Link) -> Result<(), Fault> {
    let mut card = get(source, &source.seats()[0], "/v1/regions/own/card").await?;
    let doors = card["endpoints"].as_array().cloned().unwrap_or_default();
    let mut behind = Vec::new();
    for door in doors {
        let door: SocketAddr = door.as_str().unwrap_or_default().parse().map_err(told("a region's door"))?;
        behind.push(json!(link.to(door).await?.to_string()));
    }
    card["endpoints"] = json!(behind);
    tell(destination, reqwest::Method::POST, "/v1/regions", &card).await
}

/// Everything is copied to a region, and deletes are followed.
async fn send_all(source: &Cluster, to: &str) -> Result<(), Fault> {
    let destination = json!({"region": to, "registryId": "000000000000"});
    let rule = json!({"destinations": [destination], "deleteReplication": {"enabled": true}});
    tell(source, reqwest::Method::PUT, "/v1/replication/rules", &json!({"rules": [rule]})).await
}

async fn get(cluster: &Cluster, seat: &Seat, path: &str) -> Result<Value, Fault> {
    let what = format!("{} of {}", path, seat.name);
    cluster.admin().document(seat, path).await.map_err(|why| Fault::new(format!("{what}: {why}")))
}

async fn tell(cluster: &Cluster, method: reqwest::Method, path: &str, body: &Value) -> Result<(), Fault> {
    let seat = &cluster.seats()[0];
    cluster.admin().tell(seat, method, path, body).await.map_err(|why| Fault::new(format!("{path}: {why}")))
}

/// Load and faults, then what is to be seen at the end.
async fn perform(
    options: &RunOptions,
    regions: &mut [Region],
    links: &[Link; 2],
    shared: &Arc<Shared>,
) -> Result<(), Fault> {
    for region in regions.iter() {
        if !region.place.field.prepare(shared, &region.place.nodes).await {
            return Err(Fault::new("a region takes no blob"));
        }
    }
    let clients = usize::from(options.clients).max(2);
    let mut tasks = JoinSet::new();
    shared.recorder.note(Note::nemesis(Act::Load, None, json!({"clients": clients})));
    for number in 0..clients {
        let place = regions[number % 2].place.clone();
        let actor = Actor::new(&shared.recorder, number, clients);
        tasks.spawn(load::run(Arc::clone(shared), place, actor, number));
    }
    let ended = disturbed(options, regions, links, shared).await;
    shared.recorder.note(Note::nemesis(Act::Load, None, Value::Null));
    shared.end();
    let finished = tokio::time::timeout(FINISH_MAX, async {
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(told("a client"))?;
        }
        Ok::<(), Fault>(())
    });
    finished.await.map_err(|_| Fault::new("clients do not finish"))??;
    ended?;
    finish(regions, shared).await
}

/// The long cut, if one was asked for, then everything else.
async fn disturbed(
    options: &RunOptions,
    regions: &mut [Region],
    links: &[Link; 2],
    shared: &Shared,
) -> Result<(), Fault> {
    if options.cut_minutes > 0.0 {
        long_cut::cut(options.cut_duration(), regions, links, shared).await?;
    }
    let plan = (options.duration(), trouble::parse(&options.only)?);
    Nemesis::new(plan, regions, links, shared).disturb().await
}

/// Waits until each region has found itself equal to the other, and reads everything from both.
async fn finish(regions: &mut [Region], shared: &Arc<Shared>) -> Result<(), Fault> {
    for region in regions.iter() {
        let applied = region.cluster.wait_converged(EQUAL_MAX).await?;
        let value = json!({"applied": applied, "suspects": region.cluster.suspects().await});
        shared.recorder.note(Note::nemesis(Act::Converge, None, value));
    }
    for at in 0..regions.len() {
        aside::retry(regions, &shared.recorder, at, RETRY).await?;
    }
    let began = Instant::now();
    let mut reports = Vec::new();
    for (at, region) in regions.iter().enumerate() {
        reports.push(equal_report(&region.cluster, &name(2 - at), began).await?);
    }
    println!("the regions have compared after {} ms", began.elapsed().as_millis());
    let value = json!({"ms": u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX), "reports": reports});
    shared.recorder.note(Note::nemesis(Act::Compared, None, value));
    conflicts::note(regions, &shared.recorder).await?;
    let mut keys = Field::shared_keys();
    keys.extend(own_keys(shared)?);
    for (at, region) in regions.iter().enumerate() {
        let mut actor = Actor::new(&shared.recorder, FINAL + at, 2);
        load::read_all(&region.place, &keys, &mut actor).await;
    }
    for region in regions.iter_mut() {
        region.cluster.stop().await?;
    }
    Ok(())
}

/// Own tags that may have been put, and those that damage may have added: those of the history so far.
fn own_keys(shared: &Shared) -> Result<Vec<String>, Fault> {
    shared.recorder.flush();
    let events = crate::history::read(shared.recorder.dir())?;
    let puts = events.iter().filter(|event| event.f == Act::RegionPut && event.kind == crate::history::Kind::Invoke);
    let mut keys: Vec<String> =
        puts.filter_map(|event| event.key.clone()).filter(|key| key.starts_with("own/")).collect();
    fastrand::Rng::with_seed(shared.seed).shuffle(&mut keys);
    keys.truncate(OWN_READ_MAX);
    let ghosts = events.iter().filter_map(|event| event.value["ghost"].as_str());
    keys.extend(ghosts.flat_map(|ghost| Field::own_repositories().map(|repository| format!("{repository}:{ghost}"))));
    Ok(keys)
}

/// Has a region compare with another one until it finds nothing more, or the patience is over; the last report.
async fn equal_report(cluster: &Cluster, other: &str, began: Instant) -> Result<Value, Fault> {
    let mut last = Value::Null;
    while began.elapsed() < EQUAL_MAX {
        let (leader, _) = cluster.wait_leader(LEADER_MAX).await?;
        let seat = &cluster.seats()[leader];
        let before = number(&report(cluster, seat, other).await);
        let path = format!("/v1/replication/compare/{other}");
        let asked = cluster.admin().tell(seat, reqwest::Method::POST, &path, &json!({})).await;
        let until = Instant::now() + Duration::from_secs(90);
        while asked.is_ok() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let now = report(cluster, seat, other).await;
            let is_whole = now["last"]["of"] == "all repositories";
            if number(&now) > before && is_whole && now["last"]["ended_at"].is_string() {
                last = now;
                break;
            }
        }
        if last["last"]["clean"] == true {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(last)
}

async fn report(cluster: &Cluster, seat: &Seat, other: &str) -> Value {
    let document = cluster.admin().document(seat, "/v1/replication/report").await.unwrap_or_default();
    let regions = document["regions"].as_array().cloned().unwrap_or_default();
    regions.into_iter().find(|told| told["region"] == other).unwrap_or_default()
}

fn number(report: &Value) -> u64 {
    report["last"]["number"].as_u64().unwrap_or(0)
}
