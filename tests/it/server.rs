//! `portolan server` by itself: first key, configuration, logs, audit, metrics, certificates, and what its errors say.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use registry_core::vocabulary::Digest;
use serde_json::Value;

use crate::support::{Cluster, http, portolan};

/// A node on an address of its own, ended when dropped.
struct Server {
    child: Child,
    ip: String,
    lines: Arc<Mutex<Vec<String>>>,
}

/// First port: public, raft, blob, admin.
const PORT: u16 = 19400;

/// The settings of a node at this address.
fn settings(ip: &str, data: &Path) -> Vec<String> {
    let doors = ["public", "raft", "blob", "admin"];
    let listen = doors.iter().zip(PORT..).map(|(door, port)| format!("listen.{door}={ip}:{port}"));
    listen.chain([format!("node.data_dir={}", data.display())]).collect()
}

impl Server {
    fn start(ip: &str, data: &Path, more: &[&str]) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
        command.args(["server", "--stop-with-stdin"]);
        for setting in settings(ip, data).iter().map(String::as_str).chain(more.iter().copied()) {
            command.args(["--set", setting]);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (from, to) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&lines));
        std::thread::spawn(move || from.lines().map_while(Result::ok).for_each(|line| to.lock().unwrap().push(line)));
        let server = Server { child, ip: ip.to_owned(), lines };
        server.until(|| server.text().contains("this node is up"));
        server
    }

    fn until(&self, mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !holds() {
            assert!(Instant::now() < end, "{}", self.text());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// All it has said so far.
    fn text(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    fn public(&self) -> String {
        format!("http://{}:{PORT}", self.ip)
    }

    fn admin(&self) -> String {
        format!("http://{}:{}", self.ip, PORT + 3)
    }

    fn stop(mut self) -> String {
        self.end();
        self.text()
    }

    fn end(&mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success(), "{}", self.text());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !std::thread::panicking() && self.child.stdin.is_some() {
            self.end();
        }
        let _ended = self.child.kill().is_ok();
        let _known = self.child.wait().is_ok();
    }
}

/// `ID:SECRET` as the first start shows it.
fn shown_key(text: &str) -> Option<String> {
    let field = |name: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(name))?;
        Some(line.split_whitespace().nth(1)?.to_owned())
    };
    Some(format!("{}:{}", field("user ")?, field("password ")?))
}

fn failed(output: &Output, status: i32) -> String {
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{told}");
    assert!(!told.contains("panicked"), "{told}");
    told
}

// T9, T10: the first key is made at the first start and shown once; it works; no other does; no line of the log, then
// or later, holds it. A key in a file takes the place of a lost one.
#[test]
fn t9_first_key_is_shown_once() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Server::start("127.31.11.1", &data, &["log.level=trace"]);
    let key = shown_key(&server.text()).unwrap_or_else(|| panic!("{}", server.text()));
    let secret = key.split_once(':').unwrap().1.to_owned();
    let ping =
        |server: &Server, key: &str| http::request("GET", &format!("{}/v2/", server.public())).key(key).send().status;
    assert_eq!(ping(&server, &key), 200);
    for guess in ["admin:admin", "root:root", "root:", "portolan:portolan", "admin:Harbor12345"] {
        assert_eq!(ping(&server, guess), 401, "{guess}");
    }
    let text = server.stop();
    assert_eq!(text.matches(&secret).count(), 1, "the secret stands in the greeting and nowhere else");

    let server = Server::start("127.31.11.1", &data, &["log.level=trace"]);
    assert_eq!(ping(&server, &key), 200);
    let text = server.stop();
    assert!(!text.contains(&secret) && shown_key(&text).is_none(), "{text}");

    let file = dir.path().join("root-key");
    let brought = "LOSTANDFOUND0001:a-secret-that-is-long-enough-for-a-key-0123456789";
    std::fs::write(&file, brought).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let server = Server::start("127.31.11.1", &data, &[&format!("auth.root_key_file={}", file.display())]);
    server.until(|| ping(&server, brought) == 200);
    assert!(!server.stop().contains("a-secret-that-is-long-enough"));
}

