//! Breaks links, kills leaders, sets clocks, restores a region and damages one until the time is over; all is well
//! again then.
//!
//! Wrong clocks last while other faults come and go; everything else happens one after the other.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::aside::Patience;
use super::link::{Link, State};
use super::trouble::{AHEAD_MAX_S, Deck, Kind, Trouble};
use super::{LEADER_MAX, Region, aside, drift, region_name};
use crate::fault::Fault;
use crate::history::{Act, Note, Recorder};
use crate::nemesis::{self, merged};
use crate::workload::Shared;

/// A node looks at the time it is to show once a second.
const CLOCK_SEEN: Duration = Duration::from_millis(1500);
/// Shorter runs have neither a restore nor clocks far ahead: it takes minutes until all is well again.
const LONG_MIN: Duration = Duration::from_secs(180);
/// How long changes that were put aside are tried again while the load goes on.
const RETRY: Patience = Patience { all: Duration::from_secs(30), idle: Duration::from_secs(30) };

/// A clock that is wrong.
struct Skew {
    trouble: Trouble,
    about: Value,
    until: Instant,
}

/// What is put aside in a region because the other one's clock was far ahead.
#[derive(Clone, Copy)]
struct Aside {
    at: usize,
    /// When both clocks agree well enough again; none while the other one is wrong.
    agreed: Option<Instant>,
    is_seen: bool,
}

pub(super) struct Nemesis<'a> {
    lasts: Duration,
    began: Instant,
    regions: &'a mut [Region],
    links: &'a [Link; 2],
    recorder: &'a Recorder,
    deck: Deck,
    faults: u64,
    skews: Vec<Skew>,
    aside: Vec<Aside>,
}

