//! Media types: the RFC 6838 grammar, so that a stored one can be echoed in a header without harm (M19).

use std::borrow::Cow;
use std::fmt;

use bincode::{Decode, Encode};

use super::limits::{MEDIA_TYPE_BYTES_MAX, MEDIA_TYPE_PART_BYTES_MAX};

/// The string is not a media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a media type is written type/subtype, each of at most {MEDIA_TYPE_PART_BYTES_MAX} letters, digits and !#$&-^_.+, \
     beginning with a letter or digit"
)]
pub struct MediaTypeError;

/// A media type without parameters. Kept and compared as written: what was stored is what is given back.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MediaType(Cow<'static, str>);

macro_rules! known {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        impl MediaType {
            $($(#[$doc])* pub const $name: MediaType = MediaType(Cow::Borrowed($text));)*

            /// The well-known ones: these cost no allocation.
            const KNOWN: &[&'static str] = &[$($text),*];
        }
    };
}

known! {
    /// OCI image manifest; artifacts use it as well.
    OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    OCI_INDEX = "application/vnd.oci.image.index.v1+json";
    /// Docker image manifest, schema 2.
    DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker image manifest, schema 1: refused.
    DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json";
    /// Docker image manifest, schema 1, signed: refused.
    DOCKER_SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    /// OCI artifact manifest, withdrawn before OCI 1.1: refused.
    OCI_ARTIFACT_WITHDRAWN = "application/vnd.oci.artifact.manifest.v1+json";
    /// OCI image configuration.
    OCI_CONFIG = "application/vnd.oci.image.config.v1+json";
    /// The empty JSON object `{}`.
    OCI_EMPTY = "application/vnd.oci.empty.v1+json";
    /// OCI layer, not compressed.
    OCI_LAYER = "application/vnd.oci.image.layer.v1.tar";
    /// OCI layer, gzip.
    OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// OCI layer, zstd.
    OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// OCI layer that its owner distributes, not compressed (deprecated).
    OCI_LAYER_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar";
    /// OCI layer that its owner distributes, gzip (deprecated).
    OCI_LAYER_FOREIGN_GZIP = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    /// OCI layer that its owner distributes, zstd (deprecated).
    OCI_LAYER_FOREIGN_ZSTD = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd";
    /// Docker image configuration.
    DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json";
    /// Docker layer, not compressed.
    DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker layer, gzip.
    DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker layer, zstd.
    DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd";
    /// Docker layer that its owner distributes (Windows base layers), not compressed.
    DOCKER_LAYER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar";
    /// Docker layer that its owner distributes (Windows base layers), gzip.
    DOCKER_LAYER_FOREIGN_GZIP = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    /// BuildKit's cache configuration: an entry of its cache indexes.
    BUILDKIT_CACHE_CONFIG = "application/vnd.buildkit.cacheconfig.v0";
    /// Helm chart configuration.
    HELM_CONFIG = "application/vnd.cncf.helm.config.v1+json";
    /// Bytes of no stated kind.
    OCTET_STREAM = "application/octet-stream";
    /// JSON of no stated kind.
    JSON = "application/json";
}

impl MediaType {
    /// Parses `type/subtype` of RFC 6838 §4.2, at most [`MEDIA_TYPE_BYTES_MAX`] bytes, no parameters.
    pub fn parse(text: &str) -> Result<MediaType, MediaTypeError> {
        if let Some(known) = MediaType::KNOWN.iter().find(|known| **known == text) {
            return Ok(MediaType(Cow::Borrowed(known)));
        }
        if text.len() > MEDIA_TYPE_BYTES_MAX {
            return Err(MediaTypeError);
        }
        let (kind, subtype) = text.split_once('/').ok_or(MediaTypeError)?;
        if !is_restricted_name(kind) || !is_restricted_name(subtype) {
            return Err(MediaTypeError);
        }
        Ok(MediaType(Cow::Owned(text.to_owned())))
    }

    /// Parses the value of a `Content-Type` header; parameters (`; charset=utf-8`) are dropped.
    pub fn parse_header(value: &str) -> Result<MediaType, MediaTypeError> {
        let essence = value.split_once(';').map_or(value, |(essence, _)| essence);
        MediaType::parse(essence.trim_matches([' ', '\t']))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a descriptor of this type names a manifest that a registry stores as one.
    pub fn is_manifest(&self) -> bool {
        [MediaType::OCI_MANIFEST, MediaType::OCI_INDEX, MediaType::DOCKER_MANIFEST, MediaType::DOCKER_LIST]
            .contains(self)
    }

    /// Whether a layer of this type may stay with its owner (`urls`) and need not be uploaded.
    pub fn is_foreign_layer(&self) -> bool {
        [
            MediaType::OCI_LAYER_FOREIGN,
            MediaType::OCI_LAYER_FOREIGN_GZIP,
            MediaType::OCI_LAYER_FOREIGN_ZSTD,
            MediaType::DOCKER_LAYER_FOREIGN,
            MediaType::DOCKER_LAYER_FOREIGN_GZIP,
        ]
        .contains(self)
    }
}

/// `restricted-name` of RFC 6838 §4.2.
fn is_restricted_name(text: &str) -> bool {
    let is_symbol = |byte: u8| matches!(byte, b'!' | b'#' | b'$' | b'&' | b'-' | b'^' | b'_' | b'.' | b'+');
    text.len() <= MEDIA_TYPE_PART_BYTES_MAX
        && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || is_symbol(byte))
}

impl fmt::Display for MediaType {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&self.0)
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl AsRef<str> for MediaType {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Encode for MediaType {
    fn encode<E: bincode::enc::Encoder>(&self, encoder: &mut E) -> Result<(), bincode::error::EncodeError> {
        self.as_str().encode(encoder)
    }
}

impl<Context> Decode<Context> for MediaType {
    fn decode<D: bincode::de::Decoder<Context = Context>>(
        decoder: &mut D,
    ) -> Result<MediaType, bincode::error::DecodeError> {
        let text = <String as Decode<Context>>::decode(decoder)?;
        MediaType::parse(&text).map_err(|error| bincode::error::DecodeError::OtherString(error.to_string()))
    }
}

bincode::impl_borrow_decode!(MediaType);

#[cfg(test)]
mod tests {
    use super::*;

    // M19: nothing that could break a header, nothing over the length, and every well-known type is grammatical.
    #[test]
    fn parse_table() {
        for known in MediaType::KNOWN {
            assert!(known.split('/').all(is_restricted_name), "{known}");
        }
        let longest = format!("a/{}", "b".repeat(127));
        for good in ["application/vnd.oci.image.manifest.v1+json", "text/plain", "a/b", "1/2#$&-^_.+!", &longest] {
            assert_eq!(MediaType::parse(good).unwrap().as_str(), good);
        }
        let part_too_long = format!("a/{}", "b".repeat(128));
        for bad in [
            "",
            "a",
            "a/",
            "/b",
            "a/b/c",
            "a/b; charset=utf-8",
            "a/b\r\nSet-Cookie: x",
            "a/b\n",
            " a/b",
            "a /b",
            "a/*",
            "*/*",
            "a/b,c/d",
            "a/ä",
            "a/\"b\"",
            "a/.b",
            "a/\0",
            &part_too_long,
            &"a/b".repeat(4096),
        ] {
            assert_eq!(MediaType::parse(bad), Err(MediaTypeError), "{bad:?}");
        }
    }

    // A Content-Type header may carry parameters; the type alone counts.
    #[test]
    fn header_table() {
        for text in
            ["application/json", "application/json; charset=utf-8", " application/json ;", "application/json\t;a=b"]
        {
            assert_eq!(MediaType::parse_header(text), Ok(MediaType::JSON), "{text}");
        }
        for bad in ["", ";", "application/json, text/plain", "application/json\r\n"] {
            assert_eq!(MediaType::parse_header(bad), Err(MediaTypeError), "{bad:?}");
        }
    }

    // Known and unknown types compare, and are stored, by their text.
    #[test]
    fn known_equals_written() {
        assert_eq!(MediaType::parse("application/vnd.oci.image.index.v1+json"), Ok(MediaType::OCI_INDEX));
        assert_ne!(MediaType::parse("Application/vnd.oci.image.index.v1+json"), Ok(MediaType::OCI_INDEX));
        let config = bincode::config::standard();
        let bytes = bincode::encode_to_vec(MediaType::OCI_EMPTY, config).unwrap();
        let (back, _): (MediaType, usize) = bincode::decode_from_slice(&bytes, config).unwrap();
        assert_eq!(back, MediaType::OCI_EMPTY);
        assert!(bincode::decode_from_slice::<MediaType, _>(b"\x03a/\n", config).is_err());
    }
}
