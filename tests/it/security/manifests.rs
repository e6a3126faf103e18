//! Group 3: manifests, digests, content types.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use registry_core::vocabulary::Digest;
use registry_core::vocabulary::digest::Algorithm;
use registry_core::vocabulary::limits::{MANIFEST_BYTES_MAX, WALK_DEPTH_MAX};
use serde_json::{Value, json};

use super::repo::{CONFIG, DOCKER, IMAGE, INDEX, LAYER, Repo, described, descriptor, image, index, no, told};
use super::wire::{self, Wire};
use crate::support::{Cluster, http};

/// Sets what the owner of a repository may set.
fn set(repo: &Repo, settings: &Value) {
    let url = format!("{}/v1/repositories/{}", Cluster::shared().admin(1), repo.name);
    let request = http::request("PATCH", &url).key(&repo.key).header("Content-Type", "application/json");
    let answer = request.body(settings.to_string()).settled();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

// M1: a document that is an image to one client and an index to another is refused, however it is announced, and leaves
// nothing behind.
#[test]
fn m01_image_and_index_at_once() {
    let repo = Repo::shared("m01");
    let image = repo.image(b"m01");
    let mut both = image.clone();
    both["manifests"] = json!([described(IMAGE, &image.to_string())]);
    repo.stored("child", IMAGE, image.to_string());
    for media_type in [IMAGE, INDEX] {
        for stated in [Some(media_type), None] {
            let mut both = both.clone();
            match stated {
                Some(media_type) => both["mediaType"] = media_type.into(),
                None => drop(both.as_object_mut().unwrap().remove("mediaType")),
            }
            let body = both.to_string();
            assert_eq!(told(&repo.put("both", media_type, body.clone())), no(400, "MANIFEST_INVALID"), "{body}");
            let digest = Digest::sha256(body.as_bytes());
            assert_eq!(repo.refused(&format!("manifests/{digest}")), no(404, "MANIFEST_UNKNOWN"));
        }
    }
    assert_eq!(repo.refused("manifests/both"), no(404, "MANIFEST_UNKNOWN"));
}

// M2: request and body must name the same type; what is stored is given back byte for byte with its type, from every
// node.
#[test]
fn m02_type_of_request_and_body() {
    let repo = Repo::shared("m02");
    let image = repo.image(b"m02").to_string();
    let bare =
        image.replace(&format!(r#","mediaType":"{IMAGE}""#), "").replace(&format!(r#""mediaType":"{IMAGE}","#), "");
    assert!(!bare.contains(IMAGE), "{bare}");
    for (body, media_type) in [
        (&image, INDEX),
        (&image, DOCKER),
        (&image, "application/json"),
        (&image, "text/html"),
        (&image, "application/vnd.oci.image.manifest.v2+json"),
        (&bare, INDEX),
        (&bare, DOCKER),
        (&bare, "application/octet-stream"),
        (&bare, "not a type"),
    ] {
        assert_eq!(told(&repo.put("v", media_type, body.as_str())), no(400, "MANIFEST_INVALID"), "{media_type}");
    }
    let none = repo.request("PUT", "manifests/v").body(bare.as_str()).settled();
    assert_eq!(told(&none), no(400, "MANIFEST_INVALID"));
    let spaced = format!(" {image}\r\n\t ");
    for (tag, media_type, body) in [("plain", IMAGE, &image), ("bare", IMAGE, &bare), ("spaced", IMAGE, &spaced)] {
        let digest = repo.stored(tag, media_type, body.as_str());
        for node in 1..=3 {
            let repo = repo.behind(&Cluster::shared().node(node));
            for reference in [tag.to_owned(), digest.to_string()] {
                let answer = repo.get(&format!("manifests/{reference}"));
                assert_eq!((answer.status, answer.header("content-type")), (200, media_type), "{reference}");
                assert_eq!(answer.header("docker-content-digest"), digest.to_string());
                assert_eq!(answer.body, body.as_bytes(), "{reference}");
            }
        }
    }
}

// M3: one digest has one type in a repository; the same bytes under another one are refused and change nothing.
#[test]
fn m03_one_type_per_digest() {
    let repo = Repo::shared("m03");
    let mut image = repo.image(b"m03");
    image.as_object_mut().unwrap().remove("mediaType");
    let digest = repo.stored("v", IMAGE, image.to_string());
    for media_type in [INDEX, DOCKER] {
        let answer = repo.put(&digest.to_string(), media_type, image.to_string());
        assert_eq!(told(&answer), no(400, "MANIFEST_INVALID"), "{media_type}");
    }
    assert_eq!(repo.get("manifests/v").header("content-type"), IMAGE);
}

// M4: whatever a client accepts, it gets the stored bytes with their own type; nothing is converted.
#[test]
fn m04_accept_converts_nothing() {
    let repo = Repo::shared("m04");
    let image = repo.image(b"m04").to_string();
    let digest = repo.stored("v", IMAGE, image.as_str());
    for accept in ["*/*", INDEX, DOCKER, "application/vnd.docker.distribution.manifest.v1+prettyjws", "text/html", "x"]
    {
        for method in ["GET", "HEAD"] {
            let answer = repo.request(method, "manifests/v").header("Accept", accept).settled();
            assert_eq!((answer.status, answer.header("content-type")), (200, IMAGE), "{method} {accept}");
            assert_eq!(answer.header("docker-content-digest"), digest.to_string());
            assert_eq!(answer.header("content-length"), image.len().to_string());
            assert!(method == "HEAD" || answer.body == image.as_bytes());
        }
    }
}

// M5: JSON that two parsers could read in two ways is refused by every node alike; a size must be the stored one.
#[test]
fn m05_one_reading_of_json() {
    let repo = Repo::shared("m05");
    let layer = repo.blob(LAYER, b"twelve bytes");
    let good = image(&repo.blob(CONFIG, b"{}"), std::slice::from_ref(&layer)).to_string();
    let digest = layer["digest"].as_str().unwrap();
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let edits: Vec<(&str, String)> = vec![
        (r#""layers""#, r#""layers":[],"layers""#.into()),
        (r#""layers""#, r#""Layers":[],"layers""#.into()),
        (r#""layers""#, r#""layerſ":[],"layers""#.into()),
        (r#""layers""#, r#""\u006cayers":[],"layers""#.into()),
        (r#""schemaVersion":2"#, r#""schemaVersion":2,"schemaVersion":2"#.into()),
        (r#""size":12"#, r#""size":12,"size":13"#.into()),
        (r#""size":12"#, r#""size":12,"Size":13"#.into()),
        (r#""size":12"#, r#""size":-12"#.into()),
        (r#""size":12"#, r#""size":-0"#.into()),
        (r#""size":12"#, r#""size":12.0"#.into()),
        (r#""size":12"#, r#""size":1.2e1"#.into()),
        (r#""size":12"#, r#""size":"12""#.into()),
        (r#""size":12"#, r#""size":null"#.into()),
        (r#""size":12"#, r#""size":NaN"#.into()),
        (r#""size":12"#, r#""size":Infinity"#.into()),
        (r#""size":12"#, r#""size":0x0c"#.into()),
        (r#""size":12"#, r#""size":012"#.into()),
        (r#""size":12"#, r#""size":9223372036854775808"#.into()),
        (r#""size":12"#, r#""size":18446744073709551628"#.into()),
        (r#""size":12"#, format!(r#""size":12{}"#, "0".repeat(1000))),
        (r#""size":12"#, format!(r#""size":12,"x":{deep}"#)),
        (r#""size":12"#, format!(r#""size":12,"x":{}"#, "{\"a\":".repeat(100_000))),
        (r#""size":12"#, r#""size":12,"x":"\ud800""#.into()),
        (r#""size":12"#, r#""size":12,"x":"\udc00\ud800""#.into()),
        (r#""size":12"#, r#""size":12,/* x */"y":1"#.into()),
        (r#""size":12"#, r#""size":12,"#.into()),
    ];
    let mut bad: Vec<Vec<u8>> = Vec::new();
    for (from, to) in &edits {
        let edited = good.replacen(from, to, 1);
        assert_ne!(edited, good, "{from}");
        bad.push(edited.into_bytes());
    }
    let bytes = good.as_bytes();
    for (before, behind) in [
        (&b"\xef\xbb\xbf"[..], &b""[..]),
        (b"", b"{}"),
        (b"", b"x"),
        (b"", b"\0"),
        (b"// x\n", b""),
        (b"[", b"]"),
        (b"\xff", b""),
        (b")]}'\n", b""),
    ] {
        bad.push([before, bytes, behind].concat());
    }
    bad.extend([
        b"".to_vec(),
        b"null".to_vec(),
        b"\"\"".to_vec(),
        good.encode_utf16().flat_map(u16::to_le_bytes).collect(),
    ]);
    for body in bad {
        let shown = String::from_utf8_lossy(&body[..body.len().min(400)]).into_owned();
        for node in 1..=3 {
            let answer = repo.behind(&Cluster::shared().node(node)).put("v", IMAGE, body.clone());
            assert_eq!(told(&answer), no(400, "MANIFEST_INVALID"), "node {node}: {shown}");
            assert!(answer.body.len() < 4096, "a refusal is short: {}", answer.body.len());
        }
    }
    for size in [0_u64, 11, 13, i64::MAX as u64] {
        let edited = good.replacen(r#""size":12"#, &format!(r#""size":{size}"#), 1);
        let answer = repo.put("v", IMAGE, edited);
        assert_eq!(told(&answer), no(400, "SIZE_INVALID"), "{}", answer.text());
        assert!(answer.text().contains(digest), "it names the content: {}", answer.text());
    }
    assert_eq!(repo.refused("manifests/v"), no(404, "MANIFEST_UNKNOWN"));
    repo.stored("v", IMAGE, good);
}

// M6: 4 MiB are taken; one byte more is 413, announced or not, and nothing behind the limit is waited for.
#[test]
fn m06_large_manifests() {
    let repo = Repo::shared("m06");
    let image = repo.image(b"m06").to_string();
    let padded = |bytes: usize| format!("{image}{}", " ".repeat(bytes - image.len()));
    let digest = repo.stored("largest", IMAGE, padded(MANIFEST_BYTES_MAX));
    let answer = repo.get(&format!("manifests/{digest}"));
    assert_eq!((answer.status, Digest::sha256(&answer.body)), (200, digest));
    let answer = repo.put("larger", IMAGE, padded(MANIFEST_BYTES_MAX + 1));
    assert_eq!(told(&answer), no(413, "SIZE_INVALID"));

    let head = |length: &str| {
        let (host, authorization) = (wire::authority(&repo.base), wire::authorization(&repo.key));
        format!(
            "PUT /v2/m06/manifests/x HTTP/1.1\r\nHost: {host}\r\n{authorization}Content-Type: {IMAGE}\r\n{length}\r\n"
        )
    };
    // Announced: refused before a byte of it is sent.
    let mut announced = Wire::open(&repo.base);
    announced.send(head("Content-Length: 104857600\r\n"));
    assert_eq!(announced.answer().0, 413);
    // Not announced: refused at the limit, with the rest unsent.
    let mut chunked = Wire::open(&repo.base);
    chunked.send(head("Transfer-Encoding: chunked\r\n"));
    let chunk = format!("100000\r\n{}\r\n", " ".repeat(1 << 20));
    for _ in 0..4 {
        assert!(chunked.send(&chunk));
    }
    chunked.send("1\r\n \r\n");
    assert_eq!(chunked.answer().0, 413);
    // A hundred mebibytes in chunks never end up here: the connection closes long before.
    let mut endless = Wire::open(&repo.base);
    endless.send(head("Transfer-Encoding: chunked\r\n"));
    let taken = (0..100).take_while(|_| endless.send(&chunk)).count();
    assert!(taken < 100, "the server read it all");

    let many = |count: usize, one: &str| vec![one; count].join(",");
    let layer = descriptor(LAYER, &Digest::sha256(b"m06"), 3).to_string();
    let layers = image.replace(&layer, &many(20_000, &layer));
    assert!(layers.len() < MANIFEST_BYTES_MAX && layers.len() > image.len());
    assert_eq!(told(&repo.put("layers", IMAGE, layers)), no(400, "MANIFEST_INVALID"));
    let tiny = image.replace(&layer, &many(1_000_000, "{}"));
    assert_eq!(told(&repo.put("layers", IMAGE, tiny)), no(400, "MANIFEST_INVALID"));
    let notes: Vec<String> = (0..300_000).map(|number| format!("\"{number:x}\":\"\"")).collect();
    let noted = image.replacen('{', &format!("{{\"annotations\":{{{}}},", notes.join(",")), 1);
    assert!(noted.len() < MANIFEST_BYTES_MAX);
    assert_eq!(told(&repo.put("notes", IMAGE, noted)), no(400, "MANIFEST_INVALID"));
}

// M7: the registry's own hash is the only truth: not the reference, not a header, and of two digests neither.
#[test]
fn m07_only_the_own_hash_counts() {
    let repo = Repo::shared("m07");
    let image = repo.image(b"m07").to_string();
    let (right, wrong) = (Digest::sha256(image.as_bytes()), Digest::sha256(b"another"));
    let answer = repo.put(&wrong.to_string(), IMAGE, image.as_str());
    assert_eq!(told(&answer), no(400, "DIGEST_INVALID"));
    assert_eq!(repo.refused(&format!("manifests/{wrong}")), no(404, "MANIFEST_UNKNOWN"));
    let claimed = repo.request("PUT", "manifests/v").header("Content-Type", IMAGE);
    let answer = claimed.header("Docker-Content-Digest", &wrong.to_string()).body(image.as_str()).settled();
    assert_eq!((answer.status, answer.header("docker-content-digest")), (201, &*right.to_string()));
    let blob = b"m07 blob";
    let (right, wrong) = (Digest::sha256(blob), Digest::sha256(b"other blob"));
    for query in [
        format!("digest={wrong}"),
        format!("digest={right}&digest={wrong}"),
        format!("digest={wrong}&digest={right}"),
        format!("digest={right}&digest={right}"),
    ] {
        for answer in [
            repo.request("POST", &format!("blobs/uploads/?{query}")).body(&blob[..]).settled(),
            repo.follow("PUT", &format!("{}?{query}", repo.begin())).body(&blob[..]).settled(),
        ] {
            assert_eq!(told(&answer), no(400, "DIGEST_INVALID"), "{query}");
        }
    }
    for digest in [right, wrong] {
        assert_eq!(repo.refused(&format!("blobs/{digest}")), no(404, "BLOB_UNKNOWN"));
    }
}

// M8: a digest has one spelling and one of two algorithms; everything else is refused before anything is looked up,
// and the hex of one algorithm never finds what another one named.
#[test]
fn m08_algorithms_and_spellings() {
    let repo = Repo::shared("m08");
    let blob = b"m08";
    let (short, long) = (Digest::of(Algorithm::Sha256, blob), Digest::of(Algorithm::Sha512, blob));
    repo.image(blob);
    let hex = short.hex();
    let bad = [
        format!("SHA256:{hex}"),
        format!("sha256:{}", hex.to_uppercase()),
        format!("sha256:{}", &hex[..63]),
        format!("sha256:{hex}0"),
        format!("sha256:{}", &hex[..12]),
        format!("sha512:{hex}"),
        format!("sha256:{}", long.hex()),
        format!("sha384:{}{}", hex, &hex[..32]),
        "md5:d41d8cd98f00b204e9800998ecf8427e".to_owned(),
        format!("blake3:{hex}"),
        format!("sha256+b64:{hex}"),
        "sha256:".to_owned(),
        ":".to_owned(),
        format!(":{hex}"),
        format!("sha256:..%2f..%2f{}", &hex[10..]),
        format!("sha256:%00{}", &hex[1..]),
        format!("sha256:{}%0a", &hex[..63]),
        format!("sha256:sha256:{hex}"),
        format!("sha256%253A{hex}:"),
    ];
    for text in &bad {
        let upload = repo.begin();
        for (method, target) in [
            ("GET", format!("/v2/m08/blobs/{text}")),
            ("HEAD", format!("/v2/m08/blobs/{text}")),
            ("DELETE", format!("/v2/m08/blobs/{text}")),
            ("GET", format!("/v2/m08/manifests/{text}")),
            ("DELETE", format!("/v2/m08/manifests/{text}")),
            ("GET", format!("/v2/m08/referrers/{text}")),
            ("POST", format!("/v2/m08/blobs/uploads/?digest={text}")),
            ("POST", format!("/v2/m08/blobs/uploads/?mount={text}&from=m08")),
            ("PUT", format!("{upload}?digest={text}")),
        ] {
            let answer = wire::ask(&repo.base, &repo.key, method, &target, "Content-Length: 0\r\n");
            // A slash, once decoded, makes another path of it, which leads nowhere.
            let is_elsewhere = text.contains("%2f") && !target.contains('?');
            assert_eq!(wire::status(&answer), if is_elsewhere { 404 } else { 400 }, "{method} {target}: {answer}");
            let is_told = method == "HEAD" || is_elsewhere || answer.contains("DIGEST_INVALID");
            assert!(is_told, "{method} {target}: {answer}");
        }
    }
    assert_eq!(repo.get(&format!("blobs/{short}")).status, 200);
    assert_eq!(repo.refused(&format!("blobs/{long}")), no(404, "BLOB_UNKNOWN"), "nobody pushed it under this name");
    let cut = format!("sha256:{}", &long.hex()[..64]);
    assert_eq!(repo.request("POST", &format!("blobs/uploads/?digest={long}")).body(&blob[..]).settled().status, 201);
    assert_eq!(repo.refused(&format!("blobs/{cut}")), no(404, "BLOB_UNKNOWN"));
    let answer = repo.get(&format!("blobs/{long}"));
    assert_eq!((answer.status, answer.header("docker-content-digest")), (200, &*long.to_string()));
    assert_eq!(answer.body, blob);
}

// M9: a manifest is known by the digests it was pushed under, with the tag it came with; each is verified by its own
// algorithm.
#[test]
fn m09_two_algorithms_for_one_manifest() {
    let repo = Repo::shared("m09");
    let body = repo.image(b"m09").to_string();
    let (short, long) = (Digest::sha256(body.as_bytes()), Digest::of(Algorithm::Sha512, body.as_bytes()));
    let answer = repo.put(&format!("{long}?tag=v"), IMAGE, body.as_str());
    assert_eq!((answer.status, answer.header("docker-content-digest")), (201, &*long.to_string()));
    assert_eq!(answer.header("oci-tag"), "v");
    assert_eq!(repo.get("manifests/v").header("docker-content-digest"), long.to_string());
    assert_eq!(repo.refused(&format!("manifests/{short}")), no(404, "MANIFEST_UNKNOWN"));
    repo.stored(&short.to_string(), IMAGE, body.as_str());
    for digest in [short, long] {
        let answer = repo.get(&format!("manifests/{digest}"));
        assert_eq!((answer.status, answer.header("docker-content-digest")), (200, &*digest.to_string()));
        assert_eq!(answer.body, body.as_bytes());
    }
    let wrong = Digest::of(Algorithm::Sha512, b"another");
    assert_eq!(told(&repo.put(&wrong.to_string(), IMAGE, body)), no(400, "DIGEST_INVALID"));
}

// M10: what a graph of indexes costs does not grow with the number of paths through it: pushing, pulling and deleting
// look at one document and the rows beside it.
#[test]
fn m10_bombs_of_indexes() {
    let repo = Repo::shared("m10");
    let leaf = repo.image(b"m10").to_string();
    repo.stored("leaf", IMAGE, leaf.as_str());
    // Every index of a level names all of the level below: 8^12 paths.
    let began = Instant::now();
    let mut level = vec![described(IMAGE, &leaf)];
    let mut all = Vec::new();
    for depth in 0..12 {
        let bodies: Vec<String> = (0..8)
            .map(|number| {
                let mut index = index(&level);
                index["annotations"] = json!({ "at": format!("{depth}-{number}") });
                index.to_string()
            })
            .collect();
        level = bodies.iter().map(|body| described(INDEX, body)).collect();
        let digest = |body: &String| Digest::sha256(body.as_bytes()).to_string();
        all.extend(bodies.iter().map(|body| repo.stored(&digest(body), INDEX, body.as_str())));
    }
    let top = all.last().unwrap();
    let answer = repo.get(&format!("manifests/{top}"));
    assert_eq!((answer.status, Digest::sha256(&answer.body)), (200, *top));
    let first = all.first().unwrap();
    let answer = repo.request("DELETE", &format!("manifests/{first}")).settled();
    assert_eq!(answer.status, 405, "the level above names it: {}", answer.text());
    for digest in all.iter().rev() {
        assert_eq!(repo.request("DELETE", &format!("manifests/{digest}")).settled().status, 202, "{digest}");
    }
    assert!(began.elapsed() < Duration::from_secs(90), "{:?} for 200 requests", began.elapsed());
    // A chain is as long as walks will follow it, and no longer.
    let mut below = described(IMAGE, &leaf);
    for _ in 0..WALK_DEPTH_MAX {
        let body = index(&[below]).to_string();
        repo.stored("chain", INDEX, body.as_str());
        below = described(INDEX, &body);
    }
    assert_eq!(repo.get("manifests/chain").status, 200);
    assert_eq!(told(&repo.put("chain", INDEX, index(&[below]).to_string())), no(400, "MANIFEST_INVALID"));
    // The same child again and again: thousands are one reference, a million are refused.
    let child = described(IMAGE, &leaf);
    repo.stored("wide", INDEX, index(&vec![child.clone(); 4000]).to_string());
    assert_eq!(told(&repo.put("wide", INDEX, index(&vec![child; 20_000]).to_string())), no(400, "MANIFEST_INVALID"));
    let many = r#"{"schemaVersion":2,"manifests":["#.to_owned() + &vec!["{}"; 1_000_000].join(",") + "]}";
    assert_eq!(told(&repo.put("wide", INDEX, many)), no(400, "MANIFEST_INVALID"));
}

// M11: children that are missing, or that another repository has, are refused with their names; a repository that is
// set to be sparse takes them, and still gives nothing away of the other repository.
#[test]
fn m11_missing_children() {
    let (repo, other) = (Repo::shared("m11"), Repo::shared("m11-other"));
    let image = other.image(b"m11").to_string();
    let child = other.stored("v", IMAGE, image.as_str());
    repo.image(b"something else");
    let wide = index(&[described(IMAGE, &image)]).to_string();
    let answer = repo.put("v", INDEX, wide.as_str());
    assert_eq!(told(&answer), no(400, "MANIFEST_UNKNOWN"));
    assert!(answer.text().contains(&child.to_string()), "{}", answer.text());
    assert_eq!(told(&repo.put("image", IMAGE, image.as_str())), no(400, "MANIFEST_BLOB_UNKNOWN"));
    assert_eq!(repo.refused("manifests/v"), no(404, "MANIFEST_UNKNOWN"));
    set(&repo, &json!({ "sparse": true }));
    let digest = repo.stored("v", INDEX, wide.as_str());
    repo.stored("image", IMAGE, image.as_str());
    assert_eq!(repo.get(&format!("manifests/{digest}")).body, wide.as_bytes());
    let layer = Digest::sha256(b"m11");
    assert_eq!(repo.refused(&format!("blobs/{layer}")), no(404, "BLOB_UNKNOWN"), "it is in the other repository only");
    // Once it arrives it is kept as long as somebody names it.
    repo.blob(LAYER, b"m11");
    let answer = repo.request("DELETE", &format!("blobs/{layer}")).settled();
    assert_eq!(answer.status, 405, "{}", answer.text());
    set(&repo, &json!({ "sparse": false }));
    let lonely = image.replace(&layer.hex(), &Digest::sha256(b"absent").hex());
    assert_eq!(told(&repo.put("late", IMAGE, lonely)), no(400, "MANIFEST_BLOB_UNKNOWN"));
}

/// Referrers of a subject, all pages, and how many there were.
fn referrers(repo: &Repo, subject: &Digest, query: &str) -> (Vec<String>, usize) {
    let (mut all, mut pages) = (Vec::new(), 0);
    let mut next = Some(format!("/v2/{}/referrers/{subject}{query}", repo.name));
    while let Some(target) = next {
        let answer = repo.follow("GET", &target).settled();
        assert_eq!((answer.status, answer.header("content-type")), (200, INDEX), "{}", answer.text());
        assert!(answer.body.len() <= MANIFEST_BYTES_MAX, "a page is no larger than a manifest");
        let page = answer.json();
        let digests = page["manifests"].as_array().unwrap().iter();
        all.extend(digests.map(|one| one["digest"].as_str().unwrap().to_owned()));
        pages += 1;
        let link = answer.header("link").strip_prefix('<').and_then(|link| link.split_once('>'));
        next = link.map(|(target, _)| target.to_owned());
    }
    (all, pages)
}

// M12: a subject need not be there, before or after; referrers may have referrers; thousands are listed in pages of
// bounded size, each once, also where their annotations are large.
#[test]
fn m12_many_referrers() {
    let repo = Repo::shared("m12");
    let (config, layer) = (repo.blob(CONFIG, b"{}"), repo.blob(LAYER, b"m12"));
    let subject = descriptor(IMAGE, &Digest::sha256(b"nowhere"), 7);
    let missing = Digest::sha256(b"nowhere");
    let attached = |to: &Value, annotations: Value| {
        let mut image = image(&config, std::slice::from_ref(&layer));
        image["subject"] = to.clone();
        image["artifactType"] = "application/vnd.example.signature".into();
        image["annotations"] = annotations;
        image.to_string()
    };
    let first = attached(&subject, json!({ "n": "first" }));
    let answer = repo.put("first", IMAGE, first.as_str());
    assert_eq!((answer.status, answer.header("oci-subject")), (201, &*missing.to_string()), "{}", answer.text());
    let chained = attached(&described(IMAGE, &first), json!({}));
    let deeper = repo.stored("deeper", IMAGE, chained);
    assert_eq!(referrers(&repo, &Digest::sha256(first.as_bytes()), ""), (vec![deeper.to_string()], 1));
    assert_eq!(referrers(&repo, &Digest::sha256(b"unknown"), "").0, Vec::<String>::new());

    let count = 2500;
    std::thread::scope(|scope| {
        for worker in 0..16 {
            let (repo, attached, subject) = (&repo, &attached, &subject);
            scope.spawn(move || {
                for number in (0..count).filter(|number| number % 16 == worker) {
                    let body = attached(subject, json!({ "n": number.to_string() }));
                    repo.stored(&Digest::sha256(body.as_bytes()).to_string(), IMAGE, body);
                }
            });
        }
    });
    let (listed, pages) = referrers(&repo, &missing, "");
    assert_eq!((listed.len(), pages), (count + 1, 3));
    assert!(listed.is_sorted_by(|one, next| one < next), "each once, in order");
    assert_eq!(referrers(&repo, &missing, "?n=700").0, listed);
    let (signatures, _) = referrers(&repo, &missing, "?artifactType=application%2Fvnd.example.signature");
    assert_eq!(signatures, listed);
    // A filter that hides all of them, with the smallest page: one answer, soon.
    let began = Instant::now();
    let hidden = referrers(&repo, &missing, "?n=1&artifactType=application%2Fvnd.example.none");
    assert_eq!(hidden, (Vec::new(), 1));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // Annotations of a mebibyte each: a page holds a few, and all come.
    let heavy = Digest::sha256(b"heavy");
    for number in 0..12 {
        let note = format!("{number}{}", "x".repeat(1 << 20));
        repo.stored(&format!("h{number}"), IMAGE, attached(&descriptor(IMAGE, &heavy, 7), json!({ "n": note })));
    }
    let (listed, pages) = referrers(&repo, &heavy, "");
    assert_eq!(listed.len(), 12);
    assert!(pages >= 4, "{pages} pages of at most 4 MiB");
    // The subject arrives, and goes first.
    let body = repo.image(b"m12 subject").to_string();
    let late = repo.stored("late", IMAGE, body.as_str());
    let signature = repo.stored("s", IMAGE, attached(&described(IMAGE, &body), json!({})));
    assert_eq!(repo.request("DELETE", &format!("manifests/{late}")).settled().status, 202);
    assert_eq!(referrers(&repo, &late, "").0, [signature.to_string()]);
    assert_eq!(repo.request("DELETE", &format!("manifests/{signature}")).settled().status, 202);
    assert_eq!(referrers(&repo, &late, "").0, Vec::<String>::new());
}

// M13: tags that look like signatures of something are plain tags, whatever is wrong with them.
#[test]
fn m13_malformed_signature_tags() {
    let repo = Repo::shared("m13");
    let image = repo.image(b"m13").to_string();
    let hex = Digest::sha256(b"x").hex();
    let mut kept = Vec::new();
    for tag in [
        "sha256-bad.sig".to_owned(),
        "sha256-.sig".to_owned(),
        "sha256-".to_owned(),
        "sha256-zz.att".to_owned(),
        "sha512-00.sbom".to_owned(),
        "sha256-..-...sig".to_owned(),
        ".sig".to_owned(),
        format!("sha256-{hex}.sig"),
        format!("sha256-{hex}"),
        format!("sha256-{}.sbom", &hex[..63]),
        format!("sha256-{hex}{hex}.sig"),
    ] {
        let is_tag = tag.len() <= 128 && !tag.starts_with('.');
        let answer = repo.put(&tag, IMAGE, image.as_str());
        if is_tag {
            assert_eq!(answer.status, 201, "{tag}: {}", answer.text());
            assert_eq!(repo.get(&format!("manifests/{tag}")).body, image.as_bytes(), "{tag}");
            kept.push(tag);
        } else {
            assert_eq!(told(&answer), no(400, "TAG_INVALID"), "{tag}");
        }
    }
    kept.sort();
    assert_eq!(repo.get("tags/list").json()["tags"], json!(kept));
    let referrers = repo.get(&format!("referrers/{}", Digest::sha256(b"x"))).json();
    assert_eq!(referrers["manifests"], json!([]), "no tag makes a referrer");
    for tag in &kept {
        assert_eq!(repo.request("DELETE", &format!("manifests/{tag}")).settled().status, 202, "{tag}");
    }
}

// M14: addresses in a manifest are data: nobody connects to them, and a layer that only has an address is not here.
#[test]
fn m14_foreign_layers_are_never_fetched() {
    let repo = Repo::shared("m14");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/layer", listener.local_addr().unwrap());
    let layer = Digest::sha256(b"never here");
    let mut foreign = descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar", &layer, 10);
    foreign["urls"] = json!([url, "http://169.254.169.254/latest/meta-data", "file:///etc/passwd"]);
    let body = image(&repo.blob(CONFIG, b"{}"), &[foreign]).to_string();
    repo.stored("v", IMAGE, body.as_str());
    for node in 1..=3 {
        let repo = repo.behind(&Cluster::shared().node(node));
        assert_eq!(repo.get("manifests/v").body, body.as_bytes());
        assert_eq!(repo.refused(&format!("blobs/{layer}")), no(404, "BLOB_UNKNOWN"));
    }
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "somebody connected");
}

// M15: a tag is what the grammar says after one decoding; everything else is 400 and makes nothing.
#[test]
fn m15_names_of_tags() {
    let repo = Repo::shared("m15");
    let image = repo.image(b"m15").to_string();
    let longest = "x".repeat(128);
    for tag in ["a", "_", "A.b-C_d", &longest] {
        repo.stored(tag, IMAGE, image.as_str());
    }
    let host = wire::authority(&repo.base);
    for tag in [
        &*format!("{longest}x"),
        ".a",
        "-a",
        "%2ea",
        "a%20b",
        "a+b",
        "a%2Bb",
        "%C3%A4",
        "a%E2%80%AE",
        "a%00",
        "%00",
        "a%0a",
        "a%0d%0aX%20y",
        "a%25",
        "a%2525",
        "a%zz",
        "a%",
        "a@b",
        "a~",
        "*",
        "a;b",
        "a%5Cb",
    ] {
        let head = format!(
            "PUT /v2/m15/manifests/{tag} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{}Content-Type: {IMAGE}\r\n\
             Content-Length: {}\r\n\r\n{image}",
            wire::authorization(&repo.key),
            image.len()
        );
        let answer = wire::exchange(&repo.base, head);
        assert_eq!(wire::status(&answer), 400, "{tag}: {answer}");
        assert!(answer.contains("TAG_INVALID"), "{tag}: {answer}");
    }
    assert_eq!(repo.get("tags/list").json()["tags"], json!(["A.b-C_d", "_", "a", longest]));
}

// M16: what has a colon is a digest and nothing else; hex without one is a tag and nothing else.
#[test]
fn m16_tags_that_look_like_digests() {
    let repo = Repo::shared("m16");
    let (one, two) = (repo.image(b"m16 one").to_string(), repo.image(b"m16 two").to_string());
    let digest = repo.stored("v", IMAGE, one.as_str());
    // The hex of the first image is a tag that names the second one.
    for tag in [digest.hex(), format!("sha256-{}", digest.hex()), format!("sha256.{}", digest.hex())] {
        repo.stored(&tag, IMAGE, two.as_str());
        assert_eq!(repo.get(&format!("manifests/{tag}")).body, two.as_bytes());
    }
    assert_eq!(repo.get(&format!("manifests/{digest}")).body, one.as_bytes(), "the digest decides");
    let absent = Digest::sha256(b"absent");
    repo.stored(&absent.hex(), IMAGE, two.as_str());
    assert_eq!(repo.refused(&format!("manifests/{absent}")), no(404, "MANIFEST_UNKNOWN"));
    assert_eq!(repo.request("DELETE", &format!("manifests/{}", digest.hex())).settled().status, 202);
    assert_eq!(repo.get(&format!("manifests/{digest}")).status, 200, "only a tag went");
    for text in [format!("v@{digest}"), format!("v:{digest}"), "v:latest".to_owned()] {
        assert_eq!(repo.refused(&format!("manifests/{text}")), no(400, "DIGEST_INVALID"), "{text}");
    }
}

// M17: a tag that moved takes nobody along who pulls by digest.
#[test]
fn m17_digest_decides_over_a_moved_tag() {
    let repo = Repo::shared("m17");
    let (one, two) = (repo.image(b"m17 one").to_string(), repo.image(b"m17 two").to_string());
    let first = repo.stored("v", IMAGE, one.as_str());
    let second = repo.stored("v", IMAGE, two.as_str());
    for node in 1..=3 {
        let repo = repo.behind(&Cluster::shared().node(node));
        assert_eq!(repo.get("manifests/v").header("docker-content-digest"), second.to_string());
        assert_eq!(repo.get(&format!("manifests/{first}")).body, one.as_bytes(), "node {node}");
    }
}

// M18: script in an image stays data: it comes back as bytes that no browser runs, and no answer repeats it unescaped.
#[test]
fn m18_script_in_an_image() {
    let repo = Repo::shared("m18");
    let script = "</script><script>alert(1)</script><img src=x onerror=alert(1)>";
    let config = json!({ "author": script, "config": { "Labels": { "description": script } }, "history": [script] });
    let config = repo.blob(CONFIG, config.to_string().as_bytes());
    let mut image = image(&config, &[repo.blob(LAYER, b"m18")]);
    image["annotations"] = json!({ "org.opencontainers.image.title": script });
    image["subject"] = descriptor(IMAGE, &Digest::sha256(b"m18 subject"), 7);
    repo.stored("v", IMAGE, image.to_string());
    let blob = repo.get(&format!("blobs/{}", config["digest"].as_str().unwrap()));
    assert_eq!(blob.header("content-type"), "application/octet-stream");
    let listed = repo.get(&format!("referrers/{}", Digest::sha256(b"m18 subject")));
    assert_eq!(listed.json()["manifests"][0]["annotations"]["org.opencontainers.image.title"], script);
    let refused = repo.put("x", IMAGE, image.to_string().replace("schemaVersion", script));
    assert_eq!(refused.status, 400);
    let named = wire::ask(&repo.base, &repo.key, "GET", "/v2/%3Cscript%3E/tags/list", "");
    assert_eq!(wire::header(&named, "content-type"), Some("application/json"), "{named}");
    for answer in [blob, listed, refused, repo.get("manifests/v"), repo.get("tags/list")] {
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert!(!answer.header("content-type").contains("html"), "{}", answer.header("content-type"));
    }
}

// M19: a type that is none never comes in, so that none can break a header on the way out.
#[test]
fn m19_types_cannot_break_headers() {
    let repo = Repo::shared("m19");
    let good = repo.image(b"m19");
    let long = format!("application/{}", "x".repeat(10_240));
    for bad in ["a/b\r\nX-Evil: 1", "a/b\nX-Evil: 1", "a/b; c=d", "a", "a/", "a/b c", "a/\u{e4}", "a/b\0", &long] {
        for member in ["artifactType", "mediaType"] {
            let mut image = good.clone();
            image[member] = bad.into();
            assert_eq!(told(&repo.put("v", IMAGE, image.to_string())), no(400, "MANIFEST_INVALID"), "{member} {bad:?}");
        }
        let mut image = good.clone();
        image["layers"][0]["mediaType"] = bad.into();
        assert_eq!(told(&repo.put("v", IMAGE, image.to_string())), no(400, "MANIFEST_INVALID"), "{bad:?}");
    }
    for bad in [&*long, "a", "a/b/c", "a/b\u{7f}"] {
        let host = wire::authority(&repo.base);
        let head = format!(
            "PUT /v2/m19/manifests/v HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{}Content-Type: {bad}\r\n\
             Content-Length: 2\r\n\r\n{{}}",
            wire::authorization(&repo.key)
        );
        assert_eq!(wire::status(&wire::exchange(&repo.base, head)), 400, "{bad:?}");
    }
    // A filter comes back in a link: encoded.
    let mut image = good;
    image["subject"] = descriptor(IMAGE, &Digest::sha256(b"m19"), 7);
    image["artifactType"] = "a/b+json".into();
    for number in 0..2 {
        image["annotations"] = json!({ "n": number.to_string() });
        repo.stored(&format!("r{number}"), IMAGE, image.to_string());
    }
    let subject = Digest::sha256(b"m19");
    let answer = repo.get(&format!("referrers/{subject}?n=1&artifactType=a%2Fb%2Bjson"));
    assert!(answer.header("link").contains("artifactType=a%2Fb%2Bjson>; rel=\"next\""), "{}", answer.header("link"));
    let evil = wire::ask(
        &repo.base,
        &repo.key,
        "GET",
        &format!("/v2/m19/referrers/{subject}?n=1&artifactType=a%2Fb%0d%0aX-Evil:%201"),
        "",
    );
    assert!(wire::header(&evil, "x-evil").is_none(), "{evil}");
}

// M20: versions that are not served here are refused with a text that says what to do.
#[test]
fn m20_schema_versions() {
    let repo = Repo::shared("m20");
    let image = repo.image(b"m20").to_string();
    for version in ["0", "1", "3", "-2", "2.0", "\"2\"", "null", "true", "20"] {
        let body = image.replace(r#""schemaVersion":2"#, &format!(r#""schemaVersion":{version}"#));
        assert_eq!(told(&repo.put("v", IMAGE, body)), no(400, "MANIFEST_INVALID"), "{version}");
    }
    let missing = image.replace(r#""schemaVersion":2"#, r#""version":2"#);
    assert_eq!(told(&repo.put("v", IMAGE, missing)), no(400, "MANIFEST_INVALID"));
    let old = r#"{"schemaVersion":1,"name":"m20","tag":"v","architecture":"amd64","fsLayers":[],"history":[]}"#;
    for media_type in [
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        IMAGE,
    ] {
        let answer = repo.put("v", media_type, old);
        assert_eq!(told(&answer), no(400, "MANIFEST_INVALID"), "{media_type}");
        assert!(answer.text().contains("schema 1") && answer.text().contains("push again"), "{}", answer.text());
    }
}
