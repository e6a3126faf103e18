//! The small language of `tests/scripts/metadata`: one command a line, what came of it below.
//!
//! Contents are words; their digests are shown as the words again. `name=a,b` gives a list, a bare word a flag, and
//! `then` joins commands to one envelope. `show` reads.

use std::collections::BTreeMap;

use registry_core::decide::quota::{Limits, Usage};
use registry_core::decide::tag_move::{Mutability, TagFilter, TagFilters, TagRights};
use registry_core::metadata::blob::{self, AddUse, CommitBlob, ConfirmReplica, DropUse, UnconfirmReplica};
use registry_core::metadata::clock::{self, Tick};
use registry_core::metadata::cluster::{self, FEATURE_LEVEL, InitCluster, ReportDigest, TakeDigest, verdict};
use registry_core::metadata::command::Command;
use registry_core::metadata::gc::{self, ControlGc};
use registry_core::metadata::history;
use registry_core::metadata::idle::{self, FenceUse, UnlinkIdle};
use registry_core::metadata::keys::{self, SLOTS};
use registry_core::metadata::link::{self, ForgetUse, Link, TouchLink, Unlink};
use registry_core::metadata::manifest::{self, DeleteManifest, PutManifest};
use registry_core::metadata::need;
use registry_core::metadata::node::{self, NodeState, SetNodeState};
use registry_core::metadata::principal::{
    self, DeleteKey, DeletePolicy, DeleteUser, KeyRow, PutKey, PutPolicy, PutUser, SetKeyEnabled, SetUserEnabled,
    UserKind,
};
use registry_core::metadata::quota::{self, RecallShares, SetRegistryQuota};
use registry_core::metadata::referrer;
use registry_core::metadata::repository::{
    self, ChangeRepository, CreateRepository, DeleteRepository, PurgeRepository, RepositoryKey, Settings,
};
use registry_core::metadata::sweep::{self, Condemn, Sweep};
use registry_core::metadata::tag::{self, DeleteTag};
use registry_core::metadata::testing::{self, World, reference, repository_key, tags, upload};
use registry_core::metadata::untagged::{self, DeleteUntagged};
use registry_core::metadata::upload::{self, CloseUpload, FinishUpload, ForgetUploads, TakeUpload};
use registry_core::metadata::usage::{self, AdmitBlob, SetRepositoryQuota};
use registry_core::vocabulary::ids::{ClusterId, Lineage, NodeId, RegistryId, RepositoryId, StoreId, UseId};
use registry_core::vocabulary::manifest::ContentKind;
use registry_core::vocabulary::{Digest, Tag};

const REGISTRY: RegistryId = RegistryId::DEFAULT;

/// A script under way.
pub(crate) struct Script {
    world: World,
    /// Digest → the word it stands for.
    words: BTreeMap<Digest, String>,
    /// Repository names → the id last made under it, for commands that come too late.
    ids: BTreeMap<String, u128>,
}

/// One line, taken apart.
struct Line<'a> {
    words: Vec<&'a str>,
}

impl<'a> Line<'a> {
    fn new(text: &'a str) -> Line<'a> {
        Line { words: text.split_whitespace().collect() }
    }

    fn word(&self, at: usize) -> &'a str {
        self.words.get(at).copied().unwrap_or_else(|| panic!("a word is missing in '{}'", self.words.join(" ")))
    }

    fn is(&self, flag: &str) -> bool {
        self.words.contains(&flag)
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    fn list(&self, name: &str) -> Vec<&'a str> {
        self.get(name).map_or_else(Vec::new, |list| list.split(',').filter(|word| !word.is_empty()).collect())
    }

    fn number(&self, name: &str, default: u64) -> u64 {
        self.get(name).map_or(default, |text| text.parse().expect("a number"))
    }

