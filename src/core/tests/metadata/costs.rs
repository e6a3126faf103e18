//! What an act reads does not grow with what lies beside it (L6).

use std::cell::Cell;

use registry_core::metadata::apply::Entry;
use registry_core::metadata::command::Command;
use registry_core::metadata::manifest::{self, PutManifest};
use registry_core::metadata::repository::{self, CreateRepository, RepositoryKey, Settings};
use registry_core::metadata::tables::{MemoryTables, Row, TablesRead};
use registry_core::metadata::tag::{self, DeleteTag};
use registry_core::metadata::testing::{self, World, repository_key, tags};
use registry_core::metadata::{keys, referrer};
use registry_core::vocabulary::Digest;
use registry_core::vocabulary::ids::RegistryId;

/// Commands of one envelope, so that its outcome stays within its bound.
const COMMANDS: usize = 400;

/// Tables that count what is asked of them.
struct Counted<'a> {
    tables: &'a MemoryTables,
    seeks: Cell<usize>,
    rows: Cell<usize>,
}

impl<'a> Counted<'a> {
    fn new(tables: &'a MemoryTables) -> Counted<'a> {
        Counted { tables, seeks: Cell::new(0), rows: Cell::new(0) }
    }

    fn note(&self, rows: usize) {
        self.seeks.set(self.seeks.get() + 1);
        self.rows.set(self.rows.get() + rows);
    }

    /// Seeks and rows so far.
    fn cost(&self) -> (usize, usize) {
        (self.seeks.get(), self.rows.get())
    }
}

impl TablesRead for Counted<'_> {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let found = self.tables.get(key);
        self.note(usize::from(found.is_some()));
        found
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize) -> Vec<Row> {
        let found = self.tables.range(from, to, limit);
        self.note(found.len());
        found
    }
}

/// Enters commands without looking at every row afterwards, as [`World::propose`] would.
fn enter(world: &mut World, commands: Vec<Command>) {
    for part in commands.chunks(COMMANDS) {
        let payload = world.proposal(part.to_vec()).encode();
        world.index += 1;
        world.at_ms += 1;
        let entry = Entry { index: world.index, at_ms: world.at_ms, payload: &payload };
        let applied = world.machine.apply(&world.tables, &[entry]).unwrap();
        world.tables.write(applied.writes);
    }
}

/// What a command reads.
fn cost(world: &mut World, command: impl Into<Command>) -> (usize, usize) {
    let payload = world.proposal(vec![command.into()]).encode();
    let entry = Entry { index: world.index + 1, at_ms: world.at_ms + 1, payload: &payload };
    let counted = Counted::new(&world.tables);
    world.machine.apply(&counted, &[entry]).unwrap();
    let cost = counted.cost();
    // Only asked what it costs: the state stays.
    world.machine = registry_core::metadata::apply::Machine::open(&world.tables);
    cost
}

fn put(repository: &RepositoryKey, bytes: &[u8], names: &[String]) -> PutManifest {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    PutManifest { tags: tags(&names), ..testing::manifest(repository, bytes) }
}

/// A repository with an image under so many tags.
fn tagged(count: usize) -> (World, RepositoryKey) {
    let mut world = World::cluster();
    let key = world.repository("r", 1, Settings::default());
    let names: Vec<String> = (0..count).map(|number| format!("t{number:07}")).collect();
    let puts = names.chunks(10).map(|ten| put(&key, b"image", ten).into());
    enter(&mut world, puts.collect());
    (world, key)
}

// A batch asks the tables once for the rows its commands share: each further push costs what is its own.
#[test]
fn batches_read_shared_rows_once() {
    let (mut world, key) = tagged(110);
    let mut looks = |count: usize| {
        let pushed = |number: usize| put(&key, format!("image {number}").as_bytes(), &[format!("n{number}")]).into();
        let payloads: Vec<Vec<u8>> = (0..count)
            .map(|number| {
                let payload = world.proposal(vec![pushed(number)]).encode();
                world.index += 1;
                payload
            })
            .collect();
        world.index -= count as u64;
        let first = world.index + 1;
        let entry = |(at, payload)| Entry { index: first + at as u64, at_ms: world.at_ms + 1, payload };
        let entries: Vec<Entry<'_>> = payloads.iter().map(Vec::as_slice).enumerate().map(entry).collect();
        let counted = Counted::new(&world.tables);
        registry_core::metadata::apply::Machine::open(&world.tables).apply(&counted, &entries).unwrap();
        counted.cost().0
    };
    assert_eq!(looks(41) - looks(1), 40 * 5);
}

// L6: beside a hundred and fifty thousand tags, a push, a pull and a delete of one tag, and a page of a hundred, read
// exactly as much as beside a hundred and ten.
#[test]
fn l06_tags() {
    let costs = [110, 150_000].map(|count| {
        let (mut world, key) = tagged(count);
        let one = tags(&["t0000055"]).remove(0);
        let push = cost(&mut world, put(&key, b"another image", &["new".to_owned()]));
        let again = cost(&mut world, put(&key, b"another image", &["t0000055".to_owned()]));
        let delete = cost(&mut world, DeleteTag { repository: key.clone(), tag: one.clone(), expected: None });
        let counted = Counted::new(&world.tables);
        let row = tag::read(&counted, &key, &one).unwrap();
        assert!(manifest::read(&counted, &key, &row.digest).is_some());
        let pull = counted.cost();
        let counted = Counted::new(&world.tables);
        assert_eq!(tag::list(&counted, &key, Some("t0000005"), 100).len(), 100);
        [push, again, delete, pull, counted.cost()]
    });
    assert_eq!(costs[0], costs[1]);
    assert_eq!(costs[0][4], (1, 100));
}

// L6: a page of the catalog costs one look into each slot and one for each name, however many names there are.
#[test]
fn l06_repositories() {
    let page = |count: usize| {
        let mut world = World::cluster();
        let make = |number: usize| -> Command {
            let key = repository_key(&format!("team-{}/app-{number}", number % 7), number as u128 + 1);
            CreateRepository { key, settings: Settings::default(), must_be_new: true }.into()
        };
        enter(&mut world, (0..count).map(make).collect());
        let counted = Counted::new(&world.tables);
        let names = repository::list(&counted, RegistryId::DEFAULT, Some("team-3"), 100, |_| true);
        assert_eq!(names.len(), 100);
        assert!(names.is_sorted_by(|one, next| one < next));
        counted.cost()
    };
    for (seeks, rows) in [page(2_000), page(60_000)] {
        let slots = usize::from(keys::SLOTS);
        assert!(seeks <= slots + 101 && rows <= slots + 101, "{seeks} seeks, {rows} rows");
    }
}

// M12: a page of referrers reads its own rows and no manifest.
#[test]
fn m12_referrers() {
    let mut world = World::cluster();
    let key = world.repository("r", 1, Settings::default());
    let subject = Digest::sha256(b"subject");
    let attach = |number: usize| -> Command {
        let bytes = number.to_string().into_bytes();
        PutManifest { subject: Some(subject), ..testing::manifest(&key, &bytes) }.into()
    };
    enter(&mut world, (0..20_000).map(attach).collect());
    let counted = Counted::new(&world.tables);
    let page = referrer::list(&counted, &key, &subject, None, 1000);
    assert_eq!((page.len(), counted.cost()), (1000, (1, 1000)));
    let (mut after, mut seen) = (None, 0);
    loop {
        let page = referrer::list(&world.tables, &key, &subject, after.as_ref(), 999);
        let Some((last, _)) = page.last() else { break };
        (after, seen) = (Some(*last), seen + page.len());
    }
    assert_eq!(seen, 20_000);
}
