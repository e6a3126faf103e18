//! Histories: what was asked, what was answered, what was broken, in one file and one order.
//!
//! One JSON object per line, with Jepsen's meanings: `ok` happened, `fail` certainly did not, `info` nobody knows. A
//! process that got `info` is retired: its operation may still take effect at any later time, so nothing else may run
//! under its number.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fault::{Fault, told};

/// Name of the file in a run's directory.
pub(crate) const FILE: &str = "history.jsonl";

/// What an event says about its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// It begins.
    Invoke,
    /// It happened.
    Ok,
    /// It certainly did not happen.
    Fail,
    /// Nobody knows; or, of the nemesis, something was seen.
    Info,
}

/// Who acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Process {
    /// A client; the number is retired after an `info`.
    Client(u64),
    /// Who breaks and mends things, and looks on.
    Nemesis,
}

impl Serialize for Process {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Process::Client(number) => serializer.serialize_u64(*number),
            Process::Nemesis => serializer.serialize_str("nemesis"),
        }
    }
}

impl<'de> Deserialize<'de> for Process {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Process, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if let Some(number) = value.as_u64() {
            return Ok(Process::Client(number));
        }
        let is_nemesis = value.as_str() == Some("nemesis");
        is_nemesis.then_some(Process::Nemesis).ok_or_else(|| serde::de::Error::custom(format!("{value} is no process")))
    }
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Act {
    /// A blob is pushed.
    PutBlob,
    /// A manifest is pushed under its tag: with its `ok` the image is acknowledged.
    PutManifest,
    /// The tag is read again by who pushed it.
    ReadBack,
    /// A whole image is pulled by digest from one node, without a repeat.
    Pull,
    /// A whole image is pulled by tag from one node when everything is over.
    FinalPull,
    /// An upload is begun.
    Begin,
    /// A chunk is appended.
    Append,
    /// A client asks where its upload stands.
    Resume,
    /// An upload is closed by its digest.
    Finish,
    /// The blob that an upload became is read from one node.
    ReadBlob,
    /// A tag is set to a new digest.
    Put,
    /// A tag is set to a new digest if it names a given one.
    PutIf,
    /// A tag is read.
    Get,
    /// A tag is dropped.
    Delete,
    /// A blob of `blob-bytes` is pushed.
    Upload,
    /// A blob is mounted from another repository.
    Mount,
    /// A blob is read whole.
    ReadWhole,
    /// A part of a blob is read.
    ReadRange,
    /// An element is added to a list.
    Add,
    /// An element is taken from a list.
    Remove,
    /// A list is read page by page.
    List,
    /// One element of a list is looked for.
    Look,
    /// An image of `gc` is pushed whole under its tag.
    PushImage,
    /// A tag of `gc` is dropped.
    Untag,
    /// A manifest of `gc` is deleted by digest, with its tags.
    DeleteImage,
    /// A blob is taken from a repository.
    DeleteBlob,
    /// A layer of `gc` is mounted from another repository, and named by nothing.
    MountLayer,
    /// A manifest of `gc` is read, and every blob that it names.
    Verify,
    /// The same by one node, when everything is over and collection has come to rest.
    FinalVerify,
    /// A tag is set in one of two regions.
    RegionPut,
    /// It is dropped there.
    RegionDelete,
    /// It is read there.
    RegionGet,
    /// It is read there when everything is over.
    RegionFinal,
    /// A blob that images of a repository name is read there when everything is over.
    RegionBlob,
    /// Nemesis: a backup of a region is made.
    Backup,
    /// Nemesis: all nodes of a region are lost.
    Lose,
    /// Nemesis: what a region has put aside of the other one's changes was looked at, or tried again.
    Parked,
    /// Nemesis: both regions have compared with each other.
    Compared,
    /// Nemesis: what a region lists as conflicts when everything is over.
    Conflicts,
    /// Nemesis: a cycle of collection ended.
    Collection,
    /// Nemesis: collection has come to rest, or did not in time.
    Quiesce,
    /// Nemesis: what lies on the disks of the stopped nodes was counted.
    Disk,
    /// Nemesis: the load begins, or ends.
    Load,
    /// Nemesis: a node is killed.
    Kill,
    /// Nemesis: a node is started.
    Start,
    /// Nemesis: a node is ready.
    Ready,
    /// Nemesis: who leads in which term.
    Leader,
    /// Nemesis: all nodes are up and have applied the same.
    Converge,
    /// Nemesis: the stopped nodes were verified by `portolan check`.
    Check,
    /// Nemesis: the logs were searched for panics.
    Logs,
    /// Nemesis: a fault begins (`invoke`), and how that ended (`info`).
    Inject,
    /// Nemesis: a fault is undone (`invoke`), and how that ended (`info`).
    Heal,
    /// Nemesis: an upgrade is finalized, and nothing is left to migrate.
    Finalize,
    /// Nemesis: the product did what the run could not go on after.
    Broken,
}