// `/readyz` says 200 only when a push is taken: a new node's volume is registered by then. At once, for a balancer does
// not wait either.
#[test]
fn ready_for_a_push() {
    for _ in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let (file, brought) =
            (dir.path().join("root-key"), "READYFORAPUSH0001:a-secret-that-is-long-enough-0123456789");
        std::fs::write(&file, brought).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let setting = format!("auth.root_key_file={}", file.display());
        let server = Server::start("127.31.16.1", &dir.path().join("data"), &[&setting]);
        let end = Instant::now() + Duration::from_secs(30);
        while http::get(&format!("{}/readyz", server.admin())).map_or(0, |answer| answer.status) != 200 {
            assert!(Instant::now() < end, "{}", server.text());
        }
        let digest = Digest::sha256(b"pushed at once");
        let url = format!("{}/v2/it/ready/blobs/uploads/?digest={digest}", server.public());
        let pushed = http::request("POST", &url).key(brought).body("pushed at once").send();
        assert_eq!(pushed.status, 201, "{}", pushed.text());
        server.stop();
    }
}

// Each log line is a JSON object; the id in an answer's header is in the access log and in the audit record. Every
// change and every refusal of one is in the audit, with who, what, from where and how it ended; no secret is.
#[test]
fn logs_and_audit() {
    let dir = tempfile::tempdir().unwrap();
    let audit = dir.path().join("audit.jsonl");
    let more = ["log.format=json", &format!("log.audit_file={}", audit.display())];
    let server = Server::start("127.31.12.1", &dir.path().join("data"), &more);
    let key = shown_key(&server.text()).unwrap();
    let (admin, secret) = (server.admin(), key.split_once(':').unwrap().1.to_owned());
    let json = |method: &str, path: &str, key: Option<&str>, body: &str| {
        let request = http::request(method, &format!("{admin}{path}")).header("Content-Type", "application/json");
        let request = if let Some(key) = key { request.key(key) } else { request };
        request.body(body).send()
    };
    let made = json("POST", "/v1/users", Some(&key), r#"{"name":"bob"}"#);
    assert_eq!(made.status, 201, "{}", made.text());
    let access = json("POST", "/v1/users/bob/keys", Some(&key), "{}").json();
    let bob = format!("{}:{}", access["key_id"].as_str().unwrap(), access["secret"].as_str().unwrap());
    assert_eq!(json("POST", "/v1/users", Some(&bob), r#"{"name":"eve"}"#).status, 403);
    assert_eq!(json("POST", "/v1/users", None, r#"{"name":"eve"}"#).status, 401);
    assert_eq!(json("POST", "/v1/users", Some("bob:wrong-secret-wrong-secret-wrong"), r#"{"name":"eve"}"#).status, 401);
    assert_eq!(json("POST", "/v1/cluster/init", Some(&key), "{}").status, 409);
    assert_eq!(json("POST", "/v1/cluster/init", Some(&bob), "{}").status, 403);
    assert_eq!(json("DELETE", "/v1/users/nobody", Some(&key), "").status, 404);
    let pushed = http::request("DELETE", &format!("{}/v2/team/app/manifests/latest", server.public())).key(&bob).send();
    assert_eq!(pushed.status, 404);
    let bytes = vec![7; 300_000];
    let digest = Digest::sha256(&bytes);
    let upload = format!("{}/v2/team/app/blobs/uploads/?digest={digest}", server.public());
    // a node is ready a moment before its own volume is registered
    assert_eq!(http::request("POST", &upload).key(&key).body(bytes.clone()).settled().status, 201);
    let pulled = http::request("GET", &format!("{}/v2/team/app/blobs/{digest}", server.public())).key(&key).send();
    assert_eq!((pulled.status, pulled.body.len()), (200, bytes.len()));

    let records: Vec<Value> =
        std::fs::read_to_string(&audit).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let find = |action: &str, principal: &str, result: &str| {
        let is_it = |record: &&Value| {
            record["action"] == action && record["principal"] == principal && record["result"] == result
        };
        records.iter().find(is_it).unwrap_or_else(|| panic!("{action} {principal} {result}: {records:#?}")).clone()
    };
    let create = find("user.create", "root", "accepted");
    assert_eq!((&create["resource"], &create["address"]), (&"bob".into(), &"127.0.0.1".into()), "{create}");
    assert_eq!(create["request_id"], made.header("x-request-id"));
    assert!(create["revision"].as_str().unwrap().contains('.'), "{create}");
    for (action, principal, result) in [
        ("key.create", "root", "accepted"),
        ("user.create", "bob", "refused"),
        ("user.create", "anonymous", "refused"),
        ("cluster.init", "root", "refused"),
        ("cluster.init", "bob", "refused"),
        ("user.delete", "root", "refused"),
        ("manifest.delete", "bob", "refused"),
    ] {
        let record = find(action, principal, result);
        assert!(result == "accepted" || !record["reason"].as_str().unwrap().is_empty(), "{record}");
    }
    assert!(records.iter().any(|record| record["action"] == "login" && record["result"] == "refused"));
    let by_node = |record: &&Value| record["principal"].as_str().is_some_and(|name| name.starts_with("node/"));
    let own: Vec<&str> = records.iter().filter(by_node).map(|record| record["action"].as_str().unwrap()).collect();
    assert_eq!(own, ["cluster.init", "key.create"], "the first start founds the cluster and makes a key");

    let text = server.stop();
    let (greeting, lines): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| !line.starts_with('{'));
    assert!(greeting.iter().all(|line| !line.contains("ERROR") && !line.contains("WARN")), "{greeting:?}");
    let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let access = |answer: &http::Answer| {
        let id = answer.header("x-request-id");
        let found = lines.iter().find(|line| line["target"] == "access" && line["request.id"] == id);
        found.unwrap_or_else(|| panic!("no access line in {text}"))
    };
    assert_eq!((&access(&made)["status"], &access(&made)["method"]), (&201.into(), &"POST".into()));
    let pull = access(&pulled);
    assert_eq!((&pull["sent_bytes"], &pull["is_whole"]), (&bytes.len().into(), &true.into()), "{pull}");
    assert!(
        !format!("{lines:?}{records:?}").contains(&secret) && !format!("{lines:?}{records:?}").contains(&bob[21..])
    );
}

// H12, A28: metrics are for who may read the cluster; every listed one without labels is there, with its help and the
// labels of the node; whatever clients send, no new series appear.
#[test]
fn h12_metrics_are_bounded() {
    let cluster = Cluster::shared();
    let url = format!("{}/metrics", cluster.admin(1));
    assert_eq!(http::get(&url).unwrap().status, 401);
    let series = || -> std::collections::BTreeSet<String> {
        let text = http::request("GET", &url).key(&cluster.key()).send().text();
        let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        samples.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
    };
    let text = http::request("GET", &url).key(&cluster.key()).send().text();
    for (kind, name, labels, help) in portolan::ground::metric_list::METRICS {
        let is_counter_or_gauge = *kind != portolan::ground::metric_list::Kind::Histogram;
        if labels.is_empty() && is_counter_or_gauge {
            let sample = format!("{name}{{node=\"");
            assert!(text.contains(&sample) && text.contains(&format!("# HELP {name} {help}")), "{name}");
        }
    }
    let line = text.lines().find(|line| line.starts_with("portolan_raft_term{")).unwrap();
    assert!(line.contains("zone=\"a\""), "{line}");
    let send = |round: u32| {
        for n in 0..20 {
            let base = cluster.node(1);
            let path = format!("{base}/v2/h12-{round}-{n}/made-up/manifests/t{n}");
            let agent = format!("agent/{round}.{n}");
            let sent = http::request("GET", &path).key(&cluster.key()).header("User-Agent", &agent).send();
            assert_eq!(sent.status, 404);
            http::request(&format!("MADE{n}"), &path).key(&format!("who{round}{n}:no-secret-at-all")).send();
            http::request("GET", &format!("{base}/{round}/{n}?x={n}")).send();
        }
    };
    send(0);
    let before = series();
    send(1);
    let new: Vec<String> =
        series().difference(&before).filter(|name| name.contains("h12") || name.contains("MADE")).cloned().collect();
    assert_eq!(new, Vec::<String>::new());
    let http_series =
        |all: &std::collections::BTreeSet<String>| all.iter().filter(|name| name.contains("http")).count();
    assert!(http_series(&before) < 2000, "{}", http_series(&before));
    assert_eq!(http_series(&before), http_series(&series()), "the same kinds of requests make no new series");
}

// H5, U7: a certificate that is replaced is used from then on; a bad file in its place changes nothing, is told in the
// log and counted; `config check` refuses it with status 2.
#[test]
fn u7_certificates_reload() {
    let dir = tempfile::tempdir().unwrap();
    let certs = dir.path().join("certs");
    let certs_text = certs.to_str().unwrap();
    let address = "127.31.13.1";
    let make = || {
        let made = portolan(&["certs", "public", "--dir", certs_text, "--address", address]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    assert!(portolan(&["certs", "init", "--dir", certs_text]).status.success());
    make();
    let (cert, key) = (certs.join("public/server/tls.pem"), certs.join("public/server/tls.key"));
    assert!(
        cert.exists() && key.exists(),
        "{:?}",
        std::fs::read_dir(certs.join("public/server")).unwrap().collect::<Vec<_>>()
    );
    let tls = [format!("tls.cert={}", cert.display()), format!("tls.key={}", key.display())];
    let data = dir.path().join("data");
    let server = Server::start(address, &data, &[&tls[0], &tls[1]]);
    let root = shown_key(&server.text()).unwrap();
    let served = || {
        let ca = certs.join("ca.pem");
        let url = format!("https://{address}:{PORT}/v2/");
        let asked = Command::new("curl").args(["-sv", "--cacert", ca.to_str().unwrap(), &url]).output().unwrap();
        let told = String::from_utf8_lossy(&asked.stderr).into_owned();
        assert!(asked.status.success(), "{told}");
        let fields = ["start date", "expire date", "subject:"]
            .map(|field| told.lines().find(|line| line.contains(field)).unwrap_or_default().to_owned());
        fields.join("|")
    };
    let first = served();
    std::thread::sleep(Duration::from_millis(1100));
    make();
    server.until(|| server.text().contains("changed on disk and is in use from now on"));
    let second = served();
    assert_ne!(first, second, "a new certificate has other dates");
    std::fs::write(&cert, "not a certificate").unwrap();
    server.until(|| server.text().contains("changed on disk and is refused"));
    assert_eq!(served(), second, "the one read before stays in use");
    let metrics = Command::new("curl")
        .args(["-s", "--cacert", certs.join("ca.pem").to_str().unwrap(), "-u", &root])
        .arg(format!("https://{address}:{}/metrics", PORT + 3))
        .output()
        .unwrap();
    let metrics = String::from_utf8(metrics.stdout).unwrap();
    let refused = metrics.lines().find(|line| line.contains("portolan_reloads_total") && line.contains("refused"));
    assert!(refused.is_some(), "{metrics}");
    let check = portolan(&["config", "check", "--set", &tls[0], "--set", &tls[1]]);
    assert!(failed(&check, 2).contains("tls.pem"));
}

// U6: unknown keys, wrong types, both of two exclusive ones, files that can't be read or that all can read: all told at
// once, each with file, line, key and a proposal, by `config check` and by a start, without a panic.
#[test]
fn u6_configuration_mistakes_are_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("portolan.toml");
    let text = "[node]\nzoen = \"a\"\nregion_number = \"one\"\n\n[lisen]\npublic = \"127.0.0.1:1\"\n\n[listen]\n\
                public = \"here\"\nadmin = \"127.0.0.1:7400\"\n\n[tls]\ncert = \"/nowhere/server.pem\"\n\n[auth]\n\
                root_key_file = \"/nowhere/key\"\nroot_key = \"id:secret\"\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    for words in [vec!["config", "check", "--config", file], vec!["server", "--config", file]] {
        let told = failed(&portolan(&words), 2);
        for part in [
            ":2: no setting zoen in [node]; did you mean zone?",
            ":3: node.region_number = \"one\"",
            ":5: no section [lisen]; did you mean [listen]?",
            ":9: listen.public = \"here\"",
            "tls.cert is set and tls.key is not",
            "/nowhere/key",
            "auth.root_key is a secret and may not stand here",
        ] {
            assert!(told.contains(part), "{part:?} is missing in:\n{told}");
        }
        assert!(!told.contains("id:secret"), "{told}");
    }
    let key = dir.path().join("root-key");
    std::fs::write(&key, "key:a-secret-that-is-long-enough-for-a-key-0123456789").unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let setting = format!("auth.root_key_file={}", key.display());
    let good = portolan(&["config", "check", "--set", &setting]);
    let told = String::from_utf8_lossy(&good.stderr).into_owned();
    assert!(good.status.success() && told.contains("root-key") && told.contains("0644"), "{told}");
    for (words, part) in [
        (vec!["config", "check", "--config", "/nowhere/portolan.toml"], "check the path given by --config"),
        (vec!["config", "check", "--set", "node.zoen=a"], "did you mean zone?"),
        (vec!["config", "check", "--set", "zone=a"], "write section.key=value"),
        (vec!["config", "check", "--config", dir.path().to_str().unwrap()], "can't be read"),
    ] {
        let told = failed(&portolan(&words), 2);
        assert!(told.contains(part), "{part:?} is missing in:\n{told}");
    }
    let shown = Command::new(env!("CARGO_BIN_EXE_portolan"))
        .args(["config", "print-effective", "--set", "node.zone=z"])
        .env("PORTOLAN_AUTH_ROOT_KEY", "key:a-secret-that-is-long-enough-for-a-key-0123456789")
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("zone = \"z\" # --set node.zone") && shown.contains("root_key = \"***\""), "{shown}");
    assert!(!shown.contains("a-secret-that"), "{shown}");
}

// U6: a port in use, a data directory in use and one that belongs to somebody else are told with what to change.
#[test]
fn u6_what_is_taken_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Server::start("127.31.14.1", &data, &[]);
    let start = |ip: &str, data: &Path, more: &[&str]| {
        let mut words = vec!["server".to_owned()];
        for setting in settings(ip, data).into_iter().chain(more.iter().map(|word| (*word).to_owned())) {
            words.extend(["--set".to_owned(), setting]);
        }
        portolan(&words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let told = failed(&start("127.31.14.1", &dir.path().join("other"), &[]), 1);
    assert!(told.contains("listen.") && told.contains("127.31.14.1") && told.contains("in use"), "{told}");
    let told = failed(&start("127.31.14.2", &data, &[]), 1);
    assert!(told.contains("in use") || told.contains("another process"), "{told}");
    let told = failed(&start("127.31.14.2", Path::new("/proc/nowhere"), &[]), 1);
    assert!(told.contains("/proc/nowhere"), "{told}");
    server.stop();
    let told = failed(&start("127.31.14.2", &data, &["node.id=00000000000000ab"]), 1);
    assert!(told.contains("belongs to node") && told.contains("its own data directory"), "{told}");
    let key = dir.path().join("root-key");
    std::fs::write(&key, "short:short").unwrap();
    let told = failed(&start("127.31.14.2", &data, &[&format!("auth.root_key_file={}", key.display())]), 1);
    assert!(told.contains("auth.root_key_file") && told.contains("16 to 128"), "{told}");
}

// U8: what the command line keeps is private; secrets come by standard input or a private file; users and keys by
// command: made, limited to a pattern, disabled, deleted; anonymous pull only by explicit grant.
#[test]
fn u8_users_and_keys_by_command() {
    let cluster = Cluster::shared();
    let dir = tempfile::tempdir().unwrap();
    let (admin, root) = (cluster.admin(2), cluster.key_file());
    let run = |words: &[&str]| {
        let connection = ["--admin", &admin, "--credentials-file", root.to_str().unwrap()];
        let output = portolan(&words.iter().copied().chain(connection).collect::<Vec<_>>());
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    run(&["user", "create", "u8-bob", "--grant", "read,write,create:u8/*"]);
    let file = dir.path().join("bob-key");
    let file_text = file.to_str().unwrap();
    let told = run(&["user", "key", "create", "u8-bob", "--save-credentials", file_text]);
    let bob = std::fs::read_to_string(&file).unwrap().trim().to_owned();
    let (key_id, secret) = bob.split_once(':').unwrap();
    assert!(!told.contains(secret), "{told}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let push = |key: Option<&str>, repository: &str| {
        let digest = Digest::sha256(b"u8");
        let url = format!("{}/v2/{repository}/blobs/uploads/?digest={digest}", cluster.node(3));
        let request = http::request("POST", &url).body("u8");
        if let Some(key) = key { request.key(key) } else { request }.send().status
    };
    let pull = |key: Option<&str>, repository: &str| {
        let digest = Digest::sha256(b"u8");
        let request = http::request("GET", &format!("{}/v2/{repository}/blobs/{digest}", cluster.node(1)));
        if let Some(key) = key { request.key(key) } else { request }.send().status
    };
    assert_eq!((push(Some(&bob), "u8/app"), push(Some(&bob), "u9/app"), push(None, "u8/app")), (201, 404, 401));
    assert_eq!((pull(Some(&bob), "u8/app"), pull(None, "u8/app")), (200, 401));
    run(&["user", "grant", "anonymous", "read:u8/*"]);
    assert_eq!((pull(None, "u8/app"), push(None, "u8/app")), (200, 401));
    run(&["user", "grant", "anonymous"]);
    let explained: Value =
        serde_json::from_str(&run(&["-o", "json", "user", "explain", "u8-bob", "ecr:PutImage", "u9/app"])).unwrap();
    assert_eq!(explained["allowed"], false);

    let whoami = |input: &str, words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
        command.args(["-o", "json", "user", "whoami", "--admin", &admin]).args(words);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let asked = whoami(&format!("{secret}\n"), &["--access-key-id", key_id, "--password-stdin"]);
    let asked: Value = serde_json::from_slice(&asked.stdout).unwrap();
    assert_eq!(asked["name"], "u8-bob");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let asked = whoami("", &["--credentials-file", file_text]);
    let told = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(asked.status.success() && told.contains("warning") && told.contains("0644"), "{told}");
    run(&["user", "key", "disable", "u8-bob", key_id]);
    assert_eq!(push(Some(&bob), "u8/app"), 401);
    let told = failed(&whoami("", &["--credentials-file", file_text]), 1);
    assert!(told.contains("check id and secret") && !told.contains(secret), "{told}");
    run(&["user", "delete", "u8-bob"]);
}

// Completion is made for each shell; repositories and images go by command, as tables and as JSON.
#[test]
fn repositories_and_images_by_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = String::from_utf8(portolan(&["completion", shell]).stdout).unwrap();
        assert!(script.contains("portolan") && script.contains("completion"), "{shell}");
    }
    let cluster = Cluster::shared();
    let (admin, registry, root) = (cluster.admin(1), cluster.node(1), cluster.key_file());
    let run = |words: &[&str]| {
        let mut all: Vec<&str> = words.to_vec();
        all.extend(["--admin", &admin, "--credentials-file", root.to_str().unwrap()]);
        if words.contains(&"image") {
            all.extend(["--registry", &registry]);
        }
        let output = portolan(&all);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    assert_eq!(run(&["repo", "create", "cmd/app", "--mutability", "immutable"]).0, 0);
    let (code, _, told) = run(&["repo", "create", "cmd/app"]);
    assert!(code == 1 && told.contains("cmd/app") && told.contains("exists"), "{told}");
    let shown: Value = serde_json::from_str(&run(&["-o", "json", "repo", "show", "cmd/app"]).1).unwrap();
    assert_eq!(shown["settings"]["mutability"], "immutable", "{shown}");
    let manifest = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    let put = http::request("PUT", &format!("{registry}/v2/cmd/app/manifests/v1")).key(&cluster.key());
    let put = put.header("Content-Type", "application/vnd.oci.image.index.v1+json").body(manifest).send();
    assert_eq!(put.status, 201, "{}", put.text());
    assert_eq!(run(&["image", "list", "cmd/app"]).1.trim(), "TAG\nv1");
    let shown: Value = serde_json::from_str(&run(&["-o", "json", "image", "show", "cmd/app:v1"]).1).unwrap();
    assert_eq!(shown["digest"], Digest::sha256(manifest.as_bytes()).to_string());
    let (code, _, told) = run(&["image", "show", "cmd/app:v2"]);
    assert_eq!(code, 1, "{told}");
    assert_eq!(run(&["image", "delete", "cmd/app:v1"]).0, 0);
    assert_eq!(run(&["repo", "delete", "cmd/app", "--force"]).0, 0);
    assert!(!run(&["repo", "list"]).1.contains("cmd/app"));
}

// Errors say what to do: a node that is not there, a wrong key, a key that can't be read, a wrong word.
#[test]
fn errors_say_what_to_do() {
    let cluster = Cluster::shared();
    let admin = cluster.admin(1);
    let absent = PathBuf::from("/nowhere/key");
    for (words, status, parts) in [
        (vec!["cluster", "status", "--admin", "http://127.31.15.1:1"], 1, ["can't be reached", "--admin"]),
        (vec!["cluster", "status", "--admin", "127.31.15.1:1"], 2, ["is no URL", "http://"]),
        (vec!["cluster", "status", "--admin", &admin], 1, ["--credentials-file", "--password-stdin"]),
        (
            vec!["repo", "list", "--admin", &admin, "--credentials-file", absent.to_str().unwrap()],
            2,
            ["/nowhere/key", "No such file"],
        ),
        (vec!["repo", "lits"], 2, ["unrecognized subcommand", "list"]),
        (vec!["repo", "create", "UPPER", "--admin", &admin], 1, ["--credentials-file", ""]),
        (vec!["check", "/nowhere/data"], 2, ["/nowhere/data", "no node's data directory"]),
    ] {
        let told = failed(&portolan(&words), status);
        for part in parts {
            assert!(told.contains(part), "{words:?}: {part:?} is missing in:\n{told}");
        }
    }
}
