//! What lies between the regions of `portolan dev`: a proxy before each door that another region calls, slow, narrow,
//! cut or silent as a file says, which is read again while they run.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::cli::error::CliError;

/// Between two looks into the file.
const LOOK: Duration = Duration::from_millis(250);
/// Bytes read at once, and how many of them may be on their way in one direction of a connection.
const CHUNK_BYTES: usize = 16 * 1024;
const CHUNKS: usize = 512;

/// How one region reaches another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Wiring {
    state: State,
    /// Added each way.
    latency_ms: u64,
    /// Each way, over all connections; 0: as fast as it goes.
    mbit_per_s: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    #[default]
    Up,
    /// Connections end, and none is made.
    Cut,
    /// Nothing goes through, and nobody is told.
    Hang,
}

/// By the region that connects, and the one it connects to.
type Wirings = BTreeMap<String, BTreeMap<String, Wiring>>;

/// The wires between some regions.
pub(super) struct Wires {
    file: PathBuf,
    wirings: Arc<watch::Sender<Wirings>>,
    /// Both directions of each.
    ways: Arc<AllWays>,
}

/// The directions of a wire, towards the door and back.
type Ways = [Way; 2];

/// Those of all wires, by the region that connects and the one it connects to.
type AllWays = Mutex<BTreeMap<(String, String), Arc<Ways>>>;

/// One direction.
#[derive(Default)]
struct Way {
    /// Until when what was sent takes it.
    busy: Mutex<Option<Instant>>,
    /// Bytes that were sent.
    carried: AtomicU64,
}

fn parse(text: &str) -> Result<Wirings, String> {
    toml::from_str(text).map_err(|error| error.to_string())
}

/// What the file says at first.
fn sample(regions: &[String]) -> String {
    let mut text = "# How the regions reach each other; read again while they run.\n\
        # state: up, cut, hang (nothing goes through, and nobody is told); latency and rate count each way, rate 0 is none.\n"
        .to_owned();
    for from in regions {
        for to in regions.iter().filter(|to| *to != from) {
            text += &format!("\n# connections that {from} makes to {to}\n[{from}.{to}]\n");
            text += "state = \"up\"\nlatency_ms = 0\nmbit_per_s = 0.0\n";
        }
    }
    text
}

impl Wires {
    /// Between these regions, as `links.toml` in `dir` says; it is written if it is not there.
    pub(super) fn open(dir: &Path, regions: &[String]) -> Result<Wires, CliError> {
        let file = dir.join("links.toml");
        if !file.exists() {
            let written = std::fs::write(&file, sample(regions));
            written.map_err(|error| CliError::failed(format!("{} can't be written: {error}", file.display())))?;
        }
        let text = std::fs::read_to_string(&file)
            .map_err(|error| CliError::failed(format!("{} can't be read: {error}", file.display())))?;
        let first = parse(&text).map_err(|problem| CliError::usage(format!("{}: {problem}", file.display())))?;
        let wirings = Arc::new(watch::Sender::new(first));
        let ways = Arc::default();
        tokio::spawn(follow(file.clone(), text, Arc::clone(&wirings)));
        tokio::spawn(tell(dir.join("links.carried.json"), Arc::clone(&ways)));
        Ok(Wires { file, wirings, ways })
    }

    /// Where it is said how they are.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// An address at which `from` reaches `door`, which belongs to `to`.
    pub(super) async fn lay(&self, from: &str, to: &str, door: &str) -> Result<String, CliError> {
        let told = |error: std::io::Error| CliError::failed(format!("no link between regions: {error}"));
        let target: SocketAddr = door.parse().map_err(|_| CliError::failed(format!("{door} is no address")))?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(told)?;
        let address = listener.local_addr().map_err(told)?;
        let ways = Arc::clone(self.ways.lock().entry((from.to_owned(), to.to_owned())).or_default());
        let (from, to, wirings) = (from.to_owned(), to.to_owned(), self.wirings.subscribe());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let wire =
                    Wire { from: from.clone(), to: to.clone(), wirings: wirings.clone(), ways: Arc::clone(&ways) };
                tokio::spawn(wire.carry(client, target));
            }
        });
        Ok(address.to_string())
    }
}

/// Reads the file again when it has changed; what can't be read changes nothing, and is told.
async fn follow(file: PathBuf, mut known: String, wirings: Arc<watch::Sender<Wirings>>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        if text == known {
            continue;
        }
        match parse(&text) {
            Ok(now) => drop(wirings.send_replace(now)),
            Err(problem) => eprintln!("{}: {}", file.display(), crate::cli::output::lines_safe(&problem)),
        }
        known = text;
    }
}