    fn pair(&self, name: &str) -> (NodeId, Option<NodeId>) {
        let numbers: Vec<u64> = self.list(name).iter().map(|text| text.parse().expect("a node's number")).collect();
        match numbers[..] {
            [] => (NodeId(1), Some(NodeId(2))),
            [primary] => (NodeId(primary), None),
            [primary, backup, ..] => (NodeId(primary), Some(NodeId(backup))),
        }
    }
}

/// Runs a script and answers it with what came of each line.
pub(crate) fn run(text: &str) -> String {
    let mut script = Script { world: World::empty(), words: BTreeMap::new(), ids: BTreeMap::new() };
    let mut out = String::new();
    // what an earlier run wrote is indented
    for line in text.lines().filter(|line| !line.starts_with("  ")) {
        out += line;
        out.push('\n');
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        for answer in script.line(line) {
            out += &format!("  {}\n", script.reworded(&answer));
        }
    }
    out
}

impl Script {
    fn line(&mut self, line: &str) -> Vec<String> {
        if let Some(what) = line.strip_prefix("show ") {
            return self.show(&Line::new(what));
        }
        if let Some(number) = line.strip_prefix("entries ") {
            self.world.index += number.trim().parse::<u64>().expect("a number of entries");
            return Vec::new();
        }
        if let Some(at_ms) = line.strip_prefix("leader-clock ") {
            self.world.at_ms = at_ms.trim().parse().expect("milliseconds");
            return Vec::new();
        }
        if let Some(name) = line.strip_prefix("as ") {
            self.world.principal = name.trim().to_owned();
            return Vec::new();
        }
        let parts = line.split(" then ");
        let commands: Vec<Command> = parts.flat_map(|part| self.commands(&Line::new(part))).collect();
        let outcome = self.world.propose(commands);
        let mut answers: Vec<String> = outcome.replies.iter().map(|reply| format!("{reply:?}")).collect();
        answers.extend(outcome.refusal.map(|refusal| format!("refused: {refusal}")));
        answers
    }

    fn reworded(&self, text: &str) -> String {
        self.words
            .iter()
            .fold(text.to_owned(), |text, (digest, word)| text.replace(&digest.to_string(), &format!("<{word}>")))
    }

    fn digest(&mut self, word: &str) -> Digest {
        let digest = Digest::sha256(word.as_bytes());
        self.words.insert(digest, word.to_owned());
        digest
    }

    fn key(&self, name: &str) -> RepositoryKey {
        repository_key(name, self.ids.get(name).copied().unwrap_or(0xdead))
    }

    fn commands(&mut self, line: &Line<'_>) -> Vec<Command> {
        let found = [
            Script::system,
            Script::principals,
            Script::repositories,
            Script::quotas,
            Script::manifests,
            Script::blobs,
        ]
        .iter()
        .find_map(|part| part(self, line));
        found.unwrap_or_else(|| panic!("'{}' is not in the language", line.words.join(" ")))
    }

    fn system(&mut self, line: &Line<'_>) -> Option<Vec<Command>> {
        let number = || line.word(1).parse().expect("a number");
        Some(match line.word(0) {
            "cluster" => vec![
                InitCluster {
                    cluster: ClusterId(1),
                    lineage: Lineage(1),
                    region: "here".into(),
                    region_number: 1,
                    token_secret: [7; 32],
                    tick_ms: line.number("tick_ms", 10_800_000),
                    feature_level: FEATURE_LEVEL,
                }
                .into(),
            ],
            "tick" => vec![Tick { expected: line.number("expected", clock::read(&self.world.tables).tick) }.into()],
            "ticks" => {
                let tick = clock::read(&self.world.tables).tick;
                (tick..tick + number()).map(|expected| Tick { expected }.into()).collect()
            }
            "gc" => {
                let paused = [("pause", true), ("resume", false)].iter().find(|(word, _)| line.is(word));
                let allow = line.get("allow").map(|text| text.parse().expect("per cent"));
                let run = line.is("run").then_some(allow);
                vec![ControlGc { paused: paused.map(|(_, paused)| *paused), run }.into()]
            }
            "node" => testing::node(number(), line.word(2)),
            "drain" => vec![SetNodeState { node: NodeId(number()), state: NodeState::Draining }.into()],
            "remove" => vec![SetNodeState { node: NodeId(number()), state: NodeState::Removed }.into()],
            "reinstate" => vec![SetNodeState { node: NodeId(number()), state: NodeState::Active }.into()],
            "new-life" => {
                let keeps = (line.word(2) != "nobody").then(|| NodeId(line.word(2).parse().expect("a node")));
                vec![cluster::BeginLineage { lineage: Lineage(number()), keeps }.into()]
            }
            "take-digest" => vec![TakeDigest {}.into()],
            "report-digest" => {
                let mut note = cluster::own_digest(&self.world.tables).expect("a digest was taken");
                note.digest.0 ^= u128::from(line.number("wrong", 0));
                vec![ReportDigest { node: NodeId(number()), note }.into()]
            }
            "review-needs" => {
                let outdated = (0..SLOTS).flat_map(|slot| need::outdated(&self.world.tables, slot, None, 99).reviews);
                outdated.map(Command::from).collect()
            }
            _ => return None,
        })
    }

