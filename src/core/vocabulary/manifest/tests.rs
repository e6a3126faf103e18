use proptest::prelude::*;

use super::*;
use crate::vocabulary::limits::{ANNOTATIONS_MAX, DETAIL_BYTES_MAX};

const EMPTY: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn digest(number: u32) -> Digest {
    Digest::sha256(&number.to_be_bytes())
}

fn entry(media_type: &str, number: u32, more: &str) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{}","size":{number}{more}}}"#, digest(number))
}

fn layer(number: u32) -> String {
    entry("application/vnd.oci.image.layer.v1.tar+gzip", number, "")
}

fn config() -> String {
    entry("application/vnd.oci.image.config.v1+json", 1, "")
}

/// An OCI image manifest with these further members.
fn image(members: &str) -> String {
    format!(r#"{{"schemaVersion":2,"mediaType":"{IMAGE}","config":{}{members}}}"#, config())
}

fn layers(layers: &[String]) -> String {
    format!(r#","layers":[{}]"#, layers.join(","))
}

fn index(manifests: &[String]) -> String {
    format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{}]}}"#, manifests.join(","))
}

fn parse(text: &str) -> Result<ParsedManifest, ManifestError> {
    ParsedManifest::parse(text.as_bytes(), None)
}

fn error(text: &str) -> String {
    match parse(text) {
        Ok(_) => panic!("accepted: {text}"),
        Err(error) => error.to_string(),
    }
}

// An image names its configuration and each layer once, in order; a duplicate layer is legal (clients §12.21).
#[test]
fn image_with_duplicate_layer() {
    let manifest = parse(&image(&layers(&[layer(2), layer(3), layer(2)]))).unwrap();
    assert_eq!(manifest.kind, ManifestKind::OciManifest);
    assert_eq!(manifest.layers.len(), 3);
    let names: Vec<_> = manifest.references().iter().map(|one| (one.digest, one.size_bytes, one.kind)).collect();
    assert_eq!(names, [1, 2, 3].map(|n| (digest(n), u64::from(n), ContentKind::Blob)));
    assert_eq!(manifest.artifact_type, Some(MediaType::OCI_CONFIG));
}

