//! U9 as far as it exists: each change that was made or refused, and each look that was refused, is one record of the
//! audit, under the id that its answer carries.

use std::time::Duration;

use registry_core::vocabulary::Digest;
use serde_json::json;

use super::people::{Person, admin, as_admin, audit_of, bearer, json_to, log_of};
use super::repo::{IMAGE, LAYER, Repo, noise};
use super::routes::{self, Parts};
use crate::support::http::{self, Answer};
use crate::support::{Cluster, wait};

/// The one record of an answer: action, result, principal.
fn recorded(answer: &Answer) -> (String, String, String) {
    let records = audit_of(answer);
    assert_eq!(records.len(), 1, "{} {}: {records:?}", answer.status, answer.text());
    let record = &records[0];
    (record.action.clone(), record.result.clone(), record.principal.clone())
}

fn is(action: &str, result: &str, principal: &str) -> (String, String, String) {
    (action.to_owned(), result.to_owned(), principal.to_owned())
}

/// What each method of each endpoint is called in the audit.
fn action_of(label: &str, method: &str) -> Option<&'static str> {
    Some(match (label, method) {
        ("tags", _) => "tag.list",
        ("referrers", _) => "referrer.list",
        ("manifest", "PUT") => "manifest.put",
        ("manifest", "DELETE") => "manifest.delete",
        ("manifest", _) => "manifest.get",
        ("blob", "DELETE") => "blob.delete",
        ("blob", _) => "blob.get",
        ("uploads", _) => "upload.begin",
        ("upload", "PATCH") => "upload.append",
        ("upload", "PUT") => "blob.push",
        ("upload", "DELETE") => "upload.cancel",
        ("upload", _) => "upload.get",
        ("base" | "token" | "catalog", _) => return None,
        _ => panic!("a new endpoint: say what it is called in the audit: {label}"),
    })
}

// U9: on every route of the public listener, who may not is one record whether it sees the repository or not; a
// challenge is none, for the client comes back; what is looked at by who may is none.
#[test]
fn u9_refusals_on_every_route() {
    let owner = Repo::shared("u9/app");
    let digest = owner.stored("v1", IMAGE, owner.image(&noise(160, 800)).to_string()).to_string();
    let blob = Digest::sha256(&noise(160, 800)).to_string();
    let location = owner.begin();
    let upload = location.rsplit('/').next().unwrap();
    let parts = Parts { name: "u9/app", tag: "v1", digest: &digest, blob: &blob, upload };
    let (reader, stranger) = (Person::new("u9-reader", &["read:u9/app"]), Person::new("u9-stranger", &[]));
    for (label, method, path) in routes::public() {
        let url = format!("{}{}", Cluster::shared().node(2), parts.fill(path));
        let ask = |key: &str| http::request(method, &url).key(key).send();
        let by_nobody = http::request(method, &url).send();
        assert_eq!(audit_of(&by_nobody), [], "a challenge: {method} {url}");
        let Some(action) = action_of(label, method) else { continue };
        assert_eq!(recorded(&ask(&stranger.key)), is(action, "refused", "u9-stranger"), "{method} {url}");
        let by_reader = ask(&reader.key);
        if matches!(method, "GET" | "HEAD") && label != "upload" {
            assert_eq!((by_reader.status, audit_of(&by_reader)), (200, vec![]), "{method} {url}");
        } else {
            assert_eq!(recorded(&by_reader), is(action, "refused", "u9-reader"), "{method} {url}");
        }
    }
}