    fn principals(&mut self, line: &Line<'_>) -> Option<Vec<Command>> {
        let registry = REGISTRY;
        let text = |at| line.word(at).to_owned();
        Some(vec![match line.word(0) {
            "user" => PutUser {
                registry,
                name: text(1),
                kind: if line.is("root") { UserKind::Root } else { UserKind::Ordinary },
                enabled: !line.is("disabled"),
                must_be_new: line.is("new"),
            }
            .into(),
            "delete-user" => DeleteUser { registry, name: text(1) }.into(),
            "key" => {
                let row = KeyRow {
                    registry,
                    user: text(1),
                    sealed_secret: vec![1],
                    secret_hash: [2; 32],
                    enabled: !line.is("disabled"),
                    created_at_ms: 0,
                    expires_at_ms: 0,
                };
                PutKey { key_id: text(2), row }.into()
            }
            "enable-user" | "disable-user" => {
                SetUserEnabled { registry, name: text(1), enabled: line.word(0) == "enable-user" }.into()
            }
            "enable-key" | "disable-key" => {
                let enabled = line.word(0) == "enable-key";
                SetKeyEnabled { registry, user: text(1), key_id: text(2), enabled }.into()
            }
            "delete-key" => DeleteKey { registry, user: text(1), key_id: text(2) }.into(),
            "policy" => PutPolicy { registry, principal: text(1), name: text(2), document: "{}".into() }.into(),
            "delete-policy" => DeletePolicy { registry, principal: text(1), name: text(2) }.into(),
            _ => return None,
        }])
    }

    fn repositories(&mut self, line: &Line<'_>) -> Option<Vec<Command>> {
        let settings = || {
            let filters = |names: Vec<&str>| {
                TagFilters::new(names.iter().map(|name| TagFilter::parse(name).unwrap())).expect("filters")
            };
            let mutability = match (line.is("immutable"), line.list("except")) {
                (true, except) if except.is_empty() => Mutability::Immutable,
                (false, except) if except.is_empty() => Mutability::Mutable,
                (true, except) => Mutability::ImmutableWithExclusion(filters(except)),
                (false, except) => Mutability::MutableWithExclusion(filters(except)),
            };
            Settings { mutability, sparse: line.is("sparse") }
        };
        Some(vec![match line.word(0) {
            "create" => {
                let (name, id) = (line.word(1), u128::from(line.number("id", 1)));
                let key = repository_key(name, id);
                if repository::find(&self.world.tables, REGISTRY, &key.name).is_none() {
                    self.ids.insert(name.to_owned(), id);
                }
                CreateRepository { key, settings: settings(), must_be_new: line.is("new") }.into()
            }
            "change" => ChangeRepository { key: self.key(line.word(1)), settings: settings() }.into(),
            "delete-repository" => DeleteRepository { key: self.key(line.word(1)), force: line.is("force") }.into(),
            "purge" => {
                let key = RepositoryKey { id: RepositoryId(line.number("id", 1).into()), ..self.key(line.word(1)) };
                let dropped = repository::holds(&self.world.tables, &key, 100);
                let drop = |(digest, hold): &(Digest, UseId)| {
                    DropUse { digest: *digest, repository: key.clone(), hold: *hold }.into()
                };
                let mut commands: Vec<Command> = dropped.iter().map(drop).collect();
                commands.push(PurgeRepository { key, dropped }.into());
                return Some(commands);
            }
            _ => return None,
        }])
    }

