//! Group 5: listing, paging, limits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use registry_core::vocabulary::limits::PAGE_ENTRIES_MAX;
use serde_json::{Value, json};

use super::repo::{IMAGE, Repo, no};
use super::wire;
use crate::support::http::{self, Answer};
use crate::support::{Cluster, http::Request};

fn catalog(query: &str) -> Request {
    let cluster = Cluster::shared();
    http::request("GET", &format!("{}/v2/_catalog{query}", cluster.node(1))).key(&cluster.key())
}

/// The target of `Link: <…>; rel="next"`.
fn next(answer: &Answer) -> Option<String> {
    let (target, rest) = answer.header("link").strip_prefix('<')?.split_once('>')?;
    assert_eq!(rest, "; rel=\"next\"");
    Some(target.to_owned())
}

/// All pages of a list, in the order in which they came.
fn all(base: &str, key: &str, first: &str, member: &str) -> Vec<String> {
    let (mut found, mut target) = (Vec::new(), Some(first.to_owned()));
    while let Some(at) = target {
        let answer = http::request("GET", &format!("{base}{at}")).key(key).settled();
        assert_eq!(answer.status, 200, "{at}: {}", answer.text());
        let page = answer.json()[member].clone();
        found.extend(page.as_array().unwrap().iter().map(|entry| entry.as_str().unwrap().to_owned()));
        target = next(&answer);
    }
    found
}

fn tags(repo: &Repo, query: &str) -> Vec<String> {
    all(&repo.base, &repo.key, &format!("/v2/{}/tags/list{query}", repo.name), "tags")
}

/// Sets many tags, ten to a request.
fn tag(repo: &Repo, image: &str, names: &[String]) {
    std::thread::scope(|scope| {
        for part in names.chunks(names.len().div_ceil(16)) {
            scope.spawn(move || {
                for ten in part.chunks(10) {
                    let query: Vec<String> = ten[1..].iter().map(|name| format!("tag={name}")).collect();
                    repo.stored(&format!("{}?{}", ten[0], query.join("&")), IMAGE, image);
                }
            });
        }
    });
}

// L1: a page is as large as asked for, up to its bound, and what is no number is refused: for tags, repositories and
// referrers, and on the operators' side.
#[test]
fn l01_sizes_of_pages() {
    let repo = Repo::shared("l01");
    let image = repo.image(b"l01").to_string();
    let names: Vec<String> = (0..PAGE_ENTRIES_MAX + 20).map(|number| format!("t{number:05}")).collect();
    tag(&repo, &image, &names);
    for n in ["2147483647", "9223372036854775807", "99999999999999999999999999", "1001", "1000"] {
        let answer = repo.get(&format!("tags/list?n={n}"));
        let page = answer.json()["tags"].as_array().unwrap().len();
        assert_eq!((answer.status, page), (200, PAGE_ENTRIES_MAX), "{n}");
        assert!(next(&answer).is_some());
        assert_eq!(catalog(&format!("?n={n}")).settled().status, 200, "{n}");
        assert_eq!(repo.get(&format!("referrers/sha256:{}?n={n}", "a".repeat(64))).status, 200, "{n}");
    }
    for n in ["-1", "abc", "1.5", "+1", "0x10", "1e3", "%00", "1%0a", "١", "1&n=2", " 1"] {
        let n = n.replace(' ', "%20").replace('١', "%D9%A1");
        assert_eq!(repo.refused(&format!("tags/list?n={n}")), no(400, "PAGINATION_NUMBER_INVALID"), "{n}");
        assert_eq!(catalog(&format!("?n={n}")).settled().status, 400, "{n}");
        let url = format!("{}/v1/repositories?n={}", Cluster::shared().admin(1), n);
        assert_eq!(http::request("GET", &url).key(&repo.key).settled().status, 400, "{n}");
    }
    let empty = repo.get("tags/list?n=0");
    assert_eq!((empty.status, next(&empty), &empty.json()["tags"]), (200, None, &json!([])));
}

