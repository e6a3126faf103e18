//! Security cases T1 to T24: what a credential is, what it is not, and where it may be seen.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use registry_core::vocabulary::Digest;
use serde_json::json;

use super::people::{Person, Stranger, admin, as_admin, bearer, changed, json_to, log_of, token};
use super::repo::{IMAGE, LAYER, Repo, no, told};
use super::wire;
use crate::support::http::{self, Answer};
use crate::support::{Cluster, portolan};

fn nodes() -> impl Iterator<Item = u8> {
    1..=3
}

/// `GET /v2/` with this `Authorization`.
fn with(node: u8, authorization: &str) -> Answer {
    http::request("GET", &format!("{}/v2/", Cluster::shared().node(node))).header("Authorization", authorization).send()
}

fn encode(text: &str) -> String {
    BASE64URL_NOPAD.encode(text.as_bytes())
}

// T1, T2: a JSON web token is no token here, whatever its header says: a key of its own, a trusted key's id, no
// algorithm, a symmetric one, two of them, a critical extension; and no changed byte of a token of ours holds.
#[test]
fn t01_t02_web_tokens_and_changed_tokens() {
    let ann = Person::new("t01-ann", &["read:t01/app"]);
    let good = ann.token("repository:t01/app:pull");
    assert_eq!(with(1, &bearer(&good)).status, 200);
    let body = encode(r#"{"iss":"portolan","sub":"root","aud":"portolan","exp":4102444800,"access":[]}"#);
    for header in [
        r#"{"alg":"none"}"#,
        r#"{"alg":"nOnE","typ":"JWT"}"#,
        r#"{"alg":"HS256","kid":"1"}"#,
        r#"{"alg":"HS256","alg":"none"}"#,
        r#"{"alg":"RS256","kid":"1","jwk":{"kty":"RSA","n":"AQAB","e":"AQAB"}}"#,
        r#"{"alg":"ES256","jku":"http://127.0.0.1:1/keys","x5u":"http://127.0.0.1:1/cert","x5c":["AA=="]}"#,
        r#"{"alg":"EdDSA","crit":["b64"],"b64":false}"#,
    ] {
        for signature in [String::new(), encode("signed"), good.clone()] {
            let token = format!("{}.{body}.{signature}", encode(header));
            assert_eq!(told(&with(1, &bearer(&token))), no(401, "UNAUTHORIZED"), "{header}");
        }
    }
    let bytes = BASE64URL_NOPAD.decode(good.as_bytes()).unwrap();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        assert_eq!(with(1, &bearer(&BASE64URL_NOPAD.encode(&changed))).status, 401, "byte {at}");
    }
    for changed in [&good[..good.len() - 1], &format!("{good}A"), &format!("{good}="), &good.to_lowercase()] {
        assert_eq!(with(1, &bearer(changed)).status, 401, "{changed}");
    }
}

// T5: what is longer than any credential, and more scopes than anybody needs, is refused before it is looked into; the
// node goes on.
#[test]
fn t05_long_and_many() {
    let base = Cluster::shared().node(1);
    let head = format!("GET /v2/ HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", wire::authority(&base));
    for (what, header, wanted) in [
        ("a token of 17 KiB", format!("Authorization: Bearer {}\r\n", "a".repeat(17 << 10)), &[431][..]),
        ("dots", format!("Authorization: Bearer {}\r\n", ".".repeat(17 << 10)), &[431]),
        ("a token of 15 KiB", format!("Authorization: Bearer {}\r\n", "a".repeat(15 << 10)), &[401]),
        ("many dots", format!("Authorization: Bearer {}\r\n", "a.".repeat(7 << 10)), &[401]),
        ("many lines", "Authorization: Bearer a\r\n".repeat(60), &[401]),
        // a server that stops reading may close before its answer was taken: 0
        ("10 MB", format!("Authorization: Bearer {}\r\n", "a".repeat(10 << 20)), &[431, 400, 0]),
    ] {
        let begun = Instant::now();
        let answer = wire::exchange(&base, format!("{head}{header}\r\n"));
        assert!(wanted.contains(&wire::status(&answer)), "{what}: {answer}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{what} took {:?}", begun.elapsed());
    }
    let key = Cluster::shared().key();
    let ask = |query: &str| http::request("GET", &format!("{base}/v2/token?{query}")).key(&key).send();
    let scopes = |count: usize, between: &str| vec!["scope=repository:t05/a:pull"; count].join(between);
    assert_eq!(ask(&scopes(64, "&")).status, 200);
    for many in [scopes(65, "&"), scopes(500, "&"), format!("scope={}", vec!["repository:a:pull"; 65].join("%20"))] {
        assert_eq!(ask(&many).status, 400);
    }
    assert_eq!(ask(&scopes(2000, "&")).status, 414, "longer than any path");
    assert_eq!(with(1, &bearer(&token(&key, ""))).status, 200);
}

