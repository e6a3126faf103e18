//! Blobs: large, immutable bytes addressed by digest, kept on this node and moved between the nodes of a region.
//!
//! Never knows who is calling, HTTP or JSON, and never decides whether a blob may be read: a *link* in the metadata
//! does. Start at [`store`] for the bytes on this node, at [`transfer`] for their way between nodes.

pub mod store;
pub mod transfer;