// L2: names of which one is the beginning of another are all listed, once, in byte order, however pages fall.
#[test]
fn l02_prefixes_of_each_other() {
    let repo = Repo::shared("l02");
    let image = repo.image(b"l02").to_string();
    let mut names: Vec<String> =
        ["1", "1.0", "1.0.0", "1.0-rc", "1-0", "10", "1_0", "a", "A", "a-1", "a.", "a-", "aa", "_", "a_b"]
            .map(str::to_owned)
            .to_vec();
    tag(&repo, &image, &names);
    names.sort();
    for n in 1..=names.len() + 1 {
        assert_eq!(tags(&repo, &format!("?n={n}")), names, "{n}");
    }
    for last in ["0", "1", "1.", "1.0", "Z", "a", "zz"] {
        let behind: Vec<&String> = names.iter().filter(|name| name.as_str() > last).collect();
        assert_eq!(repo.get(&format!("tags/list?last={last}")).json()["tags"], json!(behind), "{last}");
    }
    let mut repositories: Vec<String> =
        ["l02x", "l02x-1", "l02x/a", "l02x/a/b", "l02x.a", "l02x1", "l02x_a", "l02x/a-b"].map(str::to_owned).to_vec();
    for name in &repositories {
        repo.named(name).begin();
    }
    repositories.sort();
    for n in [1, 2, 3, 7, 1000] {
        let mut found = all(&repo.base, &repo.key, &format!("/v2/_catalog?n={n}"), "repositories");
        assert!(found.is_sorted_by(|one, next| one < next), "each once, in order: {found:?}");
        found.retain(|name| name.starts_with("l02x"));
        assert_eq!(found, repositories, "{n}");
    }
}

// L3: the end of a list is an empty array without a link, whether a page is exactly full or asked for behind the end.
#[test]
fn l03_last_page() {
    let repo = Repo::shared("l03");
    let image = repo.image(b"l03").to_string();
    tag(&repo, &image, &["a", "b", "c", "d"].map(str::to_owned));
    for (query, tags, has_next) in [
        ("?n=4", &["a", "b", "c", "d"][..], false),
        ("?n=3", &["a", "b", "c"], true),
        ("?n=2&last=b", &["c", "d"], false),
        ("?n=1&last=b", &["c"], true),
        ("?last=d", &[], false),
        ("?last=zzz", &[], false),
        ("?n=1&last=zzz", &[], false),
    ] {
        let answer = repo.get(&format!("tags/list{query}"));
        assert_eq!((answer.json()["tags"].clone(), next(&answer).is_some()), (json!(tags), has_next), "{query}");
    }
    let answer = catalog("?last=zzzzzz").settled();
    assert_eq!((answer.json()["repositories"].clone(), next(&answer)), (json!([]), None));
}

// L4: the end of a page is an entry of the list, open to see and worth nothing by itself: what can be none is refused,
// and one of another list shows nothing that its caller may not see anyway.
#[test]
fn l04_cursors() {
    let (repo, other) = (Repo::shared("l04"), Repo::shared("l04-other"));
    let image = repo.image(b"l04").to_string();
    tag(&repo, &image, &["a", "b"].map(str::to_owned));
    let image = other.image(b"l04").to_string();
    tag(&other, &image, &["a-secret", "b"].map(str::to_owned));
    let long = "a".repeat(10_000);
    for last in [&*long, "..%2f", "a%2Fb", "%00", "%ff", "a%20b", "sha256:x", "a&last=b", ".a"] {
        assert_eq!(repo.refused(&format!("tags/list?last={last}")), no(400, "PAGINATION_NUMBER_INVALID"), "{last}");
    }
    for last in [&*long, "A", "..", "a%2F%2Fb", "%00", "%ff", "a%0a", "a&last=b"] {
        assert_eq!(catalog(&format!("?last={last}")).settled().status, 400, "{last}");
    }
    for last in ["a", &long, "sha256:aa", "%00"] {
        let rest = format!("referrers/sha256:{}?last={last}", "a".repeat(64));
        assert_eq!(repo.refused(&rest), no(400, "PAGINATION_NUMBER_INVALID"), "{last}");
    }
    assert_eq!(repo.get("tags/list?last=a-secret").json()["tags"], json!(["b"]));
    let nobody = http::request("GET", &format!("{}/v2/l04/tags/list?last=a", repo.base)).settled();
    assert_eq!(nobody.status, 401, "a cursor opens nothing");
}