    fn quotas(&mut self, line: &Line<'_>) -> Option<Vec<Command>> {
        let optional = |name| line.get(name).map(|text| text.parse().expect("a number"));
        let limits = || Limits { bytes: optional("bytes"), tags: optional("tags") };
        let round = line.number("round", quota::read(&self.world.tables, REGISTRY).round);
        Some(match line.word(0) {
            "quota" => vec![SetRepositoryQuota { repository: self.key(line.word(1)), limits: limits() }.into()],
            "registry-quota" => vec![SetRegistryQuota { registry: REGISTRY, limits: limits() }.into()],
            "admit" => {
                let (digest, size_bytes) = (self.digest(line.word(2)), line.word(2).len() as u64);
                vec![AdmitBlob { repository: self.key(line.word(1)), digest, size_bytes }.into()]
            }
            "recall" => vec![RecallShares { registry: REGISTRY, round }.into()],
            // to the slot of a repository, beside what it wants, or to all
            "grant" => {
                let wanted = Usage { bytes: line.number("bytes", 0), tags: 0 };
                let grants = quota::grants(&self.world.tables, REGISTRY, round, self.key(line.word(1)).slot(), wanted);
                let some = if line.is("all") { usize::MAX } else { 1 };
                grants.expect("there is room").into_iter().take(some).map(Command::from).collect()
            }
            _ => return None,
        })
    }

    fn manifests(&mut self, line: &Line<'_>) -> Option<Vec<Command>> {
        Some(vec![match line.word(0) {
            "put" => self.put(line).into(),
            "delete" => DeleteManifest { repository: self.key(line.word(1)), digest: self.digest(line.word(2)) }.into(),
            "delete-untagged" => {
                let (since_tick, after_ticks) = (line.number("since", 0), line.number("after", 0));
                let (repository, digest) = (self.key(line.word(1)), self.digest(line.word(2)));
                DeleteUntagged { repository, digest, since_tick, after_ticks }.into()
            }
            "untag" => {
                let expected = line.get("expected").map(|word| self.digest(word));
                DeleteTag { repository: self.key(line.word(1)), tag: tags(&[line.word(2)]).remove(0), expected }.into()
            }
            _ => return None,
        }])
    }

    fn put(&mut self, line: &Line<'_>) -> PutManifest {
        let word = line.word(2);
        self.digest(word);
        let kinds =
            [("blobs", ContentKind::Blob), ("manifests", ContentKind::Manifest), ("foreign", ContentKind::Foreign)];
        let mut references = Vec::new();
        for (name, kind) in kinds {
            for content in line.list(name) {
                self.digest(content);
                references.push(reference(content.as_bytes(), kind));
            }
        }
        let base = testing::manifest(&self.key(line.word(1)), word.as_bytes());
        PutManifest {
            references,
            inline: base.inline.clone().filter(|_| !line.is("large")),
            subject: line.get("subject").map(|word| self.digest(word)),
            artifact_type: line.get("type").map(str::to_owned),
            tags: tags(&line.list("tags")),
            rights: TagRights { create: !line.is("no-create"), update: !line.is("no-update") },
            expected: line.get("expected").map(|word| (word != "none").then(|| self.digest(word))),
            ..base
        }
    }

