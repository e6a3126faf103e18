//! The source's side of a comparison: sums and records of what rules send to the caller, read from the rows themselves.
//!
//! Nothing that the stream noted is looked at: what it lost shows here.

use registry_core::decide::replication::compare::{BUCKETS, Deletes, Register, Scope, Since, Sums, There};
use registry_core::decide::replication::tags::SentTags;
use registry_core::metadata::register;
use registry_core::metadata::repository::{self, RepositoryKey};
use registry_core::metadata::tables::TablesRead;
use registry_core::metadata::{cluster, replication_rules, settings};
use registry_core::vocabulary::RepositoryName;
use registry_core::vocabulary::ids::RegistryId;
use registry_core::vocabulary::limits::{RECORDS_PER_MESSAGE, SUMS_PER_MESSAGE};
use tokio::sync::mpsc;
use tonic::Status;

use super::peers::Caller;
use super::principal;
use super::stream;
use super::wire::proto::{RecordsReply, RepositorySum, SumsReply};
use super::wire::{self, Told, proto};
use crate::metadata::Metadata;

/// Records read in one view.
const VIEW_RECORDS: usize = 4096;

/// What one caller is told.
#[derive(Clone)]
pub(super) struct Account {
    pub(super) metadata: Metadata,
    pub(super) caller: Caller,
    /// What rules up to this index ask for of what was before them, the caller has.
    filled: u64,
    /// It asks for the records that it made itself: it may have lost some of them.
    own: bool,
}

/// Where replies go.
pub(super) type Sink<R> = mpsc::Sender<Result<R, Status>>;

/// A repository that is sent to the caller, and which records of it are.
type Sent = (RepositoryKey, Scope);

/// Which records the caller compares: since when, and of which tags.
pub(super) type Meant = (Since, SentTags);

impl Account {
    pub(super) fn new(metadata: Metadata, caller: Caller, filled: u64, own: bool) -> Account {
        Account { metadata, caller, filled, own }
    }

    /// Waits until this node has applied what the caller has: one that is behind would deny what it sent before.
    pub(super) async fn catch_up(&self, applied: u64) -> Result<(), Status> {
        stream::catch_up(&self.metadata, applied).await
    }

    /// Brings rows that contradict their own journal back in line with it: the caller can't.
    async fn mend(&self, name: &RepositoryName, told: &[Told]) {
        let registry = RegistryId::DEFAULT;
        let Some((repository, _)) = self.metadata.peek(|view| repository::find(view, registry, name)) else { return };
        for told in told.iter().filter(|told| !told.is_proven) {
            let Some(mend) = register::mend(repository.clone(), &told.register, None) else { continue };
            let what = told.register.named().0.map_or("settings", |tag| tag.as_str());
            tracing::error!(repository = %name, what, "a row contradicts what was noted of it, and is mended by that");
            if let Err(error) = self.metadata.propose(&principal(&self.caller.region), vec![mend]).await {
                tracing::warn!(repository = %name, what, %error, "it could not be mended; the next comparison tries again");
            }
        }
    }

    /// A repository as it is now; `None` if no rule sends it to the caller.
    fn sent(&self, tables: &impl TablesRead, name: &RepositoryName) -> Option<Sent> {
        let registry = RegistryId::DEFAULT;
        let numbers = (cluster::read(tables)?.region_number, self.caller.number);
        let scope = replication_rules::read(tables, registry).scope(name, &self.caller.region, numbers, self.filled)?;
        let scope = if self.own { scope.turned() } else { scope };
        Some((repository::find(tables, registry, name)?.0, scope))
    }