impl<'a> Nemesis<'a> {
    pub(super) fn new(
        (lasts, kinds): (Duration, Vec<Kind>),
        regions: &'a mut [Region],
        links: &'a [Link; 2],
        shared: &'a Shared,
    ) -> Nemesis<'a> {
        let (deck, began) = (Deck::new(shared.seed, kinds), Instant::now());
        let (skews, aside) = (Vec::new(), Vec::new());
        Nemesis { lasts, began, regions, links, recorder: &shared.recorder, deck, faults: 0, skews, aside }
    }

    pub(super) async fn disturb(mut self) -> Result<(), Fault> {
        while self.began.elapsed() < self.lasts {
            let pause = self.deck.pause();
            tokio::time::sleep(pause).await;
            self.set_right(Instant::now()).await?;
            self.take_aside().await?;
            let trouble = self.deck.draw();
            self.faults += 1;
            let about = self.about(&trouble);
            match self.why_not(trouble.kind) {
                Some(reason) => self.note(Act::Inject, &about, json!({"outcome": "skipped", "reason": reason})),
                None => self.make(trouble, about).await?,
            }
        }
        let end = self.skews.iter().map(|skew| skew.until).max();
        self.set_right(end.unwrap_or_else(Instant::now)).await?;
        for aside in self.aside.clone() {
            aside::look(self.regions, self.recorder, aside.at).await;
        }
        Ok(())
    }

    fn about(&self, trouble: &Trouble) -> Value {
        let regions: Vec<String> = trouble.regions().into_iter().map(region_name).collect();
        let mut about = json!({"fault": self.faults, "kind": trouble.kind.name(), "regions": regions});
        if trouble.offset_s != 0 {
            about["offset_s"] = json!(trouble.offset_s);
        }
        about
    }

    fn note(&self, act: Act, about: &Value, more: Value) {
        self.recorder.note(Note::nemesis(act, None, merged(about.clone(), more)));
    }

    fn begins(&self, act: Act, about: &Value) {
        self.recorder.note(Note::nemesis_begins(act, None, about.clone()));
    }

    /// Why a fault can't be had.
    fn why_not(&self, kind: Kind) -> Option<String> {
        if matches!(kind, Kind::Restore | Kind::ClockFarAhead) && self.lasts < LONG_MIN {
            return Some(format!("the run is shorter than {} s", LONG_MIN.as_secs()));
        }
        if kind.sets_clocks() { self.regions[0].cluster.no_clocks() } else { None }
    }

    async fn make(&mut self, trouble: Trouble, about: Value) -> Result<(), Fault> {
        let window = trouble.window;
        println!("{:4} s: {about} for {} ms", self.began.elapsed().as_secs(), window.as_millis());
        if trouble.kind == Kind::Restore {
            return self.restore(trouble, &about).await;
        }
        if trouble.kind == Kind::Drift {
            return self.drift(trouble, &about).await;
        }
        if trouble.kind.sets_clocks() {
            return self.skew(trouble, about).await;
        }
        self.begins(Act::Inject, &about);
        let mut victims = Vec::new();
        let link = &self.links[trouble.at];
        match trouble.kind {
            Kind::CutLinks => self.links.iter().for_each(|link| link.set(State::Cut)),
            Kind::CutOneLink => link.set(State::Cut),
            Kind::HangOneLink => link.set(State::Hangs),
            Kind::LoseRequests => link.set(State::LosesRequests),
            Kind::LoseAnswers => link.set(State::LosesAnswers),
            Kind::KillLeader | Kind::KillBothLeaders => {
                for at in trouble.regions() {
                    let cluster = &mut self.regions[at].cluster;
                    let (leader, _) = cluster.wait_leader(LEADER_MAX).await?;
                    nemesis::kill(cluster, self.recorder, leader).await?;
                    victims.push((at, leader));
                }
            }
            Kind::ClockAhead | Kind::ClockBehind | Kind::ClockFarAhead | Kind::Restore | Kind::Drift => {}
        }
        self.note(Act::Inject, &about, json!({"outcome": "installed"}));
        tokio::time::sleep(window).await;
        self.begins(Act::Heal, &about);
        self.links.iter().for_each(|link| link.set(State::Up));
        for (at, victim) in victims {
            nemesis::restart(&mut self.regions[at].cluster, self.recorder, victim).await?;
        }
        self.note(Act::Heal, &about, Value::Null);
        Ok(())
    }

    /// Sets the clocks of a region wrong; they stay so while other faults come.
    async fn skew(&mut self, trouble: Trouble, about: Value) -> Result<(), Fault> {
        // one that is far ahead of another that is ahead as well shows nothing
        let is_over = |skew: &Skew| skew.trouble.at == trouble.at || trouble.kind == Kind::ClockFarAhead;
        while let Some(before) = self.skews.iter().position(is_over) {
            let before = self.skews.swap_remove(before);
            self.right(before).await?;
        }
        self.begins(Act::Inject, &about);
        self.set_clocks(trouble.at, trouble.offset_s).await?;
        self.note(Act::Inject, &about, json!({"outcome": "installed"}));
        if trouble.kind == Kind::ClockFarAhead {
            self.aside.retain(|aside| aside.at != 1 - trouble.at);
            self.aside.push(Aside { at: 1 - trouble.at, agreed: None, is_seen: false });
        }
        let until = Instant::now() + trouble.window;
        self.skews.push(Skew { trouble, about, until });
        Ok(())
    }

    async fn set_clocks(&mut self, at: usize, offset_s: i64) -> Result<(), Fault> {
        let cluster = &mut self.regions[at].cluster;
        for node in 0..cluster.seats().len() {
            cluster.set_clock(node, offset_s)?;
        }
        tokio::time::sleep(CLOCK_SEEN).await;
        Ok(())
    }

    /// Sets those clocks right that were to be wrong until `now`.
    async fn set_right(&mut self, now: Instant) -> Result<(), Fault> {
        while let Some(at) = self.skews.iter().position(|skew| skew.until <= now) {
            let skew = self.skews.swap_remove(at);
            self.right(skew).await?;
        }
        Ok(())
    }

    async fn right(&mut self, Skew { trouble, about, .. }: Skew) -> Result<(), Fault> {
        self.begins(Act::Heal, &about);
        self.set_clocks(trouble.at, 0).await?;
        self.note(Act::Heal, &about, Value::Null);
        // the time that a region has seen does not go back: it stands until the clocks have come to it
        let stands = u64::try_from(trouble.offset_s - AHEAD_MAX_S).map(Duration::from_secs).unwrap_or_default();
        let agreed = Instant::now() + stands + Duration::from_secs(2);
        for aside in self.aside.iter_mut().filter(|aside| aside.at != trouble.at && aside.agreed.is_none()) {
            aside.agreed = Some(agreed);
        }
        Ok(())
    }

    /// Looks at what was put aside, and has it tried again once the clocks agree.
    async fn take_aside(&mut self) -> Result<(), Fault> {
        let mut left = Vec::new();
        for mut aside in std::mem::take(&mut self.aside) {
            let is_due = aside.agreed.is_some_and(|agreed| agreed <= Instant::now());
            if !aside.is_seen || is_due {
                aside.is_seen |= aside::look(self.regions, self.recorder, aside.at).await;
            }
            if is_due && aside.is_seen {
                aside::retry(self.regions, self.recorder, aside.at, RETRY).await?;
            } else {
                left.push(aside);
            }
        }
        self.aside = left;
        Ok(())
    }

    /// Kills a region, alters rows of all its nodes alike, and starts it again.
    async fn drift(&mut self, trouble: Trouble, about: &Value) -> Result<(), Fault> {
        self.begins(Act::Inject, about);
        if trouble.is_apart {
            self.links.iter().for_each(|link| link.set(State::Cut));
            tokio::time::sleep(trouble.window).await;
        }
        let cluster = &mut self.regions[trouble.at].cluster;
        let nodes = cluster.running();
        for node in &nodes {
            nemesis::kill(cluster, self.recorder, *node).await?;
        }
        let data: Vec<PathBuf> = nodes.iter().map(|node| cluster.data(*node).to_owned()).collect();
        let ghost = format!("ghost-{}", self.faults);
        let done = tokio::task::block_in_place(|| drift::inject(&data, &ghost, trouble.draw))?;
        self.note(Act::Inject, about, merged(json!({"outcome": "installed", "apart": trouble.is_apart}), done));
        self.begins(Act::Heal, about);
        let cluster = &mut self.regions[trouble.at].cluster;
        for node in &nodes {
            nemesis::start(cluster, self.recorder, *node)?;
        }
        for node in &nodes {
            nemesis::wait_ready(cluster, self.recorder, *node).await?;
        }
        self.links.iter().for_each(|link| link.set(State::Up));
        self.note(Act::Heal, about, Value::Null);
        Ok(())
    }

    /// Backs a region up, lets it go on for a while, takes all of its nodes away, and has it go on from the backup.
    async fn restore(&mut self, trouble: Trouble, about: &Value) -> Result<(), Fault> {
        // the time that a region has seen is gone with it: which of two words is the later one would be anybody's guess
        while let Some(skew) = self.skews.pop() {
            self.right(skew).await?;
        }
        self.begins(Act::Inject, about);
        let (at, which) = (trouble.at, json!({"region": region_name(trouble.at), "apart": trouble.is_apart}));
        let cluster = &mut self.regions[at].cluster;
        let (leader, _) = cluster.wait_leader(LEADER_MAX).await?;
        let backup = cluster.dir().join("data").join(format!("backup-{}", self.faults));
        self.recorder.note(Note::nemesis_begins(Act::Backup, None, which.clone()));
        cluster.back_up(leader, &backup)?;
        self.recorder.note(Note::nemesis(Act::Backup, None, which.clone()));
        if trouble.is_apart {
            self.links.iter().for_each(|link| link.set(State::Cut));
        }
        tokio::time::sleep(trouble.window).await;
        self.recorder.note(Note::nemesis_begins(Act::Lose, None, which.clone()));
        for node in cluster.running() {
            nemesis::kill(cluster, self.recorder, node).await?;
        }
        self.recorder.note(Note::nemesis(Act::Lose, None, which));
        self.links.iter().for_each(|link| link.set(State::Up));
        let began = Instant::now();
        let report = cluster.restore(&backup).await?;
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        for node in cluster.running() {
            let value = json!({"took_ms": took_ms, "as": "a new node"});
            self.recorder.note(Note::nemesis(Act::Ready, Some(cluster.name(node)), value));
        }
        let told = json!({"outcome": "installed", "took_ms": took_ms, "blobs": report["blobs"],
            "blobs_missing": report["blobs_missing"], "made_at": report["made_at"]});
        self.note(Act::Inject, about, told);
        self.note(Act::Heal, about, Value::Null);
        Ok(())
    }
}
