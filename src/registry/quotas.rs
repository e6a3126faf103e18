//! Quotas: what repositories and registries hold and may hold, and how a push whose slot has too small a share of the
//! registry's limit gets one.
//!
//! Whether a limit allows something is decided where it is applied, in the core; here is only the order of the steps of
//! a round, and the looks that spare a client from sending bytes in vain. Source: decision 6 in `src/docs/decisions`.

use std::time::Duration;

use registry_core::decide::quota::{Limits, Usage};
use registry_core::metadata::command::Command;
use registry_core::metadata::quota::{self, QuotaRow, RecallShares, SetRegistryQuota};
use registry_core::metadata::repository::RepositoryKey;
use registry_core::metadata::usage::{self, AdmitBlob, SlotUsageRow};
use registry_core::vocabulary::ids::RegistryId;
use registry_core::vocabulary::limits::{PROPOSAL_COMMANDS_MAX, QUOTA_GRANTS_MAX, QUOTA_ROUNDS_MAX};
use registry_core::vocabulary::{Digest, Refusal};
use tokio::time::Instant;

use super::{At, Consistency, Registry, unavailable};
use crate::metadata::{Accepted, ProposeError, View, revision};

/// How long somebody who has called a round is left alone with it. Its grants come with the next log entry; after this
/// the caller is taken for dead.
const ROUND_PATIENCE: Duration = Duration::from_secs(1);
/// Pause before somebody else's round is looked at again.
const ROUND_PAUSE: Duration = Duration::from_millis(20);

/// What is held, and what may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// What is held.
    pub used: Usage,
    /// What may be.
    pub limits: Limits,
}

/// What to do about a share that is too small.
enum Next {
    /// It is large enough by now, or there is no limit any more.
    Propose,
    /// Call the next one.
    Recall(QuotaRow),
}

