//! Manifests: what received bytes say, read once and strictly. The bytes stay the truth; nothing here is written back.
//!
//! Source: OCI image specification 1.1 ("manifest.md", "image-index.md"), Docker image manifest V2 schema 2; security
//! cases M1–M6, M10, M19, M20. Start at [`ParsedManifest::parse`].

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bincode::{Decode, Encode};

use super::descriptor::{self, Annotations, Descriptor, FieldError};
use super::digest::Digest;
use super::json::{Json, JsonError, Object};
use super::limits::{MANIFEST_BYTES_MAX, MANIFEST_DESCRIPTORS_MAX};
use super::media_type::MediaType;
use super::refusal::{self, Refusal};
use super::stored::stored_enum;

stored_enum! {
    /// The four documents that are stored as manifests. An artifact is an OCI manifest with an artifact type.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum ManifestKind {
        /// OCI image manifest.
        OciManifest = 1,
        /// OCI image index.
        OciIndex = 2,
        /// Docker image manifest, schema 2.
        DockerManifest = 3,
        /// Docker manifest list.
        DockerList = 4,
    }
}

stored_enum! {
    /// What must be here for a manifest to be whole.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum ContentKind {
        /// A blob that the repository must hold.
        Blob = 1,
        /// A manifest that the repository must hold.
        Manifest = 2,
        /// Content that need not be here: a layer its owner distributes, or an entry of an index that is no manifest.
        /// Kept where it is present.
        Foreign = 3,
    }
}

/// One content that a manifest names, repeated ones folded together. The subject is not among them: it may arrive
/// later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct Referenced {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes; the stored size must be equal.
    pub size_bytes: u64,
    /// Whether it must be here, and as what.
    pub kind: ContentKind,
}

/// What a manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedManifest {
    /// Which of the four documents.
    pub kind: ManifestKind,
    /// The media type to store and to give back.
    pub media_type: MediaType,
    /// The configuration of an image.
    pub config: Option<Descriptor>,
    /// The layers of an image, lowest first.
    pub layers: Vec<Descriptor>,
    /// The entries of an index.
    pub manifests: Vec<Descriptor>,
    /// The manifest this one is about; need not be present anywhere.
    pub subject: Option<Descriptor>,
    /// The effective artifact type: as stated, else an OCI manifest's configuration media type, else none.
    pub artifact_type: Option<MediaType>,
    /// Annotations of the manifest itself.
    pub annotations: Annotations,
    references: Vec<Referenced>,
}

