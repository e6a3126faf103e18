//! Bytes that rot where nobody reads them: a comparison of two regions hashes some blobs on both sides, names what is
//! bad, and has it made good.

use registry_core::vocabulary::Digest;
use serde_json::{Value, json};

use crate::backfill::cli;
use crate::drift::{found, report, verify};
use crate::regions::{PATIENCE, arrives, linked, set_rule, start};
use crate::scrub::file;
use crate::support::image::{large, push};
use crate::support::{Cluster, wait};

/// Flips a bit of a node's copy.
fn flip(cluster: &Cluster, node: u8, digest: &Digest) {
    let path = file(cluster, node, digest).expect("the copy is there");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[50_000] ^= 4;
    std::fs::write(&path, &bytes).unwrap();
}

fn is_whole(cluster: &Cluster, node: u8, digest: &Digest) -> bool {
    let bytes = file(cluster, node, digest).and_then(|path| std::fs::read(path).ok());
    bytes.is_some_and(|bytes| Digest::sha256(&bytes) == *digest)
}

/// What was hashed: an image of one layer, and of how many blobs copies were bad.
fn sample(bad_here: u64, bad_there: u64) -> Value {
    // the layer, and the configuration `{}`
    json!({
        "blobs": 2, "bytes": 100_002, "bad_here": bad_here, "bad_there": bad_there, "unread": 0, "problem": null
    })
}

// R15: a bit that flips in either region is found by the next comparison of all, though nobody reads the blob; what was
// the last copy comes from the other region, another one is made again of those beside it; what the source has lost for
// good is told.
#[test]
fn r15_bytes_are_hashed_on_both_sides() {
    let (eu, us) = (start(140, "eu", 3), start(141, "us", 1));
    let _link = linked(&eu, &us);
    set_rule(&eu, "us", "team/");
    let layer = push(&eu, 1, "team/app", "v1", &large(1));
    arrives(&us, 1, "team/app", "v1", &large(1));
    wait("three copies", PATIENCE, || (1..=3).all(|node| is_whole(&eu, node, &layer)));
    let clean = verify(&us, "eu");
    assert_eq!((&clean["sample"], &clean["clean"]), (&sample(0, 0), &json!(true)), "{clean:#}");

    // the only copy here
    flip(&us, 1, &layer);
    let here = verify(&us, "eu");
    assert_eq!(found(&here), ["blob_bad -"], "{here:#}");
    assert_eq!(here["found"][0]["digest"], layer.to_string(), "{here:#}");
    assert_eq!(here["sample"], sample(1, 0), "{here:#}");
    assert!(is_whole(&us, 1, &layer));
    arrives(&us, 1, "team/app", "v1", &large(1));

    // one of three there
    flip(&eu, 2, &layer);
    let there = verify(&us, "eu");
    assert_eq!(found(&there), ["source_blob_bad -"], "{there:#}");
    assert_eq!(there["sample"], sample(0, 1), "{there:#}");
    wait("the source makes it again", PATIENCE, || is_whole(&eu, 2, &layer));
    assert!(eu.node_log(2).contains("a copy has rotted"), "{}", eu.node_log(2));
    let again = verify(&us, "eu");
    assert_eq!((&again["sample"], &again["clean"]), (&sample(0, 0), &json!(true)), "{again:#}");

    // all of three: only a push heals that
    (1..=3).for_each(|node| flip(&eu, node, &layer));
    let (status, text) = cli(&us, &["replication", "verify", "eu"]);
    let lost = report(&us, "eu");
    assert!(status != 0 && text.contains("1 differences stay"), "{status} {text}");
    let told = &lost["found"][0];
    assert_eq!((&told["kind"], &told["repaired"]), (&json!("source_blob_bad"), &json!(false)), "{lost:#}");
    assert!(told["reason"].as_str().is_some_and(|reason| reason.contains("push it there again")), "{lost:#}");
    arrives(&us, 1, "team/app", "v1", &large(1));
    push(&eu, 1, "team/app", "v1", &large(1));
    wait("the third copy", PATIENCE, || (1..=3).all(|node| is_whole(&eu, node, &layer)));
    let healed = verify(&us, "eu");
    assert_eq!((&healed["sample"], &healed["clean"]), (&sample(0, 0), &json!(true)), "{healed:#}");
}
