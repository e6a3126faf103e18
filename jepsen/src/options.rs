//! What a run is asked for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::balancer::Choice;
use crate::checker::{Collected, Demands};
use crate::cluster::{Plan, Record, bucket, built_binary};
use crate::fault::{Fault, told};
use crate::nemesis::{self, CutPlan, FaultKind, KillPlan, MixPlan, Target, UpgradePlan};
use crate::region;
use crate::workload::crew;

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// Pushes of unique images through the balancer, and some pulls by digest beside them.
    PushSet,
    /// Many pulls by digest from each node, and some pushes beside them.
    PullByDigest,
    /// Uploads whose chunks go to different nodes; the nemesis is part of it.
    UploadResume,
    /// `push-set` without a fault: nobody may stand for election.
    QuietElection,
    /// Tags as registers: put, put under a condition, read, delete, at any node.
    TagRegister,
    /// Blobs pushed in chunks to different nodes, whole, by mounting; read whole and in part from any node.
    BlobBytes,
    /// Lists of tags, referrers and repositories read in small pages while elements come and go.
    Listing,
    /// Images that share blobs are pushed, untagged and deleted while collection runs as fast as it can, with a grace
    /// of 0 to 2 s drawn from the seed.
    Gc,
    /// Two regions that copy to each other; for --minutes, which is part of it, links break one way or both, leaders
    /// die, a region's clocks are wrong; in runs of three minutes and more they are far ahead as well, and a region is
    /// restored from a backup.
    Region,
    /// `push-set`, `tag-register`, `blob-bytes` and `listing` side by side, in shares drawn from the seed.
    Mixed,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Nemesis {
    /// Nothing.
    None,
    /// The leader is killed, again and again.
    KillLeader,
    /// The leader half of the time, else any node.
    KillAny,
    /// The power of one node is cut, the leader's half of the time: what was not synced is gone.
    Powercut,
    /// The power of all nodes at once.
    PowercutAll,
    /// Faults drawn from the seed, or those of --only, for --minutes; their windows overlap.
    Mix,
    /// The nodes begin with --from, an older release, and are upgraded one by one; back; up again; finalized;
    /// restarted.
    Upgrade,
}

/// Where the nodes keep blobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Blobs {
    /// On their disks.
    #[default]
    Fs,
    /// In a bucket: of a real S3 server that the run starts, behind a proxy that slows down and loses answers.
    S3,
}

/// Entries between two snapshots where nodes die: so few that every run crosses many of them.
const SNAPSHOT_EVERY: &str = "raft.snapshot_every=250";
/// Untagged images go by their age, in half of the runs of `gc`.
const UNTAGGED: &str = "gc.untagged=1s";
/// Blobs that must have been collected in a run of `gc`.
const COLLECTED_MIN: u64 = 50;
/// How soon after a fault a write has to succeed while a majority is untouched.
const AVAILABLE_MAX_MS: u64 = 10_000;