/// Why bytes are not a manifest that is served here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Larger than [`MANIFEST_BYTES_MAX`] (413).
    #[error("larger than {MANIFEST_BYTES_MAX} bytes")]
    TooLarge,
    /// Not strict JSON.
    #[error("not a JSON document that is accepted here: {0}")]
    Json(String),
    /// Neither the body nor the request says which document this is.
    #[error("no media type: neither the Content-Type header nor \"mediaType\" in the body names one")]
    MediaTypeMissing,
    /// The request says one thing, the body another (M2).
    #[error("the Content-Type header says {header}, \"mediaType\" in the body says {body}")]
    MediaTypeMismatch {
        /// What the request says.
        header: MediaType,
        /// What the body says.
        body: MediaType,
    },
    /// Not one of the four documents.
    #[error("{0} is not a manifest type that is stored here; push an OCI or a Docker schema 2 manifest or index")]
    TypeUnsupported(MediaType),
    /// Docker schema 1 (M20).
    #[error(
        "Docker schema 1 manifests are not supported; push again with a client that makes schema 2 or OCI manifests"
    )]
    Schema1,
    /// An image and an index at once, or a member of another schema (M1).
    #[error("\"{0}\" does not belong into this kind of manifest")]
    Ambiguous(&'static str),
    /// A member is missing or malformed.
    #[error("{}{separator}{problem}", path, separator = if path.is_empty() { "" } else { ": " })]
    Field {
        /// Where, for example `layers[3].digest`.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// More than [`MANIFEST_DESCRIPTORS_MAX`] descriptors.
    #[error("more than {MANIFEST_DESCRIPTORS_MAX} descriptors")]
    TooManyDescriptors,
    /// One digest with two sizes, or as a blob and as a manifest.
    #[error("{0} is named twice, with different sizes or as a blob and as a manifest")]
    Contradiction(Digest),
}

impl From<FieldError> for ManifestError {
    fn from(FieldError { path, problem }: FieldError) -> ManifestError {
        ManifestError::Field { path, problem }
    }
}

impl From<JsonError> for ManifestError {
    fn from(error: JsonError) -> ManifestError {
        ManifestError::Json(error.to_string())
    }
}

impl From<ManifestError> for Refusal {
    fn from(error: ManifestError) -> Refusal {
        match error {
            ManifestError::TooLarge => Refusal::ManifestTooLarge { allowed: MANIFEST_BYTES_MAX as u64 },
            ManifestError::Json(_)
            | ManifestError::MediaTypeMissing
            | ManifestError::MediaTypeMismatch { .. }
            | ManifestError::TypeUnsupported(_)
            | ManifestError::Schema1
            | ManifestError::Ambiguous(_)
            | ManifestError::Field { .. }
            | ManifestError::TooManyDescriptors
            | ManifestError::Contradiction(_) => Refusal::ManifestInvalid { detail: refusal::detail(error) },
        }
    }
}

impl ManifestKind {
    /// The kind that a media type names.
    pub fn of(media_type: &MediaType) -> Option<ManifestKind> {
        ManifestKind::ALL.into_iter().find(|kind| kind.media_type() == *media_type)
    }

    /// All kinds.
    pub const ALL: [ManifestKind; 4] =
        [ManifestKind::OciManifest, ManifestKind::OciIndex, ManifestKind::DockerManifest, ManifestKind::DockerList];

    /// Its media type.
    pub fn media_type(self) -> MediaType {
        match self {
            ManifestKind::OciManifest => MediaType::OCI_MANIFEST,
            ManifestKind::OciIndex => MediaType::OCI_INDEX,
            ManifestKind::DockerManifest => MediaType::DOCKER_MANIFEST,
            ManifestKind::DockerList => MediaType::DOCKER_LIST,
        }
    }

    /// Whether it lists manifests.
    pub fn is_index(self) -> bool {
        match self {
            ManifestKind::OciIndex | ManifestKind::DockerList => true,
            ManifestKind::OciManifest | ManifestKind::DockerManifest => false,
        }
    }

    /// Whether it is one of OCI's two: only these have `subject` and `artifactType`, and may leave out `mediaType`.
    pub fn is_oci(self) -> bool {
        match self {
            ManifestKind::OciManifest | ManifestKind::OciIndex => true,
            ManifestKind::DockerManifest | ManifestKind::DockerList => false,
        }
    }
}

/// Every member of a manifest that some client knows: anything that only looks like one of them is refused.
const MANIFEST_KEYS: &[&str] = &[
    "schemaVersion",
    "mediaType",
    "artifactType",
    "config",
    "layers",
    "manifests",
    "subject",
    "annotations",
    "fsLayers",
    "blobs",
];

impl ParsedManifest {
    /// Reads a manifest. `content_type` is that of the request, or the stored media type when stored bytes are read
    /// again.
    pub fn parse(bytes: &[u8], content_type: Option<&MediaType>) -> Result<ParsedManifest, ManifestError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLarge);
        }
        let json = Json::parse(bytes)?;
        let object = descriptor::object(&json, "")?;
        object.refuse_look_alikes(MANIFEST_KEYS).map_err(|problem| FieldError::new("", problem))?;
        let kind = kind(object, content_type)?;
        refuse_ambiguity(object, kind)?;
        let manifest = ParsedManifest::read(object, kind)?;
        Ok(ParsedManifest { references: manifest.fold_references()?, ..manifest })
    }

    /// Everything the repository must or may hold for this manifest, each digest once, in order of first appearance.
    pub fn references(&self) -> &[Referenced] {
        &self.references
    }

    fn read(object: &Object<'_>, kind: ManifestKind) -> Result<ParsedManifest, ManifestError> {
        let (mut config, mut layers, mut manifests) = (None, Vec::new(), Vec::new());
        if kind.is_index() {
            manifests = descriptors(object, "manifests")?;
        } else {
            let value = object.get_set("config").ok_or_else(|| FieldError::new("config", "missing"))?;
            config = Some(Descriptor::read(value).map_err(|error| error.within("config"))?);
            layers = descriptors(object, "layers")?;
        }
        let (mut subject, mut artifact_type) = (None, None);
        if kind.is_oci() {
            let read = |value| Descriptor::read(value).map_err(|error| error.within("subject"));
            subject = object.get_set("subject").map(read).transpose()?;
            artifact_type = descriptor::media_type(object, "artifactType")?;
            artifact_type = artifact_type.or_else(|| config.as_ref().map(|config| config.media_type.clone()));
        }
        if layers.len() + manifests.len() + 2 > MANIFEST_DESCRIPTORS_MAX {
            return Err(ManifestError::TooManyDescriptors);
        }
        let annotations = descriptor::annotations(object)?;
        let media_type = kind.media_type();
        let references = Vec::new();
        Ok(ParsedManifest {
            kind,
            media_type,
            config,
            layers,
            manifests,
            subject,
            artifact_type,
            annotations,
            references,
        })
    }

    fn fold_references(&self) -> Result<Vec<Referenced>, ManifestError> {
        let blobs = self.config.iter().chain(&self.layers).map(|descriptor| (descriptor, blob_kind(descriptor)));
        let children = self.manifests.iter().map(|descriptor| (descriptor, child_kind(descriptor)));
        let mut out: Vec<Referenced> = Vec::new();
        let mut places = BTreeMap::new();
        for (descriptor, kind) in blobs.chain(children) {
            let (digest, size_bytes) = (descriptor.digest, descriptor.size_bytes);
            match places.entry(digest) {
                Entry::Vacant(place) => {
                    place.insert(out.len());
                    out.push(Referenced { digest, size_bytes, kind });
                }
                Entry::Occupied(place) => {
                    let first = &mut out[*place.get()];
                    let kind = stronger(first.kind, kind).filter(|_| first.size_bytes == size_bytes);
                    first.kind = kind.ok_or(ManifestError::Contradiction(digest))?;
                }
            }
        }
        Ok(out)
    }
}

