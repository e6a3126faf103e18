//! The past of tags on a real cluster: told by the admin API, set back through the registry's own.

use registry_core::vocabulary::Digest;
use serde_json::{Value, json};

use crate::support::image::{self, MANIFEST};
use crate::support::{self, Cluster, http};

const REPOSITORY: &str = "it/history";

/// Runs `portolan image …` as root; its exit status, and all it said.
fn run(cluster: &Cluster, words: &[&str]) -> (i32, String) {
    let (admin, registry, key) = (cluster.admin(2), cluster.node(3), cluster.key_file().display().to_string());
    let connection = ["--admin", &admin, "--registry", &registry, "--credentials-file", &key];
    support::run(&[&["image"], words, &connection].concat())
}

/// What a tag names.
fn named(cluster: &Cluster, tag: &str) -> Option<String> {
    let url = format!("{}/v2/{REPOSITORY}/manifests/{tag}", cluster.node(1));
    let answer = http::request("GET", &url).key(&cluster.key()).header("Accept", MANIFEST).send();
    (answer.status == 200).then(|| Digest::sha256(&answer.body).to_string())
}

fn history(cluster: &Cluster, query: &str) -> http::Answer {
    let url = format!("{}/v1/history/{REPOSITORY}?{query}", cluster.admin(1));
    http::request("GET", &url).key(&cluster.key()).send()
}

fn delete(cluster: &Cluster, reference: &str, condition: Option<(&str, &str)>) -> http::Answer {
    let url = format!("{}/v2/{REPOSITORY}/manifests/{reference}", cluster.node(1));
    let request = http::request("DELETE", &url).key(&cluster.key());
    match condition {
        Some((name, value)) => request.header(name, value).send(),
        None => request.send(),
    }
}

// A night of mistakes: a tag moved, one deleted, one added. The plan changes nothing; with --yes all are as they were,
// which the journal tells as further changes by whoever did it. What was pushed meanwhile is not overwritten, a
// manifest that is gone is told to be gone, and a fixed tag stays fixed.
#[test]
fn tags_are_set_back() {
    let cluster = Cluster::shared();
    let push = |tag: &str, layer: &[u8]| image::push(cluster, 1, REPOSITORY, tag, layer);
    push("moved", b"first");
    push("went", b"second");
    let good = [named(cluster, "moved"), named(cluster, "went")];
    let told = history(cluster, "tag=went").json();
    let time = told["changes"][0]["at"].as_str().unwrap().to_owned();
    push("moved", b"wrong");
    assert_eq!(delete(cluster, "went", None).status, 202);
    push("came", b"wrong");
    let wrong = named(cluster, "moved");

    let (code, told) = run(cluster, &["history", "it/history:moved"]);
    assert!(code == 0 && told.contains("CHANGE") && told.contains("root"), "{told}");
    let (code, told) = run(cluster, &["restore", REPOSITORY, "--at", &time]);
    assert!(code == 0 && told.contains("nothing is changed; with --yes 3 tags are set back"), "{told}");
    assert_eq!((named(cluster, "moved"), named(cluster, "went")), (wrong.clone(), None));
    let (code, told) = run(cluster, &["restore", REPOSITORY, "--at", &time, "--yes"]);
    assert_eq!(code, 0, "{told}");
    assert_eq!([named(cluster, "moved"), named(cluster, "went")], good);
    assert_eq!(named(cluster, "came"), None);
    let now = history(cluster, "tag=moved").json();
    let digests: Vec<&Value> = now["changes"].as_array().unwrap().iter().map(|change| &change["digest"]).collect();
    assert_eq!(digests, [&json!(good[0]), &json!(wrong), &json!(good[0])]);

    // one tag, to a change by its number
    let (code, told) = run(cluster, &["restore", "it/history:moved", "--change", "2", "--yes"]);
    assert!(code == 0 && named(cluster, "moved") == wrong, "{told}");
    let (code, told) = run(cluster, &["restore", "it/history:moved", "--change", "9", "--yes"]);
    assert!(code == 2 && told.contains("portolan image history it/history:moved"), "{told}");
    // what was deleted by digest can't come back
    assert_eq!(delete(cluster, good[0].as_deref().unwrap(), None).status, 202);
    let (code, told) = run(cluster, &["restore", "it/history:moved", "--change", "1", "--yes"]);
    assert!(code == 1 && told.contains("push the image again"), "{told}");
    assert_eq!(named(cluster, "moved"), wrong);
}

// Whoever sees an old state and deletes by it is told that the tag has moved; nonsense is refused before it acts.
#[test]
fn a_delete_may_have_a_condition() {
    let cluster = Cluster::shared();
    image::push(cluster, 1, REPOSITORY, "held", b"third");
    let now = named(cluster, "held").unwrap();
    let old = format!("\"{}\"", Digest::sha256(b"something else"));
    let refused = delete(cluster, "held", Some(("If-Match", &old)));
    assert_eq!(refused.status, 412, "{}", refused.text());
    for (name, value) in [("If-None-Match", "*"), ("If-Match", "held")] {
        assert_eq!(delete(cluster, "held", Some((name, value))).status, 400);
    }
    assert_eq!(named(cluster, "held").unwrap(), now);
    assert_eq!(delete(cluster, "held", Some(("If-Match", &format!("\"{now}\"")))).status, 202);
    assert_eq!(named(cluster, "held"), None);
}

// A9, A19: a set-back is a push under the caller's own rights, and the past of what one may not see is not told.
#[test]
fn a09_a19_history_is_no_other_door() {
    let cluster = Cluster::shared();
    image::push(cluster, 1, REPOSITORY, "fixed", b"fourth");
    image::push(cluster, 1, REPOSITORY, "fixed", b"fifth");
    let now = named(cluster, "fixed");
    let settings = format!("{}/v1/repositories/{REPOSITORY}", cluster.admin(1));
    let fix = |mode: &str| {
        let body =
            json!({ "mutability": mode, "exclusions": if mode == "mutable" { json!([]) } else { json!(["x*"]) } });
        let patch = http::request("PATCH", &settings).key(&cluster.key()).header("Content-Type", "application/json");
        patch.body(body.to_string()).send()
    };
    assert_eq!(fix("immutable_with_exclusion").status, 200);
    let (code, told) = run(cluster, &["restore", "it/history:fixed", "--change", "1", "--yes"]);
    assert_eq!(fix("mutable").status, 200);
    assert!(code == 1 && told.contains("immutable") && named(cluster, "fixed") == now, "{told}");
    for (query, status) in [
        ("tag=never", 404),
        ("tag=a/b", 400),
        ("", 400),
        ("at=yesterday", 400),
        ("tag=fixed&at=2026-01-02", 400),
        ("at=2026-01-02&n=0", 400),
        ("at=2026-01-02", 200),
    ] {
        let answer = history(cluster, query);
        assert_eq!(answer.status, status, "{query}: {}", answer.text());
    }
    let url = format!("{}/v1/history/{REPOSITORY}?tag=fixed", cluster.admin(1));
    assert_eq!(http::request("GET", &url).send().status, 401);
}