// U9: every change through the public listener is one record when it is made, and one when it is refused for what is
// wrong with it.
#[test]
fn u9_changes_of_content() {
    let ann = Person::new("u9-ann", &["read,write,delete,create:u9/own"]);
    let own = ann.repo("u9/own");
    let made = |answer: &Answer, action: &str| assert_eq!(recorded(answer), is(action, "accepted", "u9-ann"));
    let refused = |answer: &Answer, action: &str| assert_eq!(recorded(answer), is(action, "refused", "u9-ann"));
    let bytes = noise(161, 2000);
    let digest = Digest::sha256(&bytes);
    let put = |reference: &str, kind: &str, body: String| own.put(reference, kind, body);
    // the first request makes the repository
    made(&own.request("POST", "blobs/uploads/").send(), "upload.begin");
    made(&own.request("POST", &format!("blobs/uploads/?digest={digest}")).body(&bytes[..]).send(), "blob.push");
    made(&own.request("POST", &format!("blobs/uploads/?mount={digest}&from=u9/own")).send(), "blob.mount");
    made(&own.request("POST", &format!("blobs/uploads/?mount={}", Digest::sha256(b"none"))).send(), "upload.begin");
    refused(&own.request("POST", "blobs/uploads/?digest=md5:00").send(), "blob.push");
    refused(&own.request("POST", &format!("blobs/uploads/?digest={digest}")).body("else").send(), "blob.push");
    let begun = own.begin();
    let appended = own.follow("PATCH", &begun).body(&bytes[..1000]).send();
    made(&appended, "upload.append");
    let location = appended.header("location").to_owned();
    let early = own.follow("PATCH", &location).header("Content-Range", "5-9");
    refused(&early.body("12345").send(), "upload.append");
    refused(&own.follow("PATCH", &location).header("Content-Range", "x").body("1").send(), "upload.append");
    refused(&own.follow("PUT", &location).send(), "blob.push");
    let put_rest = format!("{location}?digest={digest}");
    refused(&own.follow("PUT", &put_rest).header("Content-Range", "7-8").body("12").send(), "blob.push");
    made(&own.follow("PUT", &put_rest).body(&bytes[1000..]).send(), "blob.push");
    refused(&own.follow("PATCH", &location).body("1").send(), "upload.append");
    made(&own.follow("DELETE", &own.begin()).send(), "upload.cancel");
    refused(&own.follow("DELETE", "/v2/u9/own/blobs/uploads/none").send(), "upload.cancel");
    let image = own.image(&bytes).to_string();
    made(&put("v1", IMAGE, image.clone()), "manifest.put");
    made(&put(&format!("{}?tag=v2", Digest::sha256(image.as_bytes())), IMAGE, image.clone()), "manifest.put");
    refused(&put(".bad", IMAGE, image.clone()), "manifest.put");
    refused(&put("sha256:bad", IMAGE, image.clone()), "manifest.put");
    refused(&put("v1?tag=.bad", IMAGE, image.clone()), "manifest.put");
    refused(&put("v1", "not a type", image.clone()), "manifest.put");
    refused(&put("v1", IMAGE, "{}".to_owned()), "manifest.put");
    refused(&put("v1", IMAGE, " ".repeat((4 << 20) + 1)), "manifest.put");
    let condition = own.request("PUT", "manifests/v1").header("Content-Type", IMAGE).header("If-None-Match", "*");
    refused(&condition.body(image.clone()).send(), "manifest.put");
    let delete = |path: &str| own.request("DELETE", path).send();
    refused(&delete("manifests/none"), "manifest.delete");
    refused(&delete("manifests/.bad"), "manifest.delete");
    refused(&delete("blobs/md5:00"), "blob.delete");
    refused(&delete(&format!("blobs/{digest}")), "blob.delete");
    made(&delete("manifests/v1"), "manifest.delete");
    made(&delete(&format!("manifests/{}", Digest::sha256(image.as_bytes()))), "manifest.delete");
    made(&delete(&format!("blobs/{digest}")), "blob.delete");
    refused(&own.named("Bad//name").request("POST", "blobs/uploads/").send(), "upload.begin");
    let record = &audit_of(&own.named("u9/other").request("POST", "blobs/uploads/").send())[0];
    assert_eq!((record.resource.as_str(), record.result.as_str()), ("u9/other", "refused"));
    // a narrower token is told to come back: its own try is not the end
    let narrow = ann.token("repository:u9/own:pull");
    let url = format!("{}/v2/u9/own/blobs/uploads/", own.base);
    let challenged = http::request("POST", &url).header("Authorization", &bearer(&narrow)).send();
    assert_eq!((challenged.status, audit_of(&challenged)), (401, vec![]));
}

