//! A run, from an empty directory to a verdict.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::balancer::Balancer;
use crate::cluster::{Cluster, Plan, Record, bucket, disks, panics};
use crate::fault::{Fault, told};
use crate::history::{self, Act, Note, Recorder};
use crate::nemesis::{self, cut_power, kill_nodes, mix, upgrade};
use crate::options::{RunOptions, Workload};
use crate::workload::client::Client;
use crate::workload::crew::{Crew, read_all};
use crate::workload::{Shared, final_pull, upload_resume};
use crate::{checker, region, report};

/// How long clients may take to finish what they do when the load ends: all their repeats.
const FINISH_MAX: Duration = Duration::from_secs(180);
/// How long the nodes may take to be equal.
const CONVERGE_MAX: Duration = Duration::from_secs(60);
/// How long the nodes may take to make every copy that is missing.
const REPAIR_MAX: Duration = Duration::from_secs(60);
/// Between two looks at who leads, in a run without a fault.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two lines about how it goes.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Runs, and judges; whether everything held.
pub(crate) fn run(mut options: RunOptions) -> Result<bool, Fault> {
    let seed = match options.seed {
        Some(seed) => seed,
        None => getrandom::u64().map_err(told("no randomness"))? & 0xffff_ffff,
    };
    options.seed = Some(seed);
    options.refuse_nonsense()?;
    let dir = make_dir(&options.store, seed)?;
    println!("seed {seed}; everything goes to {}", dir.display());
    let plan = options.plan(&dir);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(told("no runtime"))?;
    let ended = runtime.block_on(async {
        let (mut interrupt, mut terminate) = (on(SignalKind::interrupt())?, on(SignalKind::terminate())?);
        tokio::select! {
            ended = Box::pin(begin(&options, &plan, seed)) => ended,
            _ = interrupt.recv() => Err(Fault::new("interrupted; the nodes are ended")),
            _ = terminate.recv() => Err(Fault::new("told to end; the nodes are ended")),
        }
    });
    drop(runtime);
    ended?;
    let events = history::read(&dir)?;
    let is_good = report::tell(&dir, &events, &checker::judge_all(&dir, &events, &options.demands()))?;
    if is_good && !options.keep {
        let own = [plan.data(), plan.images(), bucket::root(&plan.dir)];
        for dir in own.iter().chain(&region::data(&plan)).filter(|dir| dir.exists()) {
            std::fs::remove_dir_all(dir).map_err(told("the nodes' data can't be removed"))?;
        }
    }
    Ok(is_good)
}

fn on(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Fault> {
    signal(kind).map_err(told("no signals"))
}

/// `store/<time>-<seed>/`
fn make_dir(store: &Path, seed: u64) -> Result<PathBuf, Fault> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let store = std::path::absolute(store).map_err(told("--store"))?;
    let dir = store.join(format!("{now}-{seed}"));
    std::fs::create_dir_all(&dir).map_err(told(&format!("{} can't be made", dir.display())))?;
    Ok(dir)
}

async fn begin(options: &RunOptions, plan: &Plan, seed: u64) -> Result<(), Fault> {
    if options.workload == Workload::Region {
        return region::play(options, plan, seed).await;
    }
    play(options, plan, seed).await
}

/// Everything between an empty directory and a whole history.
async fn play(options: &RunOptions, plan: &Plan, seed: u64) -> Result<(), Fault> {
    let document = serde_json::to_value(options).map_err(told("the options"))?;
    let mut addresses: Vec<String> = plan.seats().iter().map(|seat| seat.public.to_string()).collect();
    addresses.push(plan.balancer().to_string());
    let record = Record::create(&plan.dir, document, addresses)?;
    let mut cluster = Cluster::start(plan, record).await?;
    println!("{} nodes are ready", plan.nodes);
    let recorder = Recorder::create(&plan.dir)?;
    let pause_max = Duration::from_millis(options.pause_ms);
    let shared = Shared::new(&recorder, seed, options.layer_bytes_max, pause_max);
    let ended = perform(options, plan, &mut cluster, &shared).await;
    recorder.note(Note::nemesis(Act::Logs, None, json!({"panics": panics(plan)?})));
    concluded(&recorder, ended)
}

/// Everything is in the history. One that the product ended is whole up to there, and has a verdict: a bad one.
pub(crate) fn concluded(recorder: &Recorder, ended: Result<(), Fault>) -> Result<(), Fault> {
    let ended = match ended {
        Err(fault) if fault.is_of_product() => {
            println!("the product ended the run: {fault}");
            recorder.note(Note::nemesis(Act::Broken, None, json!({"why": fault.to_string()})));
            Ok(())
        }
        ended => ended,
    };
    recorder.flush();
    ended
}

/// The workload and its nemesis, and what is to be seen at the end.
async fn perform(options: &RunOptions, plan: &Plan, cluster: &mut Cluster, shared: &Arc<Shared>) -> Result<(), Fault> {
    let clients = node_clients(cluster)?;
    if options.workload == Workload::UploadResume {
        upload_resume::run(cluster, shared, &clients, options.rounds).await?;
    } else {
        load(options, plan, cluster, shared).await?;
    }
    finish(plan, cluster, shared, &clients).await
}

/// A client of each node.
fn node_clients(cluster: &Cluster) -> Result<Vec<Client>, Fault> {
    cluster.seats().iter().map(|seat| Client::new(seat.public, cluster.admin().credential())).collect()
}