// T6: a scope is read by its grammar or the request is refused; the token holds exactly the actions that were granted,
// and each method of each route asks for one of them.
#[test]
fn t06_scopes() {
    let ann = Person::new("t06-ann", &["read,write,delete,create:t06/*"]);
    let app = ann.repo("t06/app");
    let digest = app.stored("v1", IMAGE, app.image(b"t06").to_string());
    let base = Cluster::shared().node(1);
    for scope in [
        "repository",
        "repository:t06/app",
        "repository:t06/app:",
        "repository:t06/app:pull,",
        "repository:t06/app:PULL",
        "repository:T06/app:pull",
        "repository:host:5000/t06/app:pull",
        "repository:t06/../t06/app:pull",
        "repository:t06/app:pull%20%20repository:t06/b:pull",
        "repository(:t06/app:pull",
        "repository:t06/app:pull%0d%0aX:y",
        "%ff",
    ] {
        let answer = http::request("GET", &format!("{base}/v2/token?scope={scope}")).key(&ann.key).send();
        assert_eq!(answer.status, 400, "{scope}: {}", answer.text());
        assert!(answer.header("x").is_empty());
    }
    // the table of methods: what each needs, and that nothing else does instead
    let needs: [(&str, String, &str); 9] = [
        ("GET", "manifests/v1".into(), "pull"),
        ("HEAD", format!("manifests/{digest}"), "pull"),
        ("GET", "tags/list".into(), "pull"),
        ("GET", format!("referrers/{digest}"), "pull"),
        ("GET", format!("blobs/{}", Digest::sha256(b"t06")), "pull"),
        ("POST", "blobs/uploads/".into(), "push"),
        ("PUT", "manifests/v2".into(), "push"),
        ("DELETE", "manifests/none".into(), "delete"),
        ("DELETE", format!("blobs/{}", Digest::sha256(b"none")), "delete"),
    ];
    for (asked, holds) in [
        ("repository:t06/app:pull", &["pull"][..]),
        ("repository:t06/app:push", &["push"]),
        ("repository:t06/app:delete", &["delete"]),
        ("repository:t06/app:*", &["pull", "push", "delete"]),
        ("repository:t06/app:pull repository:t06/app:push", &["pull", "push"]),
        ("repository:t06/app:fly,pull,pull", &["pull"]),
        ("repository(plugin):t06/app:pull", &["pull"]),
        ("repository:t06/ap:* repository:t06/app/x:* repository:t06:*", &[]),
        ("registry:catalog:*", &[]),
        ("widget:t06/app:pull", &[]),
        ("", &[]),
    ] {
        let token = ann.token(asked);
        for (method, path, action) in &needs {
            let url = format!("{base}/v2/t06/app/{path}");
            let answer = http::request(method, &url).header("Authorization", &bearer(&token)).send();
            assert_eq!(answer.status != 401, holds.contains(action), "{asked}: {method} {path}: {}", answer.status);
        }
        let catalog =
            http::request("GET", &format!("{base}/v2/_catalog")).header("Authorization", &bearer(&token)).send();
        assert_eq!(catalog.status == 200, asked.contains("catalog"), "{asked}");
    }
}