impl Act {
    /// Those whose `ok` means that a quorum has something new.
    pub(crate) const WRITES: [Act; 16] = [
        Act::PutBlob,
        Act::PutManifest,
        Act::Put,
        Act::PutIf,
        Act::Delete,
        Act::Upload,
        Act::Mount,
        Act::Add,
        Act::Remove,
        Act::PushImage,
        Act::Untag,
        Act::DeleteImage,
        Act::DeleteBlob,
        Act::MountLayer,
        Act::RegionPut,
        Act::RegionDelete,
    ];

    /// Whether it is one of them.
    pub(crate) fn is_write(self) -> bool {
        Act::WRITES.contains(&self)
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Event {
    /// Its place in the history.
    pub(crate) index: u64,
    /// Nanoseconds since the run began.
    pub(crate) time: u64,
    /// Who.
    pub(crate) process: Process,
    /// What it says.
    #[serde(rename = "type")]
    pub(crate) kind: Kind,
    /// What is done.
    pub(crate) f: Act,
    /// To what: `repository:tag`, `repository@digest`, the name of an upload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    /// What was given or got.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub(crate) value: Value,
    /// At which node, where the client chose it or the nemesis meant it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<String>,
    /// Log index the answer was read or committed at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rev: Option<u64>,
    /// Why it was not `ok`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// Writes a history. Its order is the order of its times.
#[derive(Debug)]
pub(crate) struct Recorder {
    began: Instant,
    dir: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    out: BufWriter<File>,
    next: u64,
}

/// What an event is about; time and index are added when it is written.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    process: Process,
    kind: Kind,
    f: Act,
    key: Option<String>,
    value: Value,
    node: Option<String>,
    rev: Option<u64>,
    error: Option<String>,
}

impl Note {
    /// Something the nemesis did or saw.
    pub(crate) fn nemesis(f: Act, node: Option<&str>, value: Value) -> Note {
        let node = node.map(str::to_owned);
        Note { process: Process::Nemesis, kind: Kind::Info, f, key: None, value, node, rev: None, error: None }
    }

    /// Something the nemesis begins to do.
    pub(crate) fn nemesis_begins(f: Act, node: Option<&str>, value: Value) -> Note {
        Note { kind: Kind::Invoke, ..Note::nemesis(f, node, value) }
    }
}

impl Recorder {
    /// Begins a history in `dir`.
    pub(crate) fn create(dir: &Path) -> Result<Arc<Recorder>, Fault> {
        let path = dir.join(FILE);
        let out = File::create_new(&path).map_err(told(&format!("{} can't be made", path.display())))?;
        let inner = Mutex::new(Inner { out: BufWriter::new(out), next: 0 });
        Ok(Arc::new(Recorder { began: Instant::now(), dir: dir.to_owned(), inner }))
    }

    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes one line. A history that can't be written is the end of the run: it would prove nothing.
    pub(crate) fn note(&self, note: Note) {
        let mut inner = self.inner.lock().expect("nobody panics while writing");
        let Note { process, kind, f, key, value, node, rev, error } = note;
        let time = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let event = Event { index: inner.next, time, process, kind, f, key, value, node, rev, error };
        inner.next += 1;
        let mut line = serde_json::to_vec(&event).expect("events have text keys");
        line.push(b'\n');
        inner.out.write_all(&line).expect("the history can be written");
        // what the nemesis does explains a run that breaks off
        if process == Process::Nemesis {
            inner.out.flush().expect("the history can be written");
        }
    }

    /// How many lines were noted.
    pub(crate) fn count(&self) -> u64 {
        self.inner.lock().expect("nobody panics while writing").next
    }

    /// Everything noted so far is in the file.
    pub(crate) fn flush(&self) {
        self.inner.lock().expect("nobody panics while writing").out.flush().expect("the history can be written");
    }
}

/// How an operation ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// What was got.
    pub(crate) value: Value,
    /// Log index the answer was read or committed at.
    pub(crate) rev: Option<u64>,
    /// Why it was not `ok`, and whether it certainly did not happen.
    pub(crate) error: Option<(String, Certainty)>,
}

/// Whether a failed operation may have happened all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Certainty {
    /// It did not, and never will.
    Never,
    /// It may have, and still may.
    Unknown,
}