// Docker's two documents are read as they are, and have neither subject nor artifact type.
#[test]
fn docker_documents() {
    let docker = |kind: &str, members: &str| format!(r#"{{"schemaVersion":2,"mediaType":"{kind}",{members}}}"#);
    let subject = format!(r#""subject":{},"artifactType":"a/b""#, layer(9));
    let members = format!(
        r#""config":{},"layers":[{}],{subject}"#,
        config(),
        entry("application/vnd.docker.image.rootfs.diff.tar.gzip", 2, "")
    );
    let manifest = parse(&docker("application/vnd.docker.distribution.manifest.v2+json", &members)).unwrap();
    assert_eq!((manifest.kind, manifest.subject, manifest.artifact_type), (ManifestKind::DockerManifest, None, None));
    let platform = concat!(
        r#","platform":{"architecture":"arm","os":"linux","variant":"v7","os.version":"1","os.features":["x"],"#,
        r#""features":["sse"]}"#
    );
    let members =
        format!(r#""manifests":[{}]"#, entry("application/vnd.docker.distribution.manifest.v2+json", 2, platform));
    let manifest = parse(&docker("application/vnd.docker.distribution.manifest.list.v2+json", &members)).unwrap();
    assert_eq!(manifest.kind, ManifestKind::DockerList);
    assert_eq!(manifest.references()[0].kind, ContentKind::Manifest);
    let platform = manifest.manifests[0].platform.as_ref().unwrap();
    assert_eq!(
        (platform.architecture.as_str(), platform.os.as_str(), platform.variant.as_str()),
        ("arm", "linux", "v7")
    );
    assert_eq!((platform.os_version.as_str(), platform.os_features.as_slice()), ("1", &["x".to_owned()][..]));
}

// Artifact type: stated, else the configuration's; an index has only the stated one (clients §7).
#[test]
fn effective_artifact_type() {
    let empty = format!(r#"{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{EMPTY}","size":2}}"#);
    let with_data = empty.replace('}', r#","data":"e30="}"#);
    let subject = entry(IMAGE, 7, "");
    let artifact = format!(
        r#"{{"schemaVersion":2,"mediaType":"{IMAGE}","artifactType":"application/vnd.example","config":{with_data},
            "layers":[{empty}],"subject":{subject},"annotations":{{"a":"b"}}}}"#
    );
    let manifest = parse(&artifact).unwrap();
    assert_eq!(manifest.artifact_type.unwrap().as_str(), "application/vnd.example");
    assert_eq!(manifest.references.len(), 1, "config and layer are the same blob, the subject is not referenced");
    assert_eq!(manifest.subject.unwrap().digest, digest(7));
    assert_eq!(manifest.annotations["a"], "b");
    let helm = format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#,
        entry("application/vnd.cncf.helm.config.v1+json", 1, "")
    );
    let manifest = ParsedManifest::parse(helm.as_bytes(), Some(&MediaType::OCI_MANIFEST)).unwrap();
    assert_eq!(manifest.artifact_type, Some(MediaType::HELM_CONFIG));
    assert_eq!(parse(&index(&[])).unwrap().artifact_type, None);
    let stated = parse(&image(r#","layers":[],"artifactType":"""#)).unwrap();
    assert_eq!(stated.artifact_type, Some(MediaType::OCI_CONFIG), "an empty one counts as absent");
}

// M1: image and index at once, or a member of schema 1 or of the withdrawn artifact manifest, is refused.
#[test]
fn m1_ambiguous() {
    let image_layers = layers(&[layer(2)]);
    for member in [r#","manifests":[]"#, r#","manifests":null"#, r#","fsLayers":[]"#, r#","blobs":[]"#] {
        assert!(
            matches!(parse(&image(&format!("{image_layers}{member}"))), Err(ManifestError::Ambiguous(_))),
            "{member}"
        );
    }
    for member in [r#""layers":[]"#, r#""layers":null"#, r#""config":{}"#, r#""fsLayers":[]"#] {
        let text = index(&[]).replace(r#""manifests""#, &format!(r#"{member},"manifests""#));
        assert!(matches!(parse(&text), Err(ManifestError::Ambiguous(_))), "{member}");
    }
}

// M2, M3: request and body agree on the type, or the push is refused; only OCI documents may leave it to the request.
#[test]
fn m2_media_types() {
    let with = |text: &str, header: &str| {
        ParsedManifest::parse(text.as_bytes(), Some(&MediaType::parse(header).unwrap())).map(|manifest| manifest.kind)
    };
    let full = image(&layers(&[]));
    let bare = full.replace(&format!(r#""mediaType":"{IMAGE}","#), "");
    let bare_index = index(&[]).replace(&format!(r#""mediaType":"{INDEX}","#), "");
    assert_eq!(with(&full, IMAGE), Ok(ManifestKind::OciManifest));
    assert_eq!(with(&bare, IMAGE), Ok(ManifestKind::OciManifest));
    assert_eq!(with(&bare_index, INDEX), Ok(ManifestKind::OciIndex));
    assert!(matches!(with(&bare, INDEX), Err(ManifestError::Ambiguous("config"))));
    assert!(matches!(with(&bare_index, IMAGE), Err(ManifestError::Ambiguous("manifests"))));
    for header in
        [INDEX, "application/json", "application/octet-stream", "application/vnd.docker.distribution.manifest.v2+json"]
    {
        assert!(matches!(with(&full, header), Err(ManifestError::MediaTypeMismatch { .. })), "{header}");
    }
    assert_eq!(parse(&bare), Err(ManifestError::MediaTypeMissing));
    for header in ["application/json", "application/vnd.oci.artifact.manifest.v1+json", "text/html"] {
        assert!(matches!(with(&bare, header), Err(ManifestError::TypeUnsupported(_))), "{header}");
    }
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    assert!(matches!(with(&bare, docker), Err(ManifestError::Field { path, .. }) if path == "mediaType"));
    assert!(error(&full.replace("image.manifest.v1", "image.manifest.v9")).contains("not a manifest type"));
}

// M5: duplicate keys, look-alike keys, trailing bytes and impossible sizes are refused at every depth.
#[test]
fn m5_strictness() {
    let good = image(&layers(&[layer(2)]));
    assert!(parse(&good).is_ok());
    for (from, to) in [
        (r#""layers""#, r#""layers":[],"layers""#),
        (r#""layers""#, r#""Layers":[],"layers""#),
        (r#""layers""#, r#""Layers""#),
        (r#""mediaType""#, r#""mediatype""#),
        (r#""digest""#, r#""Digest""#),
        (r#""size":2"#, r#""size":2,"size":2"#),
        (r#""size":2"#, r#""size":2,"Size":3"#),
        (r#""size":2"#, r#""size":2,"unknown":{"a":1,"a":1}"#),
        (r#""size":2"#, r#""size":-1"#),
        (r#""size":2"#, r#""size":2.0"#),
        (r#""size":2"#, r#""size":2e0"#),
        (r#""size":2"#, r#""size":"2""#),
        (r#""size":2"#, r#""size":null"#),
        (r#""size":2"#, r#""sise":2"#),
        (r#""size":2"#, r#""size":9223372036854775808"#),
        (r#""size":2"#, r#""size":99999999999999999999999"#),
        (r#""size":2"#, r#""size":2,"annotations":{"a":1}"#),
        (r#""size":2"#, r#""size":2,"annotations":[]"#),
        (r#""size":2"#, r#""size":2,"urls":"x""#),
        (r#""size":2"#, r#""size":2,"urls":[1]"#),
        (r#""size":2"#, r#""size":2,"platform":{"OS":"x"}"#),
        (r#""size":2"#, r#""size":2,"platform":[]"#),
        (r#""size":2"#, r#""size":2,"data":"e30=""#),
        (r#""size":2"#, r#""size":2,"data":"%""#),
        (r#""config""#, r#""x":"\ud800","config""#),
        (r#""config":{"#, r#""config":[{"#),
        (r#""layers":["#, r#""layers":{"#),
        (r#""layers":["#, r#""layers":[[],"#),
        ("sha256:", "sha1:"),
        ("sha256:", "SHA256:"),
        ("sha256:", "sha256:../"),
        (r#""schemaVersion":2,"#, ""),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from}");
        assert!(parse(&bad).is_err(), "{bad}");
    }
    assert!(parse(&good.replace(r#""size":2"#, r#""size":9223372036854775807"#)).is_ok());
    for bad in [
        format!("\u{feff}{good}"),
        format!("{good}x"),
        format!("{good}{good}"),
        String::new(),
        "[]".into(),
        "null".into(),
    ] {
        assert!(parse(&bad).is_err());
    }
    assert!(parse(&format!("{good} \r\n")).is_ok(), "white space after the document is part of it");
    assert!(parse(&good.replace(r#""config""#, r#""org.example.custom":{"layers":1},"config""#)).is_ok());
}

// M5: an error says where.
#[test]
fn errors_name_the_place() {
    let text = image(&layers(&[layer(2), layer(3).replace("sha256:", "sha256:x")]));
    assert!(error(&text).starts_with("layers[1].digest: "), "{}", error(&text));
    assert_eq!(error(&image("")), "layers: missing");
    let text = index(&[entry(IMAGE, 2, r#","platform":{"os":1}"#)]);
    assert_eq!(error(&text), "manifests[0].platform.os: a number where a string belongs");
    let wild = image(&format!(r#","layers":[],"\u000a{}":1,"LAYERS":[]"#, "x".repeat(2000)));
    let Refusal::ManifestInvalid { detail } = Refusal::from(parse(&wild).unwrap_err()) else { panic!() };
    assert!(detail.len() <= DETAIL_BYTES_MAX && !detail.contains('\n'));
}

// M6: the documented sizes are accepted, one more is refused, and with the right refusal.
#[test]
fn m6_limits() {
    let padding = |text: String, bytes: usize| format!("{text}{}", " ".repeat(bytes - text.len()));
    let good = image(&layers(&[]));
    assert!(parse(&padding(good.clone(), MANIFEST_BYTES_MAX)).is_ok());
    let large = parse(&padding(good, MANIFEST_BYTES_MAX + 1)).unwrap_err();
    assert!(matches!(Refusal::from(large), Refusal::ManifestTooLarge { allowed: 4_194_304 }));
    let many = |count: u32| image(&layers(&(2..2 + count).map(layer).collect::<Vec<_>>()));
    assert_eq!(parse(&many(4094)).unwrap().references().len(), 4095);
    assert_eq!(parse(&many(4095)), Err(ManifestError::TooManyDescriptors));
    assert_eq!(parse(&many(6000)), Err(ManifestError::TooManyDescriptors));
    let annotations = |count: usize| {
        let all: Vec<_> = (0..count).map(|number| format!(r#""k{number}":"v""#)).collect();
        image(&format!(r#","layers":[],"annotations":{{{}}}"#, all.join(",")))
    };
    assert!(parse(&annotations(ANNOTATIONS_MAX)).is_ok());
    assert!(parse(&annotations(ANNOTATIONS_MAX + 1)).is_err());
    let deep = image(&format!(r#","layers":[],"x":{}{}"#, "[".repeat(100_000), "]".repeat(100_000)));
    assert!(matches!(parse(&deep), Err(ManifestError::Json(_))));
}

// M10: the same child a thousand times costs one reference; a digest with two sizes or two natures is refused.
#[test]
fn m10_repeated_children() {
    let manifest = parse(&index(&vec![entry(IMAGE, 2, ""); 4000])).unwrap();
    assert_eq!(manifest.references().len(), 1);
    let contradiction =
        |one: String, other: String| matches!(parse(&index(&[one, other])), Err(ManifestError::Contradiction(_)));
    assert!(contradiction(entry(IMAGE, 2, ""), entry(IMAGE, 2, "").replace(r#""size":2"#, r#""size":3"#)));
    assert!(!contradiction(entry(IMAGE, 2, ""), entry(INDEX, 2, "")));
}

// Foreign layers with urls need no blob (clients §12.20), unless the same blob is named as a normal one.
#[test]
fn foreign_layers() {
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let urls = r#","urls":["https://store.example.com/x"]"#;
    let kinds = |all: &[String]| -> Vec<ContentKind> {
        parse(&image(&layers(all))).unwrap().references()[1..].iter().map(|one| one.kind).collect()
    };
    assert_eq!(kinds(&[entry(foreign, 2, urls)]), [ContentKind::Foreign]);
    assert_eq!(
        kinds(&[entry("application/vnd.oci.image.layer.nondistributable.v1.tar", 2, urls)]),
        [ContentKind::Foreign]
    );
    assert_eq!(kinds(&[entry(foreign, 2, "")]), [ContentKind::Blob]);
    assert_eq!(kinds(&[entry("application/vnd.oci.image.layer.v1.tar", 2, urls)]), [ContentKind::Blob]);
    assert_eq!(kinds(&[entry(foreign, 2, urls), layer(2)]), [ContentKind::Blob]);
    assert_eq!(kinds(&[layer(2), entry(foreign, 2, urls)]), [ContentKind::Blob]);
}

// A BuildKit cache index lists layers: those are kept where present, and not looked for as manifests (clients §3).
#[test]
fn buildkit_cache_index() {
    let text = index(&[layer(2), entry("application/vnd.buildkit.cacheconfig.v0", 3, ""), entry(IMAGE, 4, "")]);
    let kinds: Vec<_> = parse(&text).unwrap().references().iter().map(|one| one.kind).collect();
    assert_eq!(kinds, [ContentKind::Foreign, ContentKind::Foreign, ContentKind::Manifest]);
}

// M19: a media type that could break a header is refused wherever it stands.
#[test]
fn m19_media_type_grammar() {
    for bad in ["a/b\\r\\nX: y", "a", "a/b;c=d", &format!("a/{}", "b".repeat(10_240))] {
        assert!(parse(&image(&format!(r#","layers":[],"artifactType":"{bad}""#))).is_err(), "{bad}");
        assert!(parse(&image(&layers(&[entry(bad, 2, "")]))).is_err(), "{bad}");
        assert!(parse(&index(&[entry(IMAGE, 2, &format!(r#","artifactType":"{bad}""#))])).is_err(), "{bad}");
    }
}

// M20: schema 1 is refused with a text that says what to do; other versions as well.
#[test]
fn m20_schema_versions() {
    assert!(error(r#"{"schemaVersion":1,"name":"a","fsLayers":[]}"#).contains("schema 1"));
    let header = MediaType::DOCKER_SCHEMA1_SIGNED;
    let text = r#"{"schemaVersion":2,"layers":[]}"#;
    assert_eq!(ParsedManifest::parse(text.as_bytes(), Some(&header)), Err(ManifestError::Schema1));
    for version in ["0", "3", "-2", "2.0", "\"2\"", "null", "true"] {
        let text = image(&layers(&[])).replace(r#""schemaVersion":2"#, &format!(r#""schemaVersion":{version}"#));
        assert!(parse(&text).is_err(), "{version}");
    }
}

// Lists that Go writes as null are empty; a required object is not.
#[test]
fn null_members() {
    assert_eq!(parse(&image(r#","layers":null,"annotations":null,"subject":null"#)).unwrap().layers, []);
    assert_eq!(parse(&index(&[]).replace("[]", "null")).unwrap().manifests, []);
    assert!(parse(&image(&layers(&[])).replace(&config(), "null")).is_err());
}

// The stored numbers of the kinds, and the bytes of a reference, never change.
#[test]
fn golden_bytes() {
    let encode = |kind| {
        bincode::encode_to_vec(Referenced { digest: digest(1), size_bytes: 5, kind }, bincode::config::standard())
    };
    for (kind, number) in [(ContentKind::Blob, 1), (ContentKind::Manifest, 2), (ContentKind::Foreign, 3)] {
        let bytes = encode(kind).unwrap();
        assert_eq!((bytes.len(), bytes[0], &bytes[33..]), (35, 1, &[5, number][..]));
        let back: (Referenced, usize) = bincode::decode_from_slice(&bytes, bincode::config::standard()).unwrap();
        assert_eq!(back.0.kind, kind);
    }
    for (kind, number) in ManifestKind::ALL.into_iter().zip([1, 2, 3, 4]) {
        assert_eq!(bincode::encode_to_vec(kind, bincode::config::standard()).unwrap(), [number]);
    }
}

/// A valid manifest with everything in it, to be damaged.
fn sample() -> Vec<u8> {
    let foreign = entry("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", 3, r#","urls":["https://e.x/"]"#);
    let more = format!(
        r#"{},"subject":{},"artifactType":"a/b","annotations":{{"k":"v"}}"#,
        layers(&[layer(2), foreign]),
        entry(IMAGE, 9, "")
    );
    image(&more).into_bytes()
}

proptest! {
    // No bytes make the parser panic, and what it accepts keeps the promises of its fields.
    #[test]
    fn total_over_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        drop(ParsedManifest::parse(&bytes, None));
    }

    #[test]
    fn total_over_damage(at in 0usize..900, cut in 0usize..40, insert in "[\\[\\]{}:,\"a-z0-9\\\\]{0,12}") {
        let mut bytes = sample();
        let at = at.min(bytes.len());
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, insert.bytes());
        if let Ok(manifest) = ParsedManifest::parse(&bytes, None) {
            prop_assert_eq!(manifest.kind.media_type(), manifest.media_type.clone());
            prop_assert!(manifest.references().len() <= 1 + manifest.layers.len() + manifest.manifests.len());
            prop_assert!(manifest.references().iter().all(|one| one.size_bytes <= i64::MAX as u64));
            // Read again as the stored bytes with the stored type, it says the same.
            let again = ParsedManifest::parse(&bytes, Some(&manifest.media_type));
            prop_assert_eq!(again, Ok(manifest));
        }
    }
}