/// Writes down how many bytes each direction has carried: towards the door, and back.
async fn tell(file: PathBuf, ways: Arc<AllWays>) {
    let mut told = String::new();
    loop {
        let carried = |ways: &Ways| ways.iter().map(|way| way.carried.load(Ordering::Relaxed)).collect::<Vec<_>>();
        let mut all: BTreeMap<String, BTreeMap<String, Vec<u64>>> = BTreeMap::new();
        for ((from, to), ways) in ways.lock().iter() {
            all.entry(from.clone()).or_default().insert(to.clone(), carried(ways));
        }
        let text = serde_json::to_string(&all).unwrap_or_default();
        if text != told && std::fs::write(&file, &text).is_ok() {
            told = text;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// One connection.
#[derive(Clone)]
struct Wire {
    from: String,
    to: String,
    wirings: watch::Receiver<Wirings>,
    ways: Arc<Ways>,
}

impl Wire {
    fn wiring(wirings: &Wirings, from: &str, to: &str) -> Wiring {
        wirings.get(from).and_then(|all| all.get(to)).copied().unwrap_or_default()
    }

    fn now(&self) -> Wiring {
        Wire::wiring(&self.wirings.borrow(), &self.from, &self.to)
    }

    /// Waits until the state is one that is wanted; false when nobody can change it any more.
    async fn until(&mut self, is_wanted: impl Fn(State) -> bool) -> bool {
        let (from, to) = (self.from.clone(), self.to.clone());
        self.wirings.wait_for(|wirings| is_wanted(Wire::wiring(wirings, &from, &to).state)).await.is_ok()
    }

    async fn carry(mut self, client: TcpStream, target: SocketAddr) {
        if self.now().state == State::Cut {
            return;
        }
        // a node that does not run refuses, and so does its end of the link
        let Ok(server) = TcpStream::connect(target).await else { return };
        let _set = (client.set_nodelay(true), server.set_nodelay(true));
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        let there = self.clone().copy(0, from_client, to_server);
        let back = self.clone().copy(1, from_server, to_client);
        tokio::select! {
            _ = self.until(|state| state == State::Cut) => {}
            () = async { tokio::join!(there, back); } => {}
        }
    }

    /// When a part that was read now comes out at the other end.
    fn due(&self, direction: usize, bytes: usize) -> Instant {
        let (wiring, now) = (self.now(), Instant::now());
        let way = &self.ways[direction];
        way.carried.fetch_add(bytes as u64, Ordering::Relaxed);
        let latency = Duration::from_millis(wiring.latency_ms);
        if wiring.mbit_per_s <= 0.0 {
            return now + latency;
        }
        let takes = Duration::from_secs_f64(bytes as f64 * 8.0 / (wiring.mbit_per_s * 1e6));
        let mut busy = way.busy.lock();
        let sent = busy.unwrap_or(now).max(now) + takes;
        *busy = Some(sent);
        sent + latency
    }

    async fn copy(mut self, direction: usize, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let (sink, mut parts) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS);
        let reader = self.clone();
        let read = async move {
            let mut buffer = vec![0; CHUNK_BYTES];
            while let Ok(read @ 1..) = from.read(&mut buffer).await {
                let due = reader.due(direction, read);
                if sink.send((due, buffer[..read].to_vec())).await.is_err() {
                    return;
                }
            }
        };
        let write = async move {
            while let Some((due, part)) = parts.recv().await {
                tokio::time::sleep_until(due).await;
                if !self.until(|state| state != State::Hang).await || to.write_all(&part).await.is_err() {
                    return;
                }
            }
            drop(to.shutdown().await);
        };
        tokio::join!(read, write);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wires(dir: &Path) -> Wires {
        Wires::open(dir, &["dev-1".to_owned(), "dev-2".to_owned()]).unwrap()
    }

    fn set(wires: &Wires, line: &str) {
        wires.wirings.send_replace(parse(&format!("[dev-1.dev-2]\n{line}\n")).unwrap());
    }

    async fn echo() -> String {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mut from, mut to) = stream.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from, &mut to).await });
            }
        });
        address
    }

    /// How long so many bytes take there and back.
    async fn there_and_back(stream: &mut TcpStream, bytes: usize) -> Duration {
        let began = Instant::now();
        let (mut from, mut to) = stream.split();
        let (sent, mut got) = (vec![7; bytes], vec![0; bytes]);
        let (wrote, read) = tokio::join!(to.write_all(&sent), from.read_exact(&mut got));
        wrote.unwrap();
        read.unwrap();
        began.elapsed()
    }

    // Latency counts each way, the rate bounds all that goes through, a wire that is cut ends connections and takes
    // none, and one that hangs keeps what was sent until it is up.
    #[tokio::test]
    async fn slow_narrow_cut_and_silent() {
        let dir = tempfile::tempdir().unwrap();
        let wires = wires(dir.path());
        let address = wires.lay("dev-1", "dev-2", &echo().await).await.unwrap();
        let mut stream = TcpStream::connect(&address).await.unwrap();
        there_and_back(&mut stream, 1).await;
        set(&wires, "latency_ms = 40");
        assert!(there_and_back(&mut stream, 1).await >= Duration::from_millis(80));
        set(&wires, "mbit_per_s = 8.0");
        // 200 kB at 1 MB/s, the way back overlapping
        let took = there_and_back(&mut stream, 200_000).await;
        assert!(took >= Duration::from_millis(190), "{took:?}");
        set(&wires, "state = \"hang\"");
        assert!(tokio::time::timeout(Duration::from_millis(100), there_and_back(&mut stream, 1)).await.is_err());
        set(&wires, "state = \"up\"");
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        set(&wires, "state = \"cut\"");
        assert_eq!(stream.read(&mut byte).await.unwrap_or(0), 0);
        let mut refused = TcpStream::connect(&address).await.unwrap();
        assert_eq!(refused.read(&mut byte).await.unwrap_or(0), 0);
    }

    // What is written at first is what it is without: everything up; nonsense is refused with its place.
    #[tokio::test]
    async fn the_file() {
        let dir = tempfile::tempdir().unwrap();
        let wires = wires(dir.path());
        let text = std::fs::read_to_string(wires.file()).unwrap();
        let all = parse(&text).unwrap();
        assert_eq!(all["dev-2"]["dev-1"], Wiring::default());
        assert_eq!(all.len(), 2);
        assert!(parse("[dev-1.dev-2]\nstate = \"down\"").unwrap_err().contains("down"));
        assert!(parse("[dev-1.dev-2]\nlatency = 5").is_err());
    }
}