/// What a run is asked for; written to `run.json`.
#[derive(Clone, Debug, Serialize, Deserialize, Args)]
pub(crate) struct RunOptions {
    /// What clients do.
    #[arg(long, value_enum, default_value = "push-set")]
    pub(crate) workload: Workload,
    /// What goes wrong.
    #[arg(long, value_enum, default_value = "none")]
    pub(crate) nemesis: Nemesis,
    /// Where the nodes keep blobs.
    #[arg(long, value_enum, default_value = "fs")]
    #[serde(default)]
    pub(crate) blobs: Blobs,
    /// How often.
    #[arg(long, default_value_t = 20)]
    pub(crate) kills: u32,
    /// How often power is cut.
    #[arg(long, default_value_t = 20)]
    #[serde(default)]
    pub(crate) cuts: u32,
    /// The faults of `mix`, or groups of them (partition, bitrot, disk), with commas; left out: drawn from the seed. Of
    /// the workload `region`: its own, left out: all.
    #[arg(long, value_delimiter = ',', value_name = "FAULT")]
    #[serde(default)]
    pub(crate) only: Vec<String>,
    /// `mix` may hit a majority: then only safety is judged.
    #[arg(long = "unsafe")]
    #[serde(default)]
    pub(crate) may_hit_all: bool,
    /// Size of the volume of each node, in MiB, where faults need one; takes only what is written.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u64).range(256..=65_536))]
    #[serde(default)]
    pub(crate) volume_mb: u64,
    /// Clients of the main workload, all at once.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=900))]
    pub(crate) clients: u16,
    /// How long the load lasts without a nemesis.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) minutes: f64,
    /// Rounds of `upload-resume`; each kills every node twice.
    #[arg(long, default_value_t = 1)]
    pub(crate) rounds: u32,
    /// Everything random is made from it; left out: drawn, and printed.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// How long a killed node stays down, at least, in seconds; one without power at most.
    #[arg(long, default_value_t = 4.0)]
    pub(crate) down: f64,
    /// How long all nodes are up between two kills, at least, in seconds.
    #[arg(long, default_value_t = 2.0)]
    pub(crate) up: f64,
    /// Longest time without an acknowledged write, in milliseconds; 0: measured, not judged.
    #[arg(long, default_value_t = 3000)]
    pub(crate) gap_max_ms: u64,
    /// Acknowledged writes without which the run proves nothing.
    #[arg(long, default_value_t = 100)]
    pub(crate) writes_min: u64,
    /// Largest layer of the images that are pushed, and largest blob, in bytes. A long run fills the disk otherwise.
    #[arg(long, default_value_t = 1 << 20)]
    #[serde(default = "layer_bytes_max")]
    pub(crate) layer_bytes_max: usize,
    /// Operations of each kind that must have been `ok` in each minute of load; 0: not judged.
    #[arg(long, default_value_t = 5.0)]
    #[serde(default)]
    pub(crate) kind_min: f64,
    /// Longest pause of a client between two operations on tags, blobs and lists, in milliseconds; each is drawn.
    #[arg(long, default_value_t = 30)]
    #[serde(default)]
    pub(crate) pause_ms: u64,
    /// How long bytes take from one region to the other, in milliseconds.
    #[arg(long, default_value_t = 0)]
    #[serde(default)]
    pub(crate) link_delay_ms: u64,
    /// Of the workload `region`: how long nothing gets from one region to the other, before the other faults, while
    /// leaders die on both sides, in minutes.
    #[arg(long, default_value_t = 0.0)]
    #[serde(default)]
    pub(crate) cut_minutes: f64,
    /// Nodes, over three zones.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=9))]
    pub(crate) nodes: u8,
    /// Second number of the addresses, 127.<REGION>.<ZONE>.<NODE>.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u8).range(1..=254))]
    pub(crate) region: u8,
    /// First of the four ports of each node.
    #[arg(long, default_value_t = 21_400, value_parser = clap::value_parser!(u16).range(1024..=65532))]
    pub(crate) port: u16,
    /// A setting for every node, as raft.heartbeat=50ms; once for each.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub(crate) settings: Vec<String>,
    /// The server's program; left out: the one built beside this.
    #[arg(long)]
    pub(crate) binary: Option<PathBuf>,
    /// The server's program of an older release, for `upgrade`.
    #[arg(long)]
    #[serde(default)]
    pub(crate) from: Option<PathBuf>,
    /// Where runs are kept.
    #[arg(long, default_value = "store")]
    pub(crate) store: PathBuf,
    /// Keep the nodes' data also when everything held.
    #[arg(long)]
    pub(crate) keep: bool,
    /// HAProxy with this configuration before the nodes, as deploy/haproxy/haproxy.cfg; left out: a balancer of the
    /// harness.
    #[arg(long, value_name = "FILE", conflicts_with = "balancer")]
    pub(crate) haproxy: Option<PathBuf>,
    /// A balancer that runs already and forwards to the nodes of this run.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) balancer: Option<std::net::SocketAddr>,
}

impl RunOptions {
    /// Of an earlier run.
    pub(crate) fn read(dir: &Path) -> Result<RunOptions, Fault> {
        serde_json::from_value(Record::options(dir)?).map_err(told("run.json"))
    }

    /// The cluster of a run in `dir`.
    pub(crate) fn plan(&self, dir: &Path) -> Plan {
        let mut plan = Plan {
            binary: self.binary.clone().unwrap_or_else(built_binary),
            from: self.from.clone(),
            nodes: self.nodes,
            region: self.region,
            port: self.port,
            settings: self.settings(),
            dir: dir.to_owned(),
            volume_mb: self.needs_volumes().then_some(self.volume_mb),
            sets_clocks: self.workload == Workload::Region || self.mix_kinds().contains(&FaultKind::Clock),
            has_bucket: self.blobs == Blobs::S3,
        };
        if plan.has_bucket {
            plan.settings.extend(bucket::settings(&plan));
        }
        plan
    }

