//! What a node finds on its disk when it starts: the log, the state's copies, and whether they fit together. A log that
//! has lost entries makes the node suspect here; what is missing between state and log is told, and fetched by
//! [`reinstall`].

use std::sync::Arc;

use crate::config::{GroupConfig, StartError};
use crate::files;
use crate::identity::Directory;
use crate::log_store::{LogSettings, LogStore};
use crate::machine::StateMachine;
use crate::reinstall;
use crate::snapshot::Snapshots;
use crate::state;
use crate::suspect::{Suspicion, Why};
use crate::types::Position;

/// The log and the copies of the state, and what is missing between them.
pub(crate) struct Stores {
    pub(crate) log: LogStore,
    pub(crate) snapshots: Arc<Snapshots>,
    /// Where the state ends, and what was purged from the log beyond that.
    pub(crate) gap: Option<(Option<Position>, Position)>,
}

/// Opens log, state and snapshots, and looks whether they fit together. Blocking work, on threads for it.
pub(crate) async fn open(
    config: &GroupConfig,
    machine: Arc<dyn StateMachine>,
    directory: Arc<Directory>,
) -> Result<Stores, StartError> {
    let mut settings = LogSettings::new(config.dir.join("log"));
    settings.node = Some(directory.identity().node_id);
    settings.depth = config.limits.append_depth;
    settings.read_bytes = config.limits.message_bytes;
    let dir = config.dir.clone();
    let open = move || -> Result<_, StartError> {
        let log = open_log(settings, &directory)?;
        if let Some(why) = reinstall::condemned(&dir)? {
            tracing::error!(why, "the state was found to be rotten: neither it nor its copies are used");
            Snapshots::discard(&dir.join("snapshots"))?;
        }
        let snapshots = Arc::new(Snapshots::open(dir.join("snapshots"), machine.clone())?);
        let applied = state::applied(&*machine)?;
        // Apply waits until its entries are durable, so the log has lost its end; or a state was being installed, which
        // can't be told from that, except once its copy is made.
        if log.last() < applied && snapshots.position() != applied {
            let why = directory.identity().suspicion.map_or(Why::Short, |suspicion| suspicion.why);
            mark(&directory, why)?;
            snapshots.build()?;
        }
        drop_log_behind(&log, &*machine)?;
        let reached = applied.max(snapshots.position());
        let gap = log.purged().filter(|purged| reached < Some(*purged)).map(|purged| (reached, purged));
        Ok(Stores { log, snapshots, gap })
    };
    files::blocking(open).await
}

/// A log that ends before what the state has applied begins anew there: what is in it is behind, or no part of what was
/// committed.
pub(crate) fn drop_log_behind(log: &LogStore, machine: &dyn StateMachine) -> Result<(), StartError> {
    match state::applied(machine)? {
        Some(applied) if log.last() < Some(applied) => Ok(log.restart_behind(applied)?),
        _ => Ok(()),
    }
}

/// Opens the log; one that has lost entries makes the node suspect, and what is left of it is opened.
fn open_log(settings: LogSettings, directory: &Directory) -> Result<LogStore, StartError> {
    let error = match LogStore::open(settings.clone()) {
        Ok(log) => return Ok(log),
        Err(error) => error,
    };
    let Some(why) = error.makes_suspect() else { return Err(error.into()) };
    tracing::error!(%error, "this node is suspect from now on: it goes on with what is left, and does not vote");
    // before the log is touched: what is left of it opens without a complaint
    mark(directory, why)?;
    Ok(LogStore::open_what_is_left(settings)?)
}

/// Makes the node suspect, durably. An earlier record does not cover a later loss.
fn mark(directory: &Directory, why: Why) -> std::io::Result<()> {
    directory.change(|identity| identity.suspicion = Some(Suspicion { why, recorded: None }))
}
