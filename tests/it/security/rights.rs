//! Security cases A12 to A28: whoever may do one thing may do that, on every route, by every credential, on every node.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use registry_core::vocabulary::Digest;
use serde_json::{Value, json};

use super::people::{Person, Stranger, admin, as_admin, bearer, changed, json_to};
use super::repo::{IMAGE, LAYER, Repo, no, noise, told};
use super::routes::{self, Parts};
use super::wire;
use crate::support::Cluster;
use crate::support::http::{self, Answer, Request};

/// How long a withdrawn right may still serve pulls by digest: the published 60 s, and a busy machine.
const BOUND: Duration = Duration::from_secs(75);

fn nodes() -> impl Iterator<Item = u8> {
    1..=3
}

/// Repeats until it holds on every node, within the published bound.
fn soon(what: &str, mut holds: impl FnMut(&str) -> bool) {
    let until = Instant::now() + BOUND;
    for node in nodes() {
        while !holds(&Cluster::shared().node(node)) {
            assert!(Instant::now() < until, "{what} on node {node}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A request to the admin listener as a user.
fn as_user(person: &Person, method: &str, path: &str) -> Request {
    as_admin(method, path).key(&person.key)
}

// A12: an object is found by its owner and its id together: another owner's key or policy on one's route is not there,
// for an administrator as well, and nothing happens to it.
#[test]
fn a12_object_on_another_owners_route() {
    let (ann, bob) = (Person::new("a12-ann", &["read:a12/*"]), Person::new("a12-bob", &["read:a12/*"]));
    let policy =
        json!({ "Version": "2012-10-17", "Statement": { "Effect": "Allow", "Action": "ecr:*", "Resource": "*" } });
    changed("PUT", &bob.path("/policies/a12"), &policy);
    let key = ann.path(&format!("/keys/{}", bob.key_id()));
    for (method, path, document) in [
        ("PATCH", &key, json!({ "enabled": false })),
        ("DELETE", &key, json!({})),
        ("DELETE", &ann.path("/policies/a12"), json!({})),
    ] {
        let answer = json_to(admin(method, path), &document);
        assert_eq!(answer.status, 404, "{method} {path}: {}", answer.text());
    }
    assert_eq!(as_user(&bob, "GET", "/v1/whoami").send().status, 200, "the key works as before");
    let policies = admin("GET", &bob.path("/policies")).send().json();
    assert!(policies["policies"].as_array().unwrap().iter().any(|policy| policy["name"] == "a12"), "{policies}");
}

// A13: whoever may do everything with the images of a project changes no setting of it and no user, through no
// endpoint: not by the settings, not by making it again, not by a push.
#[test]
fn a13_settings_by_a_side_door() {
    changed("POST", "/v1/repositories", &json!({ "name": "a13/app", "settings": { "mutability": "immutable" } }));
    let ann = Person::new("a13-ann", &["read,append,write,delete,create:a13/*"]);
    let settings = || admin("GET", "/v1/repositories/a13/app").send().json()["settings"].clone();
    let before = settings();
    for (method, path, document, want) in [
        ("PATCH", "/v1/repositories/a13/app", json!({ "mutability": "mutable" }), 403),
        ("PATCH", "/v1/repositories/a13/app", json!({ "sparse": true }), 403),
        ("PATCH", "/v1/repositories/a13/app", json!({ "quota": { "bytes": null } }), 403),
        ("POST", "/v1/repositories", json!({ "name": "a13/new", "quota": { "bytes": 1 } }), 403),
        ("PATCH", "/v1/registry", json!({ "quota": { "bytes": null } }), 403),
        ("POST", "/v1/repositories", json!({ "name": "a13/app", "settings": { "mutability": "mutable" } }), 409),
        ("DELETE", "/v1/repositories/a13/app", json!({}), 403),
        ("DELETE", "/v1/repositories/a13/app?force=true", json!({}), 403),
        ("PUT", "/v1/users/a13-ann/grants", json!({ "grants": ["read:*"] }), 403),
        ("PUT", "/v1/users/anonymous/grants", json!({ "grants": ["read:*"] }), 403),
        ("POST", "/v1/users", json!({ "name": "a13-eve" }), 403),
        ("POST", "/v1/users/root/keys", json!({}), 403),
        ("POST", "/v1/users/a13-ann/keys", json!({}), 403),
        ("POST", "/v1/explain", json!({ "principal": "root", "action": "ecr:PutImage" }), 403),
        ("POST", "/v1/cluster/transfer", json!({ "to": "0000000000000001" }), 403),
        ("DELETE", "/v1/cluster/nodes/0000000000000001", json!({}), 403),
        ("DELETE", "/v1/cluster/nodes/0000000000000001?force=true", json!({}), 403),
        ("POST", "/v1/cluster/nodes/0000000000000001/drain", json!({}), 403),
        ("GET", "/v1/repair", json!({}), 403),
    ] {
        let answer = json_to(as_user(&ann, method, path), &document);
        assert_eq!(answer.status, want, "{method} {path} {document}: {}", answer.text());
    }
    assert_eq!(settings(), before);
    assert_eq!(admin("GET", "/v1/users/a13-eve").send().status, 404);
}

// A14: a body that names what a caller does not set is refused, and nothing of it is done.
#[test]
fn a14_mass_assignment() {
    let ann = Person::new("a14-ann", &["read:a14/*"]);
    changed("POST", "/v1/repositories", &json!({ "name": "a14/app" }));
    let key = ann.path(&format!("/keys/{}", ann.key_id()));
    for (method, path, document) in [
        ("POST", "/v1/users", json!({ "name": "a14-eve", "admin": true })),
        ("POST", "/v1/users", json!({ "name": "a14-eve", "root": true })),
        ("POST", "/v1/users", json!({ "name": "a14-eve", "kind": "root", "registry": "000000000001" })),
        ("PATCH", &ann.path(""), json!({ "enabled": true, "root": true })),
        ("PATCH", &ann.path(""), json!({ "enabled": true, "name": "root" })),
        ("POST", &ann.path("/keys"), json!({ "user": "root" })),
        ("POST", &ann.path("/keys"), json!({ "secret": "chosen" })),
        ("PATCH", &key, json!({ "enabled": true, "user": "root" })),
        ("PATCH", &key, json!({ "enabled": true, "expires_at": null })),
        ("PUT", &ann.path("/grants"), json!({ "grants": [], "admin": true })),
        ("POST", "/v1/repositories", json!({ "name": "a14/new", "created_by": "root" })),
        (
            "POST",
            "/v1/repositories",
            json!({ "name": "a14/new", "settings": { "mutability": "mutable", "owner": "x" } }),
        ),
        ("PATCH", "/v1/repositories/a14/app", json!({ "sparse": true, "id": "0" })),
        ("POST", "/v1/explain", json!({ "principal": "root", "action": "ecr:PutImage", "as": "root" })),
        ("POST", "/v1/cluster/transfer", json!({ "to": "0000000000000001", "force": true })),
    ] {
        let answer = json_to(admin(method, path), &document);
        assert_eq!(answer.status, 400, "{method} {path} {document}: {}", answer.text());
        assert!(answer.text().contains("unknown field"), "{}", answer.text());
    }
    for (method, path, text) in [
        ("PATCH", ann.path(""), r#"{"enabled":true,"enabled":false}"#),
        ("POST", "/v1/users".to_owned(), r#"{"name":"a14-eve"} {"name":"a14-eve"}"#),
        ("POST", "/v1/users".to_owned(), r#"["a14-eve"]"#),
    ] {
        let answer = admin(method, &path).header("Content-Type", "application/json").body(text).send();
        assert_eq!(answer.status, 400, "{method} {path} {text}: {}", answer.text());
    }
    let shown = admin("GET", &ann.path("")).send().json();
    assert_eq!((&shown["root"], &shown["enabled"]), (&json!(false), &json!(true)));
    assert_eq!(admin("GET", "/v1/users/a14-eve").send().status, 404);
    assert_eq!(admin("GET", "/v1/repositories/a14/new").send().status, 404);
    assert_eq!(admin("GET", "/v1/repositories/a14/app").send().json()["settings"]["sparse"], false);
    let keys = admin("GET", &ann.path("/keys")).send().json();
    assert_eq!(keys["keys"].as_array().unwrap().len(), 1, "{keys}");
}

/// A user with a token, and what both may read.
struct Reader {
    person: Person,
    token: String,
    repo: Repo,
    digest: Digest,
}

impl Reader {
    fn new(case: &str) -> Reader {
        let person = Person::new(&format!("{case}-ann"), &[&format!("read:{case}/app")]);
        let owner = Repo::shared(&format!("{case}/app"));
        let digest = owner.stored("v1", IMAGE, owner.image(&noise(130, 500)).to_string());
        let token = person.token(&format!("repository:{case}/app:pull"));
        Reader { repo: person.repo(&format!("{case}/app")), person, token, digest }
    }

    /// The statuses of a pull, with the key and with the token.
    fn pulls(&self, base: &str, reference: &str) -> [u16; 2] {
        let url = format!("{base}/v2/{}/manifests/{reference}", self.repo.name);
        let by_key = http::request("GET", &url).key(&self.person.key).send();
        let by_token = http::request("GET", &url).header("Authorization", &bearer(&self.token)).send();
        [by_key.status, by_token.status]
    }

    /// Both are refused: by tag on every node at once, by digest within the published bound.
    fn is_refused(&self, what: &str, status: u16) {
        for node in nodes() {
            let base = Cluster::shared().node(node);
            assert_eq!(self.pulls(&base, "v1"), [status; 2], "{what} on node {node}");
        }
        let digest = self.digest.to_string();
        soon(what, |base| self.pulls(base, &digest) == [status; 2]);
    }

    fn is_served(&self, what: &str) {
        for node in nodes() {
            let base = Cluster::shared().node(node);
            assert_eq!(self.pulls(&base, "v1"), [200; 2], "{what} on node {node}");
            assert_eq!(self.pulls(&base, &self.digest.to_string()), [200; 2], "{what} on node {node}");
        }
    }
}

// A16: a key or a token of a user that is disabled or deleted, or whose key is, stops working on every node: at once
// for what is read linearizably, within the published bound for pulls by digest.
#[test]
fn a16_disabled_and_deleted() {
    let reader = Reader::new("a16");
    let ann = &reader.person;
    reader.is_served("at first");
    let key = ann.path(&format!("/keys/{}", ann.key_id()));
    for path in [ann.path(""), key.clone()] {
        changed("PATCH", &path, &json!({ "enabled": false }));
        reader.is_refused(&format!("disabled: {path}"), 401);
        changed("PATCH", &path, &json!({ "enabled": true }));
        soon("enabled again", |base| reader.pulls(base, &reader.digest.to_string()) == [200; 2]);
    }
    reader.is_served("enabled again");
    changed("DELETE", &key, &json!({}));
    reader.is_refused("its key is deleted", 401);
    let another = ann.another_key(&json!({}));
    let url = format!("{}/v2/", Cluster::shared().node(2));
    assert_eq!(http::request("GET", &url).key(&another).send().status, 200);
    changed("DELETE", &ann.path(""), &json!({}));
    assert_eq!(http::request("GET", &url).key(&another).send().status, 401, "the user is deleted");
}

/// What a walk over the routes expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// Answered.
    Yes,
    /// 401 or 403.
    No,
    /// 404.
    Missing,
}

fn seen(answer: &Answer) -> Seen {
    match answer.status {
        200..300 => Seen::Yes,
        401 | 403 => Seen::No,
        404 => Seen::Missing,
        status => panic!("{status}: {}", answer.text()),
    }
}

// A17: a narrow credential is narrow on every route of both listeners, however it is sent: a token to pull from one
// repository, and the key of somebody who may only read it.
#[test]
fn a17_narrow_credentials_on_every_route() {
    let bob = Person::new("a17-bob", &["read,write,delete,create:a17/*"]);
    let ann = Person::new("a17-ann", &["read:a17/one"]);
    let token = bob.token("repository:a17/one:pull");
    let mut ready = Vec::new();
    for name in ["a17/one", "a17/two"] {
        let repo = bob.repo(name);
        let digest = repo.stored("v1", IMAGE, repo.image(&noise(140, 700)).to_string()).to_string();
        let location = repo.begin();
        let upload = location.rsplit('/').next().unwrap().to_owned();
        ready.push((name, digest, Digest::sha256(&noise(140, 700)).to_string(), upload));
    }
    for (name, digest, blob, upload) in &ready {
        let parts = Parts { name, tag: "v1", digest, blob, upload };
        for (label, method, path) in routes::public() {
            let url = format!("{}{}", Cluster::shared().node(1), parts.fill(path));
            let is_read = matches!(method, "GET" | "HEAD") && label != "upload";
            let with = |authorization: &str| http::request(method, &url).header("Authorization", authorization).send();
            let by_token = seen(&with(&bearer(&token)));
            let want = match label {
                "base" => Seen::Yes,
                "token" | "catalog" => Seen::No,
                _ if is_read && *name == "a17/one" => Seen::Yes,
                _ => Seen::No,
            };
            assert_eq!(by_token, want, "token: {method} {url}");
            let by_key = seen(&http::request(method, &url).key(&ann.key).send());
            let want = match label {
                "base" | "token" | "catalog" => Seen::Yes,
                // of what she may not see there are no referrers, as of what does not exist
                "referrers" => Seen::Yes,
                _ if *name == "a17/two" => Seen::Missing,
                _ if is_read => Seen::Yes,
                _ => Seen::No,
            };
            assert_eq!(by_key, want, "key: {method} {url}");
        }
    }
    for (method, path) in routes::admin() {
        let path = path.replace("{user}", "root").replace("{key}", "x").replace("{policy}", "x").replace("{id}", "0");
        let path = path.replace("/history/{*name}", "/history/a17/one?at=2026-01-02");
        let path = path.replace("/images/{*name}", "/images/a17/one?reference=v1").replace("{*name}", "a17/one");
        let open = routes::OPEN.contains(&path.as_str());
        let by_token = json_to(as_admin(&method, &path).header("Authorization", &bearer(&token)), &json!({}));
        assert_eq!(by_token.status, if open { 200 } else { 401 }, "token: {method} {path}: {}", by_token.text());
        let by_key = json_to(as_user(&ann, &method, &path), &body_for(&path));
        let hers = [
            "/v1/whoami",
            "/v1/repositories",
            "/v1/repositories/a17/one",
            "/v1/history/a17/one?at=2026-01-02",
            "/v1/replication/images/a17/one?reference=v1",
        ];
        let may = open || hers.contains(&path.as_str());
        let want = match (method.as_str(), path.as_str()) {
            ("GET", _) if may => Seen::Yes,
            // a repository that she may not make does not exist for her
            ("POST", "/v1/repositories") => Seen::Missing,
            _ => Seen::No,
        };
        assert_eq!(seen(&by_key), want, "key: {method} {path}: {}", by_key.text());
    }
    // a token in the place of a password, and two credentials at once, are no credential
    let stranger = Stranger::new();
    assert_eq!(stranger.login(bob.key_id(), &token), 401);
    assert_eq!(stranger.login("token", &token), 401);
    let url = format!("{}/v2/a17/one/manifests/v1", Cluster::shared().node(1));
    let both = http::request("GET", &url).key(&bob.key).header("Authorization", &bearer(&token)).send();
    assert_eq!(both.status, 401);
    for query in [format!("?token={token}"), format!("?access_token={token}")] {
        assert_eq!(http::request("GET", &format!("{url}{query}")).send().status, 401, "{query}");
    }
    for (name, ..) in &ready {
        assert_eq!(bob.repo(name).get("manifests/v1").status, 200, "nothing was changed");
    }
}

/// A body that the route would take from who may.
fn body_for(path: &str) -> Value {
    match path {
        "/v1/users" => json!({ "name": "a17-eve" }),
        "/v1/repositories" => json!({ "name": "a17/new" }),
        "/v1/explain" => json!({ "principal": "root", "action": "ecr:PutImage" }),
        "/v1/cluster/transfer" => json!({ "to": "0000000000000001" }),
        "/v1/cluster/join" => json!({ "seeds": ["127.0.0.1:1"] }),
        path if path.ends_with("/grants") => json!({ "grants": ["read:*"] }),
        path if path.starts_with("/v1/repositories/") => json!({ "sparse": true }),
        path if path.ends_with("/root") || path.contains("/keys/") => json!({ "enabled": true }),
        _ => json!({}),
    }
}

// A18: a token holds what was asked for and what its owner may, never more; and nothing makes a token or a key from a
// token.
#[test]
fn a18_token_from_a_token() {
    let ann = Person::new("a18-ann", &["read:a18/app"]);
    let owner = Repo::shared("a18/app");
    owner.stored("v1", IMAGE, owner.image(b"a18").to_string());
    let wide = ann.token("repository:a18/app:pull,push,delete repository:a18/other:* registry:catalog:*");
    let with = |method: &str, path: &str| {
        let url = format!("{}/v2/{path}", Cluster::shared().node(2));
        http::request(method, &url).header("Authorization", &bearer(&wide)).send()
    };
    assert_eq!(with("GET", "a18/app/manifests/v1").status, 200);
    assert_eq!(told(&with("DELETE", "a18/app/manifests/v1")), no(403, "DENIED"));
    assert_eq!(told(&with("POST", "a18/app/blobs/uploads/")), no(403, "DENIED"));
    assert_eq!(told(&with("GET", "a18/other/tags/list")), no(404, "NAME_UNKNOWN"));
    let narrow = ann.token("repository:a18/app:pull");
    for token in [&wide, &narrow] {
        for path in ["token", "token?scope=repository:a18/app:pull", "token?scope=repository:a18/app:pull,push"] {
            let url = format!("{}/v2/{path}", Cluster::shared().node(1));
            let answer = http::request("GET", &url).header("Authorization", &bearer(token)).send();
            assert_eq!(told(&answer), no(401, "UNAUTHORIZED"), "{path}");
            assert!(answer.header("www-authenticate").starts_with("Basic "), "it asks for a key");
        }
        let key = json_to(as_admin("POST", &ann.path("/keys")).header("Authorization", &bearer(token)), &json!({}));
        assert_eq!(key.status, 401);
    }
}

/// What differs from answer to answer by nature, taken out.
fn faceless(answer: &Answer, name: &str) -> (u16, Vec<(String, String)>, String) {
    let varies = ["date", "x-request-id", "portolan-revision"];
    let headers = answer.headers.iter().filter(|(header, _)| !varies.contains(&header.as_str()));
    let mut headers: Vec<_> =
        headers.map(|(header, value)| (header.to_string(), value.to_str().unwrap().replace(name, "NAME"))).collect();
    headers.sort();
    (answer.status, headers, answer.text().replace(name, "NAME"))
}

// A19: what a caller may not see answers as what does not exist, to the byte, on every route, and no list, page border
// or cursor tells of it.
#[test]
fn a19_hidden_is_missing() {
    let secret = Repo::shared("a19/secret");
    let digest = secret.stored("v1", IMAGE, secret.image(b"a19").to_string()).to_string();
    let blob = Digest::sha256(b"a19").to_string();
    let (ann, nobody) = (Person::new("a19-ann", &["read,write,delete,create:a19/mine*"]), None);
    for key in [Some(&ann.key), nobody] {
        for (label, method, path) in routes::public().filter(|(_, _, path)| path.contains("{name}")) {
            let ask = |name: &str| {
                let parts = Parts { name, tag: "v1", digest: &digest, blob: &blob, upload: "AQGOk3SK" };
                let request = http::request(method, &format!("{}{}", Cluster::shared().node(1), parts.fill(path)));
                let request = if let Some(key) = key { request.key(key) } else { request };
                faceless(&request.send(), name)
            };
            assert_eq!(ask("a19/secret"), ask("a19/absent"), "{label}: {method} {path}");
        }
        for (method, path) in [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("DELETE", "?force=true")] {
            let ask = |name: &str| {
                let request = as_admin(method, &format!("/v1/repositories/{name}{path}"));
                let request = if let Some(key) = key { request.key(key) } else { request };
                faceless(&json_to(request, &json!({})), name)
            };
            assert_eq!(ask("a19/secret"), ask("a19/absent"), "{method} {path}");
        }
    }
    // hidden names among visible ones: the pages are those of a registry without them
    for number in 0..4 {
        Repo::shared(&format!("a19/mine-{number}/x")).blob(LAYER, b"x");
        Repo::shared(&format!("a19/mine-{number}")).blob(LAYER, b"x");
        Repo::shared(&format!("a19/hidden-{number}")).blob(LAYER, b"x");
    }
    let bob = Person::new("a19-bob", &["read:a19/mine-?"]);
    let mut pages = Vec::new();
    // what anybody may read stands before these names
    let mut next = "/v2/_catalog?n=3&last=a19".to_owned();
    while !next.is_empty() {
        let answer = http::request("GET", &format!("{}{next}", Cluster::shared().node(3))).key(&bob.key).send();
        let link = answer.header("link");
        next = link.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
        assert!(!link.contains("hidden") && !link.contains("%2Fx"), "{link}");
        pages.push(answer.json()["repositories"].clone());
    }
    let want = [json!(["a19/mine-0", "a19/mine-1", "a19/mine-2"]), json!(["a19/mine-3"])];
    assert_eq!(pages, want);
    let first = as_user(&bob, "GET", "/v1/repositories?n=4&after=a19").send().json();
    assert_eq!(
        first,
        json!({ "repositories": ["a19/mine-0", "a19/mine-1", "a19/mine-2", "a19/mine-3"], "more": false })
    );
    // a cursor may be the name of something hidden: the page behind it is the same as behind one that does not exist
    let behind = |last: &str| {
        let url = format!("{}/v2/_catalog?last={last}", Cluster::shared().node(1));
        http::request("GET", &url).key(&bob.key).send().text()
    };
    assert_eq!(behind("a19/hidden-3"), behind("a19/hidden-4"));
}

/// Headers that an answer of the public listener may have.
const HEADERS: [&str; 25] = [
    "accept-ranges",
    "allow",
    "cache-control",
    "connection",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "docker-content-digest",
    "docker-distribution-api-version",
    "docker-upload-uuid",
    "etag",
    "link",
    "location",
    "oci-chunk-min-length",
    "oci-filters-applied",
    "oci-subject",
    "oci-tag",
    "portolan-revision",
    "range",
    "retry-after",
    "transfer-encoding",
    "www-authenticate",
    "x-content-type-options",
    "x-request-id",
];

// A20: answers carry headers of a short list, on every route, and none of them, nor any body, has a name of another
// repository, of a node or of a file in it.
#[test]
fn a20_headers_give_nothing_away() {
    let layer = noise(150, 3000);
    let secret = Repo::shared("a20-secret/app");
    let body = secret.image(&layer).to_string();
    secret.stored("v1", IMAGE, body.clone());
    let ann = Person::new("a20-ann", &["read,write,delete,create:a20/*"]);
    let mine = ann.repo("a20/app");
    mine.image(&layer);
    let digest = mine.stored("v1", IMAGE, body.clone()).to_string();
    let data = Cluster::shared().node_dir(1).display().to_string();
    let mut seen = BTreeSet::new();
    let mut check = |what: &str, answer: &Answer| {
        for (header, value) in &answer.headers {
            assert!(HEADERS.contains(&header.as_str()), "{what}: {header}");
            let value = value.to_str().unwrap();
            for word in ["a20-secret", &data, "blobs/aa", "staging"] {
                assert!(!value.contains(word), "{what}: {header}: {value}");
            }
            seen.insert(header.to_string());
        }
        for word in ["a20-secret", &data] {
            assert!(!answer.text().contains(word), "{what}: {}", answer.text());
        }
    };
    let blob = Digest::sha256(&layer).to_string();
    for node in nodes() {
        let base = Cluster::shared().node(node);
        for (label, method, path) in routes::public().filter(|(_, method, _)| *method != "DELETE") {
            let location = mine.behind(&base).begin();
            let upload = location.rsplit('/').next().unwrap();
            for (tag, name) in [("v1", "a20/app"), ("v2", "a20/app"), ("v1", "a20/none")] {
                let parts = Parts { name, tag, digest: &digest, blob: &blob, upload };
                let url = format!("{base}{}", parts.fill(path));
                let request = http::request(method, &url).key(&ann.key).header("Content-Type", IMAGE);
                let sent = if method == "PUT" && label == "manifest" { body.clone() } else { String::new() };
                check(&format!("{method} {url}"), &request.body(sent).send());
            }
        }
        let range = mine.behind(&base).request("GET", &format!("blobs/{blob}")).header("Range", "bytes=1-2").send();
        check("a range", &range);
        let mount = mine.request("POST", &format!("blobs/uploads/?mount={blob}&from=a20-secret/app")).send();
        check("a mount from what is hidden", &mount);
        check("a wrong method", &http::request("POST", &format!("{base}/v2/")).key(&ann.key).send());
        check("no credential", &http::request("GET", &format!("{base}/v2/a20/app/tags/list")).send());
        check("no endpoint", &http::request("GET", &format!("{base}/other")).send());
    }
    assert!(seen.len() > 15, "the walk saw {seen:?}");
}

// A21: a tightened policy holds for whoever was let through before: at once on every node for what is read
// linearizably, within the published bound for pulls by digest.
#[test]
fn a21_tightened_policy() {
    let reader = Reader::new("a21");
    reader.is_served("at first");
    let deny = json!({ "Version": "2012-10-17", "Statement": { "Effect": "Deny", "Action": "ecr:BatchGetImage",
        "Resource": "arn:aws:ecr:*:*:repository/a21/*" } });
    for round in 0..3 {
        changed("PUT", &reader.person.path("/policies/a21"), &deny);
        reader.is_refused(&format!("denied, round {round}"), 403);
        changed("DELETE", &reader.person.path("/policies/a21"), &json!({}));
        soon("allowed again", |base| reader.pulls(base, &reader.digest.to_string()) == [200; 2]);
    }
    reader.person.grant(&["read:a21/other"]);
    reader.is_refused("the grant is gone", 404);
}

// A22: the rule for anonymous reads, for everybody: who has a credential gets what anybody gets, and what is granted to
// it, but for what is denied to it; only a wrong credential gets less than none.
#[test]
fn a22_anonymous_reads() {
    let policy = json!({ "Version": "2012-10-17", "Statement": { "Effect": "Allow",
        "Action": ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:ListImages"],
        "Resource": "arn:aws:ecr:*:*:repository/a022/open/*" } });
    changed("PUT", "/v1/users/anonymous/policies/a22", &policy);
    for name in ["a022/open/app", "a022/closed/app"] {
        let owner = Repo::shared(name);
        owner.stored("v1", IMAGE, owner.image(b"a22").to_string());
    }
    let plain = Person::new("a22-plain", &[]);
    let granted = Person::new("a22-granted", &["read:a022/closed/*"]);
    let denied = Person::new("a22-denied", &[]);
    let deny =
        json!({ "Version": "2012-10-17", "Statement": { "Effect": "Deny", "Action": "ecr:*", "Resource": "*" } });
    changed("PUT", &denied.path("/policies/none"), &deny);
    let anonymous = {
        let scope = "scope=repository:a022/open/app:pull&scope=repository:a022/closed/app:pull";
        let answer = http::request("GET", &format!("{}/v2/token?{scope}", Cluster::shared().node(1))).send();
        answer.json()["token"].as_str().unwrap().to_owned()
    };
    let stranger = Stranger::new();
    let status = |who: &str, name: &str| {
        let url = format!("{}/v2/{name}/manifests/v1", Cluster::shared().node(2));
        let request = http::request("GET", &url);
        match who {
            "nobody" => request.send().status,
            "an anonymous token" => request.header("Authorization", &bearer(&anonymous)).send().status,
            "plain" => request.key(&plain.key).send().status,
            "granted" => request.key(&granted.key).send().status,
            "denied" => request.key(&denied.key).send().status,
            "a wrong password" => {
                let text = data_encoding::BASE64.encode(format!("{}:wrong", plain.key_id()).as_bytes());
                stranger.get(&url, Some(&format!("Basic {text}"))).status
            }
            _ => unreachable!("{who}"),
        }
    };
    for (who, open, closed) in [
        ("nobody", 200, 401),
        ("an anonymous token", 200, 401),
        ("plain", 200, 404),
        ("granted", 200, 200),
        ("denied", 404, 404),
        ("a wrong password", 401, 401),
    ] {
        assert_eq!((status(who, "a022/open/app"), status(who, "a022/closed/app")), (open, closed), "{who}");
    }
    let push = http::request("POST", &format!("{}/v2/a022/open/app/blobs/uploads/", Cluster::shared().node(1))).send();
    assert_eq!(push.status, 401, "reads only");
    changed("DELETE", "/v1/users/anonymous/policies/a22", &json!({}));
}

// A23: a policy with anything that is not understood is refused when it is written, whole, and changes nothing.
#[test]
fn a23_unknown_elements_refused_at_write() {
    let ann = Person::new("a23-ann", &[]);
    let owner = Repo::shared("a23/app");
    owner.stored("v1", IMAGE, owner.image(b"a23").to_string());
    let statement = |text: &str| format!(r#"{{"Version":"2012-10-17","Statement":{{{text}}}}}"#);
    let good = r#""Effect":"Allow","Action":"ecr:*","Resource":"*""#;
    for text in [
        statement(r#""Effect":"allow","Action":"ecr:*","Resource":"*""#),
        statement(r#""Effect":"Allow","Action":"ecr:Fly","Resource":"*""#),
        statement(r#""Effect":"Allow","Action":"ecr:*","Resource":"a23/*""#),
        statement(r#""Effect":"Allow","Action":"ecr:*""#),
        statement(&format!(r#"{good},"Principal":"*""#)),
        statement(&format!(r#"{good},"NotAction":"ecr:PutImage""#)),
        statement(&format!(r#"{good},"effect":"Deny""#)),
        statement(&format!(r#"{good},"Effect":"Deny""#)),
        statement(&format!(r#"{good},"Condition":{{"StringEquals":{{"aws:Nonsense":"x"}}}}"#)),
        statement(&format!(r#"{good},"Condition":{{"StringLooksLike":{{"aws:SourceIp":"x"}}}}"#)),
        format!(r#"{{"Version":"2030-01-01","Statement":{{{good}}}}}"#),
        format!(r#"{{"Statement":{{{good}}},"Extra":1}}"#),
        "{}".to_owned(),
        "nonsense".to_owned(),
    ] {
        let request = admin("PUT", &ann.path("/policies/p")).header("Content-Type", "application/json");
        let answer = request.body(text.clone()).send();
        assert_eq!(answer.status, 400, "{text}: {}", answer.text());
    }
    for grant in ["fly:a23/*", "read:A23/*", "read", "read:", ":a23", "read:a b", "*:*"] {
        let answer = json_to(admin("PUT", &ann.path("/grants")), &json!({ "grants": ["read:a23/*", grant] }));
        assert_eq!(answer.status, 400, "{grant}: {}", answer.text());
    }
    assert_eq!(admin("GET", &ann.path("/policies")).send().json(), json!({ "policies": [] }));
    assert_eq!(ann.repo("a23/app").refused("manifests/v1"), no(404, "NAME_UNKNOWN"));
    // what is understood holds, wildcards as they are meant and the deny before all
    let policy = |allow: &str, deny: &str| {
        json!({ "Version": "2012-10-17", "Statement": [
            { "Effect": "Allow", "Action": "ecr:*", "Resource": format!("arn:aws:ecr:*:*:repository/{allow}") },
            { "Effect": "Deny", "NotAction": "ecr:Put*", "Resource": format!("arn:aws:ecr:*:*:repository/{deny}") } ] })
    };
    for (allow, deny, want) in [
        ("a23/*", "other", 200),
        ("a2?/app", "other", 200),
        ("a23/ap", "other", 404),
        ("a23/?", "other", 404),
        ("*", "a23/*", 404),
        ("a23/app", "a23/ap?", 404),
    ] {
        changed("PUT", &ann.path("/policies/p"), &policy(allow, deny));
        let answer = ann.repo("a23/app").get("tags/list");
        // whoever may still put images there sees it, and is denied
        let status = if answer.status == 403 { 404 } else { answer.status };
        assert_eq!(status, want, "{allow} but {deny}: {}", answer.text());
    }
}

// A24: a name is decoded once and checked once; what looks like another name reaches neither that name's content nor
// that name's policy. Paths go out as they stand here.
#[test]
fn a24_names_that_look_alike() {
    let owner = Repo::shared("a24/team/app");
    owner.stored("v1", IMAGE, owner.image(b"a24").to_string());
    for name in ["a24/team-2/app", "a24/teams", "a24/other/app"] {
        let owner = owner.named(name);
        owner.stored("v1", IMAGE, owner.image(b"a24").to_string());
    }
    let ann = Person::new("a24-ann", &["read:a24/team/*"]);
    let base = Cluster::shared().node(1);
    let ask =
        |key: &str, name: &str| wire::status(&wire::ask(&base, key, "GET", &format!("/v2/{name}/manifests/v1"), ""));
    assert_eq!(ask(&ann.key, "a24/team/app"), 200);
    assert_eq!(ask(&ann.key, "a24%2Fteam%2fapp"), 200, "one decoding of the whole path, the same name");
    for name in ["a24/team-2/app", "a24/teams", "a24/other/app", "a24%2Fother/app"] {
        assert_eq!(ask(&ann.key, name), 404, "{name}");
    }
    let root = Cluster::shared().key();
    for name in [
        "A24/team/app",
        "a24/Team/app",
        "a24//team/app",
        "/a24/team/app",
        "a24/team/app/",
        "a24/./team/app",
        "a24/team/../team/app",
        "a24/team/%2e%2e/other/app",
        "a24/team/..%2Fother%2Fapp",
        "a24/team/%252e%252e/other/app",
        "a24%252Fteam/app",
        "a24/team/app%00",
        "a24/team/app%0a",
        "a24/team/app%20",
        "a24\\team\\app",
        "a24/team/app;v1",
        "a24/te\u{430}m/app",
        "a24/team/-app",
        "a24/team/.app",
        "a24/team/app_",
        "_catalog/a24",
        "..",
        ".",
        "%2F",
    ] {
        for key in [&ann.key, &root] {
            let status = ask(key, name);
            assert!(matches!(status, 400 | 404), "{name}: {status}");
        }
    }
    for grants in ["read:a24/team/../other/*", "read:a24%2F*", "read:/a24/*"] {
        let answer = json_to(admin("PUT", &ann.path("/grants")), &json!({ "grants": [grants] }));
        assert_eq!(answer.status, 400, "{grants}");
    }
}

// A28: operation is not on the public listener, and on its own it wants a credential, whatever address a request claims
// to come from; only the three words of health are open. There is nothing to debug or profile with.
#[test]
fn a28_operation_wants_a_credential() {
    let cluster = Cluster::shared();
    let forged = [("X-Forwarded-For", "127.0.0.1"), ("Forwarded", "for=127.0.0.1"), ("X-Real-IP", "127.0.0.1")];
    let fill = |path: &str| {
        let path = path.replace("{user}", "root").replace("{key}", "x").replace("{policy}", "x").replace("{id}", "0");
        path.replace("{*name}", "a28/app")
    };
    for node in nodes() {
        for (method, path) in routes::admin() {
            let path = fill(&path);
            let on_public = json_to(http::request(&method, &format!("{}{path}", cluster.node(node))), &json!({}));
            assert_eq!(on_public.status, 404, "public: {method} {path}");
            let mut request = http::request(&method, &format!("{}{path}", cluster.admin(node)));
            for (name, value) in forged {
                request = request.header(name, value);
            }
            let answer = json_to(request, &body_for(&path));
            let want = if routes::OPEN.contains(&path.as_str()) { 200 } else { 401 };
            assert_eq!(answer.status, want, "admin: {method} {path}: {}", answer.text());
            assert!(answer.body.len() < 400, "{}", answer.text());
        }
        for path in ["/debug/pprof/", "/debug/vars", "/v1/debug", "/test", "/metrics/", "/admin", "/v1", "/v1/"] {
            for base in [cluster.node(node), cluster.admin(node)] {
                let answer = http::request("GET", &format!("{base}{path}")).key(&cluster.key()).send();
                assert_eq!(answer.status, 404, "{base}{path}");
            }
        }
    }
    let metrics = admin("GET", "/metrics").send();
    assert_eq!(metrics.status, 200, "with a credential there they are");
}
