//! Descriptors: media type, digest and size of some content, as a manifest names it.
//!
//! Source: OCI image specification 1.1, "descriptor.md". Only read from JSON, never written back.

use std::collections::BTreeMap;

use data_encoding::BASE64;

use super::digest::Digest;
use super::json::{Json, Object};
use super::limits::{ANNOTATIONS_MAX, DESCRIPTOR_URLS_MAX};
use super::media_type::MediaType;

/// Free key-value pairs of a manifest or descriptor.
pub type Annotations = BTreeMap<String, String>;

/// What a manifest says about one piece of content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Its media type.
    pub media_type: MediaType,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes, at most 2^63 − 1.
    pub size_bytes: u64,
    /// Where else it may be had. Data only: a registry never fetches from there (M14).
    pub urls: Vec<String>,
    /// Its annotations.
    pub annotations: Annotations,
    /// What it runs on; only meaningful for an entry of an index.
    pub platform: Option<Platform>,
    /// The artifact type of the manifest it names, if stated.
    pub artifact_type: Option<MediaType>,
}

/// What an image runs on. Empty where the manifest says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Platform {
    /// Instruction set, in Go's words (`amd64`, `arm64`).
    pub architecture: String,
    /// Operating system, in Go's words (`linux`, `windows`).
    pub os: String,
    /// Version of the operating system.
    pub os_version: String,
    /// Wanted features of the operating system.
    pub os_features: Vec<String>,
    /// Variant of the instruction set (`v7`).
    pub variant: String,
}

/// A member that is not as the specification wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldError {
    /// Where, for example `layers[3].digest`.
    pub(crate) path: String,
    /// What is wrong.
    pub(crate) problem: String,
}

impl FieldError {
    pub(crate) fn new(path: &str, problem: impl ToString) -> FieldError {
        FieldError { path: path.to_owned(), problem: problem.to_string() }
    }

    /// The same, seen from the object around it.
    pub(crate) fn within(mut self, outer: impl std::fmt::Display) -> FieldError {
        self.path = if self.path.is_empty() { outer.to_string() } else { format!("{outer}.{}", self.path) };
        self
    }
}

const DESCRIPTOR_KEYS: &[&str] =
    &["mediaType", "digest", "size", "urls", "annotations", "data", "platform", "artifactType"];
const PLATFORM_KEYS: &[&str] = &["architecture", "os", "os.version", "os.features", "variant", "features"];

impl Descriptor {
    pub(crate) fn read(value: &Json<'_>) -> Result<Descriptor, FieldError> {
        let object = object(value, "")?;
        object.refuse_look_alikes(DESCRIPTOR_KEYS).map_err(|problem| FieldError::new("", problem))?;
        let digest = string(object, "digest")?.ok_or_else(|| FieldError::new("digest", "missing"))?;
        let descriptor = Descriptor {
            media_type: media_type(object, "mediaType")?.ok_or_else(|| FieldError::new("mediaType", "missing"))?,
            digest: Digest::parse(digest).map_err(|error| FieldError::new("digest", error))?,
            size_bytes: size(object)?,
            urls: strings(object, "urls", DESCRIPTOR_URLS_MAX)?,
            annotations: annotations(object)?,
            platform: object.get_set("platform").map(Platform::read).transpose()?,
            artifact_type: media_type(object, "artifactType")?,
        };
        descriptor.check_data(object)?;
        Ok(descriptor)
    }

    /// Embedded content must be what the descriptor says, or two clients would see two contents.
    fn check_data(&self, object: &Object<'_>) -> Result<(), FieldError> {
        let Some(text) = string(object, "data")? else { return Ok(()) };
        let data = BASE64.decode(text.as_bytes()).map_err(|_| FieldError::new("data", "not base64"))?;
        if data.len() as u64 != self.size_bytes || Digest::of(self.digest.algorithm(), &data) != self.digest {
            return Err(FieldError::new("data", "not the content of this digest and size"));
        }
        Ok(())
    }
}

impl Platform {
    fn read(value: &Json<'_>) -> Result<Platform, FieldError> {
        let read = || {
            let object = object(value, "")?;
            object.refuse_look_alikes(PLATFORM_KEYS).map_err(|problem| FieldError::new("", problem))?;
            let text = |key| Ok(string(object, key)?.unwrap_or_default().to_owned());
            Ok(Platform {
                architecture: text("architecture")?,
                os: text("os")?,
                os_version: text("os.version")?,
                os_features: strings(object, "os.features", DESCRIPTOR_URLS_MAX)?,
                variant: text("variant")?,
            })
        };
        read().map_err(|error: FieldError| error.within("platform"))
    }
}

pub(crate) fn object<'v, 'a>(value: &'v Json<'a>, key: &str) -> Result<&'v Object<'a>, FieldError> {
    match value {
        Json::Object(object) => Ok(object),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Array(_) => {
            Err(FieldError::new(key, format_args!("{} where an object belongs", value.kind())))
        }
    }
}

pub(crate) fn array<'v, 'a>(value: &'v Json<'a>, key: &str) -> Result<&'v [Json<'a>], FieldError> {
    match value {
        Json::Array(items) => Ok(items),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Object(_) => {
            Err(FieldError::new(key, format_args!("{} where an array belongs", value.kind())))
        }
    }
}

fn text<'v>(value: &'v Json<'_>, key: &str) -> Result<&'v str, FieldError> {
    match value {
        Json::String(text) => Ok(text),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Array(_) | Json::Object(_) => {
            Err(FieldError::new(key, format_args!("{} where a string belongs", value.kind())))
        }
    }
}

pub(crate) fn string<'v>(object: &'v Object<'_>, key: &str) -> Result<Option<&'v str>, FieldError> {
    object.get_set(key).map(|value| text(value, key)).transpose()
}

/// A media type; an empty one counts as absent, since Go's clients leave out what is empty.
pub(crate) fn media_type(object: &Object<'_>, key: &str) -> Result<Option<MediaType>, FieldError> {
    let text = string(object, key)?.filter(|text| !text.is_empty());
    text.map(|text| MediaType::parse(text).map_err(|error| FieldError::new(key, error))).transpose()
}

pub(crate) fn annotations(object: &Object<'_>) -> Result<Annotations, FieldError> {
    let Some(value) = object.get_set("annotations") else { return Ok(Annotations::new()) };
    let entries = self::object(value, "annotations")?;
    if entries.len() > ANNOTATIONS_MAX {
        return Err(FieldError::new("annotations", format_args!("more than {ANNOTATIONS_MAX}")));
    }
    let read = |(key, value)| Ok((String::from(key), text(value, "annotations")?.to_owned()));
    entries.iter().map(read).collect()
}

fn strings(object: &Object<'_>, key: &str, most: usize) -> Result<Vec<String>, FieldError> {
    let Some(value) = object.get_set(key) else { return Ok(Vec::new()) };
    let items = array(value, key)?;
    if items.len() > most {
        return Err(FieldError::new(key, format_args!("more than {most}")));
    }
    items.iter().map(|item| Ok(text(item, key)?.to_owned())).collect()
}

fn size(object: &Object<'_>) -> Result<u64, FieldError> {
    let number = match object.get_set("size") {
        Some(Json::Number(number)) => number.as_u64(),
        Some(Json::Null | Json::Bool(_) | Json::String(_) | Json::Array(_) | Json::Object(_)) => None,
        None => return Err(FieldError::new("size", "missing")),
    };
    // Clients hold sizes in signed 64-bit integers.
    number
        .filter(|size| i64::try_from(*size).is_ok())
        .ok_or_else(|| FieldError::new("size", "not a whole number from 0 to 2^63 - 1"))
}