/// A layer of a foreign type that says where else it may be had need not be uploaded; without `urls` nobody could get
/// it.
fn blob_kind(descriptor: &Descriptor) -> ContentKind {
    if descriptor.media_type.is_foreign_layer() && !descriptor.urls.is_empty() {
        ContentKind::Foreign
    } else {
        ContentKind::Blob
    }
}

/// BuildKit's cache indexes list layers and a configuration: only entries with manifest types are looked for (clients
/// §3).
fn child_kind(descriptor: &Descriptor) -> ContentKind {
    if descriptor.media_type.is_manifest() { ContentKind::Manifest } else { ContentKind::Foreign }
}

/// What two mentions of one digest ask for together; `None` if they contradict each other.
fn stronger(one: ContentKind, other: ContentKind) -> Option<ContentKind> {
    match (one, other) {
        (ContentKind::Foreign, kind) | (kind, ContentKind::Foreign) => Some(kind),
        (ContentKind::Blob, ContentKind::Blob) => Some(ContentKind::Blob),
        (ContentKind::Manifest, ContentKind::Manifest) => Some(ContentKind::Manifest),
        (ContentKind::Blob, ContentKind::Manifest) | (ContentKind::Manifest, ContentKind::Blob) => None,
    }
}

/// Which document this is: request and body must agree, and only OCI's may leave it to the request.
fn kind(object: &Object<'_>, content_type: Option<&MediaType>) -> Result<ManifestKind, ManifestError> {
    match object.get_set("schemaVersion") {
        None => return Err(FieldError::new("schemaVersion", "missing").into()),
        Some(Json::Number(number)) if number.as_u64() == Some(2) => {}
        Some(Json::Number(number)) if number.as_u64() == Some(1) => return Err(ManifestError::Schema1),
        Some(_) => return Err(FieldError::new("schemaVersion", "not the number 2").into()),
    }
    let body = descriptor::media_type(object, "mediaType")?;
    let media_type = match (content_type, &body) {
        (Some(header), Some(body)) if header != body => {
            return Err(ManifestError::MediaTypeMismatch { header: header.clone(), body: body.clone() });
        }
        (_, Some(body)) => body,
        (Some(header), None) => header,
        (None, None) => return Err(ManifestError::MediaTypeMissing),
    };
    if [MediaType::DOCKER_SCHEMA1, MediaType::DOCKER_SCHEMA1_SIGNED].contains(media_type) {
        return Err(ManifestError::Schema1);
    }
    let kind = ManifestKind::of(media_type).ok_or_else(|| ManifestError::TypeUnsupported(media_type.clone()))?;
    if body.is_none() && !kind.is_oci() {
        return Err(FieldError::new("mediaType", "missing").into());
    }
    Ok(kind)
}

/// M1: a document that one client reads as an image and another as an index has no place here, whatever the values are.
fn refuse_ambiguity(object: &Object<'_>, kind: ManifestKind) -> Result<(), ManifestError> {
    let foreign: &[&str] =
        if kind.is_index() { &["config", "layers", "fsLayers", "blobs"] } else { &["manifests", "fsLayers", "blobs"] };
    match foreign.iter().find(|key| object.get(key).is_some()) {
        Some(key) => Err(ManifestError::Ambiguous(key)),
        None => Ok(()),
    }
}

/// A required list of descriptors. `null` is an empty one: Go's encoder writes a missing list so.
fn descriptors(object: &Object<'_>, key: &str) -> Result<Vec<Descriptor>, ManifestError> {
    let value = object.get(key).ok_or_else(|| FieldError::new(key, "missing"))?;
    if *value == Json::Null {
        return Ok(Vec::new());
    }
    let items = descriptor::array(value, key)?;
    if items.len() > MANIFEST_DESCRIPTORS_MAX {
        return Err(ManifestError::TooManyDescriptors);
    }
    let read = |(at, item)| Descriptor::read(item).map_err(|error| error.within(format_args!("{key}[{at}]")).into());
    items.iter().enumerate().map(read).collect()
}

#[cfg(test)]
mod tests;