// L5: while others push and delete, what is there all the time is listed once.
#[test]
fn l05_pages_while_others_change() {
    let repo = Repo::shared("l05");
    let image = repo.image(b"l05").to_string();
    let steady: Vec<String> = (0..200).map(|number| format!("s{number:03}")).collect();
    tag(&repo, &image, &steady);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for worker in 0..3_u8 {
            let (repo, image, stop) = (repo.behind(&Cluster::shared().node(worker + 1)), &image, &stop);
            scope.spawn(move || {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    let name = format!("s{:03}-{worker}", number * 7 % 200);
                    repo.stored(&name, IMAGE, image.as_str());
                    assert_eq!(repo.request("DELETE", &format!("manifests/{name}")).settled().status, 202);
                    number += 1;
                }
            });
        }
        for n in [7, 13, 50, 7, 13, 50] {
            let mut found = tags(&repo, &format!("?n={n}"));
            assert!(found.is_sorted_by(|one, next| one < next), "none twice");
            found.retain(|name| !name.contains('-'));
            assert_eq!(found, steady, "none missing");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(tags(&repo, ""), steady);
}

// L6: one tag's push, pull and delete, and a page, take no longer beside twenty thousand tags than beside none. What an
// act reads is counted at a million rows in `core`; this is the same with a real disk and real requests.
#[test]
fn l06_many_tags() {
    let (small, large) = (Repo::shared("l06-small"), Repo::shared("l06-large"));
    let image = small.image(b"l06").to_string();
    large.image(b"l06");
    small.stored("v", IMAGE, image.as_str());
    let names: Vec<String> = (0..20_000).map(|number| format!("t{number:06}")).collect();
    tag(&large, &image, &names);
    let act = |repo: &Repo| {
        let began = Instant::now();
        repo.stored("one", IMAGE, image.as_str());
        assert_eq!(repo.get("manifests/one").status, 200);
        assert_eq!(repo.request("DELETE", "manifests/one").settled().status, 202);
        assert_eq!(repo.get("tags/list?n=1&last=t010000").status, 200);
        began.elapsed()
    };
    let median = |repo: &Repo| {
        let mut times: Vec<Duration> = (0..15).map(|_| act(repo)).collect();
        times.sort();
        times[7]
    };
    let (few, many) = (median(&small), median(&large));
    // Generous, for a machine that does other things as well: a walk over twenty thousand rows takes far longer.
    assert!(many < few * 4 + Duration::from_millis(50), "{few:?} beside one tag, {many:?} beside {}", names.len());
}

// L7: a repository without tags has an empty list; one that never was is unknown; one whose tags are all deleted is
// empty again.
#[test]
fn l07_empty_repository() {
    let repo = Repo::shared("l07");
    assert_eq!(repo.refused("tags/list"), no(404, "NAME_UNKNOWN"));
    repo.begin();
    let none = json!({ "name": "l07", "tags": [] });
    assert_eq!(repo.get("tags/list").json(), none);
    let image = repo.image(b"l07").to_string();
    let digest = repo.stored("v", IMAGE, image);
    assert_eq!(repo.get("tags/list").json()["tags"], json!(["v"]));
    assert_eq!(repo.request("DELETE", "manifests/v").settled().status, 202);
    assert_eq!(repo.get("tags/list").json(), none);
    assert_eq!(repo.get(&format!("manifests/{digest}")).status, 200, "the image stays");
}