    /// What was set, small snapshots where nodes die, and fast collection where that is what the run is for.
    fn settings(&self) -> Vec<String> {
        let mut settings = self.settings.clone();
        let cuts = matches!(self.nemesis, Nemesis::Powercut | Nemesis::PowercutAll | Nemesis::Mix);
        let own = cuts.then(|| SNAPSHOT_EVERY.to_owned()).into_iter().chain(self.collection());
        for setting in own {
            let is_same = |set: &String| set.split('=').next() == setting.split('=').next();
            if !settings.iter().any(is_same) {
                settings.push(setting);
            }
        }
        settings
    }

    /// How garbage is collected in a run of `gc`: as fast as can be, and nobody is asked. Half of the runs also let
    /// untagged images go by their age.
    fn collection(&self) -> Vec<String> {
        if self.workload != Workload::Gc {
            return Vec::new();
        }
        let mut random = fastrand::Rng::with_seed(self.seed.unwrap_or_default());
        let mut settings = vec![format!("gc.grace={}s", random.u8(0..=2)), "gc.fuse_percent=100".to_owned()];
        if random.bool() {
            settings.push(UNTAGGED.to_owned());
        }
        settings
    }

    fn needs_volumes(&self) -> bool {
        self.cut_plan().is_some() || self.mix_kinds().iter().any(|kind| kind.needs_volume())
    }

    /// What is wrong with the options as a whole.
    pub(crate) fn refuse_nonsense(&self) -> Result<(), Fault> {
        let is_region = self.workload == Workload::Region;
        if is_region {
            region::refuse_unknown(&self.only)?;
        }
        let only = if is_region { Vec::new() } else { nemesis::parse(&self.only)? };
        if self.nemesis != Nemesis::Mix && (!only.is_empty() || self.may_hit_all) {
            return Err(Fault::new("--only and --unsafe are for --nemesis mix"));
        }
        if (self.nemesis == Nemesis::Upgrade) != self.from.is_some() {
            return Err(Fault::new("--nemesis upgrade begins with the program of --from, which is for nothing else"));
        }
        let judges_disks = self.workload == Workload::Gc || self.needs_volumes() || self.from.is_some();
        if self.blobs == Blobs::S3 && judges_disks {
            return Err(Fault::new("--blobs s3 is for runs whose faults and judges look at no disk of a node"));
        }
        match only.iter().find(|kind| !self.may_hit_all && !kind.is_quorum_safe()) {
            Some(kind) => Err(Fault::new(format!("{} hits all nodes: add --unsafe", kind.name()))),
            None => Ok(()),
        }
    }

    /// The faults of a mixed run; none of any other.
    fn mix_kinds(&self) -> Vec<FaultKind> {
        let is_mixed = self.nemesis == Nemesis::Mix && self.has_load();
        let only = nemesis::parse(&self.only).unwrap_or_default();
        let seed = self.seed.unwrap_or_default();
        if is_mixed { nemesis::kinds(seed, &only, !self.may_hit_all) } else { Vec::new() }
    }

    /// Whether a nemesis can be beside the workload.
    fn has_load(&self) -> bool {
        !matches!(self.workload, Workload::UploadResume | Workload::QuietElection | Workload::Region)
    }

    /// The mixed schedule of the run, if it has one.
    pub(crate) fn mix_plan(&self) -> Option<MixPlan> {
        let kinds = self.mix_kinds();
        let (seed, lasts) = (self.seed.unwrap_or_default(), self.duration());
        let schedule = nemesis::schedule(seed, &kinds, lasts);
        let fragile = usize::try_from(seed % u64::from(self.nodes)).unwrap_or_default();
        (!kinds.is_empty()).then_some(MixPlan { schedule, lasts, is_safe: !self.may_hit_all, fragile })
    }

