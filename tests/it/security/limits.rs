//! B9 and A11 under load: quotas and immutable tags, raced over three nodes and through every door that adds something.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use registry_core::vocabulary::Digest;
use serde_json::{Value, json};

use super::people::{Person, admin, as_admin, changed, json_to};
use super::repo::{CONFIG, IMAGE, LAYER, Repo, no, noise, told};
use crate::support::Cluster;
use crate::support::http::{self, Answer};

/// Makes a repository of the shared cluster with a quota.
fn limited(name: &str, bytes: u64, tags: u64) -> Repo {
    changed("POST", "/v1/repositories", &json!({ "name": name, "quota": { "bytes": bytes, "tags": tags } }));
    Repo::shared(name)
}

/// What a repository of the shared cluster holds: bytes and tags.
fn used(name: &str) -> (u64, u64) {
    let shown = admin("GET", &format!("/v1/repositories/{name}")).send().json();
    (shown["usage"]["bytes"].as_u64().unwrap(), shown["usage"]["tags"].as_u64().unwrap())
}

/// A manifest of no layers; its bytes differ by the mark.
fn manifest(config: &Value, mark: &str) -> String {
    let mut manifest = super::repo::image(config, &[]);
    manifest["annotations"] = json!({ "mark": mark });
    manifest.to_string()
}

/// The ways in which a blob comes into a repository.
const DOORS: [&str; 5] = ["POST", "PUT", "PATCH and PUT", "two PATCHes and PUT", "mount"];

fn push(repo: &Repo, door: &str, bytes: &[u8]) -> Answer {
    let digest = Digest::sha256(bytes);
    let append = |location: &str, part: &[u8]| {
        let answer = repo.follow("PATCH", location).body(part).settled();
        assert_eq!(answer.status, 202, "{}", answer.text());
        answer.header("location").to_owned()
    };
    let finish =
        |location: &str, rest: &[u8]| repo.follow("PUT", &format!("{location}?digest={digest}")).body(rest).settled();
    match door {
        "POST" => repo.request("POST", &format!("blobs/uploads/?digest={digest}")).body(bytes).settled(),
        "PUT" => finish(&repo.begin(), bytes),
        "PATCH and PUT" => finish(&append(&repo.begin(), bytes), b""),
        "two PATCHes and PUT" => {
            let (first, second) = bytes.split_at(bytes.len() / 2);
            finish(&append(&append(&repo.begin(), first), second), b"")
        }
        "mount" => {
            repo.named("b9/source").blob(LAYER, bytes);
            repo.request("POST", &format!("blobs/uploads/?mount={digest}&from=b9/source")).settled()
        }
        other => panic!("there is no door {other}"),
    }
}

fn is_over_quota(answer: &Answer, unit: &str) {
    assert_eq!(told(answer), no(403, "DENIED"), "{}", answer.text());
    let error = &answer.json()["errors"][0];
    assert_eq!(error["detail"]["unit"], unit, "{error}");
    assert!(error["message"].as_str().unwrap().contains("above its quota of"), "{error}");
}