// L8, L10: there is no filter, order or search to abuse: what looks like one is ignored or refused, and costs nothing.
#[test]
fn l08_l10_no_filters_and_orders() {
    let repo = Repo::shared("l08");
    let image = repo.image(b"l08").to_string();
    tag(&repo, &image, &["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "b", "c"].map(str::to_owned));
    let plain: Value = repo.get("tags/list").json();
    for query in [
        "q=(a%2B)%2B%24",
        "q=%5E(a%7Ca)*%24",
        "filter=(a%7Caa)%2B%24",
        "regex=.*",
        "sort=password",
        "sort=-created_at;drop%20table%20tags",
        "orderby=secret",
        "q=%27%20OR%201=1--",
        "fields=*",
        "tags=%5B%5D",
        "where%5Bsecret%5D%5B%24gt%5D=",
    ] {
        let began = Instant::now();
        let answer = repo.get(&format!("tags/list?{query}"));
        assert_eq!((answer.status, answer.json()), (200, plain.clone()), "{query}");
        assert_eq!(catalog(&format!("?n=1&{query}")).settled().status, 200);
        assert!(began.elapsed() < Duration::from_secs(5), "{query}");
        let url = format!("{}/v1/repositories?{query}", Cluster::shared().admin(1));
        let answer = http::request("GET", &url).key(&repo.key).settled();
        assert_eq!(answer.status, 400, "the operators' side knows its parameters: {query}");
    }
    let filtered = repo.get(&format!("referrers/sha256:{}?artifactType=(a%2B)%2B%24", "a".repeat(64)));
    assert_eq!((filtered.status, filtered.header("oci-filters-applied")), (200, "artifactType"));
}

// L9: what has a great many parts is refused or looked at once, in no time.
#[test]
fn l09_headers_of_many_parts() {
    let repo = Repo::shared("l09");
    let image = repo.image(b"l09").to_string();
    repo.stored("v", IMAGE, image);
    let ask = |target: &str, headers: &str| {
        let began = Instant::now();
        let answer = wire::ask(&repo.base, &repo.key, "GET", target, headers);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?} for {target:.60}", began.elapsed());
        wire::status(&answer)
    };
    let manifest = "/v2/l09/manifests/v";
    let parts = |part: &str, bytes: usize| part.repeat(bytes / part.len());
    for name in ["Accept", "Accept-Language", "Accept-Encoding", "Cookie", "If-None-Match", "X-Forwarded-For", "Range"]
    {
        for part in ["a;q=0.1,", ",", "*/*,", "en-us,", "a=b; ", "\"x\", ", "((((", "1-2,"] {
            let status = ask(manifest, &format!("{name}: {}\r\n", parts(part, 48 * 1024)));
            assert!([200, 400].contains(&status), "{name}: {part}: {status}");
            assert_eq!(ask(manifest, &format!("{name}: {}\r\n", parts(part, 66 * 1024))), 431, "{name}: {part}");
            // So much that the answer may be lost in the reset.
            let status = ask(manifest, &format!("{name}: {}\r\n", parts(part, 1024 * 1024)));
            assert!([0, 431].contains(&status), "{name}: {part}: {status}");
        }
    }
    assert_eq!(ask(manifest, &"Accept: a/b\r\n".repeat(90)), 200);
    assert_eq!(ask(manifest, &"Accept: a/b\r\n".repeat(5_000)), 431);
    for query in ["a&", "n=&", "tag=x&", "=&", "%41=%41&", "scope=a:b:c&"] {
        let status = ask(&format!("/v2/l09/tags/list?{}", parts(query, 12 * 1024)), "");
        assert!([200, 400].contains(&status), "{query}: {status}");
        let status = ask(&format!("/v2/l09/tags/list?{}", parts(query, 60 * 1024)), "");
        assert!([414, 431].contains(&status), "{query}: {status}");
        let status = ask(&format!("/v2/token?{}", parts(query, 12 * 1024)), "");
        assert!([200, 400].contains(&status), "{query}: {status}");
    }
    assert!([400, 404].contains(&ask(&format!("/v2/{}tags/list", "a/".repeat(6_000)), "")));
    assert_eq!(ask(manifest, ""), 200, "it serves as before");
}
