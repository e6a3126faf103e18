//! The bucket of a run: a real S3 server over a directory of the run, behind a proxy that slows requests down and loses
//! answers all the time. Both end with this process.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use serde_json::{Value, json};

use super::Plan;
use crate::fault::{Fault, told};
use crate::workload::image::sha256;

/// What starts server and proxy.
const SERVE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/s3/serve.sh");
/// What meets requests, in turn.
const FAULTS: [&str; 4] = [
    r#"{"kind":"slow-down","count":4}"#,
    r#"{"kind":"lost-answer","method":"PUT","count":2}"#,
    r#"{"kind":"lost-answer","method":"HEAD","count":2}"#,
    r#"{"kind":"lost-answer","method":"GET","count":2}"#,
];
/// Between two faults.
const EVERY: Duration = Duration::from_millis(700);
/// Zones that an object stands for: the bucket's redundancy is its own business.
const ZONES: u64 = 3;

/// The running server.
#[derive(Debug)]
pub(super) struct Bucket {
    child: Child,
    /// Dropped, the faults end.
    _breaking: Sender<()>,
}

fn address(plan: &Plan, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, plan.region, 251, 1)), port)
}

/// Where the bucket of a run lies.
pub(crate) fn root(dir: &Path) -> PathBuf {
    dir.join("bucket")
}

/// What every node is told.
pub(crate) fn settings(plan: &Plan) -> Vec<String> {
    let secret = plan.dir.join("s3-secret");
    vec![
        "blobs.driver=s3".to_owned(),
        "s3.bucket=images".to_owned(),
        format!("s3.endpoint=http://{}", address(plan, plan.port + 1)),
        "s3.access_key=portolan".to_owned(),
        format!("s3.secret_key_file={}", secret.display()),
    ]
}

impl Bucket {
    /// Starts the server, and breaks requests from then on.
    pub(super) fn start(plan: &Plan) -> Result<Bucket, Fault> {
        let failed = told("the S3 server can't be started");
        let root = root(&plan.dir);
        std::fs::create_dir_all(root.join("images")).map_err(told(&format!("{}", root.display())))?;
        std::fs::write(plan.dir.join("s3-secret"), "portolan-secret\n").map_err(told("the bucket's secret"))?;
        let proxy = address(plan, plan.port + 1);
        let mut child = Command::new(SERVE)
            .args([&address(plan, plan.port).to_string(), &root.to_string_lossy().into_owned(), &proxy.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let mut said = String::new();
        if let Some(out) = child.stdout.as_mut() {
            BufReader::new(out).read_line(&mut said).map_err(told("the S3 server says nothing"))?;
        }
        let (breaking, ended) = channel::<()>();
        std::thread::spawn(move || {
            for fault in FAULTS.iter().cycle() {
                if ended.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                // the proxy is gone when the run is
                drop(control(proxy, "POST /-/fault", fault));
            }
        });
        let bucket = Bucket { child, _breaking: breaking };
        if said == "ready\n" { Ok(bucket) } else { Err(Fault::new("the S3 server does not become ready")) }
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // a child that can't be waited for has ended
        drop(self.child.wait());
    }
}

fn control(proxy: SocketAddr, line: &str, body: &str) -> Result<String, std::io::Error> {
    let mut stream = TcpStream::connect(proxy)?;
    let length = body.len();
    write!(stream, "{line} HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned())
}

/// Puts what lies in the bucket into the report of `portolan check`, which says nothing about it: a blob whose object
/// hashes to its digest counts as good in all zones. Every object is read.
pub(crate) fn amend(plan: &Plan, report: &mut Value) -> Result<(), Fault> {
    let (mut good, mut problems, mut parts) = (BTreeMap::new(), Vec::new(), 0);
    let mut left = vec![root(&plan.dir).join("images")];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).map_err(told(&format!("{}", dir.display())))? {
            let path = entry.map_err(told(&format!("{}", dir.display())))?.path();
            if path.is_dir() {
                left.push(path);
                continue;
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let hex = name.split_once('.').map_or("", |(hex, _)| hex);
            if name == "owner" || name.ends_with(".sum") {
                continue;
            }
            if hex.len() != 64 {
                parts += 1;
                continue;
            }
            let bytes = std::fs::read(&path).map_err(told(&format!("{}", path.display())))?;
            let digest = format!("sha256:{hex}");
            if sha256(&bytes) == digest {
                *good.entry(digest).or_insert(0_u64) += 1;
            } else {
                problems.push(json!({"kind": "object", "subject": name, "text": "does not hash to its digest"}));
            }
        }
    }
    if let Some(zones) = report.get_mut("blob_zones").and_then(Value::as_object_mut) {
        for (digest, zones) in zones.iter_mut() {
            *zones = json!(if good.contains_key(digest) { ZONES } else { 0 });
        }
    }
    let count = control(address(plan, plan.port + 1), "GET /-/count", "").unwrap_or_default();
    let requests: Value = serde_json::from_str(&count).unwrap_or_default();
    report["bucket"] = json!({"objects": good.values().sum::<u64>(), "part_files": parts, "requests": requests});
    if !problems.is_empty() {
        report["good"] = json!(false);
        report["problems_total"] = json!(report["problems_total"].as_u64().unwrap_or_default() + problems.len() as u64);
        if let Some(said) = report.get_mut("problems").and_then(Value::as_array_mut) {
            said.append(&mut problems);
        }
    }
    Ok(())
}