// B9: a quota is the same at every door, for small blobs and large ones; what adds nothing goes on at a full one, and
// so do pulls and deletes; what was refused leaves nothing behind.
#[test]
fn b09_quota_at_every_door() {
    let repo = limited("b9/doors", 300_000, 2);
    let held = noise(901, 290_000);
    repo.blob(LAYER, &held);
    for (at, door) in (0..).zip(DOORS) {
        for size in [20_000, 200_000] {
            let repo = repo.behind(&Cluster::shared().node(1 + at % 3));
            let bytes = noise(910 + u32::from(at) * 2 + u32::from(size > 64 << 10), size);
            is_over_quota(&push(&repo, door, &bytes), "bytes");
            assert_eq!(repo.refused(&format!("blobs/{}", Digest::sha256(&bytes))), no(404, "BLOB_UNKNOWN"), "{door}");
        }
        let again = push(&repo, door, &held);
        assert_eq!(again.status, 201, "{door}, the same again: {}", again.text());
        assert_eq!(used("b9/doors"), (290_000, 0), "{door}");
    }
    let location =
        repo.follow("PATCH", &repo.begin()).body(noise(902, 100_000)).settled().header("location").to_owned();
    let digest = Digest::sha256(&noise(902, 100_000));
    is_over_quota(&repo.follow("PUT", &format!("{location}?digest={digest}")).settled(), "bytes");
    assert_eq!(told(&repo.follow("GET", &location).settled()), no(404, "BLOB_UPLOAD_UNKNOWN"), "its bytes are freed");

    let config = repo.blob(CONFIG, b"{}");
    let (one, two) = (manifest(&config, "one"), manifest(&config, "two"));
    let two_digest = Digest::sha256(two.as_bytes());
    repo.stored("v1", IMAGE, one.clone());
    repo.stored("v2", IMAGE, one.clone());
    for reference in ["v3".to_owned(), format!("{two_digest}?tag=v3"), format!("{two_digest}?tag=v1&tag=v3")] {
        is_over_quota(&repo.put(&reference, IMAGE, two.clone()), "tags");
    }
    assert_eq!(repo.refused(&format!("manifests/{two_digest}")), no(404, "MANIFEST_UNKNOWN"));
    repo.stored("v2", IMAGE, two.clone());
    let bytes = 290_000 + 2 + one.len() as u64 + two.len() as u64;
    assert_eq!(used("b9/doors"), (bytes, 2));
    let large = format!("{}{}", " ".repeat(12_000), manifest(&config, "large"));
    is_over_quota(&repo.put("v2", IMAGE, large.clone()), "bytes");
    for node in 1..=3 {
        let repo = repo.behind(&Cluster::shared().node(node));
        assert_eq!(repo.get("manifests/v2").body, two.as_bytes());
        assert_eq!(repo.get(&format!("blobs/{}", Digest::sha256(&held))).body, held);
    }
    assert_eq!(repo.request("DELETE", "manifests/v1").send().status, 202);
    repo.stored("v3", IMAGE, two.clone());
    assert_eq!(repo.request("DELETE", &format!("blobs/{}", Digest::sha256(&held))).send().status, 202);
    assert_eq!(used("b9/doors"), (bytes - 290_000, 2));
    repo.stored("v2", IMAGE, large);
    changed("PATCH", "/v1/repositories/b9/doors", &json!({ "quota": { "tags": null } }));
    repo.stored("v4", IMAGE, one);
    let shown = admin("GET", "/v1/repositories/b9/doors").send().json();
    assert_eq!(shown["quota"], json!({ "bytes": 300_000, "tags": null }));
}

// B9: of 100 parts 70, 90 and 20 are pushed at once, over three nodes and by every door: what was accepted fits, and is
// what is held.
#[test]
fn b09_quota_raced() {
    for (round, door) in (0..).zip(DOORS) {
        let name = format!("b9/race-{round}");
        let repo = limited(&name, 100_000, 9);
        let race = |(at, size): (u8, usize)| {
            let (repo, bytes) =
                (repo.behind(&Cluster::shared().node(at)), noise(930 + round * 3 + u32::from(at), size));
            std::thread::spawn(move || (push(&repo, door, &bytes), size as u64))
        };
        let pushes = [(1, 70_000), (2, 90_000), (3, 20_000)].map(race).map(|push| push.join().unwrap());
        let (made, refused): (Vec<_>, Vec<_>) = pushes.into_iter().partition(|(answer, _)| answer.status == 201);
        refused.iter().for_each(|(answer, _)| is_over_quota(answer, "bytes"));
        let sum: u64 = made.iter().map(|(_, size)| size).sum();
        // whichever comes first: 90 alone, or 70 and 20
        assert_eq!((sum, used(&name)), (90_000, (90_000, 0)), "{door}");
    }
}

