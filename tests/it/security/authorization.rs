//! Security cases A1 to A11 and A27: content never goes from one repository to another past somebody's rights.

use std::time::{Duration, Instant};

use registry_core::vocabulary::Digest;
use serde_json::json;

use super::people::{Person, admin, bearer, changed};
use super::repo::{CONFIG, DOCKER, IMAGE, INDEX, LAYER, Repo, described, image, index, no, noise, told};
use crate::support::Cluster;
use crate::support::http::{self, Answer};

/// How long a delete may take to reach every node's pulls by digest: the published bound, and a busy machine.
const BOUND: Duration = Duration::from_secs(75);

/// The bases of all nodes.
fn nodes() -> impl Iterator<Item = String> {
    (1..=3).map(|node| Cluster::shared().node(node))
}

/// An answer as a client that knows nothing sees it: status, headers, code; not what differs each time.
fn shape(answer: &Answer) -> (u16, Vec<String>, String) {
    let mut headers: Vec<String> = answer.headers.keys().map(ToString::to_string).collect();
    headers.sort();
    (answer.status, headers, answer.code())
}

/// Asks a repository on every node until all answer so.
fn everywhere(repo: &Repo, rest: &str, want: &(u16, String)) {
    let until = Instant::now() + BOUND;
    for base in nodes() {
        let repo = repo.behind(&base);
        while &repo.refused(rest) != want {
            assert!(Instant::now() < until, "{base} {rest}: {:?}", repo.refused(rest));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

// A1: a mount takes from where the caller may pull and from nowhere else. Otherwise the answer is a fresh upload, the
// same whether the blob is in a hidden repository, in none, or its repository does not exist.
#[test]
fn a01_mount_from_unreadable() {
    let hidden = Repo::shared("a01/hidden");
    let bytes = noise(101, 5000);
    hidden.blob(LAYER, &bytes);
    let (digest, absent) = (Digest::sha256(&bytes), Digest::sha256(b"a01: nobody has this"));
    let ann = Person::new("a01-ann", &["read,write,create:a01/mine", "read:a01/shown"]);
    let mine = ann.repo("a01/mine");
    let mount =
        |digest: &Digest, from: &str| mine.request("POST", &format!("blobs/uploads/?mount={digest}{from}")).send();
    let want = shape(&mount(&absent, ""));
    assert_eq!((want.0, want.2.as_str()), (202, ""));
    for from in ["&from=a01/hidden", "", "&from=", "&from=a01/missing", "&from=A01//..", "&from=a01/mine"] {
        let answer = mount(&digest, from);
        assert_eq!(shape(&answer), want, "{from:?}: {}", answer.text());
        assert!(answer.header("location").starts_with("/v2/a01/mine/blobs/uploads/"));
        assert_eq!(mine.refused(&format!("blobs/{digest}")), no(404, "BLOB_UNKNOWN"), "{from:?}");
    }
    // a token does not reach further than its owner
    let token = ann.token("repository:a01/mine:pull,push repository:a01/hidden:pull");
    let url = |from: &str| format!("{}/v2/a01/mine/blobs/uploads/?mount={digest}{from}", mine.base);
    let by_token = |from| http::request("POST", &url(from)).header("Authorization", &bearer(&token)).send();
    for from in ["&from=a01/hidden", ""] {
        assert_eq!(shape(&by_token(from)), want, "{from:?}");
    }
    // what she may pull she may mount, named or not; a token that does not cover the source is asked to
    hidden.named("a01/shown").blob(LAYER, &bytes);
    assert_eq!(by_token("&from=a01/shown").status, 401);
    assert_eq!(mount(&digest, "").status, 201);
    assert_eq!(mine.get(&format!("blobs/{digest}")).body, bytes);
    // somebody without a credential who may push somewhere learns as little
    let open = json!({ "Version": "2012-10-17", "Statement": { "Effect": "Allow", "Action": "ecr:*",
        "Resource": "arn:aws:ecr:*:*:repository/a01/open" } });
    changed("PUT", "/v1/users/anonymous/policies/a01", &open);
    for from in ["&from=a01/hidden", "&from=a01/missing", ""] {
        let url = format!("{}/v2/a01/open/blobs/uploads/?mount={digest}{from}", mine.base);
        let answer = http::request("POST", &url).send();
        assert_eq!(shape(&answer), want, "{from:?}: {}", answer.text());
    }
    changed("DELETE", "/v1/users/anonymous/policies/a01", &json!({}));
}

// A2: a blob of another repository is not there, on any node, by any verb, however it is asked for.
#[test]
fn a02_blob_of_another_repository() {
    let bytes = noise(102, 70_000);
    let blob = Repo::shared("a02/hidden").blob(LAYER, &bytes);
    let digest = blob["digest"].as_str().unwrap().to_owned();
    let ann = Person::new("a02-ann", &["read,write,delete,create:a02/mine"]);
    ann.repo("a02/mine").blob(LAYER, b"something else");
    for base in nodes() {
        let mine = ann.repo("a02/mine").behind(&base);
        let path = format!("blobs/{digest}");
        assert_eq!(mine.refused(&path), no(404, "BLOB_UNKNOWN"));
        let head = mine.request("HEAD", &path).send();
        assert_eq!(head.status, 404);
        assert!(!head.headers.contains_key("docker-content-digest"));
        for (name, value) in [("Range", "bytes=0-9".to_owned()), ("If-None-Match", format!("\"{digest}\""))] {
            let answer = mine.request("GET", &path).header(name, &value).send();
            assert_eq!(told(&answer), no(404, "BLOB_UNKNOWN"), "{name}");
        }
        assert_eq!(told(&mine.request("DELETE", &path).send()), no(404, "BLOB_UNKNOWN"));
        assert_eq!(mine.refused(&format!("manifests/{digest}")), no(404, "MANIFEST_UNKNOWN"));
        assert_eq!(mine.named("a02/hidden").refused(&path), no(404, "NAME_UNKNOWN"));
    }
}

// A3: knowing a digest never gives the content: without the bytes, with fewer or with others, in one request or in
// several, the answer is the one for a digest that nobody has, and nothing is readable.
#[test]
fn a03_known_digest_without_the_bytes() {
    for (seed, size) in [(103, 900), (104, 200_000)] {
        let bytes = noise(seed, size);
        Repo::shared("a03/hidden").blob(LAYER, &bytes);
        let (known, absent) = (Digest::sha256(&bytes), Digest::sha256(&noise(seed + 50, size)));
        let ann = Person::new(&format!("a03-ann-{size}"), &["read,write,create:a03/mine"]);
        let mine = ann.repo("a03/mine");
        for sent in [&b""[..], &bytes[..size - 1], &bytes[..size / 2], b"x"] {
            let at_once =
                |digest: &Digest| mine.request("POST", &format!("blobs/uploads/?digest={digest}")).body(sent).send();
            let in_one_put =
                |digest: &Digest| mine.follow("PUT", &format!("{}?digest={digest}", mine.begin())).body(sent).send();
            let in_two = |digest: &Digest| {
                let appended = mine.follow("PATCH", &mine.begin()).body(sent).send();
                assert_eq!(appended.status, 202, "{}", appended.text());
                mine.follow("PUT", &format!("{}?digest={digest}", appended.header("location"))).send()
            };
            for (how, push) in
                [("POST", &at_once as &dyn Fn(&Digest) -> Answer), ("PUT", &in_one_put), ("PATCH and PUT", &in_two)]
            {
                let what = format!("{how} of {} of {size} bytes", sent.len());
                assert_eq!(told(&push(&known)), no(400, "DIGEST_INVALID"), "{what}");
                assert_eq!(shape(&push(&known)), shape(&push(&absent)), "{what}");
                assert_eq!(mine.refused(&format!("blobs/{known}")), no(404, "BLOB_UNKNOWN"), "{what}");
            }
        }
    }
}

/// Asks in turns whether either of two digests can be had, and returns both medians.
fn medians(samples: usize, ask: impl Fn(&Digest) -> Answer, [one, other]: [&Digest; 2]) -> [Duration; 2] {
    let mut times = [Vec::new(), Vec::new()];
    for sample in 0..samples {
        // the order changes, so that neither is always the second
        for which in [sample % 2, 1 - sample % 2] {
            let begun = Instant::now();
            let answer = ask([one, other][which]);
            times[which].push(begun.elapsed());
            assert!(matches!(answer.status, 202 | 400), "{}", answer.text());
        }
    }
    times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    })
}

// A4: how long a mount or an empty push takes does not tell whether the store has the digest, also when more
// hidden repositories hold it than are looked at.
#[test]
fn a04_time_does_not_tell() {
    const HIDDEN: usize = 120;
    let bytes = noise(105, 30_000);
    let hidden = Repo::shared("a04/hidden/0");
    hidden.blob(LAYER, &bytes);
    let (known, absent) = (Digest::sha256(&bytes), Digest::sha256(b"a04: nobody has this"));
    for number in 1..HIDDEN {
        let mount = format!("blobs/uploads/?mount={known}&from=a04/hidden/0");
        let answer = hidden.named(&format!("a04/hidden/{number}")).request("POST", &mount).send();
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    // rights with conditions are decided anew for each repository and request, and many statements make that dear
    let ann = Person::new("a04-ann", &[]);
    let statement = |number: usize| {
        let resource = if number == 0 { "a04/mine".to_owned() } else { format!("*/{number}/*/x") };
        json!({ "Effect": "Allow", "Action": "ecr:*", "Resource": format!("arn:aws:ecr:*:*:repository/{resource}"),
            "Condition": { "IpAddress": { "aws:SourceIp": "127.0.0.0/8" } } })
    };
    let statements: Vec<_> = (0..50).map(statement).collect();
    changed("PUT", &ann.path("/policies/a04"), &json!({ "Version": "2012-10-17", "Statement": statements }));
    let mine = ann.repo("a04/mine");
    mine.blob(LAYER, b"here already");
    let from = |from: &'static str| {
        let mine = mine.clone();
        move |digest: &Digest| mine.request("POST", &format!("blobs/uploads/?mount={digest}{from}")).send()
    };
    let empty = |digest: &Digest| mine.request("POST", &format!("blobs/uploads/?digest={digest}")).send();
    type Ask<'a> = &'a dyn Fn(&Digest) -> Answer;
    let asks: [(&str, Ask<'_>); 3] =
        [("mount from anywhere", &from("")), ("mount from there", &from("&from=a04/hidden/0")), ("empty push", &empty)];
    for (how, ask) in asks {
        let [known, absent] = medians(80, ask, [&known, &absent]);
        let apart = known.abs_diff(absent);
        let allowed = Duration::from_millis(2).max(known.min(absent) / 2);
        assert!(apart < allowed, "{how}: {known:?} when it is there, {absent:?} when not");
    }
}

// A5: what a manifest names must be in its own repository; that it is in the store does not count. Where the
// repository takes sparse manifests, one naming what is elsewhere gives none of it.
#[test]
fn a05_manifest_names_blobs_of_another_repository() {
    let hidden = Repo::shared("a05/hidden");
    let (layer, config) = (hidden.blob(LAYER, &noise(106, 4000)), hidden.blob(CONFIG, br#"{"a05":1}"#));
    let child = image(&config, std::slice::from_ref(&layer)).to_string();
    hidden.stored("v1", IMAGE, child.clone());
    let ann = Person::new("a05-ann", &["read,write,create:a05/mine", "read,write,create:a05/sparse"]);
    let mine = ann.repo("a05/mine");
    let own = mine.blob(CONFIG, b"{}");
    for (what, body, kind, code) in [
        ("layer", image(&own, std::slice::from_ref(&layer)).to_string(), IMAGE, "MANIFEST_BLOB_UNKNOWN"),
        ("config", image(&config, &[]).to_string(), IMAGE, "MANIFEST_BLOB_UNKNOWN"),
        ("child", index(&[described(IMAGE, &child)]).to_string(), INDEX, "MANIFEST_UNKNOWN"),
    ] {
        for reference in ["v1".to_owned(), Digest::sha256(body.as_bytes()).to_string()] {
            assert_eq!(told(&mine.put(&reference, kind, body.clone())), no(400, code), "{what}");
            assert_eq!(mine.refused(&format!("manifests/{reference}")), no(404, "MANIFEST_UNKNOWN"), "{what}");
        }
    }
    let sparse = json!({ "name": "a05/sparse", "settings": { "mutability": "mutable", "sparse": true } });
    changed("POST", "/v1/repositories", &sparse);
    let sparse = ann.repo("a05/sparse");
    sparse.stored("v1", IMAGE, image(&sparse.blob(CONFIG, b"{}"), std::slice::from_ref(&layer)).to_string());
    sparse.stored("v2", INDEX, index(&[described(IMAGE, &child)]).to_string());
    let blob = format!("blobs/{}", layer["digest"].as_str().unwrap());
    let manifest = format!("manifests/{}", Digest::sha256(child.as_bytes()));
    assert_eq!(sparse.refused(&blob), no(404, "BLOB_UNKNOWN"));
    assert_eq!(sparse.refused(&manifest), no(404, "MANIFEST_UNKNOWN"));
}

// A6: what is deleted in one repository stays deleted there, on every node, whatever another repository that holds the
// same content does.
#[test]
fn a06_deleted_here_and_held_there() {
    let (one, other) = (Repo::shared("a06/one"), Repo::shared("a06/other"));
    let layer = noise(107, 150_000);
    let body = one.image(&layer).to_string();
    let digest = one.stored("v1", IMAGE, body.clone());
    other.image(&layer);
    other.stored("v1", IMAGE, body.clone());
    let (manifest, blob) = (format!("manifests/{digest}"), format!("blobs/{}", Digest::sha256(&layer)));
    for base in nodes() {
        // what every node has read once it may have kept
        assert_eq!((one.behind(&base).get(&manifest).status, one.behind(&base).get(&blob).status), (200, 200));
    }
    assert_eq!(one.request("DELETE", &manifest).send().status, 202);
    assert_eq!(one.request("DELETE", &blob).send().status, 202);
    let gone = || {
        everywhere(&one, &manifest, &no(404, "MANIFEST_UNKNOWN"));
        everywhere(&one, &blob, &no(404, "BLOB_UNKNOWN"));
        assert_eq!(one.refused("manifests/v1"), no(404, "MANIFEST_UNKNOWN"));
    };
    gone();
    for base in nodes() {
        let other = other.behind(&base);
        assert_eq!(other.get(&manifest).body, body.as_bytes());
        assert_eq!(other.get(&blob).body, layer);
    }
    other.stored("v2", IMAGE, body.clone());
    other.blob(LAYER, &layer);
    for _ in 0..3 {
        for base in nodes() {
            let one = one.behind(&base);
            assert_eq!(one.refused(&manifest), no(404, "MANIFEST_UNKNOWN"), "once gone it does not come back");
            assert_eq!(one.refused(&blob), no(404, "BLOB_UNKNOWN"), "once gone it does not come back");
        }
    }
}

// A7: an upload belongs to its repository and its principal. Anybody else, and any other repository, gets the answer
// for an upload that does not exist, by every verb and on every node; the upload itself goes on.
#[test]
fn a07_upload_of_somebody_else() {
    let (ann, bob) =
        (Person::new("a07-ann", &["read,write,create:a07/*"]), Person::new("a07-bob", &["write,create:a07/*"]));
    let (mine, other) = (ann.repo("a07/mine"), ann.repo("a07/other"));
    other.blob(LAYER, b"so that it is there");
    let bytes = noise(108, 3000);
    let appended = mine.follow("PATCH", &mine.begin()).body(&bytes[..1000]).send();
    let location = appended.header("location").to_owned();
    let token = location.rsplit('/').next().unwrap().to_owned();
    let digest = Digest::sha256(&bytes);
    let elsewhere = location.replace("a07/mine", "a07/other");
    let (front, rest) = token.split_at(token.len() / 2);
    let invented = format!("{front}{}{}", if rest.starts_with('x') { 'y' } else { 'x' }, &rest[1..]);
    let strangers = [
        ("another principal", Repo { key: bob.key.clone(), ..mine.clone() }, location.clone()),
        ("the root user", Repo::shared("a07/mine"), location.clone()),
        ("another repository", other.clone(), elsewhere),
        ("a changed token", mine.clone(), location.replace(&token, &invented)),
        ("no token", mine.clone(), location.replace(&token, "1")),
        ("a plain id", mine.clone(), location.replace(&token, appended.header("docker-upload-uuid"))),
    ];
    for (who, repo, location) in &strangers {
        for base in nodes() {
            let repo = repo.behind(&base);
            for (method, query) in [
                ("GET", String::new()),
                ("PATCH", String::new()),
                ("PUT", format!("?digest={digest}")),
                ("DELETE", String::new()),
            ] {
                let body = if method == "GET" || method == "DELETE" { &[][..] } else { &bytes[1000..] };
                let answer = repo.follow(method, &format!("{location}{query}")).body(body).send();
                assert_eq!(told(&answer), no(404, "BLOB_UPLOAD_UNKNOWN"), "{who}: {method} {}", answer.text());
                assert!(answer.header("location").is_empty(), "{who}: {method}");
            }
        }
    }
    let progress = mine.follow("GET", &location).send();
    assert_eq!((progress.status, progress.header("range")), (204, "0-999"));
    let done = mine.follow("PUT", &format!("{location}?digest={digest}")).body(&bytes[1000..]).send();
    assert_eq!(done.status, 201, "{}", done.text());
    // ids say nothing of each other: two uploads of one moment differ in 128 drawn bits
    let id = |answer: &Answer| answer.header("docker-upload-uuid").to_owned();
    let ids: std::collections::BTreeSet<String> =
        (0..20).map(|_| id(&mine.request("POST", "blobs/uploads/").send())).collect();
    assert_eq!(ids.len(), 20);
}

/// Two images of one repository, and the first one's tags.
struct Tagged {
    owner: Repo,
    first: String,
    second: String,
}

impl Tagged {
    fn new(name: &str, seed: u32, tags: &[&str]) -> Tagged {
        let owner = Repo::shared(name);
        let [first, second] = [0, 1].map(|more| owner.image(&noise(seed + more, 600)).to_string());
        for tag in tags {
            owner.stored(tag, IMAGE, first.clone());
        }
        Tagged { owner, first, second }
    }

    /// Whether the tag names the first image on every node.
    fn stands(&self, tag: &str) {
        for base in nodes() {
            let found = self.owner.behind(&base).get(&format!("manifests/{tag}"));
            assert_eq!(String::from_utf8_lossy(&found.body), self.first, "{tag} on {base}");
        }
    }
}

// A8: who may create tags and not move them moves none, whatever its name, on any node; it may set new ones.
#[test]
fn a08_create_does_not_move() {
    let tagged = Tagged::new("a08/app", 110, &["v1", "latest", "1.0"]);
    let ann = Person::new("a08-ann", &["read,append:a08/app"]);
    for tag in ["v1", "latest", "1.0"] {
        for base in nodes() {
            let answer = ann.repo("a08/app").behind(&base).put(tag, IMAGE, tagged.second.clone());
            assert_eq!(told(&answer), no(403, "DENIED"), "{tag}");
        }
        tagged.stands(tag);
    }
    let mine = ann.repo("a08/app");
    assert_eq!(mine.put("v2", IMAGE, tagged.second.clone()).status, 201);
    assert_eq!(told(&mine.put("v2", IMAGE, tagged.first.clone())), no(403, "DENIED"), "its own tag neither");
    assert_eq!(mine.put("v1", IMAGE, tagged.first.clone()).status, 201, "what is set so already is no move");
}

// A9: every door by which a tag can be set asks the same question: the path, `?tag=`, several tags, an index, a Docker
// manifest, a condition, a token; all or nothing.
#[test]
fn a09_every_door_that_sets_tags() {
    let tagged = Tagged::new("a09/app", 112, &["v1", "latest"]);
    let ann = Person::new("a09-ann", &["read,append:a09/app"]);
    let mine = ann.repo("a09/app");
    let (first, second) = (Digest::sha256(tagged.first.as_bytes()), Digest::sha256(tagged.second.as_bytes()));
    tagged.owner.stored(&second.to_string(), IMAGE, tagged.second.clone());
    let list = index(&[described(IMAGE, &tagged.first)]).to_string();
    let docker = json!({ "schemaVersion": 2, "mediaType": DOCKER, "config": mine.blob(CONFIG, b"{}"), "layers": [] });
    let (list_digest, docker) = (Digest::sha256(list.as_bytes()), docker.to_string());
    let token = ann.token("repository:a09/app:pull,push");
    /// What stands behind `manifests/`, the type, the body, and a header if any.
    type Door<'a> = (&'a str, String, &'a str, String, Vec<(&'a str, String)>);
    let doors: Vec<Door<'_>> = vec![
        ("path", "latest".into(), IMAGE, tagged.second.clone(), vec![]),
        ("?tag=", format!("{second}?tag=latest"), IMAGE, tagged.second.clone(), vec![]),
        ("several tags", format!("{second}?tag=a09-new&tag=latest"), IMAGE, tagged.second.clone(), vec![]),
        ("path and ?tag=", "a09-new?tag=v1".into(), IMAGE, tagged.second.clone(), vec![]),
        ("index", "latest".into(), INDEX, list.clone(), vec![]),
        ("index and ?tag=", format!("{list_digest}?tag=latest"), INDEX, list, vec![]),
        ("docker", "latest".into(), DOCKER, docker, vec![]),
        ("condition", "latest".into(), IMAGE, tagged.second.clone(), vec![("If-Match", format!("\"{first}\""))]),
        ("token", "latest".into(), IMAGE, tagged.second.clone(), vec![("Authorization", bearer(&token))]),
    ];
    for (door, reference, kind, body, headers) in doors {
        let url = format!("{}/v2/a09/app/manifests/{reference}", mine.base);
        let mut request = http::request("PUT", &url).header("Content-Type", kind).body(body);
        if headers.iter().all(|(name, _)| *name != "Authorization") {
            request = request.key(&ann.key);
        }
        for (name, value) in &headers {
            request = request.header(name, value);
        }
        let answer = request.send();
        assert_eq!(told(&answer), no(403, "DENIED"), "{door}: {}", answer.text());
        tagged.stands("latest");
        tagged.stands("v1");
        assert_eq!(mine.refused("manifests/a09-new"), no(404, "MANIFEST_UNKNOWN"), "{door}: all or nothing");
    }
}

// A10: who may not delete deletes nothing: no tag, no manifest by digest, no blob, with a key or with a token, on any
// node.
#[test]
fn a10_deletion_denied() {
    let tagged = Tagged::new("a10/app", 114, &["v1"]);
    let digest = Digest::sha256(tagged.first.as_bytes());
    let loose = tagged.owner.blob(LAYER, b"named by nothing");
    let ann = Person::new("a10-ann", &["read,write,create:a10/app"]);
    let wide = Person::new("a10-bob", &["read,write,delete:a10/app"]);
    let narrow = wide.token("repository:a10/app:pull,push");
    let loose = format!("blobs/{}", loose["digest"].as_str().unwrap());
    for path in ["manifests/v1".to_owned(), format!("manifests/{digest}"), loose.clone()] {
        for base in nodes() {
            let mine = ann.repo("a10/app").behind(&base);
            assert_eq!(told(&mine.request("DELETE", &path).send()), no(403, "DENIED"), "{path}");
            let url = format!("{base}/v2/a10/app/{path}");
            let by_token = http::request("DELETE", &url).header("Authorization", &bearer(&narrow)).send();
            assert_eq!(told(&by_token), no(401, "UNAUTHORIZED"), "{path}");
            let stranger = http::request("DELETE", &url).send();
            assert_eq!(told(&stranger), no(401, "UNAUTHORIZED"), "{path}");
        }
    }
    tagged.stands("v1");
    assert_eq!((tagged.owner.get(&format!("manifests/{digest}")).status, tagged.owner.get(&loose).status), (200, 200));
    assert_eq!(wide.repo("a10/app").request("DELETE", "manifests/v1").send().status, 202, "who may does");
}

// A11: an immutable tag never names anything else while it exists, by any door; deleted by who may, its name is free.
// Of two first pushes at once through two nodes one wins, and the other is told so.
#[test]
fn a11_immutable_tags() {
    let made = json!({ "name": "a11/fixed", "settings": { "mutability": "immutable" } });
    changed("POST", "/v1/repositories", &made);
    let tagged = Tagged::new("a11/fixed", 116, &["v1"]);
    let second = Digest::sha256(tagged.second.as_bytes());
    for reference in ["v1".to_owned(), format!("{second}?tag=v1"), format!("{second}?tag=a11-new&tag=v1")] {
        let answer = tagged.owner.put(&reference, IMAGE, tagged.second.clone());
        assert_eq!(told(&answer), no(400, "TAG_INVALID"), "{reference}");
        tagged.stands("v1");
    }
    assert_eq!(tagged.owner.refused("manifests/a11-new"), no(404, "MANIFEST_UNKNOWN"));
    // a repeated push of the same changes nothing and succeeds
    assert_eq!(tagged.owner.put("v1", IMAGE, tagged.first.clone()).status, 201);
    assert_eq!(tagged.owner.request("DELETE", "manifests/v1").send().status, 202);
    assert_eq!(tagged.owner.refused("manifests/v1"), no(404, "MANIFEST_UNKNOWN"));
    assert_eq!(tagged.owner.put("v1", IMAGE, tagged.second.clone()).status, 201, "the name is free again");
    for round in 0..10 {
        let tag = format!("race-{round}");
        let race = |node: u8, body: &str| {
            let (repo, tag, body) = (tagged.owner.behind(&Cluster::shared().node(node)), tag.clone(), body.to_owned());
            std::thread::spawn(move || (told(&repo.put(&tag, IMAGE, body.clone())), body))
        };
        let both = [race(1, &tagged.first), race(3, &tagged.second)].map(|push| push.join().unwrap());
        let (won, lost): (Vec<_>, Vec<_>) = both.into_iter().partition(|(told, _)| told.0 == 201);
        assert_eq!((won.len(), &lost[0].0), (1, &no(400, "TAG_INVALID")), "{tag}");
        let found = tagged.owner.get(&format!("manifests/{tag}"));
        assert_eq!(String::from_utf8_lossy(&found.body), won[0].1, "{tag}");
    }
}

// A27: a repository made again under the same name is another one: no upload, manifest, blob or token of the former
// reaches into it.
#[test]
fn a27_made_again_under_the_same_name() {
    let (ann, bob) = (Person::new("a27-ann", &["read,write:a27/app"]), Person::new("a27-bob", &[]));
    changed("POST", "/v1/repositories", &json!({ "name": "a27/app" }));
    let mine = ann.repo("a27/app");
    let layer = noise(120, 90_000);
    let digest = mine.stored("v1", IMAGE, mine.image(&layer).to_string());
    let appended = mine.follow("PATCH", &mine.begin()).body("half").send();
    let token = ann.token("repository:a27/app:pull,push");
    assert_eq!(admin("DELETE", "/v1/repositories/a27/app?force=true").send().status, 200);
    ann.grant(&[]);
    bob.grant(&["read,write,create:a27/app"]);
    changed("POST", "/v1/repositories", &json!({ "name": "a27/app" }));
    let new = bob.repo("a27/app");
    new.blob(CONFIG, b"{}");
    for (path, code) in [
        ("manifests/v1".to_owned(), "MANIFEST_UNKNOWN"),
        (format!("manifests/{digest}"), "MANIFEST_UNKNOWN"),
        (format!("blobs/{}", Digest::sha256(&layer)), "BLOB_UNKNOWN"),
    ] {
        everywhere(&new, &path, &no(404, code));
    }
    let by_token = |base: &str, path: &str| {
        http::request("GET", &format!("{base}/v2/a27/app/{path}")).header("Authorization", &bearer(&token)).send()
    };
    for base in nodes() {
        assert_eq!(told(&by_token(&base, "tags/list")), no(404, "NAME_UNKNOWN"), "the old owner's token");
    }
    // with her rights given back she is somebody with rights here, and her old upload is still none of this repository
    ann.grant(&["read,write:a27/app"]);
    for base in nodes() {
        let location = appended.header("location");
        let answer = mine.behind(&base).follow("PUT", &format!("{location}?digest={}", Digest::sha256(b"half"))).send();
        assert_eq!(told(&answer), no(404, "BLOB_UPLOAD_UNKNOWN"));
    }
    assert_eq!(new.get("tags/list").json()["tags"], json!([]));
}
