//! Identifiers with kinds: one type each, so that a node id can't be passed where a store id belongs.
//!
//! All random ids are drawn by the proposer and handed in; nothing here makes one up.

use std::fmt;

use bincode::{Decode, Encode};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $width:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, concat!("{:0", $width, "x}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, out)
            }
        }

        impl $name {
            /// Reads the hexadecimal form that `Display` writes.
            pub fn parse(text: &str) -> Option<$name> {
                if text.len() != $width || text.bytes().any(|b| b.is_ascii_uppercase() || b == b'+') {
                    return None;
                }
                <$inner>::from_str_radix(text, 16).ok().map($name)
            }
        }
    };
}

id!(
    /// A cluster (one region's Raft group and its stores), random, made at `cluster init`.
    ClusterId(u128), 32
);
id!(
    /// The life of a cluster's log: new after a restore or a forced recovery. Log indexes of two lineages are not
    /// comparable.
    Lineage(u64), 16
);
impl Lineage {
    /// The first life of every cluster's log is named after the cluster, so that a joiner knows it without asking.
    pub fn first(cluster: ClusterId) -> Lineage {
        let folded = (cluster.0 >> 64) ^ (cluster.0 & u128::from(u64::MAX));
        Lineage(u64::try_from(folded).unwrap_or(0).max(1))
    }
}

id!(
    /// A node, random, made once with its data directory and never reused.
    NodeId(u64), 16
);
id!(
    /// One blob volume with its own marker file.
    StoreId(u64), 16
);
id!(
    /// Internal id of a repository: a repository deleted and made again under the same name is another one.
    RepositoryId(u128), 32
);
id!(
    /// A repository's hold on a blob record; random per proposal.
    UseId(u64), 16
);
id!(
    /// Names one proposal, so that a retried one applies once.
    RequestId(u128), 32
);

/// An account's collection of repositories: twelve decimal digits, as ECR's `registryId`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct RegistryId(u64);

impl RegistryId {
    /// The registry of a cluster that has only one account.
    pub const DEFAULT: RegistryId = RegistryId(0);

    /// Parses exactly twelve decimal digits.
    pub fn parse(text: &str) -> Option<RegistryId> {
        if text.len() != 12 || !text.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        text.parse().ok().map(RegistryId)
    }

    /// The number behind the digits.
    pub fn number(self) -> u64 {
        self.0
    }

    /// The registry with this number; `None` above twelve digits.
    pub fn from_number(number: u64) -> Option<RegistryId> {
        (number < 1_000_000_000_000).then_some(RegistryId(number))
    }
}

impl fmt::Display for RegistryId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:012}", self.0)
    }
}

impl fmt::Debug for RegistryId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// An upload, and the generation of the bytes it makes: the tick it began in, then 128 random bits.
///
/// Compared only for equality, but for the tick, by which an upload expires.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct UploadId {
    /// The replicated tick when the upload began.
    pub tick: u64,
    /// 128 random bits.
    pub random: u128,
}

impl UploadId {
    /// Reads the 48 hexadecimal characters that `Display` writes.
    pub fn parse(text: &str) -> Option<UploadId> {
        if text.len() != 48 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let (tick, random) = text.split_at(16);
        Some(UploadId { tick: u64::from_str_radix(tick, 16).ok()?, random: u128::from_str_radix(random, 16).ok()? })
    }

    /// Stored key form: 24 bytes, big-endian, so that ids sort by tick.
    pub fn key_bytes(&self) -> [u8; 24] {
        let mut out = [0; 24];
        out[..8].copy_from_slice(&self.tick.to_be_bytes());
        out[8..].copy_from_slice(&self.random.to_be_bytes());
        out
    }

    /// Reads [`UploadId::key_bytes`].
    pub fn from_key(bytes: &[u8]) -> Option<UploadId> {
        let bytes: &[u8; 24] = bytes.get(..24)?.try_into().ok()?;
        let (tick, random) = bytes.split_at(8);
        Some(UploadId {
            tick: u64::from_be_bytes(tick.try_into().ok()?),
            random: u128::from_be_bytes(random.try_into().ok()?),
        })
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:016x}{:032x}", self.tick, self.random)
    }
}

impl fmt::Debug for UploadId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// What a client is told about the state an answer was read at, and may send back to read its own write elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Revision {
    /// Which life of the log.
    pub lineage: Lineage,
    /// The applied log index.
    pub index: u64,
}

impl Revision {
    /// Reads the `<lineage>.<index>` form that `Display` writes.
    pub fn parse(text: &str) -> Option<Revision> {
        let (lineage, index) = text.split_once('.')?;
        let lineage = Lineage::parse(lineage)?;
        if index.is_empty() || !index.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some(Revision { lineage, index: index.parse().ok()? })
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.lineage, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Every id reads back what it prints, and refuses anything else.
    #[test]
    fn text_forms() {
        let node = NodeId(0xab);
        assert_eq!(node.to_string(), "00000000000000ab");
        assert_eq!(NodeId::parse("00000000000000ab"), Some(node));
        for bad in ["", "ab", "00000000000000AB", "+0000000000000ab", "0000000000000zab"] {
            assert_eq!(NodeId::parse(bad), None, "{bad}");
        }
        let upload = UploadId { tick: 7, random: u128::MAX };
        assert_eq!(UploadId::parse(&upload.to_string()), Some(upload));
        assert_eq!(UploadId::from_key(&upload.key_bytes()), Some(upload));
        assert_eq!(RegistryId::parse("000000000012").map(RegistryId::number), Some(12));
        for bad in ["12", "0000000000012", "+00000000012"] {
            assert_eq!(RegistryId::parse(bad), None, "{bad}");
        }
        let revision = Revision { lineage: Lineage(9), index: 12 };
        assert_eq!(Revision::parse(&revision.to_string()), Some(revision));
        assert_eq!(Revision::parse("0000000000000009.+1"), None);
    }
}