    fn blobs(&mut self, line: &Line<'_>) -> Option<Vec<Command>> {
        let hold = UseId(line.number("use", 1));
        let upload = upload(line.number("upload", line.number("use", 1)));
        let stores: Vec<u64> = line.list("stores").iter().map(|text| text.parse().expect("a store")).collect();
        let (epoch, holders) = (u32::try_from(line.number("epoch", 1)).unwrap(), line.pair("holders"));
        match line.word(0) {
            "take" => {
                let (before, after) = (line.pair("before"), line.pair("after"));
                return Some(vec![TakeUpload { upload, epoch, before, after }.into()]);
            }
            "close" => {
                let deduplicated = line.get("deduplicated").map(|word| self.digest(word));
                return Some(vec![CloseUpload { upload, holders, deduplicated }.into()]);
            }
            "forget-uploads" => {
                let clock = clock::read(&self.world.tables);
                let due = (0..SLOTS).filter(|slot| upload::forgettable(&self.world.tables, *slot, &clock));
                return Some(due.map(|slot| ForgetUploads { slot }.into()).collect());
            }
            _ => {}
        }
        // the rest is about one content, which stands last before the options
        let words: Vec<&str> = line.words.iter().copied().filter(|word| !word.contains('=')).collect();
        let content = words.get(2).or(words.get(1)).copied().unwrap_or_default();
        let (digest, size_bytes) = (self.digest(content), content.len() as u64);
        let repository = self.key(words.get(1).copied().filter(|name| name.is_ascii()).unwrap_or("r"));
        let store = StoreId(stores.first().copied().unwrap_or(1));
        Some(match line.word(0) {
            "push" => {
                let (finish, commit, link) = testing::push_parts(&repository, content.as_bytes(), hold.0, &stores);
                let commit = CommitBlob { replace: line.is("replace"), ..commit };
                vec![finish.into(), commit.into(), link.into()]
            }
            "mount" => testing::mount(&repository, content.as_bytes(), hold.0),
            "finish" => vec![FinishUpload { upload, epoch, digest, holders }.into()],
            "commit" => {
                let stores = stores.iter().map(|store| StoreId(*store)).collect();
                let replace = line.is("replace");
                vec![CommitBlob { digest, size_bytes, upload, stores, repository, hold, replace }.into()]
            }
            "add-use" => vec![AddUse { digest, size_bytes, repository, hold }.into()],
            "drop-use" => vec![DropUse { digest, repository, hold }.into()],
            "link" => vec![Link { repository, digest, size_bytes, hold }.into()],
            "unlink" => vec![Unlink { repository, digest, hold }.into()],
            "touch" => vec![TouchLink { repository, digest }.into()],
            "forget-use" => vec![ForgetUse { repository, digest, hold }.into()],
            "unlink-idle" => {
                let touched_tick = line.number("touched", 0);
                vec![UnlinkIdle { repository, digest, hold, touched_tick }.into()]
            }
            "fence-use" => vec![FenceUse { repository, digest, hold }.into()],
            "condemn" => vec![Condemn { digest, generation: upload, size_bytes }.into()],
            "sweep" => vec![Sweep { digest, generation: upload, size_bytes }.into()],
            "confirm" => vec![ConfirmReplica { digest, generation: upload, store }.into()],
            "unconfirm" => vec![UnconfirmReplica { digest, generation: upload, store }.into()],
            _ => return None,
        })
    }