/// One client: a process number after the other.
#[derive(Debug)]
pub(crate) struct Actor {
    recorder: Arc<Recorder>,
    process: u64,
    stride: u64,
}

impl Actor {
    /// Client `number` of `count`.
    pub(crate) fn new(recorder: &Arc<Recorder>, number: usize, count: usize) -> Actor {
        Actor { recorder: Arc::clone(recorder), process: number as u64, stride: count.max(1) as u64 }
    }

    /// Runs one operation between its two lines; whether it was `ok`.
    pub(crate) async fn run(&mut self, op: Op<'_>, run: impl Future<Output = Outcome>) -> bool {
        let Op { f, key, node, value } = op;
        let note = |kind, value, rev, error| Note {
            process: Process::Client(self.process),
            kind,
            f,
            key: Some(key.to_owned()),
            value,
            node: node.map(str::to_owned),
            rev,
            error,
        };
        self.recorder.note(note(Kind::Invoke, value, None, None));
        let Outcome { value, rev, error } = run.await;
        let (kind, error) = match error {
            None => (Kind::Ok, None),
            Some((error, Certainty::Never)) => (Kind::Fail, Some(error)),
            Some((error, Certainty::Unknown)) => (Kind::Info, Some(error)),
        };
        self.recorder.note(note(kind, value, rev, error));
        if kind == Kind::Info {
            self.process += self.stride;
        }
        kind == Kind::Ok
    }
}

/// What an operation is about.
#[derive(Clone, Debug)]
pub(crate) struct Op<'a> {
    /// What is done.
    pub(crate) f: Act,
    /// To what.
    pub(crate) key: &'a str,
    /// At which node, if the client chose.
    pub(crate) node: Option<&'a str>,
    /// What is given.
    pub(crate) value: Value,
}

/// Reads a history; every line must be whole, in order, and of a process that is not retired.
pub(crate) fn read(dir: &Path) -> Result<Vec<Event>, Fault> {
    let path = dir.join(FILE);
    let file = File::open(&path).map_err(told(&format!("{} can't be read", path.display())))?;
    let mut events = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let at = format!("{}:{}", path.display(), number + 1);
        let line = line.map_err(told(&at))?;
        events.push(serde_json::from_str(&line).map_err(told(&at))?);
    }
    verify(&events)?;
    Ok(events)
}