// U9: every change through the admin listener is one record, made, refused, or not even readable; so is every look
// that is refused, and no look that is not.
#[test]
fn u9_administration() {
    let (ann, eve) = (Person::new("u9-user", &[]), Person::new("u9-eve", &["read:u9/*"]));
    let key = ann.another_key(&json!({})).split_once(':').unwrap().0.to_owned();
    let fixed = Repo::shared("u9/fixed");
    fixed.stored("v1", IMAGE, fixed.image(b"u9").to_string());
    let policy =
        json!({ "Version": "2012-10-17", "Statement": { "Effect": "Allow", "Action": "ecr:*", "Resource": "*" } });
    let policy = policy.to_string();
    let authority = std::fs::read_to_string(Cluster::shared().dir().join("certs/ca.pem")).unwrap();
    let card = json!({
        "region": "u9", "number": 9, "cluster": "9".repeat(32), "endpoints": ["127.0.0.1:1"], "ca_pem": authority,
    });
    let card = card.to_string();
    let (user, a_key, repository) = (ann.path(""), ann.path(&format!("/keys/{key}")), "/v1/repositories/u9/fixed");
    // (method, path, body, how an administrator's try ends, its name)
    let tries: Vec<(&str, String, &str, &str, &str)> = vec![
        ("POST", "/v1/users".into(), r#"{"name":"u9-new"}"#, "accepted", "user.create"),
        ("POST", "/v1/users".into(), r#"{"name":"u9-new"}"#, "refused", "user.create"),
        ("POST", "/v1/users".into(), r#"{"name":"A B"}"#, "refused", "user.create"),
        ("POST", "/v1/users".into(), "nonsense", "refused", "user.create"),
        ("PATCH", user.clone(), r#"{"enabled":false}"#, "accepted", "user.disable"),
        ("PATCH", user.clone(), r#"{"enabled":true}"#, "accepted", "user.enable"),
        ("PATCH", user.clone(), r#"{"root":true}"#, "refused", "user.change"),
        ("POST", ann.path("/keys"), "{}", "accepted", "key.create"),
        ("POST", ann.path("/keys"), r#"{"lifetime_s":0}"#, "refused", "key.create"),
        ("PATCH", a_key.clone(), r#"{"enabled":false}"#, "accepted", "key.disable"),
        ("PATCH", a_key.clone(), r#"{"enabled":true}"#, "accepted", "key.enable"),
        ("PATCH", a_key.clone(), "[]", "refused", "key.change"),
        ("DELETE", a_key.clone(), "", "accepted", "key.delete"),
        ("DELETE", a_key, "", "refused", "key.delete"),
        ("PUT", ann.path("/policies/p"), &policy, "accepted", "policy.put"),
        ("PUT", ann.path("/policies/p"), "{}", "refused", "policy.put"),
        ("DELETE", ann.path("/policies/p"), "", "accepted", "policy.delete"),
        ("DELETE", ann.path("/policies/p"), "", "refused", "policy.delete"),
        ("PUT", ann.path("/grants"), r#"{"grants":["read:u9/fixed"]}"#, "accepted", "grants.put"),
        ("PUT", ann.path("/grants"), r#"{"grants":["fly:u9"]}"#, "refused", "grants.put"),
        ("POST", "/v1/repositories".into(), r#"{"name":"u9/made"}"#, "accepted", "repository.create"),
        ("POST", "/v1/repositories".into(), r#"{"name":"u9/made"}"#, "refused", "repository.create"),
        ("POST", "/v1/repositories".into(), r#"{"name":"BAD"}"#, "refused", "repository.create"),
        ("PATCH", repository.into(), r#"{"sparse":true}"#, "accepted", "repository.change"),
        ("PATCH", repository.into(), r#"{"exclusions":["x"]}"#, "refused", "repository.change"),
        ("DELETE", "/v1/repositories/u9/made?force=maybe".into(), "", "refused", "repository.delete"),
        ("DELETE", "/v1/repositories/u9/made".into(), "", "accepted", "repository.delete"),
        ("DELETE", "/v1/repositories/u9/made".into(), "", "refused", "repository.delete"),
        ("PATCH", "/v1/registry".into(), r#"{"quota":{}}"#, "accepted", "registry.change"),
        ("PATCH", "/v1/registry".into(), r#"{"quota":{"bytes":-1}}"#, "refused", "registry.change"),
        ("POST", "/v1/cluster/init".into(), "{}", "refused", "cluster.init"),
        ("POST", "/v1/cluster/join".into(), r#"{"seeds":[]}"#, "refused", "cluster.join"),
        ("POST", "/v1/cluster/transfer".into(), r#"{"to":"nobody"}"#, "refused", "cluster.transfer"),
        ("POST", "/v1/cluster/finalize".into(), "{}", "accepted", "cluster.finalize"),
        ("POST", "/v1/cluster/finalize".into(), r#"{"level":9}"#, "refused", "cluster.finalize"),
        ("DELETE", "/v1/cluster/nodes/nobody".into(), "", "refused", "node.remove"),
        ("POST", "/v1/cluster/nodes/nobody/drain".into(), "{}", "refused", "node.drain"),
        ("POST", "/v1/gc/pause".into(), "{}", "accepted", "gc.pause"),
        ("POST", "/v1/gc/run".into(), "{}", "refused", "gc.run"),
        ("POST", "/v1/gc/resume".into(), "{}", "accepted", "gc.resume"),
        ("POST", "/v1/gc/adopt-bucket".into(), "{}", "refused", "gc.adopt_bucket"),
        ("POST", "/v1/gc/run".into(), r#"{"allow_percent":101}"#, "refused", "gc.run"),
        ("POST", "/v1/gc/run".into(), r#"{"allow_percent":20}"#, "accepted", "gc.run"),
        ("POST", "/v1/scrub/pause".into(), "{}", "accepted", "scrub.pause"),
        ("POST", "/v1/scrub/resume".into(), "{}", "accepted", "scrub.resume"),
        ("POST", "/v1/scrub/run".into(), r#"{"now":1}"#, "refused", "scrub.run"),
        ("POST", "/v1/scrub/run".into(), "{}", "accepted", "scrub.run"),
        ("POST", "/v1/regions".into(), &card, "accepted", "region.add"),
        ("POST", "/v1/regions".into(), r#"{"region":"u9"}"#, "refused", "region.add"),
        ("PUT", "/v1/replication/rules".into(), r#"{"rules":[]}"#, "accepted", "replication.set"),
        ("PUT", "/v1/replication/rules".into(), r#"{"rules":[{"destinations":[]}]}"#, "refused", "replication.set"),
        ("POST", "/v1/replication/dry-run".into(), r#"{"rules":[]}"#, "accepted", "replication.dry_run"),
        (
            "POST",
            "/v1/replication/dry-run".into(),
            r#"{"rules":[{"destinations":[]}]}"#,
            "refused",
            "replication.dry_run",
        ),
        ("POST", "/v1/replication/compare/nowhere".into(), "{}", "refused", "replication.compare"),
        ("PUT", "/v1/places".into(), r#"{"clients":[{"network":"x","region":"a"}]}"#, "refused", "places.set"),
        ("PATCH", "/v1/regions/nowhere".into(), r#"{"paused":true}"#, "refused", "region.set"),
        ("POST", "/v1/replication/parked/u9/retry".into(), r#"{"after":"x"}"#, "refused", "replication.retry"),
        ("POST", "/v1/regions/u9/take-over".into(), "{}", "refused", "region.take-over"),
        ("DELETE", "/v1/regions/u9".into(), "", "accepted", "region.remove"),
        ("DELETE", "/v1/regions/u9".into(), "", "refused", "region.remove"),
        ("POST", "/v1/backups".into(), "", "accepted", "backup.create"),
        ("DELETE", "/v1/backups/none".into(), "", "refused", "backup.delete"),
        ("DELETE", "/v1/users/u9-new".into(), "", "accepted", "user.delete"),
        ("DELETE", "/v1/users/u9-new".into(), "", "refused", "user.delete"),
    ];
    for (method, path, body, result, action) in &tries {
        let send = |request: http::Request| request.header("Content-Type", "application/json").body(*body).send();
        let by_root = send(admin(method, path));
        assert_eq!(recorded(&by_root), is(action, result, "root"), "{method} {path} {body}");
        let by_eve = send(as_admin(method, path).key(&eve.key));
        assert_eq!(recorded(&by_eve), is(action, "refused", "u9-eve"), "{method} {path} {body}");
        let by_nobody = send(as_admin(method, path));
        assert_eq!(by_nobody.status, 401, "{method} {path} {body}");
        assert_eq!(recorded(&by_nobody), is(action, "refused", "anonymous"), "{method} {path} {body}");
    }
    // every route that changes something was tried
    for (method, route) in routes::admin().into_iter().filter(|(method, _)| method != "GET") {
        let is_tried = tries.iter().any(|(tried, path, ..)| *tried == method && routes::leads(path, &route));
        assert!(route == "/v1/explain" || is_tried, "{method} {route} was not tried");
    }
    // a region to read about, as soon as the leader follows it
    let known = admin("POST", "/v1/regions").header("Content-Type", "application/json").body(card.clone()).send();
    assert_eq!(known.status, 204, "{}", known.text());
    let reads = || admin("GET", "/v1/replication/report").send().status == 200;
    wait("the region is followed", Duration::from_secs(30), reads);
    let backup = admin("POST", "/v1/backups").send().json()["id"].as_str().unwrap().to_owned();
    for (method, route) in routes::admin().into_iter().filter(|(method, path)| method == "GET" || path == "/v1/explain")
    {
        let digest = Digest::sha256(b"u9").to_string();
        let path = route.replace("/history/{*name}", "/history/u9/fixed?at=2026-01-02");
        let path = path.replace("/nearest/{*name}", "/nearest/u9/fixed?client=127.0.0.1&reference=v1");
        let path = path.replace("/images/{*name}", "/images/u9/fixed?reference=v1");
        let path = path.replace("/export/{region}", "/export/u9?direction=to");
        let path = path.replace("{user}", "u9-user").replace("{*name}", "u9/fixed").replace("{digest}", &digest);
        let path = path.replace("{id}", &backup).replace("{number}", "0").replace("{region}", "u9");
        let body = json!({ "principal": "root", "action": "ecr:PutImage" });
        let by_root = json_to(admin(&method, &path), &body);
        assert_eq!((by_root.status, audit_of(&by_root)), (200, vec![]), "{method} {path}");
        let by_eve = json_to(as_admin(&method, &path).key(&eve.key), &body);
        let may = by_eve.status == 200;
        assert_eq!(audit_of(&by_eve).len(), usize::from(!may), "{method} {path}: {}", by_eve.text());
    }
    assert_eq!(admin("DELETE", "/v1/regions/u9").send().status, 204);
}

// U9: what a client sends into a record stays inside its field: no line of its own, no field of its own, no record
// longer than the bound.
#[test]
fn u9_nothing_is_forged_into_a_record() {
    let ann = Person::new("u9-forger", &["read,write,delete,create:u9/forged"]);
    let own = ann.repo("u9/forged");
    own.blob(LAYER, b"u9");
    let forged = "v1%22%20result=%22accepted%22%0a2026%20INFO%20audit:%20audit%20principal=%22root%22";
    let answer = own.request("DELETE", &format!("manifests/{forged}")).send();
    let id = format!("request_id=\"{}\"", answer.header("x-request-id"));
    let log = log_of(1);
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(&id)).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("principal=\"u9-forger\""), "{}", lines[0]);
    assert!(!log.lines().any(|line| line.starts_with("2026 INFO audit")), "a line of its own");
    let long = "x".repeat(9000);
    let answer = own.request("DELETE", &format!("manifests/{long}")).send();
    let id = format!("request_id=\"{}\"", answer.header("x-request-id"));
    let line = log_of(1).lines().find(|line| line.contains(&id)).unwrap().len();
    assert!(line < 2500, "{line} bytes");
}