    fn show(&mut self, line: &Line<'_>) -> Vec<String> {
        let digest = line.words.last().map(|word| self.digest(word));
        let digest = digest.expect("something is shown");
        let first = line.words.get(1).map(|word| self.digest(word));
        let tables = &self.world.tables;
        let key = line.words.get(1).map(|name| self.key(name));
        let inside = || key.as_ref().expect("a repository is named");
        match line.word(0) {
            "clock" => vec![format!("{:?}", clock::read(tables))],
            "topology" => node::topology(tables).stores().map(|store| format!("{store:?}")).collect(),
            "verdict" => vec![format!("{:?}", verdict(tables, &[NodeId(1), NodeId(2), NodeId(3)]))],
            "auth" => vec![format!("{:?}", principal::auth_version(tables))],
            "users" => shown(principal::users(tables, REGISTRY)),
            "keys" => shown(principal::keys_of(tables, REGISTRY, line.word(1))),
            "policies" => shown(principal::policies(tables, REGISTRY, line.word(1))),
            "repositories" => shown(repository::list(tables, REGISTRY, None, 100, |_| true)),
            "repository" => shown(repository::live(tables, inside())),
            "manifests" => shown(manifest::list(tables, inside(), None, 100)),
            "manifest" => {
                let mut out = shown(manifest::read(tables, inside(), &digest));
                out.extend(shown(manifest::references(tables, inside(), &digest)));
                out
            }
            "tags" => shown(tag::list(tables, inside(), None, 100)),
            "journal" => {
                let tag: Tag = tags(&[line.word(2)]).remove(0);
                let changes = history::of_tag(tables, inside(), &tag);
                shown(changes.into_iter().map(|change| change.row).collect::<Vec<_>>())
            }
            "referrers" => shown(referrer::list(tables, inside(), &digest, None, 100)),
            "link" => shown(link::read(tables, inside(), &digest)),
            "usage" => vec![format!("{:?}", usage::read(tables, inside()))],
            "registry-quota" => {
                let (row, used) = (quota::read(tables, REGISTRY), usage::of_registry(tables, REGISTRY));
                vec![format!("{row:?}"), format!("{used:?}")]
            }
            "shares" => usage::by_slot(tables, REGISTRY).iter().map(|(slot, row)| format!("{slot}: {row:?}")).collect(),
            "loose" => shown(link::loose_uses(tables, inside().slot(), 100)),
            "blob" => shown(blob::read(tables, &digest)),
            "users-of" => shown(blob::users(tables, &digest, 100)),
            "needs" => {
                let slot = keys::digest_slot(&digest);
                let zones = node::topology(tables);
                let lacking = zones
                    .zones()
                    .into_iter()
                    .filter(|zone| blob::needs(tables, slot, zone.as_str(), 100).contains(&digest));
                shown(lacking.map(ToString::to_string))
            }
            "upload" => shown(upload::read(tables, &upload(line.word(1).parse().expect("a number")))),
            "over" => {
                let upload = upload(line.number("upload", 1));
                vec![blob::generation_over(tables, &first.expect("a content"), &upload).to_string()]
            }
            "gc" => vec![format!("{:?}", gc::read(tables))],
            "due" => {
                let clock = clock::read(tables);
                let links = (0..SLOTS).flat_map(|slot| idle::idle_links(tables, slot, &clock, None, 99).commands);
                let uses = (0..SLOTS).flat_map(|slot| idle::idle_uses(tables, slot, None, 99).commands);
                let mut allowed = u64::MAX;
                let records = |slot| sweep::due(tables, slot, &clock, None, 99, &mut allowed).0.commands;
                shown(links.chain(uses).chain((0..SLOTS).flat_map(records)).collect::<Vec<_>>())
            }
            "fate" => {
                let upload = upload(line.number("upload", 1));
                let fate = |store| sweep::fate(tables, &first.expect("a content"), &upload, StoreId(store));
                vec![format!("{:?} on 1, {:?} on 2, {:?} on 3", fate(1), fate(2), fate(3))]
            }
            "untagged" => shown(untagged::read(tables, inside(), &digest)),
            "rows" => {
                let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
                for (key, _) in tables.rows() {
                    *counts.entry(keys::table_name(key).expect("a table")).or_default() += 1;
                }
                counts.iter().map(|(table, count)| format!("{table} {count}")).collect()
            }
            other => panic!("'show {other}' is not in the language"),
        }
    }
}

fn shown<T: std::fmt::Debug>(rows: impl IntoIterator<Item = T>) -> Vec<String> {
    let rows: Vec<String> = rows.into_iter().map(|row| format!("{row:?}")).collect();
    if rows.is_empty() { vec!["nothing".to_owned()] } else { rows }
}
