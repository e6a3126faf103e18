//! The words of the product as types: parsed once at the edge, passed typed everywhere else.
//!
//! Never decides, never records. Start at [`digest`], [`ids`] and [`repository_name`]; [`limits`] bounds everything,
//! [`refusal`] lists every way to be told no.

pub mod descriptor;
pub mod digest;
pub mod ids;
pub(crate) mod json;
pub mod limits;
pub mod manifest;
pub mod media_type;
pub mod names;
pub mod network;
pub mod reference;
pub mod refusal;
pub mod repository_name;
pub(crate) mod stored;
pub mod tag;
pub(crate) mod text;
pub mod time;
pub mod version;

pub use descriptor::Descriptor;
pub use digest::Digest;
pub use manifest::ParsedManifest;
pub use media_type::MediaType;
pub use reference::Reference;
pub use refusal::Refusal;
pub use repository_name::RepositoryName;
pub use tag::Tag;
pub use time::Timestamp;
pub use version::Version;
