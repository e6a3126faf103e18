//! Small images: the manifests differ, the blobs that they name are the same in a repository.

use axum::http::Method;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use bytes::Bytes;
use registry_core::vocabulary::limits::TOKEN_SCOPES_MAX;
use registry_core::vocabulary::{Digest, MediaType, RepositoryName};

use super::blobs::BlobMaker;
use super::conversation::{Answer, Conversation, Failure, Parts, uri};

/// Size of the layers, and of the configuration.
const LAYER_BYTES: u64 = 64;
const CONFIG: &[u8] = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;

/// A repository that has the blobs which manifests need.
#[derive(Clone, Debug)]
pub(super) struct Shelf {
    name: RepositoryName,
    /// A manifest up to its distinguishing number.
    before: String,
}

impl Shelf {
    /// With images of `layers` layers, whose blobs [`Shelf::stock`] pushes.
    pub(super) fn new(name: RepositoryName, layers: u16) -> Shelf {
        let descriptor = |kind: &str, digest: &Digest, size: u64| {
            format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{size}}}"#)
        };
        let config =
            descriptor("application/vnd.oci.image.config.v1+json", &Digest::sha256(CONFIG), CONFIG.len() as u64);
        let maker = BlobMaker::new(LAYER_BYTES, 0);
        let layer = |number| {
            descriptor("application/vnd.oci.image.layer.v1.tar", &maker.make(u64::from(number)).0, LAYER_BYTES)
        };
        let layers = (0..layers).map(layer).collect::<Vec<_>>().join(",");
        let before = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{config},"layers":[{layers}],"annotations":{{"n":""#,
            MediaType::OCI_MANIFEST
        );
        Shelf { name, before }
    }

    /// Its repository.
    pub(super) fn name(&self) -> &RepositoryName {
        &self.name
    }

    /// The manifest with this number.
    pub(super) fn manifest(&self, number: impl std::fmt::Display) -> Bytes {
        Bytes::from(format!("{}{number}\"}}}}", self.before))
    }

    /// Pushes the blobs; those that are there are found and left.
    pub(super) async fn stock(&self, talk: &mut Conversation, layers: u16) -> Result<(), Failure> {
        let maker = BlobMaker::new(LAYER_BYTES, 0);
        let config = (Digest::sha256(CONFIG), Parts::new([Bytes::from_static(CONFIG)]));
        for (digest, body) in [config].into_iter().chain((0..layers).map(|number| maker.make(u64::from(number)))) {
            if !has_blob(talk, &self.name, &digest).await? {
                push_blob(talk, &self.name, &digest, body, None).await?;
            }
        }
        Ok(())
    }

    /// Pushes a manifest under a tag.
    pub(super) async fn put(&self, talk: &mut Conversation, tag: &str, manifest: Bytes) -> Result<u64, Failure> {
        let bytes = manifest.len() as u64;
        let headers = [(CONTENT_TYPE, HeaderValue::from_static("application/vnd.oci.image.manifest.v1+json"))];
        let at = uri(&format!("/v2/{}/manifests/{tag}", self.name))?;
        let sent = talk.request(Method::PUT, at, &headers, Parts::new([manifest]));
        sent.await?.expect(201)?;
        Ok(bytes)
    }
}

/// Whether a repository has a blob.
pub(super) async fn has_blob(talk: &mut Conversation, name: &RepositoryName, digest: &Digest) -> Result<bool, Failure> {
    let at = uri(&format!("/v2/{name}/blobs/{digest}"))?;
    let answer: Answer = talk.request(Method::HEAD, at, &[], Parts::default()).await?;
    match answer.status {
        200 => Ok(true),
        404 => Ok(false),
        other => Err(Failure::Status(other)),
    }
}

/// Pushes a blob: all at once, or in chunks.
pub(super) async fn push_blob(
    talk: &mut Conversation,
    name: &RepositoryName,
    digest: &Digest,
    mut body: Parts,
    chunk_bytes: Option<u64>,
) -> Result<u64, Failure> {
    let bytes = body.len();
    let begun = talk.request(Method::POST, uri(&format!("/v2/{name}/blobs/uploads/"))?, &[], Parts::default());
    let mut at = begun.await?.expect(202)?.location()?;
    let binary = [(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))];
    if let Some(chunk_bytes) = chunk_bytes {
        while body.len() > 0 {
            let sent = talk.request(Method::PATCH, uri(&at)?, &binary, body.take(chunk_bytes));
            at = sent.await?.expect(202)?.location()?;
        }
    }
    let separator = if at.contains('?') { '&' } else { '?' };
    let finish = uri(&format!("{at}{separator}digest={digest}"))?;
    talk.request(Method::PUT, finish, &binary, body).await?.expect(201)?;
    Ok(bytes)
}

/// The query that asks for a token over these repositories; empty when they are more than one token may name.
pub(super) fn scopes<'a>(names: impl ExactSizeIterator<Item = &'a RepositoryName>) -> Option<String> {
    if names.len() > TOKEN_SCOPES_MAX {
        return None;
    }
    Some(names.map(|name| format!("scope=repository:{name}:pull,push")).collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use registry_core::vocabulary::manifest::ParsedManifest;

    use super::*;

    // What is pushed is a manifest by the server's own rules, of about the size that real ones have.
    #[test]
    fn manifests() {
        let shelf = Shelf::new(RepositoryName::parse("bench/x").unwrap(), 10);
        let (one, two) = (shelf.manifest(1), shelf.manifest("a-2"));
        let parsed = ParsedManifest::parse(&one, None).unwrap();
        assert_eq!((parsed.layers.len(), parsed.media_type), (10, MediaType::OCI_MANIFEST));
        assert!((1500..2500).contains(&one.len()), "{}", one.len());
        assert_ne!(one, two);
        ParsedManifest::parse(&two, None).unwrap();
    }

    // One token for all repositories, as long as the token service takes them all.
    #[test]
    fn scopes_are_bounded() {
        let names: Vec<RepositoryName> =
            (0..=TOKEN_SCOPES_MAX).map(|number| RepositoryName::parse(&format!("b/{number}")).unwrap()).collect();
        assert_eq!(scopes(names[..2].iter()).unwrap(), "scope=repository:b/0:pull,push&scope=repository:b/1:pull,push");
        assert!(scopes(names.iter()).is_none());
    }
}
