//! Joins openraft's state machine to ours: apply runs on a thread of its own, members and position in the same batch as
//! data.
//!
//! Apply waits until the entries are durable in this node's own log. openraft only asks that they are committed; the
//! wait keeps the state from ever being ahead of its log, so a power cut can't leave a state without its entries.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use tokio::sync::{oneshot, watch};

use crate::codec;
use crate::fatal;
use crate::files;
use crate::former::Former;
use crate::machine::{Committed, Effect, MachineError, StateMachine};
use crate::metrics;
use crate::snapshot::{SnapshotHandle, Snapshots};
use crate::types::{Command, Entry, LogId, Payload, Position, Snapshot, SnapshotMeta, StoredMembership, Types};

/// Entries applied in one batch.
const BATCH_ENTRIES_MAX: usize = 512;

/// The state machine as openraft sees it.
#[derive(Debug)]
pub(crate) struct Adapter {
    thread: ApplyThread,
    snapshots: Arc<Snapshots>,
    applied: Option<LogId>,
    membership: StoredMembership,
    former: Arc<Former>,
    /// Entries may be left out; for a suite that applies what it never wrote.
    may_skip: bool,
    flushed: watch::Receiver<Option<Position>>,
    applied_at: watch::Sender<Option<Position>>,
}

impl Adapter {
    /// Over a machine; reads what it last applied.
    pub(crate) fn open(
        machine: Arc<dyn StateMachine>,
        snapshots: Arc<Snapshots>,
        flushed: watch::Receiver<Option<Position>>,
    ) -> io::Result<Adapter> {
        let meta = read_meta(&*machine)?;
        let (applied_at, _) = watch::channel(meta.last_log_id.map(Position::from));
        Ok(Adapter {
            thread: ApplyThread::start(machine)?,
            snapshots,
            applied: meta.last_log_id,
            membership: meta.last_membership,
            former: Arc::default(),
            may_skip: false,
            flushed,
            applied_at,
        })
    }

    /// Lets entries be left out.
    #[cfg(test)]
    pub(crate) fn skipping(self) -> Adapter {
        Adapter { may_skip: true, ..self }
    }

    /// Who was seen to leave.
    pub(crate) fn former(&self) -> Arc<Former> {
        self.former.clone()
    }

    /// Follows what was applied last.
    pub(crate) fn applied_at(&self) -> watch::Receiver<Option<Position>> {
        self.applied_at.subscribe()
    }

    async fn apply_batch(&mut self, batch: Vec<EntryResponder<Types>>) -> io::Result<()> {
        let Some((last, _)) = batch.last() else { return Ok(()) };
        let last = last.log_id;
        let durable = |flushed: &Option<Position>| *flushed >= Some(Position::from(last));
        self.flushed.wait_for(durable).await.map_err(io::Error::other)?;
        let mut committed = Vec::with_capacity(batch.len());
        let mut responders = Vec::with_capacity(batch.len());
        for (entry, responder) in batch {
            if let Payload::Membership(membership) = &entry.payload {
                let membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                self.former.changed(&self.membership, &membership);
                self.membership = membership;
            }
            committed.push(as_committed(entry));
            responders.push(responder);
        }
        let due = self.applied.map_or(0, |applied| applied.index + 1);
        if committed.first().is_some_and(|first| first.index != due) && !self.may_skip {
            return Err(io::Error::other(format!("entry {due} is due, and others came")));
        }
        let meta = codec::meta_record(Some(&last), &self.membership);
        let effects = self.thread.apply(committed, meta).await?;
        self.applied = Some(last);
        self.applied_at.send_replace(Some(last.into()));
        for (responder, effect) in responders.into_iter().zip(effects) {
            if let Some(responder) = responder {
                responder.send(effect);
            }
        }
        Ok(())
    }
}

fn read_meta(machine: &dyn StateMachine) -> io::Result<SnapshotMeta> {
    let bytes = machine.meta().map_err(io::Error::other)?;
    codec::meta(bytes.map(Bytes::from).unwrap_or_default()).map_err(io::Error::other)
}

/// What a machine applied last.
pub(crate) fn applied(machine: &dyn StateMachine) -> io::Result<Option<Position>> {
    Ok(read_meta(machine)?.last_log_id.map(Position::from))
}

/// The members as a machine knows them.
pub(crate) fn membership(machine: &dyn StateMachine) -> io::Result<StoredMembership> {
    Ok(read_meta(machine)?.last_membership)
}