    /// The power cuts of the run, if it is for them.
    pub(crate) fn cut_plan(&self) -> Option<CutPlan> {
        let kind = match self.nemesis {
            Nemesis::Powercut => FaultKind::Powercut,
            Nemesis::PowercutAll => FaultKind::PowercutAll,
            Nemesis::None | Nemesis::KillLeader | Nemesis::KillAny | Nemesis::Mix | Nemesis::Upgrade => return None,
        };
        let (down, up, seed) = (seconds(self.down), seconds(self.up), self.seed.unwrap_or_default());
        self.has_load().then_some(CutPlan { kind, cuts: self.cuts, down, up, seed })
    }

    /// The exchange of programs of the run, if it is for that.
    pub(crate) fn upgrade_plan(&self) -> Option<UpgradePlan> {
        let (old, new) = (self.from.clone()?, self.binary.clone().unwrap_or_else(built_binary));
        let (up, seed) = (seconds(self.up), self.seed.unwrap_or_default());
        let is_asked = self.nemesis == Nemesis::Upgrade && self.has_load();
        is_asked.then_some(UpgradePlan { old, new, up, seed })
    }

    /// Faults that the run is for: how often each must have been done in full.
    fn faults(&self) -> std::collections::BTreeMap<String, u32> {
        let cuts = self.cut_plan().map(|plan| (plan.kind.name(), plan.cuts));
        let exchanges = self.upgrade_plan().map(|_| (nemesis::UPGRADE.to_owned(), UpgradePlan::exchanges(self.nodes)));
        self.mix_kinds().into_iter().map(|kind| (kind.name(), 1)).chain(cuts).chain(exchanges).collect()
    }

    /// What stands before the nodes.
    pub(crate) fn balancer(&self) -> Choice {
        match (&self.haproxy, self.balancer) {
            (Some(file), _) => Choice::HaProxy(file.clone()),
            (None, Some(address)) => Choice::Other(address),
            (None, None) => Choice::Own,
        }
    }

    /// The kills of the run, unless it has none or its workload brings its own.
    pub(crate) fn kill_plan(&self) -> Option<KillPlan> {
        let target = match (self.workload, self.nemesis) {
            (Workload::UploadResume | Workload::QuietElection | Workload::Region, _) => return None,
            (_, Nemesis::KillLeader) => Target::Leader,
            (_, Nemesis::KillAny) => Target::Any,
            (_, Nemesis::None | Nemesis::Powercut | Nemesis::PowercutAll | Nemesis::Mix | Nemesis::Upgrade) => {
                return None;
            }
        };
        let (down, up) = (seconds(self.down), seconds(self.up));
        Some(KillPlan { target, kills: self.kills, down, up, seed: self.seed.unwrap_or_default() })
    }

    /// What the history must hold.
    pub(crate) fn demands(&self) -> Demands {
        let has_uploads = self.workload == Workload::UploadResume;
        let kills = match self.kill_plan() {
            Some(plan) => plan.kills,
            None if has_uploads => u32::from(self.nodes) * 2 * self.rounds,
            None => 0,
        };
        let faults = self.faults();
        let is_rough = matches!(self.nemesis, Nemesis::Mix | Nemesis::PowercutAll);
        let gap_max_ms = if self.gap_max_ms == 0 || is_rough { u64::MAX } else { self.gap_max_ms };
        Demands {
            nodes: self.plan(Path::new("")).seats().into_iter().map(|seat| seat.name).collect(),
            kills,
            writes_min: if has_uploads { u64::from(kills) } else { self.writes_min },
            gap_max_ms: (!has_uploads).then_some(gap_max_ms),
            is_quiet: self.kill_plan().is_none() && !has_uploads && faults.is_empty(),
            has_uploads,
            kinds: crew::kinds(self.workload).to_vec(),
            kind_per_minute_min: self.kind_min,
            available_max_ms: AVAILABLE_MAX_MS,
            may_fail_clients: is_rough,
            faults,
            collected: (self.workload == Workload::Gc).then(|| Collected {
                blobs_min: COLLECTED_MIN,
                untagged_go: self.settings().iter().any(|setting| setting.starts_with("gc.untagged=")),
            }),
        }
    }

    /// How long the links between two regions are cut at first.
    pub(crate) fn cut_duration(&self) -> Duration {
        seconds(self.cut_minutes * 60.0)
    }

    /// How long the load lasts without a nemesis.
    pub(crate) fn duration(&self) -> Duration {
        seconds(self.minutes * 60.0)
    }
}

/// Of runs from before it could be set.
fn layer_bytes_max() -> usize {
    1 << 20
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