/// The rules of the format: times and indexes rise, a process does one thing at a time and nothing after an `info`.
pub(crate) fn verify(events: &[Event]) -> Result<(), Fault> {
    let mut busy: std::collections::BTreeMap<u64, bool> = std::collections::BTreeMap::new();
    for (at, pair) in events.windows(2).enumerate() {
        if pair[1].index != pair[0].index + 1 || pair[1].time < pair[0].time {
            return Err(Fault::new(format!("the history is out of order behind event {at}")));
        }
    }
    for event in events {
        let Process::Client(process) = event.process else { continue };
        let wrong = |what: &str| Err(Fault::new(format!("event {}: process {process} {what}", event.index)));
        match (busy.get(&process), event.kind) {
            (None | Some(false), Kind::Invoke) => drop(busy.insert(process, true)),
            // an `info` leaves the process busy for ever
            (Some(true), Kind::Info) => {}
            (Some(true), Kind::Ok | Kind::Fail) => drop(busy.insert(process, false)),
            (Some(true), Kind::Invoke) => return wrong("does two things at a time, or acts although it is retired"),
            (None | Some(false), _) => return wrong("ends what it did not begin"),
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod testing {
    //! Histories written by hand, for the tests of the checkers.

    use super::*;

    /// A history of lines without index and process: `(seconds, process, kind, act, key, node, value)`.
    pub(crate) type Line<'a> = (f64, Option<u64>, Kind, Act, &'a str, &'a str, Value);

    /// Makes a history.
    pub(crate) fn history(lines: &[Line<'_>]) -> Vec<Event> {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let events = lines.iter().enumerate().map(|(index, (at, process, kind, f, key, node, value))| Event {
            index: index as u64,
            time: (at * 1e9) as u64,
            process: process.map_or(Process::Nemesis, Process::Client),
            kind: *kind,
            f: *f,
            key: some(key),
            value: value.clone(),
            node: some(node),
            rev: None,
            error: matches!(kind, Kind::Fail | Kind::Info).then(|| "broken".to_owned()),
        });
        let events: Vec<Event> = events.collect();
        verify(&events).unwrap();
        events
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // What is written is what is read; a process is retired after an `info` and never after another ending.
    #[tokio::test]
    async fn written_and_read() {
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder::create(dir.path()).unwrap();
        let mut actor = Actor::new(&recorder, 1, 10);
        let op = || Op { f: Act::PutBlob, key: "r:t", node: None, value: json!({"size": 3}) };
        assert!(actor.run(op(), async { Outcome { rev: Some(7), ..Outcome::default() } }).await);
        let unknown = async { Outcome { error: Some(("reset".into(), Certainty::Unknown)), ..Outcome::default() } };
        assert!(!actor.run(op(), unknown).await);
        let never = async { Outcome { error: Some(("refused".into(), Certainty::Never)), ..Outcome::default() } };
        assert!(!actor.run(op(), never).await);
        recorder.note(Note::nemesis(Act::Kill, Some("a-1"), Value::Null));
        let events = read(dir.path()).unwrap();
        let short: Vec<_> = events.iter().map(|event| (event.process, event.kind)).collect();
        let client = Process::Client;
        assert_eq!(
            short,
            [
                (client(1), Kind::Invoke),
                (client(1), Kind::Ok),
                (client(1), Kind::Invoke),
                (client(1), Kind::Info),
                (client(11), Kind::Invoke),
                (client(11), Kind::Fail),
                (Process::Nemesis, Kind::Info),
            ]
        );
        assert_eq!((events[1].rev, &events[0].value), (Some(7), &json!({"size": 3})));
        let line = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        let first: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
        assert_eq!((&first["type"], &first["f"], &first["process"]), (&json!("invoke"), &json!("put-blob"), &json!(1)));
    }

    // A retired process, a second beginning, an end without a beginning, and times that run back are refused.
    #[test]
    fn broken_histories() {
        let event = |index: u64, time: u64, kind| Event {
            index,
            time,
            process: Process::Client(1),
            kind,
            f: Act::Pull,
            key: None,
            value: Value::Null,
            node: None,
            rev: None,
            error: None,
        };
        let told = |events: &[Event]| verify(events).unwrap_err().to_string();
        let (invoke, ok, info) = (Kind::Invoke, Kind::Ok, Kind::Info);
        assert!(verify(&[event(0, 1, invoke), event(1, 2, ok), event(2, 3, invoke), event(3, 4, info)]).is_ok());
        assert!(told(&[event(0, 1, invoke), event(1, 2, info), event(2, 3, invoke)]).contains("retired"));
        assert!(told(&[event(0, 1, invoke), event(1, 2, invoke)]).contains("two things"));
        assert!(told(&[event(0, 1, ok)]).contains("did not begin"));
        assert!(told(&[event(0, 1, invoke), event(1, 0, ok)]).contains("out of order"));
        assert!(told(&[event(0, 1, invoke), event(3, 2, ok)]).contains("out of order"));
    }
}