/// Clients and nemesis, until the nemesis is done or the time is over.
async fn load(options: &RunOptions, plan: &Plan, cluster: &mut Cluster, shared: &Arc<Shared>) -> Result<(), Fault> {
    let seats = cluster.seats();
    let balancer = Balancer::start(options.balancer(), plan.balancer(), cluster).await?;
    let address = balancer.address();
    let crew = Crew::draw(options.workload, usize::from(options.clients), seats.len(), shared.seed);
    shared.recorder.note(Note::nemesis(Act::Load, None, crew.told()));
    let mut tasks = crew.spawn(shared, address, &seats, cluster.admin().credential())?;
    let began = Instant::now();
    let progress = say_progress(Arc::clone(shared), began);
    let disturb = disturb(options, cluster, shared, began);
    tokio::select! {
        ended = disturb => ended?,
        () = progress => {}
    }
    shared.recorder.note(Note::nemesis(Act::Load, None, Value::Null));
    shared.end();
    let ended = tokio::time::timeout(FINISH_MAX, async {
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(told("a client"))?;
        }
        Ok(())
    });
    ended.await.map_err(|_| Fault::new("clients do not finish"))?
}

async fn say_progress(shared: Arc<Shared>, began: Instant) {
    loop {
        tokio::time::sleep(SAY_EVERY).await;
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().unwrap_or_default().to_owned();
        let (pushes, events) = (shared.acknowledged(), shared.recorder.count());
        println!("{:4} s: {pushes} pushes, {events} events, load {load}", began.elapsed().as_secs());
    }
}

/// Breaks what is to be broken; without a nemesis, looks on.
async fn disturb(options: &RunOptions, cluster: &mut Cluster, shared: &Shared, began: Instant) -> Result<(), Fault> {
    let recorder = &shared.recorder;
    let say = |text: String| println!("{:4} s: {text}", began.elapsed().as_secs());
    if let Some(kills) = options.kill_plan() {
        return kill_nodes(cluster, recorder, kills, say).await;
    }
    if let Some(cuts) = options.cut_plan() {
        return cut_power(cluster, recorder, cuts, say).await;
    }
    if let Some(plan) = options.mix_plan() {
        let names: Vec<String> = plan.schedule.kinds.iter().map(|kind| kind.name()).collect();
        println!("faults of this run: {}", names.join(" "));
        return mix(cluster, recorder, plan, say).await;
    }
    if let Some(plan) = options.upgrade_plan() {
        return upgrade(cluster, recorder, plan, say).await;
    }
    while began.elapsed() < options.duration() {
        let seen = cluster.wait_leader(CONVERGE_MAX).await?;
        nemesis::note_leader(cluster, recorder, seen);
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// All nodes equal, everything pulled from each, all nodes stopped and their disks read.
async fn finish(plan: &Plan, cluster: &mut Cluster, shared: &Arc<Shared>, clients: &[Client]) -> Result<(), Fault> {
    let recorder: &Recorder = &shared.recorder;
    let applied = cluster.wait_converged(CONVERGE_MAX).await?;
    cluster.wait_repaired(REPAIR_MAX).await;
    // no node tells the digest of its state; nodes compare them among themselves, and `check` compares the tables
    let (suspects, admin) = (cluster.suspects().await, cluster.admin().clone());
    let seats = cluster.seats();
    let snapshots = futures_util::future::join_all(seats.iter().map(|seat| admin.snapshots(seat))).await;
    let value = json!({"applied": applied, "suspects": suspects, "snapshots_since_start": snapshots});
    recorder.note(Note::nemesis(Act::Converge, None, value));
    let pushes = shared.pushes().len();
    println!("all nodes have applied {applied}; looking for {pushes} images on each");
    // process numbers above all that the load can have used
    let count = clients.len() * final_pull::ACTORS;
    let first = FINAL_PROCESSES;
    let pulls = clients.iter().zip(&seats).enumerate().map(|(at, (client, seat))| {
        let asked = final_pull::Asked { name: &seat.name, client, at, nodes: seats.len() };
        final_pull::run(shared, asked, first + at * final_pull::ACTORS, count)
    });
    futures_util::future::join_all(pulls).await;
    read_all(shared, &seats, cluster.admin().credential(), first << 1).await?;
    let directories = cluster.stop().await?;
    println!("all nodes are stopped; reading their disks");
    if shared.has_garbage() {
        let value = disks::count(&seats, &directories)?;
        recorder.note(Note::nemesis(Act::Disk, None, value));
    }
    match check_disks(plan, &directories)? {
        Some(report) => recorder.note(Note::nemesis(Act::Check, None, report)),
        None => println!("this program has no `check`: the verdict will say that nothing is proven"),
    }
    Ok(())
}

/// First process number of the final pulls.
const FINAL_PROCESSES: usize = 1 << 40;

/// `portolan check` over the data directories of all nodes; `None` for a program from before there was one.
fn check_disks(plan: &Plan, directories: &[PathBuf]) -> Result<Option<Value>, Fault> {
    let mut check = Command::new(&plan.binary);
    check.args(["check", "-o", "json", "--list-blobs", "--show-max", "100000"]);
    if !plan.has_bucket {
        check.args(["--zones-min", "2"]);
    }
    check.args(directories);
    check.stdin(Stdio::null()).stderr(Stdio::piped()).stdout(Stdio::piped());
    let ended = check.output().map_err(told("`portolan check` can't be started"))?;
    let told = String::from_utf8_lossy(&ended.stderr);
    if told.contains("unrecognized subcommand") {
        return Ok(None);
    }
    let report: Result<Value, _> = serde_json::from_slice(&ended.stdout);
    let mut report = report.map_err(|error| Fault::new(format!("`portolan check` tells no JSON ({error}): {told}")))?;
    if plan.has_bucket {
        bucket::amend(plan, &mut report)?;
    }
    Ok(Some(report))
}