fn as_committed(entry: Entry) -> Committed {
    let (index, term) = (entry.log_id.index, entry.log_id.leader_id.term);
    match entry.payload {
        Payload::Normal(Command::Proposal { at_ms, payload }) => Committed { index, term, at_ms, payload },
        Payload::Blank | Payload::Membership(_) | Payload::Normal(Command::Suspect(_)) => {
            Committed { index, term, at_ms: 0, payload: Bytes::new() }
        }
    }
}

impl RaftStateMachine<Types> for Adapter {
    type SnapshotData = SnapshotHandle;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + Send,
    {
        let mut batches = entries.ready_chunks(BATCH_ENTRIES_MAX);
        while let Some(batch) = batches.next().await {
            self.apply_batch(batch.into_iter().collect::<io::Result<Vec<_>>>()?).await?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder(self.snapshots.clone())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotHandle) -> Result<(), io::Error> {
        let began = Instant::now();
        let snapshots = self.snapshots.clone();
        let handle = snapshot.clone();
        let dir = files::blocking(move || snapshots.prepare_install(&handle)).await?;
        self.thread.install(dir).await?;
        let installed = read_meta(&*self.thread.machine)?;
        if installed.last_log_id != meta.last_log_id {
            return Err(io::Error::other("the installed state is not the one the snapshot describes"));
        }
        self.applied = installed.last_log_id;
        self.former.changed(&self.membership, &installed.last_membership);
        self.membership = installed.last_membership;
        self.applied_at.send_replace(self.applied.map(Position::from));
        drop(snapshot);
        // what was received is the state now; the node needs a copy of its own before the log may be purged
        let snapshots = self.snapshots.clone();
        files::blocking(move || snapshots.build()).await?;
        metrics::snapshot("installed", began.elapsed());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.snapshots.current())
    }
}

/// Builds snapshots beside apply.
#[derive(Debug)]
pub(crate) struct Builder(Arc<Snapshots>);

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotHandle;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let snapshots = self.0.clone();
        files::blocking(move || snapshots.build()).await
    }
}

enum Work {
    Apply { entries: Vec<Committed>, meta: Bytes, done: oneshot::Sender<Vec<Effect>> },
    Install { dir: PathBuf, done: oneshot::Sender<Result<(), MachineError>> },
}

/// The thread on which the machine changes.
struct ApplyThread {
    machine: Arc<dyn StateMachine>,
    work: mpsc::Sender<Work>,
}

impl std::fmt::Debug for ApplyThread {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("ApplyThread")
    }
}

impl ApplyThread {
    fn start(machine: Arc<dyn StateMachine>) -> io::Result<ApplyThread> {
        let (work, receiver) = mpsc::channel::<Work>();
        let applied_on = machine.clone();
        thread::Builder::new().name("raft-apply".into()).spawn(move || {
            while let Ok(work) = receiver.recv() {
                run(&*applied_on, work);
            }
        })?;
        Ok(ApplyThread { machine, work })
    }

    async fn apply(&self, entries: Vec<Committed>, meta: Bytes) -> io::Result<Vec<Effect>> {
        let (done, wait) = oneshot::channel();
        self.send(Work::Apply { entries, meta, done })?;
        wait.await.map_err(io::Error::other)
    }

    async fn install(&self, dir: PathBuf) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        self.send(Work::Install { dir, done })?;
        wait.await.map_err(io::Error::other)?.map_err(io::Error::other)
    }

    fn send(&self, work: Work) -> io::Result<()> {
        self.work.send(work).map_err(|_| io::Error::other("the apply thread has ended"))
    }
}

fn run(machine: &dyn StateMachine, work: Work) {
    match work {
        Work::Apply { entries, meta, done } => {
            let began = Instant::now();
            let effects = catch_unwind(AssertUnwindSafe(|| machine.apply(&entries, &meta)));
            let effects = match effects {
                Ok(Ok(effects)) if effects.len() == entries.len() => effects,
                Ok(Ok(effects)) => {
                    let error = format!("{} effects of {} entries", effects.len(), entries.len());
                    fatal::abort("apply broke its contract", &error)
                }
                Ok(Err(error)) => fatal::abort("apply failed", &error),
                Err(_panic) => fatal::abort("apply panicked", &"a half-applied node must not go on"),
            };
            let last = entries.last().map_or(0, |entry| entry.index);
            metrics::applied(began.elapsed(), entries.len(), last);
            let _nobody_waits = done.send(effects).is_err();
        }
        Work::Install { dir, done } => {
            let installed = catch_unwind(AssertUnwindSafe(|| machine.install(&dir)));
            let Ok(installed) = installed else { fatal::abort("install panicked", &"the state is unknown") };
            let _nobody_waits = done.send(installed).is_err();
        }
    }
}