    /// Works on the rows without holding up what else this thread does.
    pub(super) async fn blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Account) -> R + Send + 'static,
    ) -> Result<R, Status> {
        let own = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&own)).await;
        done.map_err(|_| Status::internal("reading the rows failed"))
    }

    /// Sums of the repositories of these names, or of all that are sent to the caller; before them the index at which
    /// they begin.
    pub(super) async fn sums(self, asked: Vec<RepositoryName>, sink: Sink<SumsReply>) {
        let mut after: Option<RepositoryName> = None;
        let mut asked = asked.chunks(SUMS_PER_MESSAGE);
        let is_all = asked.len() == 0;
        if sink.send(Ok(self.sums_of(&[]))).await.is_err() {
            return;
        }
        loop {
            let names = match is_all {
                true => self.names(after.as_ref()),
                false => asked.next().unwrap_or_default().to_vec(),
            };
            let Some(last) = names.last().cloned() else { return };
            let reply = self.blocking(move |own| own.sums_of(&names)).await;
            if sink.send(reply).await.is_err() {
                return;
            }
            after = Some(last);
        }
    }

    fn names(&self, after: Option<&RepositoryName>) -> Vec<RepositoryName> {
        let registry = RegistryId::DEFAULT;
        self.metadata.peek(|view| {
            let rules = replication_rules::read(view, registry);
            let after = after.map(RepositoryName::as_str);
            repository::list(view, registry, after, SUMS_PER_MESSAGE, |name| rules.serves(name, &self.caller.region))
        })
    }

    fn sums_of(&self, names: &[RepositoryName]) -> SumsReply {
        self.metadata.peek(|view| {
            let sum = |name: &RepositoryName| {
                let (key, scope) = self.sent(view, name)?;
                let sum = register::sums(view, &key, &scope).whole();
                let rules = replication_rules::read(view, RegistryId::DEFAULT);
                let Deletes { since: deletes_since, tags: of_deletes } = rules.followed(name, &self.caller.region);
                let Since { own: since, others: others_since, settings: settings_since } = scope.since;
                Some(RepositorySum {
                    repository: name.to_string(),
                    since,
                    sum: Some(sum.into()),
                    deletes_since,
                    others_since,
                    settings_since,
                    tags: wire::tags_told(&scope.tags),
                    deletes_tags: wire::tags_told(&of_deletes),
                })
            };
            let lineage = cluster::read(view).map_or(0, |row| row.lineage.0);
            SumsReply { repositories: names.iter().filter_map(sum).collect(), lineage, index: view.index() }
        })
    }

    /// The records of a repository in all buckets whose sums differ from the caller's.
    pub(super) async fn differing(self, name: RepositoryName, meant: Meant, sums: Sums, sink: Sink<RecordsReply>) {
        let (mut after, mut differing) = (None::<Register>, None::<[bool; BUCKETS]>);
        loop {
            let (named, meant, sums) = (name.clone(), meant.clone(), sums.clone());
            let (from, known) = (after.take(), differing);
            let work = move |own: &Account| own.records_behind(&named, &meant, &sums, known, from.as_ref());
            let page = match self.blocking(work).await.and_then(|page| page) {
                Ok(page) => page,
                Err(status) => return drop(sink.send(Err(status)).await),
            };
            let is_first = differing.is_none();
            let buckets = (0..BUCKETS as u32).filter(|at| is_first && page.differing[*at as usize]).collect();
            let mut replies = vec![RecordsReply { index: page.index, buckets, records: Vec::new() }];
            self.mend(&name, &page.records).await;
            let parts =
                page.records.chunks(RECORDS_PER_MESSAGE).map(|part| part.iter().map(proto::Record::from).collect());
            replies.extend(parts.map(|records| RecordsReply { index: page.index, buckets: Vec::new(), records }));
            for reply in replies {
                if sink.send(Ok(reply)).await.is_err() {
                    return;
                }
            }
            (after, differing) = (page.rest, Some(page.differing));
            if after.is_none() {
                return;
            }
        }
    }

    fn records_behind(
        &self,
        name: &RepositoryName,
        meant: &Meant,
        sums: &Sums,
        known: Option<[bool; BUCKETS]>,
        after: Option<&Register>,
    ) -> Result<RecordsPage, Status> {
        self.metadata.peek(|view| {
            let (key, scope) = self.in_scope(view, name, meant)?;
            let differing = known.unwrap_or_else(|| {
                let mut differing = [false; BUCKETS];
                let own = register::sums(view, &key, &scope);
                own.differing(sums).into_iter().for_each(|at| differing[at] = true);
                differing
            });
            let (records, rest) = register::page(view, &key, &scope, after, VIEW_RECORDS);
            let differs = |(register, _): &(Register, _)| differing[register.bucket()];
            let told = |(register, record)| tell(view, &key, register, There::Sent(record));
            let records = records.into_iter().filter(differs).map(told).collect();
            Ok(RecordsPage { index: view.index(), differing, records, rest })
        })
    }

    /// What is known of registers that the caller asks about.
    pub(super) async fn asked(
        self,
        name: RepositoryName,
        meant: Meant,
        registers: Vec<Register>,
    ) -> Result<RecordsReply, Status> {
        let named = name.clone();
        let ask = move |own: &Account| {
            own.metadata.peek(|view| {
                let (key, scope) = own.in_scope(view, &named, &meant)?;
                if scope.since.settings.is_none() && registers.contains(&Register::Settings) {
                    return Err(Status::permission_denied("no rule sends settings of that repository to the caller"));
                }
                let told = |register: Register| {
                    let there = register::there(view, &key, &scope, &register);
                    tell(view, &key, register, there)
                };
                Ok::<_, Status>((view.index(), registers.into_iter().map(told).collect::<Vec<_>>()))
            })
        };
        let (index, told) = self.blocking(ask).await??;
        self.mend(&name, &told).await;
        Ok(RecordsReply { index, buckets: Vec::new(), records: told.iter().map(Into::into).collect() })
    }

    /// The same records are compared on both sides, or none.
    fn in_scope(&self, tables: &impl TablesRead, name: &RepositoryName, meant: &Meant) -> Result<Sent, Status> {
        let sent = self.sent(tables, name);
        let sent = sent.ok_or_else(|| Status::permission_denied("no rule sends that repository to the caller"))?;
        match (sent.1.since, &sent.1.tags) == (meant.0, &meant.1) {
            true => Ok(sent),
            false => Err(Status::aborted("the rules changed meanwhile: compare again")),
        }
    }
}

/// What is known of a register; of settings also which they are.
fn tell(tables: &impl TablesRead, repository: &RepositoryKey, register: Register, there: There) -> Told {
    let is_proven = register::is_proven(tables, repository, &register);
    let is_asked = register == Register::Settings && matches!(there, There::Sent(_));
    let settings = is_asked.then(|| settings::read(tables, repository)).flatten();
    Told { register, there, is_proven, settings: settings.map(|row| (row.settings, row.home)) }
}

struct RecordsPage {
    index: u64,
    differing: [bool; BUCKETS],
    records: Vec<Told>,
    rest: Option<Register>,
}
