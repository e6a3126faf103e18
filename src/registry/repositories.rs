//! Repositories: make, change, delete, list.

use registry_core::decide::permit::Permit;
use registry_core::decide::quota::Limits;
use registry_core::metadata::command::Command;
use registry_core::metadata::reply::Reply;
use registry_core::metadata::repository::{
    self, ChangeRepository, CreateRepository, DeleteRepository, RepositoryKey, RepositoryRow, Settings,
};
use registry_core::metadata::settings::{self, Home, HomeWish, SetHome};
use registry_core::metadata::tables::TablesRead;
use registry_core::metadata::usage::{self, SetRepositoryQuota, UsageRow};
use registry_core::vocabulary::ids::{RegistryId, RepositoryId};
use registry_core::vocabulary::{Refusal, RepositoryName};

use super::{At, Consistency, Page, Quota, Registry, find};
use crate::ground::random;
use crate::metadata::{View, revision};

/// A repository as its users see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryInfo {
    /// Its registry, name and internal id.
    pub key: RepositoryKey,
    /// When it was made, replicated milliseconds since 1970.
    pub created_at_ms: u64,
    /// Who made it.
    pub created_by: String,
    /// What its owner set.
    pub settings: Settings,
    /// Where it is written.
    pub home: Home,
    /// What it holds and may hold.
    pub quota: Quota,
}

impl RepositoryInfo {
    fn read(tables: &impl TablesRead, (key, row): (RepositoryKey, RepositoryRow)) -> RepositoryInfo {
        let RepositoryRow { created_at_ms, created_by, settings, .. } = row;
        let UsageRow { used, limits } = usage::read(tables, &key);
        let home = settings::home(tables, &key);
        RepositoryInfo { key, created_at_ms, created_by, settings, home, quota: Quota { used, limits } }
    }
}

impl Registry {
    /// Looks a repository up. Refuses with `RepositoryUnknown`.
    pub async fn repository(
        &self,
        registry: RegistryId,
        name: &RepositoryName,
        consistency: Consistency,
    ) -> Result<At<RepositoryInfo>, Refusal> {
        self.metadata()
            .read(consistency, |view| {
                let found = repository::find(view, registry, name);
                let found = found.ok_or_else(|| repository::unknown(registry, name))?;
                Ok(At { value: RepositoryInfo::read(view, found), revision: revision(view) })
            })
            .await?
    }

    /// Makes a repository. Refuses with `RepositoryExists`.
    pub async fn create_repository(
        &self,
        permit: &Permit,
        settings: Settings,
        limits: Limits,
    ) -> Result<At<RepositoryInfo>, Refusal> {
        let key = RepositoryKey {
            registry: permit.registry,
            name: permit.repository.clone(),
            id: RepositoryId(random::number128()),
        };
        let mut commands = vec![CreateRepository { key: key.clone(), settings, must_be_new: true }.into()];
        if limits != Limits::NONE {
            commands.push(SetRepositoryQuota { repository: key, limits }.into());
        }
        let accepted = self.metadata().propose(&permit.principal, commands).await?;
        self.repository(permit.registry, &permit.repository, Consistency::AtLeast(accepted.revision)).await
    }

    /// The repository of a push: made now if the permit allows it and it is not there.
    pub async fn ensure_repository(&self, permit: &Permit) -> Result<RepositoryKey, Refusal> {
        let found = self.metadata().peek(|view| find(view, permit));
        match found {
            Ok((key, _)) => return Ok(key),
            Err(refusal) if !permit.create_repository => return Err(refusal),
            Err(_) => {}
        }
        let key = RepositoryKey {
            registry: permit.registry,
            name: permit.repository.clone(),
            id: RepositoryId(random::number128()),
        };
        let command = CreateRepository { key: key.clone(), settings: Settings::default(), must_be_new: false };
        let accepted = self.metadata().propose(&permit.principal, vec![command.into()]).await?;
        match accepted.replies.first() {
            Some(Reply::Repository { id, .. }) => Ok(RepositoryKey { id: *id, ..key }),
            _ => Err(Refusal::Changed),
        }
    }

    /// Sets what an owner may set, and what it may hold, each if that is to change.
    pub async fn change_repository(
        &self,
        permit: &Permit,
        settings: Option<Settings>,
        limits: Option<Limits>,
    ) -> Result<At<RepositoryInfo>, Refusal> {
        let (key, _) = self.metadata().read(Consistency::Linearizable, |view| find(view, permit)).await??;
        let change = settings.map(|settings| ChangeRepository { key: key.clone(), settings }.into());
        let mut commands: Vec<Command> = change.into_iter().collect();
        commands.extend(limits.map(|limits| SetRepositoryQuota { repository: key, limits }.into()));
        let accepted = self.metadata().propose(&permit.principal, commands).await?;
        self.repository(permit.registry, &permit.repository, Consistency::AtLeast(accepted.revision)).await
    }

    /// Moves the home of a repository; `accepts_loss`: from a region that is lost.
    pub async fn move_home(
        &self,
        permit: &Permit,
        (wish, accepts_loss): (HomeWish, bool),
    ) -> Result<At<RepositoryInfo>, Refusal> {
        let (repository, _) = self.metadata().read(Consistency::Linearizable, |view| find(view, permit)).await??;
        let command = SetHome { repository, wish, accepts_loss };
        let accepted = self.metadata().propose(&permit.principal, vec![command.into()]).await?;
        self.repository(permit.registry, &permit.repository, Consistency::AtLeast(accepted.revision)).await
    }

    /// Refuses with `HomeElsewhere` what would be refused in the end: the bytes of a push need not be sent for that.
    pub fn may_write(&self, permit: &Permit) -> Result<(), Refusal> {
        self.metadata().peek(|view| settings::may_write_name(view, permit.registry, &permit.repository))
    }

    /// Deletes a repository; its name is free at once. Refuses with `RepositoryNotEmpty` unless forced.
    pub async fn delete_repository(&self, permit: &Permit, force: bool) -> Result<At<RepositoryInfo>, Refusal> {
        let read = |view: &View<'_>| Ok::<_, Refusal>(RepositoryInfo::read(view, find(view, permit)?));
        let info = self.metadata().read(Consistency::Linearizable, read).await??;
        let command = DeleteRepository { key: info.key.clone(), force };
        let accepted = self.metadata().propose(&permit.principal, vec![command.into()]).await?;
        Ok(At { value: info, revision: accepted.revision })
    }

    /// A page of the names that `visible` lets through; how many it hides does not show.
    pub async fn list_repositories(
        &self,
        registry: RegistryId,
        after: Option<&str>,
        limit: usize,
        visible: &(dyn Fn(&RepositoryName) -> bool + Sync),
        consistency: Consistency,
    ) -> Result<At<Page<RepositoryName>>, Refusal> {
        self.metadata().ready(consistency).await?;
        Ok(self.metadata().peek(|view| {
            let names = repository::list(view, registry, after, limit + 1, visible);
            At { value: Page::cut(names, limit), revision: revision(view) }
        }))
    }
}