impl Registry {
    /// What a registry holds and may hold.
    pub async fn registry_quota(&self, registry: RegistryId, consistency: Consistency) -> Result<At<Quota>, Refusal> {
        let read = |view: &View<'_>| {
            let (used, limits) = (usage::of_registry(view, registry), quota::read(view, registry).limits);
            At { value: Quota { used, limits }, revision: revision(view) }
        };
        Ok(self.metadata().read(consistency, read).await?)
    }

    /// Sets what a registry may hold.
    pub async fn set_registry_quota(
        &self,
        principal: &str,
        registry: RegistryId,
        limits: Limits,
    ) -> Result<At<Quota>, Refusal> {
        let command = SetRegistryQuota { registry, limits };
        let accepted = self.metadata().propose(principal, vec![command.into()]).await?;
        self.registry_quota(registry, Consistency::AtLeast(accepted.revision)).await
    }

    /// Refuses a blob that no quota has room for, before its bytes are moved. A *no* is confirmed before it is given:
    /// this node may not have seen yet what was deleted elsewhere.
    pub(super) async fn ensure_room(
        &self,
        repository: &RepositoryKey,
        digest: &Digest,
        size_bytes: u64,
    ) -> Result<(), Refusal> {
        let look = || self.metadata().peek(|view| quota::room(view, repository, digest, size_bytes));
        if look().is_ok() {
            return Ok(());
        }
        self.metadata().ready(Consistency::Linearizable).await?;
        look().inspect_err(noted)
    }

    /// What stands in front of an envelope that ends in a link, if anything limits the repository: then what would
    /// refuse the link refuses the envelope before a part of it has an effect.
    pub(super) fn admission(&self, repository: &RepositoryKey, digest: &Digest, size_bytes: u64) -> Option<Command> {
        let is_limited = self.metadata().peek(|view| quota::is_limited(view, repository));
        is_limited.then(|| AdmitBlob { repository: repository.clone(), digest: *digest, size_bytes }.into())
    }

    /// Proposes what makes a repository hold more. Where its slot's share of the registry's limit is too small, a round
    /// is called, and the same is proposed again together with its new share, so that no round of somebody else comes
    /// between them.
    pub(super) async fn propose_growth(
        &self,
        principal: &str,
        repository: &RepositoryKey,
        commands: Vec<Command>,
    ) -> Result<Accepted, ProposeError> {
        let mut ended = self.metadata().propose(principal, commands.clone()).await;
        let mut dealing = None;
        for _ in 0..QUOTA_ROUNDS_MAX {
            let Some(wanted) = shortage(&ended) else { break };
            // one round at a time on each node; those who wait find their share large enough, or call the next
            if dealing.is_none() {
                dealing = Some(self.0.dealing.lock().await);
            }
            ended = self.deal(principal, repository, wanted, &commands).await;
        }
        if let Err(ProposeError::Refused { refusal, replies }) = ended {
            noted(&refusal);
            let refusal = if let Refusal::QuotaShare { .. } = *refusal { unavailable() } else { *refusal };
            return Err(ProposeError::Refused { refusal: Box::new(refusal), replies });
        }
        ended
    }

    /// One try to get a share that leaves room for `wanted`, and to use it.
    async fn deal(
        &self,
        principal: &str,
        repository: &RepositoryKey,
        wanted: Usage,
        commands: &[Command],
    ) -> Result<Accepted, ProposeError> {
        let registry = repository.registry;
        self.metadata().ready(Consistency::Linearizable).await.map_err(|_| ProposeError::Unavailable)?;
        let row = match self.next(repository, wanted).await.map_err(refused)? {
            Next::Propose => return self.metadata().propose(principal, commands.to_vec()).await,
            Next::Recall(row) => row,
        };
        let recall = RecallShares { registry, round: row.round };
        match self.metadata().propose(principal, vec![recall.into()]).await {
            Ok(_) => metrics::counter!("portolan_quota_rounds_total").increment(1),
            Err(ProposeError::Refused { .. }) => return Err(refused(short(wanted))),
            Err(error) => return Err(error),
        }
        self.grant(principal, repository, row.round + 1, wanted, commands).await
    }

    /// Looks where the registry's round stands, once a round of somebody else that has just begun is over. Refuses with
    /// `QuotaExceeded` if no share could be large enough.
    async fn next(&self, repository: &RepositoryKey, wanted: Usage) -> Result<Next, Refusal> {
        let (registry, slot) = (repository.registry, repository.slot());
        let look = |patient: bool| {
            self.metadata().peek(|view| {
                let row = quota::read(view, registry);
                let own = usage::of_slot(view, slot, registry);
                if row.limits == Limits::NONE || own.round == row.round && own.share.allow(own.used, wanted).is_ok() {
                    return Ok(Some(Next::Propose));
                }
                let is_dealt = |(_, slot): &(_, SlotUsageRow)| slot.round == row.round;
                if patient && !usage::by_slot(view, registry).iter().any(is_dealt) {
                    return Ok(None);
                }
                quota::grants(view, registry, row.round, slot, wanted).map(|_| Some(Next::Recall(row)))
            })
        };
        let began = Instant::now();
        loop {
            if let Some(next) = look(began.elapsed() < ROUND_PATIENCE)? {
                return Ok(next);
            }
            tokio::time::sleep(ROUND_PAUSE).await;
        }
    }

    /// Grants the shares of a round that was called, and proposes what asked for it right behind them.
    async fn grant(
        &self,
        principal: &str,
        repository: &RepositoryKey,
        round: u64,
        wanted: Usage,
        commands: &[Command],
    ) -> Result<Accepted, ProposeError> {
        let dealt = |wanted: Usage| {
            self.metadata().peek(|view| quota::grants(view, repository.registry, round, repository.slot(), wanted))
        };
        // another node's push took the room after it was looked at: the others get their shares all the same
        let (grants, refusal) = match dealt(wanted) {
            Err(refusal @ Refusal::QuotaExceeded { .. }) => (dealt(Usage::default()), Some(refusal)),
            grants => (grants, None),
        };
        let mut grants: Vec<Command> = grants.map_err(refused)?.into_iter().map(Command::from).collect();
        let late = grants.split_off(grants.len().min(QUOTA_GRANTS_MAX));
        let count = grants.len();
        if refusal.is_none() {
            grants.extend_from_slice(commands);
        }
        debug_assert!(grants.len() <= PROPOSAL_COMMANDS_MAX, "a share of an envelope is left for what asked");
        let ended = self.metadata().propose(principal, grants).await;
        if !late.is_empty() && self.metadata().propose(principal, late).await.is_err() {
            tracing::debug!(round, "some slots have no share of this round; they ask for the next one");
        }
        match (ended, refusal) {
            (Ok(_), Some(refusal)) => Err(refused(refusal)),
            (Ok(accepted), None) => {
                Ok(Accepted { replies: accepted.replies.into_iter().skip(count).collect(), ..accepted })
            }
            // the round was over before its grants came
            (Err(ProposeError::Refused { replies, .. }), _) if replies.len() < count => Err(refused(short(wanted))),
            (Err(ProposeError::Refused { refusal, replies }), _) => {
                Err(ProposeError::Refused { refusal, replies: replies.into_iter().skip(count).collect() })
            }
            (Err(error), _) => Err(error),
        }
    }
}

fn refused(refusal: Refusal) -> ProposeError {
    ProposeError::Refused { refusal: Box::new(refusal), replies: Vec::new() }
}

fn short(wanted: Usage) -> Refusal {
    Refusal::QuotaShare { bytes: wanted.bytes, tags: wanted.tags }
}

/// What a share was too small for.
fn shortage(ended: &Result<Accepted, ProposeError>) -> Option<Usage> {
    if let Err(ProposeError::Refused { refusal, .. }) = ended
        && let Refusal::QuotaShare { bytes, tags } = **refusal
    {
        return Some(Usage { bytes, tags });
    }
    None
}

fn noted(refusal: &Refusal) {
    if let Refusal::QuotaExceeded { .. } = refusal {
        metrics::counter!("portolan_quota_refused_total").increment(1);
    }
}
