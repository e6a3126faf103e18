//! Whatever bytes come in, decoders answer: they never panic, never take much, and what they accept means one thing.

use proptest::prelude::*;
use registry_core::decide::policy::scope::Scopes;
use registry_core::decide::policy::{Policy, PolicyKind};
use registry_core::decide::seal::{Purpose, Sealer};
use registry_core::metadata::command::Proposal;
use registry_core::metadata::manifest::PutManifest;
use registry_core::metadata::reply::Outcome;
use registry_core::metadata::testing::{self, World, reference, repository_key, tags};
use registry_core::vocabulary::ids::{Revision, UploadId};
use registry_core::vocabulary::manifest::{ContentKind, ParsedManifest};
use registry_core::vocabulary::{Digest, MediaType, Reference, RepositoryName, Tag};

/// Damages bytes in one of the ways in which bytes are damaged: changed, cut out, doubled, cut off.
fn damage(mut bytes: Vec<u8>, at: usize, kind: u8, value: u8) -> Vec<u8> {
    let at = at % bytes.len().max(1);
    match kind % 4 {
        0 => bytes[at] ^= value | 1,
        1 => drop(bytes.drain(at..(at + usize::from(value) % 9).min(bytes.len()))),
        2 => {
            let part = bytes[at..(at + usize::from(value)).min(bytes.len())].to_vec();
            bytes.splice(at..at, part);
        }
        _ => bytes.truncate(at),
    }
    bytes
}

/// A proposal with most kinds of fields in it.
fn proposal() -> Vec<u8> {
    let key = repository_key("team/app", 7);
    let put = PutManifest {
        references: vec![reference(b"x", ContentKind::Blob), reference(b"y", ContentKind::Manifest)],
        subject: Some(Digest::sha256(b"s")),
        artifact_type: Some("a/b".to_owned()),
        annotations: Some(vec![("k".to_owned(), "v".to_owned())]),
        tags: tags(&["v1", "v2"]),
        ..testing::manifest(&key, b"manifest")
    };
    let mut commands = testing::push(&key, b"bytes", 3, &[1, 2]);
    commands.push(put.into());
    World::empty().proposal(commands).encode()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    // A proposal that is damaged is refused, or is another proposal that reads back as itself.
    #[test]
    fn commands(at in any::<usize>(), kind in any::<u8>(), value in any::<u8>()) {
        let bytes = damage(proposal(), at, kind, value);
        if let Ok(read) = Proposal::decode(&bytes) {
            prop_assert_eq!(Proposal::decode(&read.encode()), Ok(read));
        }
        drop(Outcome::decode(&bytes));
    }

    #[test]
    fn commands_of_noise(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(Proposal::decode(&bytes));
        drop(Proposal::decode(&[&[1][..], &bytes].concat()));
        drop(Outcome::decode(&bytes));
    }

    // No text but the one that was sealed opens (T1, T2), whatever is done to it.
    #[test]
    fn tokens(text in "[A-Za-z0-9_.=-]{0,200}", at in any::<usize>(), kind in any::<u8>(), value in any::<u8>()) {
        let sealer = Sealer::new(Purpose::Bearer, &[7; 32], None);
        prop_assert!(sealer.open::<(String, u64)>(&text).is_err());
        let sealed = sealer.seal(&("team/app".to_owned(), 5_u64));
        let damaged = damage(sealed.clone().into_bytes(), at, kind, value);
        if let Ok(damaged) = String::from_utf8(damaged) && damaged != sealed {
            prop_assert!(sealer.open::<(String, u64)>(&damaged).is_err(), "{}", damaged);
        }
    }

    // Names mean themselves: what is accepted prints as it was written and is nothing else as well (M8, M15, M16, A24).
    #[test]
    fn names(text in "[a-zA-Z0-9:._/@%+ -]{0,80}|sha(256|512|1):[0-9a-fA-F]{60,130}|\\PC{0,20}") {
        if let Ok(digest) = Digest::parse(&text) {
            prop_assert_eq!(digest.to_string(), text.clone());
            prop_assert!(Tag::parse(&text).is_err());
        }
        if let Ok(tag) = Tag::parse(&text) {
            prop_assert_eq!(tag.as_str(), &text);
            prop_assert_eq!(Reference::parse(&text), Ok(Reference::Tag(tag)));
        }
        if let Ok(reference) = Reference::parse(&text) {
            prop_assert_eq!(reference.to_string(), text.clone());
            prop_assert_eq!(reference.digest().is_some(), text.contains(':'));
        }
        if let Ok(name) = RepositoryName::parse(&text) {
            prop_assert_eq!(name.as_str(), &text);
            prop_assert!(text.split('/').all(|part| !part.is_empty() && !part.starts_with('.')));
        }
        if let Ok(media_type) = MediaType::parse(&text) {
            prop_assert_eq!(media_type.as_str(), &text);
            prop_assert_eq!(MediaType::parse_header(&format!("{text}; charset=utf-8")), Ok(media_type));
        }
        if let Some(id) = UploadId::parse(&text) {
            prop_assert_eq!(UploadId::parse(&id.to_string()), Some(id));
        }
        if let Some(revision) = Revision::parse(&text) {
            prop_assert_eq!(Revision::parse(&revision.to_string()), Some(revision));
        }
    }

    // Scopes that are read print as scopes that are read alike (T6).
    #[test]
    fn scopes(text in "[a-z:,* ()/._-]{0,60}|repository:[a-z/]{1,10}:[a-z,*]{0,20}") {
        let printed = |scopes: &Scopes| scopes.to_string();
        // One of which no action is known is no scope when it is printed.
        if let Ok(scopes) = Scopes::parse([text.as_str()])
            && !printed(&scopes).split(' ').any(|scope| scope.ends_with(':'))
        {
            prop_assert_eq!(Scopes::parse([printed(&scopes).as_str()]), Ok(scopes));
        }
    }

    // Policies and manifests of noise that looks like JSON.
    #[test]
    fn documents(text in "[\\[\\]{}:,\"a-zA-Z0-9*?. \\\\-]{0,120}", bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        drop(Policy::parse(&text, PolicyKind::Identity));
        drop(Policy::parse(&String::from_utf8_lossy(&bytes), PolicyKind::Identity));
        drop(ParsedManifest::parse(text.as_bytes(), Some(&MediaType::OCI_INDEX)));
        drop(ParsedManifest::parse(&bytes, Some(&MediaType::OCI_MANIFEST)));
    }
}