/// Pushes blobs of many sizes into a repository of its own until several were refused; what was accepted, in bytes, and
/// how large the refused ones were.
fn fill(repo: &Repo, seed: u32) -> (u64, Vec<u64>) {
    let (mut accepted, mut refused) = (0, Vec::new());
    for number in 0..60 {
        let size = 2_000 + (seed * 7_919 + number * 104_729) % 90_000;
        let bytes = noise(seed * 1000 + number, size as usize);
        let door = DOORS[number as usize % 4];
        let answer = push(repo, door, &bytes);
        if answer.status == 201 {
            accepted += u64::from(size);
        } else {
            is_over_quota(&answer, "bytes");
            refused.push(u64::from(size));
            if refused.len() >= 4 {
                break;
            }
        }
    }
    (accepted, refused)
}

// B9: a registry's quota holds over all of its repositories, wherever they are written: pushes to nine repositories
// over three nodes are accepted to the last that fits and never beyond, tokens are given meanwhile, what is deleted can
// be used by others, and a recount of the rows finds what was counted.
#[test]
fn b09_registry_quota_raced() {
    const LIMIT: u64 = 1_500_000;
    let mut cluster = Cluster::start(96);
    let key = cluster.key();
    let registry = |method: &str| http::request(method, &format!("{}/v1/registry", cluster.admin(2))).key(&key);
    let set = |quota: Value| {
        let answer = json_to(registry("PATCH"), &json!({ "quota": quota }));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    let total = || registry("GET").settled().json()["usage"]["bytes"].as_u64().unwrap();
    let of = |node: u8, name: String| Repo { base: cluster.node(node), key: key.clone(), name };
    of(1, "b9/before".to_owned()).blob(LAYER, &noise(960, 100_000));
    let shown = set(json!({ "bytes": LIMIT }));
    assert_eq!(shown["quota"], json!({ "bytes": LIMIT, "tags": null }));
    assert_eq!(shown["usage"]["bytes"], 100_000);

    let is_over = AtomicBool::new(false);
    let (accepted, refused) = std::thread::scope(|scope| {
        let tokens = scope.spawn(|| {
            let nodes = (1..=3).cycle().take_while(|_| !is_over.load(Ordering::Acquire));
            let given = nodes.map(|node| {
                let url = format!("{}/v2/token?scope=repository:b9/before:pull", cluster.node(node));
                assert_eq!(http::request("GET", &url).key(&key).send().status, 200);
            });
            given.count()
        });
        let fillers = (1..=9u8).map(|at| {
            let repo = of(1 + at % 3, format!("b9/part-{at}"));
            scope.spawn(move || fill(&repo, u32::from(at)))
        });
        let fillers: Vec<_> = fillers.collect();
        let ended: Vec<(u64, Vec<u64>)> = fillers.into_iter().map(|filler| filler.join().unwrap()).collect();
        is_over.store(true, Ordering::Release);
        assert!(tokens.join().unwrap() > 0);
        let accepted: u64 = ended.iter().map(|(accepted, _)| accepted).sum();
        (accepted, ended.into_iter().flat_map(|(_, refused)| refused).collect::<Vec<u64>>())
    });
    let held = total();
    assert_eq!(held, 100_000 + accepted);
    assert!(held <= LIMIT, "{held} of {LIMIT}");
    let smallest = refused.iter().min().expect("some were refused");
    assert!(held + smallest > LIMIT, "{smallest} bytes were refused, and {held} are held");

    // what one repository frees another may use, behind another node
    let (before, after) = (of(1, "b9/before".to_owned()), of(3, "b9/after".to_owned()));
    let bytes = noise(961, 100_000);
    is_over_quota(&push(&after, "PUT", &bytes), "bytes");
    assert_eq!(before.request("DELETE", &format!("blobs/{}", Digest::sha256(&noise(960, 100_000)))).send().status, 202);
    assert_eq!(push(&after, "PUT", &bytes).status, 201);
    assert_eq!(total(), held);
    set(json!({ "bytes": null, "tags": 0 }));
    let config = after.blob(CONFIG, b"{}");
    is_over_quota(&after.put("v1", IMAGE, manifest(&config, "one")), "tags");
    set(json!({ "tags": 1 }));
    after.stored("v1", IMAGE, manifest(&config, "one"));
    is_over_quota(&before.put("v1", IMAGE, manifest(&before.blob(CONFIG, b"{}"), "one")), "tags");

    cluster.stop();
    let dirs = (1..=3).map(|node| cluster.node_dir(node).join("data"));
    let checked = Command::new(env!("CARGO_BIN_EXE_portolan")).arg("check").args(dirs).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}

// A13: a quota is the operator's. Who owns a repository changes its settings and not what it may hold.
#[test]
fn a13_owners_set_no_quota() {
    drop(limited("a13/owned", 1000, 1));
    let ann = Person::new("a13-owner", &[]);
    let policy =
        json!({ "Version": "2012-10-17", "Statement": { "Effect": "Allow", "Action": "ecr:*", "Resource": "*" } });
    changed("PUT", &ann.path("/policies/all"), &policy);
    let patch = |path: &str, document: Value| json_to(as_admin("PATCH", path).key(&ann.key), &document).status;
    let path = "/v1/repositories/a13/owned";
    assert_eq!(patch(path, json!({ "sparse": true })), 200);
    for quota in [json!({ "bytes": null }), json!({ "tags": 2 }), json!({})] {
        assert_eq!(patch(path, json!({ "sparse": false, "quota": quota })), 403, "{quota}");
        assert_eq!(patch("/v1/registry", json!({ "quota": quota })), 403, "{quota}");
    }
    let shown = admin("GET", path).send().json();
    assert_eq!((&shown["quota"], &shown["settings"]["sparse"]), (&json!({ "bytes": 1000, "tags": 1 }), &json!(true)));
}

// A11: of three pushes of one immutable tag at once, each through another node, exactly one wins; the others are told
// that the tag is immutable, and every node gives the winner's image.
#[test]
fn a11_immutable_tag_raced_over_three_nodes() {
    let settings = json!({ "mutability": "immutable_with_exclusion", "exclusions": ["dev-*"] });
    changed("POST", "/v1/repositories", &json!({ "name": "a11/raced", "settings": settings }));
    let repo = Repo::shared("a11/raced");
    let config = repo.blob(CONFIG, b"{}");
    for round in 0..12 {
        let tag = format!("v{round}");
        let race = |node: u8| {
            let (repo, tag) = (repo.behind(&Cluster::shared().node(node)), tag.clone());
            let body = manifest(&config, &format!("{round} {node}"));
            let reference = match node {
                3 => format!("{}?tag={tag}", Digest::sha256(body.as_bytes())),
                _ => tag,
            };
            std::thread::spawn(move || (repo.put(&reference, IMAGE, body.clone()), body))
        };
        let pushes = [1, 2, 3].map(race).map(|push| push.join().unwrap());
        let (won, lost): (Vec<_>, Vec<_>) = pushes.into_iter().partition(|(answer, _)| answer.status == 201);
        assert_eq!(won.len(), 1, "{tag}");
        for (answer, _) in &lost {
            assert_eq!(told(answer), no(400, "TAG_INVALID"), "{tag}");
            let message = answer.json()["errors"][0]["message"].as_str().unwrap().to_owned();
            assert!(message.contains("because the tag is immutable"), "{message}");
        }
        for node in 1..=3 {
            let found = repo.behind(&Cluster::shared().node(node)).get(&format!("manifests/{tag}"));
            assert_eq!(String::from_utf8_lossy(&found.body), won[0].1, "{tag} at node {node}");
        }
    }
    repo.stored("dev-1", IMAGE, manifest(&config, "one"));
    repo.stored("dev-1", IMAGE, manifest(&config, "two"));
}