// T7: an unknown user, a wrong password, a disabled user, an ended key and half a credential get one answer, to the
// byte, and an unknown user is not answered sooner or later than a wrong password.
#[test]
fn t07_unknown_user_costs_one_hash() {
    let ann = Person::new("t07-ann", &["read:t07/*"]);
    let off = Person::new("t07-off", &[]);
    changed("PATCH", &off.path(""), &json!({ "enabled": false }));
    let ended = ann.another_key(&json!({ "lifetime_s": 1 }));
    std::thread::sleep(Duration::from_millis(1500));
    let face = |answer: &Answer| {
        let headers = answer.headers.iter().filter(|(name, _)| !["date", "x-request-id"].contains(&name.as_str()));
        let mut headers: Vec<_> = headers.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        headers.sort();
        (answer.status, headers, answer.text())
    };
    let unknown = "PTLN00000000000000UN";
    let want = face(&Stranger::new().log_in(unknown, "wrong"));
    assert_eq!(want.0, 401);
    let (off_secret, ended) = (off.key.split_once(':').unwrap().1, ended.split_once(':').unwrap());
    for (user, password) in [
        (ann.key_id(), "wrong"),
        (ann.key_id(), &off_secret[..10]),
        (ann.key_id(), ""),
        (off.key_id(), off_secret),
        ended,
        ("t07-ann", "wrong"),
        ("", "wrong"),
        ("\u{e9}", "\u{0}"),
    ] {
        assert_eq!(face(&Stranger::new().log_in(user, password)), want, "{user:?}");
    }
    // each id is tried so seldom, each address as well, that nothing waits
    let mut known: Vec<String> = Vec::new();
    for user in 0..3 {
        let person = Person::new(&format!("t07-timed-{user}"), &[]);
        known.extend((0..9).map(|_| person.another_key(&json!({})).split_once(':').unwrap().0.to_owned()));
    }
    let mut times: [Vec<Duration>; 2] = Default::default();
    for round in 0..4 {
        for (number, id) in known.iter().enumerate() {
            let stranger = Stranger::new();
            assert_eq!(stranger.get(&format!("{}/v2/", Cluster::shared().node(1)), None).status, 401, "connected");
            let unknown = format!("PTLN{:016}", 1_000 + number);
            let mut ids = [(0, id.as_str()), (1, unknown.as_str())];
            ids.rotate_left((round + number) % 2);
            for (which, id) in ids {
                let begun = Instant::now();
                assert_eq!(stranger.login(id, "a-secret-that-is-wrong-but-as-long-as-one"), 401);
                times[which].push(begun.elapsed());
            }
        }
    }
    let [known, unknown] = times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    });
    let allowed = Duration::from_millis(1).max(known.min(unknown) / 2);
    assert!(known.abs_diff(unknown) < allowed, "known {known:?}, unknown {unknown:?}");
}

