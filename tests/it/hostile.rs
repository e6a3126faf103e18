//! A region that names what it only knows the digest of: it is not given it, by whichever way it names it.

use registry_core::vocabulary::Digest;
use serde_json::json;

use crate::backfill::cli;
use crate::regions::{PATIENCE, admin, arrives, link_state, linked, set_rule, start, tag};
use crate::support::door::{Door, proto};
use crate::support::http;
use crate::support::image::{MANIFEST, large, manifest, push, put};
use crate::support::link::Link;
use crate::support::{Cluster, wait};
use crate::through::get;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Of a client of `eu`, as it says.
const CLIENT: &str = "127.79.1.9";

/// Two regions, of which `eu` sends `team/` to `us`; in `eu` manifests of `team/app` may name what is not there.
fn two_regions(first: u8) -> (Cluster, Cluster, Link) {
    let (eu, us) = (start(first, "eu", 1), start(first + 1, "us", 1));
    let link = linked(&eu, &us);
    set_rule(&eu, "us", "team/");
    let settings = json!({ "mutability": "mutable", "exclusions": [], "sparse": true });
    let sparse = json!({ "name": "team/app", "settings": settings }).to_string();
    let made = admin(&eu, "POST", "/v1/repositories").header("Content-Type", "application/json").body(sparse).settled();
    assert_eq!(made.status, 201, "{}", made.text());
    push(&eu, 1, "team/app", "first", b"the offer comes with it");
    arrives(&us, 1, "team/app", "first", b"the offer comes with it");
    (eu, us, link)
}

fn visit(digest: &Digest) -> proto::LocateRequest {
    proto::LocateRequest {
        repository: "team/app".to_owned(),
        digest: digest.to_string(),
        client: CLIENT.to_owned(),
        back: "http://eu.example.com".to_owned(),
        right: String::new(),
    }
}

/// `eu` gets a blob of `team/app` by no door of `us`: neither for itself nor for a client of its own.
fn is_withheld(door: &Door, digest: &Digest) {
    for told in [door.stat("team/app", digest).map(drop), door.blob("team/app", digest, 1).map(drop)] {
        let code = told.expect_err("it is told of it").code();
        assert!(matches!(code, tonic::Code::NotFound | tonic::Code::PermissionDenied), "{code:?}");
    }
    let told = door.locate(visit(digest)).unwrap();
    assert_eq!((told.reason(), &*told.link), (proto::locate_reply::Reason::NoCopy, ""));
}

/// Waits until `us` is through with what `eu` sent, and looks meanwhile that nothing is given away.
fn dealt_with(eu: &Cluster, us: &Cluster, look: impl Fn()) {
    push(eu, 1, "team/app", "behind", b"behind it");
    wait("it is dealt with", PATIENCE, || {
        look();
        let followed = link_state(us, "eu")["followed"].clone();
        let is_over = followed["connected"] == true && followed["open"] == 0;
        is_over && tag(us, 1, "team/app", "behind").is_some()
    });
    // what the comparison would bring goes the same way
    let (_, told) = cli(us, &["replication", "verify", "eu"]);
    println!("{told}");
    look();
}

// R16, A26: a blob that a private repository of `us` holds, and that a manifest of `eu` names without having it. It
// gets into no repository that `eu` or its clients get anything from; once `eu` has the bytes it does, by a link.
#[test]
fn r16_blobs_that_a_region_only_names() {
    let (eu, us, link) = two_regions(172);
    // else it would be given nothing at all
    set_rule(&us, "eu", "team/");
    let (secret, small): (Vec<u8>, _) = ((0..40).flat_map(large).collect(), b"a small secret".to_vec());
    for (name, layer) in [("v1", &secret), ("v2", &small)] {
        push(&us, 1, "private/app", name, layer);
    }
    let door = Door::open(&eu, &us);
    let digests = [Digest::sha256(&secret), Digest::sha256(&small)];
    let look = || {
        for digest in &digests {
            is_withheld(&door, digest);
            let here = get(&us, 1, &format!("team/app/blobs/{digest}"));
            assert_eq!(here.status, 404, "nor does anybody who may pull from team/app");
        }
    };
    look();
    put(&eu, 1, "team/app", "stolen", &manifest(&secret));
    put(&eu, 1, "team/app", "stolen-too", &manifest(&small));
    dealt_with(&eu, &us, look);
    look();
    for name in ["stolen", "stolen-too"] {
        assert_eq!(tag(&us, 1, "team/app", name), None, "{name}");
    }
    assert!(get(&us, 1, &format!("private/app/blobs/{}", digests[0])).body == secret);

    // with the bytes it is another matter: they are linked, and need not cross the link for it
    let before = link.carried();
    push(&eu, 1, "team/app", "honest", &secret);
    arrives(&us, 1, "team/app", "honest", &secret);
    let carried = link.carried() - before;
    assert!(carried < secret.len() as u64 / 2, "{carried} bytes");
    assert_eq!(door.stat("team/app", &digests[0]).unwrap(), secret.len() as u64);
    assert_eq!(door.locate(visit(&digests[0])).unwrap().reason(), proto::locate_reply::Reason::Served);
    is_withheld(&door, &digests[1]);
}

// R16, A26: images that were made in `us` under names that a rule of `eu` covers. `eu` knows their manifests, or the
// digest of one, and sets a tag to one, or names one in an index. What they name does not become its own by that.
#[test]
fn r16_manifests_that_a_region_only_names() {
    let (eu, us, _link) = two_regions(174);
    let (tagged, named) = (large(5), large(6));
    push(&us, 1, "team/app", "ours", &tagged);
    push(&us, 1, "team/app", "ours-too", &named);
    let door = Door::open(&eu, &us);
    let look = || {
        for layer in [&tagged, &named] {
            is_withheld(&door, &Digest::sha256(layer));
        }
    };
    look();
    put(&eu, 1, "team/app", "stolen", &manifest(&tagged));
    let child = manifest(&named);
    let (digest, bytes) = (Digest::sha256(child.as_bytes()), child.len());
    let child = format!(r#"{{"mediaType":"{MANIFEST}","digest":"{digest}","size":{bytes}}}"#);
    let index = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{child}]}}"#);
    let url = format!("{}/v2/team/app/manifests/index", eu.node(1));
    let answer = http::request("PUT", &url).key(&eu.key()).header("Content-Type", INDEX).body(index).settled();
    assert_eq!(answer.status, 201, "{}", answer.text());
    dealt_with(&eu, &us, look);
    look();
    // nobody in `us` lost anything by it
    arrives(&us, 1, "team/app", "ours", &tagged);
    arrives(&us, 1, "team/app", "ours-too", &named);

    // who has it all gets it where it is
    push(&eu, 1, "team/app", "honest", &tagged);
    wait("it is its own", PATIENCE, || {
        let told = door.locate(visit(&Digest::sha256(&tagged))).unwrap();
        told.reason() == proto::locate_reply::Reason::Served
    });
    is_withheld(&door, &Digest::sha256(&named));
}