/// The value of a metric of a node of the shared cluster, over all its labels.
fn metric(node: u8, name: &str) -> f64 {
    let url = format!("{}/metrics", Cluster::shared().admin(node));
    let text = http::request("GET", &url).key(&Cluster::shared().key()).send().text();
    let lines = text.lines().filter(|line| line.starts_with(name) && line[name.len()..].starts_with(['{', ' ']));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

// T8: guessing is slowed down more and more, by account and by address, counted and written down; the owner at an
// address of its own is not slowed, and nobody is locked out.
#[test]
fn t08_guessing() {
    let ann = Person::new("t08-ann", &[]);
    let (secret, owner, guesser) = (ann.key.split_once(':').unwrap().1, Stranger::new(), Stranger::new());
    assert_eq!(owner.login(ann.key_id(), secret), 200);
    let (delayed, refused) = (metric(1, "portolan_auth_delayed_total"), metric(1, "portolan_auth_refused_total"));
    let timed = |stranger: &Stranger, secret: &str| {
        let begun = Instant::now();
        (stranger.login(ann.key_id(), secret), begun.elapsed())
    };
    let tries: Vec<(u16, Duration)> = (0..9).map(|guess| timed(&guesser, &format!("guess-{guess}"))).collect();
    assert!(tries.iter().all(|(status, _)| *status == 401), "{tries:?}");
    assert!(tries[8].1 >= Duration::from_millis(400), "100 ms from the seventh on, doubled with each: {tries:?}");
    assert!(metric(1, "portolan_auth_delayed_total") >= delayed + 3.0);
    assert!(metric(1, "portolan_auth_refused_total") >= refused + 9.0);
    let from = format!(" address={} ", guesser.address);
    let written =
        |line: &&str| line.contains("action=\"login\"") && line.contains(&from) && line.contains(ann.key_id());
    assert_eq!(log_of(1).lines().filter(written).count(), 9, "each failure is a record of the audit");
    let (status, took) = timed(&owner, secret);
    assert!(status == 200 && took < Duration::from_millis(700), "the owner: {status} after {took:?}");
    let (status, took) = timed(&guesser, secret);
    assert!(status == 200 && took >= Duration::from_millis(700), "late, but it works: {status} after {took:?}");
}

// T9: no name and password that anybody could guess works; what one node gives every other takes, for the secrets are
// the cluster's.
#[test]
fn t09_no_default_and_one_secret() {
    for (user, password) in [
        ("root", "root"),
        ("root", "password"),
        ("root", "portolan"),
        ("admin", "admin"),
        ("anonymous", "anonymous"),
        ("AWS", "password"),
    ] {
        assert_eq!(Stranger::new().login(user, password), 401, "{user}");
    }
    let root_id = Cluster::shared().key().split_once(':').unwrap().0.to_owned();
    for password in [root_id.as_str(), "root", "0", " "] {
        assert_eq!(Stranger::new().login(&root_id, password), 401, "{password:?}");
    }
    let ann = Person::new("t09-ann", &["read,write,create:t09/app"]);
    for giver in nodes() {
        let url = format!("{}/v2/token?scope=repository:t09/app:pull", Cluster::shared().node(giver));
        let given = http::request("GET", &url).key(&ann.key).send().json()["token"].as_str().unwrap().to_owned();
        let begun = ann.repo("t09/app").behind(&Cluster::shared().node(giver)).begin();
        for taker in nodes() {
            assert_eq!(with(taker, &bearer(&given)).status, 200, "token of {giver} at {taker}");
            let at = ann.repo("t09/app").behind(&Cluster::shared().node(taker));
            assert_eq!(at.follow("GET", &begun).send().status, 204, "upload of {giver} at {taker}");
        }
    }
}

/// Every file below a directory.
fn files(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

// T10, T11, T23: secrets that were used in every way there is stand in no log, no metric, no answer but the one that
// made them, no argument of a process and no file of the store, neither as they are nor as they were sent.
#[test]
fn t10_planted_secrets_are_nowhere() {
    let cluster = Cluster::shared();
    let ann = Person::new("t10-ann", &["read,write,create:t10/app"]);
    let app = ann.repo("t10/app");
    app.stored("v1", IMAGE, app.image(b"t10").to_string());
    let secret = ann.key.split_once(':').unwrap().1.to_owned();
    let given = ann.token("repository:t10/app:pull,push");
    let ann_basic = data_encoding::BASE64.encode(ann.key.as_bytes());
    // a password in the wrong place: as a user, in a query, in a path, in headers and bodies that make no sense
    let planted = |place: &str| format!("PLANTEDxT10x{place}x0123456789abcdef");
    let places = ["user", "password", "bearer", "query", "cookie", "body", "scheme", "forwarded", "policy", "proxy"];
    let words: BTreeMap<&str, String> = places.iter().map(|place| (*place, planted(place))).collect();
    let stranger = Stranger::new();
    let base = cluster.node(1);
    assert_eq!(stranger.login(&words["user"], "x"), 401);
    assert_eq!(stranger.login(ann.key_id(), &words["password"]), 401);
    stranger.get(&format!("{base}/v2/"), Some(&bearer(&words["bearer"])));
    stranger.get(&format!("{base}/v2/"), Some(&format!("{} {}", words["scheme"], words["scheme"])));
    stranger.get(&format!("{base}/v2/t10/app/tags/list?X-Amz-Signature={}&n=x", words["query"]), None);
    let request =
        http::request("GET", &format!("{base}/v2/t10/app/tags/list")).header("Authorization", &bearer(&given));
    request.header("Cookie", &words["cookie"]).header("Proxy-Authorization", &words["proxy"]).send();
    let request = http::request("GET", &format!("{base}/v2/")).header("X-Forwarded-Access-Token", &words["forwarded"]);
    request.send();
    json_to(admin("POST", "/v1/users"), &json!({ "name": "t10-eve", "password": words["body"] }));
    json_to(admin("PATCH", &ann.path("")), &json!({ "enabled": words["body"] }));
    json_to(admin("PUT", &ann.path("/policies/p")), &json!({ "secret": words["policy"] }));
    let upload = app.begin();
    app.follow("PATCH", &upload).body("t10").send();
    let upload_token = upload.rsplit('/').next().unwrap();
    // who made it is the only one who was ever shown a secret
    let answers = [
        admin("GET", &ann.path("")).send(),
        admin("GET", &ann.path("/keys")).send(),
        admin("GET", "/v1/users").send(),
        admin("GET", "/v1/cluster").send(),
        admin("GET", "/metrics").send(),
        as_admin("GET", "/v1/whoami").key(&ann.key).send(),
        with(1, &bearer(&words["bearer"])),
    ];
    for answer in &answers {
        for secret in [&secret, &given, &cluster.key().split_once(':').unwrap().1.to_owned()] {
            assert!(!answer.text().contains(secret.as_str()), "{}", answer.text());
        }
    }
    let keys = answers[1].json();
    let mut fields: Vec<&String> = keys["keys"][0].as_object().unwrap().keys().collect();
    fields.sort();
    assert_eq!(fields, ["created_at", "enabled", "expires_at", "fingerprint", "key_id"]);
    let root_secret = cluster.key().split_once(':').unwrap().1.to_owned();
    let mut needles: Vec<(&str, String)> = vec![
        ("a secret", secret.clone()),
        ("a credential as sent", ann_basic),
        ("a token", given),
        ("a token of an upload", upload_token.to_owned()),
        ("the root secret", root_secret.clone()),
        ("the root credential as sent", data_encoding::BASE64.encode(cluster.key().as_bytes())),
    ];
    needles.extend(words.iter().map(|(place, word)| (*place, word.clone())));
    let is_in = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|found| found == text.as_bytes());
    for node in nodes() {
        let log = log_of(node);
        for (what, text) in &needles {
            if let Some(line) = log.lines().find(|line| line.contains(text.as_str())) {
                panic!("{what} stands in the log of node {node}: {line}");
            }
        }
        let command_line = std::fs::read(format!("/proc/{}/cmdline", cluster.pid(node).unwrap())).unwrap();
        let environment = std::fs::read(format!("/proc/{}/environ", cluster.pid(node).unwrap())).unwrap();
        for text in [&secret, &root_secret] {
            assert!(!is_in(&command_line, text) && !is_in(&environment, text));
        }
        for path in files(&cluster.node_dir(node).join("data")) {
            // a file of a compaction may go while it is looked for
            let Ok(bytes) = std::fs::read(&path) else { continue };
            for (what, text) in [("a secret", &secret), ("the root secret", &root_secret)] {
                assert!(!is_in(&bytes, text), "{what} stands in the clear in {}", path.display());
            }
        }
    }
    // what the binary says of a configuration with a secret in it
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_portolan"));
    let dir = tempfile::tempdir().unwrap();
    command.args(["config", "print-effective", "--data-dir", dir.path().to_str().unwrap()]);
    let shown =
        command.env("PORTOLAN_AUTH_ROOT_KEY", format!("PTLNPLANTEDPLANTED00:{}", planted("env"))).output().unwrap();
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    assert!(!is_in(&shown.stdout, &planted("env")) && !is_in(&shown.stderr, &planted("env")));
    let help = portolan(&["server", "--help"]);
    assert!(help.status.success() && !is_in(&help.stdout, &root_secret));
}

// T14, T15: a sealed text does for what it was made and for nothing else: no token of an upload is a bearer token, no
// bearer token is an upload, and neither moves to another repository, principal or digest.
#[test]
fn t14_t15_sealed_texts_do_not_mix() {
    let ann = Person::new("t14-ann", &["read,write,create:t14/*"]);
    let app = ann.repo("t14/app");
    let appended = app.follow("PATCH", &app.begin()).body("t14").send();
    let upload = appended.header("location").rsplit('/').next().unwrap().to_owned();
    let given = ann.token("repository:t14/app:pull,push");
    assert_eq!(with(1, &bearer(&upload)).status, 401);
    let digest = Digest::sha256(b"t14");
    for (what, name, token) in [
        ("a bearer token", "t14/app", given.clone()),
        ("two of them", "t14/app", format!("{upload}{given}")),
        ("its first half", "t14/app", upload[..upload.len() / 2].to_owned()),
        ("another repository", "t14/ap", upload.clone()),
        ("another repository", "t14/app/p", upload.clone()),
    ] {
        app.named(name).blob(LAYER, b"it is there");
        let path = format!("blobs/uploads/{token}?digest={digest}");
        assert_eq!(told(&app.named(name).request("PUT", &path).send()), no(404, "BLOB_UPLOAD_UNKNOWN"), "{what}");
    }
    let other = Digest::sha256(b"other");
    let wrong = app.request("PUT", &format!("blobs/uploads/{upload}?digest={other}")).send();
    assert_eq!(told(&wrong), no(400, "DIGEST_INVALID"));
}

// T19: what a client says of itself in proxy headers counts for nothing, neither for policies nor in the audit, nor in
// the links and challenges it is answered with.
#[test]
fn t19_proxy_headers_of_a_client() {
    let ann = Person::new("t19-ann", &[]);
    let policy = json!({ "Version": "2012-10-17", "Statement": { "Effect": "Allow", "Action": "ecr:*",
        "Resource": "arn:aws:ecr:*:*:repository/t19/*",
        "Condition": { "IpAddress": { "aws:SourceIp": "192.0.2.0/24" }, "Bool": { "aws:SecureTransport": "true" } } } });
    changed("PUT", &ann.path("/policies/inside"), &policy);
    Repo::shared("t19/app").blob(LAYER, b"t19");
    let url = format!("{}/v2/t19/app/tags/list", Cluster::shared().node(1));
    let forged = [
        ("X-Forwarded-For", "192.0.2.7"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Real-IP", "192.0.2.7"),
        ("Forwarded", "for=192.0.2.7;proto=https;host=evil.example"),
        ("X-Forwarded-User", "root"),
        ("X-Remote-User", "root"),
        ("X-Request-Id", "t19-chosen-by-a-client"),
    ];
    let ask = |key: Option<&str>| {
        let request = key.into_iter().fold(http::request("GET", &url), |request, key| request.key(key));
        forged.iter().fold(request, |request, (name, value)| request.header(name, value)).send()
    };
    let answer = ask(Some(&ann.key));
    assert_eq!(told(&answer), no(404, "NAME_UNKNOWN"), "the condition is judged by the socket's address");
    assert_ne!(answer.header("x-request-id"), "t19-chosen-by-a-client");
    let id = format!("request_id=\"{}\"", answer.header("x-request-id"));
    let record = log_of(1).lines().find(|line| line.contains(&id)).unwrap().to_owned();
    assert!(record.contains("address=127.0.0.1") && !record.contains("192.0.2.7"), "{record}");
    let challenge = ask(None);
    assert_eq!(challenge.status, 401);
    let header = challenge.header("www-authenticate");
    assert!(header.contains(&format!("realm=\"{}/v2/token\"", Cluster::shared().node(1))), "{header}");
}

// T23: a key ends when it was said to, dies with its owner, is shown without its secret, and is known on every node.
#[test]
fn t23_keys_end_and_die() {
    let ann = Person::new("t23-ann", &[]);
    let status = |key: &str, node: u8| {
        http::request("GET", &format!("{}/v2/", Cluster::shared().node(node))).key(key).send().status
    };
    let short = ann.another_key(&json!({ "lifetime_s": 6 }));
    let given = token(&short, "");
    for node in nodes() {
        assert_eq!((status(&short, node), status(&ann.key, node)), (200, 200));
    }
    let listed = admin("GET", &ann.path("/keys")).send().json();
    let of = |key: &str| {
        let id = key.split_once(':').unwrap().0;
        listed["keys"].as_array().unwrap().iter().find(|listed| listed["key_id"] == id).unwrap().clone()
    };
    assert!(of(&short)["expires_at"].is_string() && of(&ann.key)["expires_at"].is_null(), "{listed}");
    std::thread::sleep(Duration::from_millis(6500));
    for node in nodes() {
        assert_eq!((status(&short, node), status(&ann.key, node)), (401, 200));
        assert_eq!(with(node, &bearer(&given)).status, 401, "what it was given ends with it");
    }
    for wish in [json!({ "lifetime_s": 0 }), json!({ "lifetime_s": -1 }), json!({ "lifetime_s": "1" })] {
        assert_eq!(json_to(admin("POST", &ann.path("/keys")), &wish).status, 400, "{wish}");
    }
    changed("DELETE", &ann.path(""), &json!({}));
    for node in nodes() {
        assert_eq!(status(&ann.key, node), 401, "it died with its owner");
    }
    changed("POST", "/v1/users", &json!({ "name": "t23-ann" }));
    for node in nodes() {
        assert_eq!(status(&ann.key, node), 401, "and does not live on under the same name");
    }
}
