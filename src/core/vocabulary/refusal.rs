//! Refusals: every expected no, in one closed list.
//!
//! A refusal is a result of the protocol, replicated like any other; a *fault* (something broke) is not one. Each
//! surface has one total `match` over this enum, so that a new refusal does not compile until every surface has words
//! for it. Unless a variant says otherwise, nothing was changed. Numbers are stored: append, never renumber, never
//! reuse. A second digest in a variant is boxed, which keeps every `Result` that may carry a refusal small.

use super::digest::Digest;
use super::ids::{NodeId, RegistryId, StoreId};
use super::limits::{DETAIL_BYTES_MAX, REFUSAL_DIGESTS_MAX};
use super::reference::Reference;
use super::repository_name::RepositoryName;
use super::stored::stored_enum;
use super::tag::Tag;

stored_enum! {
    /// Why a request was told no. Nothing was changed, unless the variant says so.
    #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
    pub enum Refusal {
        // Who is asking, and how often.
        /// No credential, or one that does not hold. 401 with a challenge.
        #[error("authentication required")]
        Unauthenticated = 0,
        /// The caller is known and may not. `detail` names principal, action and resource; it holds no secret.
        #[error("{detail}")]
        Denied {
            /// What was refused to whom, and why.
            detail: String,
        } = 1,
        /// This client asks too often or has too much under way (429).
        #[error("rate exceeded; try again in {retry_after_ms} ms")]
        Throttled {
            /// When to try again.
            retry_after_ms: u32,
        } = 2,
        /// No quorum, no leader, a full queue: certainly not done; the same request may succeed later (503).
        #[error("the cluster cannot serve this now; try again in {retry_after_ms} ms")]
        Unavailable {
            /// When to try again.
            retry_after_ms: u32,
        } = 3,
        /// The blob volumes that would have to take the bytes are above their watermark (503); reads and deletes go on.
        #[error("no room for new blobs: free space or add a store, then try again")]
        StorageFull = 4,
        /// A bound of the product or of an account is reached.
        #[error("the limit of {allowed} {limit} is reached")]
        LimitReached {
            /// What is limited, in words ("tags of one image").
            limit: String,
            /// The bound.
            allowed: u64,
        } = 5,
        /// The operation does not exist here, or is switched off (405).
        #[error("unsupported: {detail}")]
        Unsupported {
            /// What is not supported.
            detail: String,
        } = 6,
        /// A parameter of the request is missing or malformed.
        #[error("invalid parameter '{parameter}': {detail}")]
        ParameterInvalid {
            /// The parameter as the client knows it.
            parameter: String,
            /// What is wrong with it.
            detail: String,
        } = 7,
        /// A page token or page size that is none, or belongs to another list (L1, L4).
        #[error("invalid page: use the link of the page before, and a number from 1 on")]
        PageInvalid = 8,
        /// A condition of the request (`If-Match`, `If-None-Match`) does not hold (412).
        #[error("the condition of the request does not hold")]
        PreconditionFailed = 9,
        /// The proposal is older than the window in which request ids are remembered. Whether an earlier copy was
        /// applied is unknown.
        #[error("the proposal is too old to be applied exactly once; its outcome is unknown")]
        ProposalExpired = 10,
        /// Another cluster feature level is needed for this command.
        #[error(
            "the cluster works at feature level {level}, which does not allow this: upgrade all nodes, then finalize the \
             upgrade (`portolan cluster finalize`)"
        )]
        FeatureLevel {
            /// The level the cluster is at.
            level: u32,
        } = 11,

        /// What the request was based on changed before it was applied: read again and repeat.
    #[error("it was changed by somebody else meanwhile; try again")]
    Changed = 12,

    // Repositories.
        /// Not a repository name.
        #[error("invalid repository name: {detail}")]
        NameInvalid {
            /// What is wrong with it.
            detail: String,
        } = 20,
        /// There is no such repository, or none that this caller may see.
        #[error("The repository with name '{name}' does not exist in the registry with id '{registry}'")]
        RepositoryUnknown {
            /// The name asked for.
            name: RepositoryName,
            /// The registry looked in.
            registry: RegistryId,
        } = 21,
        /// The name is taken.
        #[error("The repository with name '{name}' already exists in the registry with id '{registry}'")]
        RepositoryExists {
            /// The name asked for.
            name: RepositoryName,
            /// The registry looked in.
            registry: RegistryId,
        } = 22,
        /// A repository with images is deleted only by force.
        #[error(
            "The repository with name '{name}' in registry with id '{registry}' cannot be deleted because it still \
             contains images"
        )]
        RepositoryNotEmpty {
            /// The name asked for.
            name: RepositoryName,
            /// The registry looked in.
            registry: RegistryId,
        } = 23,
        /// It would hold more than it may (B9). Pulls, deletes and pushes that add nothing go on.
        #[error(
            "this would take the {holder} above its quota of {limit} {unit}: delete what is not needed, or ask an \
             operator for a higher quota"
        )]
        QuotaExceeded {
            /// What is limited: "repository 'team/app'", "registry 000000000000".
            holder: String,
            /// "bytes" or "tags".
            unit: String,
            /// How many of them it may hold.
            limit: u64,
        } = 24,
        /// The share of the registry's quota that the repository's slot may use is too small. Shares are dealt anew and
        /// the same is tried again, out of sight of the client.
        #[error("the registry's quota is being dealt out anew; try again")]
        QuotaShare {
            /// Bytes that would come to what is held.
            bytes: u64,
            /// Tags that would.
            tags: u64,
        } = 25,

        // Manifests.
        /// No such manifest or tag in the repository.
        #[error("manifest unknown: {reference}")]
        ManifestUnknown {
            /// What was asked for.
            reference: Reference,
        } = 40,
        /// Not a manifest that is served here (M1, M2, M5, M20).
        #[error("invalid manifest: {detail}")]
        ManifestInvalid {
            /// What is wrong with it, and where.
            detail: String,
        } = 41,
        /// One byte or more over the limit (413).
        #[error("the manifest is larger than {allowed} bytes")]
        ManifestTooLarge {
            /// The bound in bytes.
            allowed: u64,
        } = 42,
        /// Blobs or child manifests that the repository does not hold (A5, M11). The lists are cut at
        /// [`REFUSAL_DIGESTS_MAX`] together; `more` counts the rest.
        #[error(
            "the manifest names {} blobs or manifests that the repository does not hold",
            blobs.len() + manifests.len() + *more as usize
        )]
        ManifestReferencesUnknown {
            /// Blobs that are missing.
            blobs: Vec<Digest>,
            /// Child manifests that are missing.
            manifests: Vec<Digest>,
            /// How many more are missing.
            more: u32,
        } = 43,
        /// The digest is already in the repository under another media type (M3).
        #[error("the manifest {digest} is already stored with another media type")]
        ManifestTypeConflict {
            /// The manifest.
            digest: Digest,
        } = 44,
        /// The manifest is a child of an index of the repository: delete that first.
        #[error("the manifest {digest} is named by the index {parent}: delete that first")]
        ManifestReferenced {
            /// The manifest.
            digest: Digest,
            /// One index that names it.
            parent: Box<Digest>,
        } = 45,
        /// A descriptor's size differs from the stored size of its content (M5).
        #[error("{digest} is {stored_bytes} bytes long, the manifest says {claimed_bytes}")]
        SizeMismatch {
            /// The content.
            digest: Digest,
            /// Its true size.
            stored_bytes: u64,
            /// What the descriptor says.
            claimed_bytes: u64,
        } = 46,
        /// The image with this digest and tag is already there (ECR's `PutImage` only; elsewhere a repeat succeeds).
        #[error("the image {digest} already exists under this tag")]
        ImageExists {
            /// The manifest.
            digest: Digest,
        } = 47,

        // Tags.
        /// Not a tag (M15).
        #[error("invalid tag: {detail}")]
        TagInvalid {
            /// What is wrong with it.
            detail: String,
        } = 60,
        /// The tag exists and may not move (A11).
        #[error(
            "The image tag '{tag}' already exists in the '{repository}' repository and cannot be overwritten because \
             the tag is immutable."
        )]
        TagImmutable {
            /// The tag.
            tag: Tag,
            /// The repository.
            repository: RepositoryName,
        } = 61,
        /// The tag moved since the caller looked: the expected digest is no longer the one it points at.
        #[error("the tag '{tag}' has moved meanwhile")]
        TagMoved {
            /// The tag.
            tag: Tag,
        } = 62,

        /// The repository is written in another region only, or nowhere while its home is frozen (consensus-and-faults
        /// §6.3). Clients do not follow a redirect of an upload, so they are told where to push.
        #[error(
            "the repository '{repository}' has its home in region '{home}'{}",
            match *is_frozen {
                true => ", which is frozen: no region takes pushes, deletes or settings until one takes the home \
                         (portolan repo home)",
                false => ": push, delete and set there",
            }
        )]
        HomeElsewhere {
            /// The repository.
            repository: RepositoryName,
            /// Its home.
            home: String,
            /// It takes nothing either, be it this region or another one.
            is_frozen: bool,
        } = 63,

        // Blobs.
        /// The repository has no such blob (A2), or its last copy is lost.
        #[error("blob unknown: {digest}")]
        BlobUnknown {
            /// What was asked for.
            digest: Digest,
        } = 80,
        /// A manifest of the repository names the blob: delete that first (405).
        #[error("the blob {digest} is named by the manifest {manifest}: delete that first")]
        BlobReferenced {
            /// The blob.
            digest: Digest,
            /// One manifest that names it.
            manifest: Box<Digest>,
        } = 81,
        /// Not a digest, or of an algorithm that is not supported (M8).
        #[error("invalid digest: {detail}")]
        DigestInvalid {
            /// What is wrong with it.
            detail: String,
        } = 82,
        /// The bytes received do not hash to the digest given (B4). An upload that ends so is closed and its bytes
        /// are freed.
        #[error("the content received has the digest {actual}, not {claimed}")]
        DigestMismatch {
            /// What the client said.
            claimed: Digest,
            /// What the bytes hash to.
            actual: Box<Digest>,
        } = 83,
        /// Larger than any blob may be (413).
        #[error("the blob is larger than {allowed} bytes")]
        BlobTooLarge {
            /// The bound in bytes.
            allowed: u64,
        } = 84,

        // Uploads.
        /// No such upload, or not this caller's, or closed, or expired (A7).
        #[error("upload unknown")]
        UploadUnknown = 100,
        /// The upload cannot take this request.
        #[error("invalid upload: {detail}")]
        UploadInvalid {
            /// What is wrong.
            detail: String,
        } = 101,
        /// The chunk does not begin at the upload's offset, or the range asked for lies beyond the end (416).
        #[error("range not satisfiable: the next byte is {offset}")]
        RangeInvalid {
            /// Where the next chunk must begin.
            offset: u64,
        } = 102,
        /// Another request is writing to the upload (B3).
        #[error("another request is writing to this upload")]
        UploadBusy = 103,
        /// A takeover gave the upload to another pair of stores: nothing under this epoch counts any more.
        #[error("the upload has moved on to epoch {current}")]
        StaleEpoch {
            /// The epoch in force.
            current: u64,
        } = 104,
        /// The stores named for a blob are not registered in the zones that the configured topology needs.
        #[error("the stores named do not satisfy the placement rule: {detail}")]
        PlacementInvalid {
            /// What is missing.
            detail: String,
        } = 105,

        // Principals and policies.
        /// No such user, role or access key.
        #[error("there is no {kind} '{name}'")]
        PrincipalUnknown {
            /// "user", "access key", ….
            kind: String,
            /// The name asked for.
            name: String,
        } = 120,
        /// The name of the user, role or access key is taken.
        #[error("the {kind} '{name}' already exists")]
        PrincipalExists {
            /// "user", "access key", ….
            kind: String,
            /// The name asked for.
            name: String,
        } = 121,
        /// The last one who may administer the cluster stays.
        #[error("this is the last administrator: make another one first")]
        LastAdministrator = 122,
        /// The policy is not one (A23). `detail` names the element.
        #[error("invalid policy: {detail}")]
        PolicyInvalid {
            /// The element and what is wrong with it.
            detail: String,
        } = 123,
        /// No policy is set.
        #[error("no policy is set")]
        PolicyUnknown = 124,

        // The cluster.
        /// The cluster was initialised before.
        #[error("the cluster is already initialised")]
        ClusterInitialised = 140,
        /// No node of this id is registered.
        #[error("node {node} is unknown")]
        NodeUnknown {
            /// The id asked for.
            node: NodeId,
        } = 141,
        /// The id is registered for another node, or was used before: a wiped node joins under a new id.
        #[error("the id of node {node} is in use or was used before: join with a new, empty data directory")]
        NodeExists {
            /// The id asked for.
            node: NodeId,
        } = 142,
        /// No store of this id is registered.
        #[error("store {store} is unknown")]
        StoreUnknown {
            /// The id asked for.
            store: StoreId,
        } = 143,
        /// The store is registered with another node.
        #[error("store {store} belongs to node {node}")]
        StoreExists {
            /// The id asked for.
            store: StoreId,
            /// Its node.
            node: NodeId,
        } = 144,
        /// The change would leave blobs with fewer copies than wanted; force it with the list of what is lost.
        #[error("{blobs} blobs would fall below their wanted number of copies")]
        CopiesNeeded {
            /// How many blobs.
            blobs: u64,
        } = 145,
    }
}

impl Refusal {
    /// Whether something is not here, as far as the caller may know.
    pub fn is_unknown(&self) -> bool {
        matches!(
            self,
            Refusal::RepositoryUnknown { .. } | Refusal::ManifestUnknown { .. } | Refusal::BlobUnknown { .. }
        )
    }

    /// [`Refusal::ManifestReferencesUnknown`] with bounded lists.
    pub fn references_unknown(
        blobs: impl IntoIterator<Item = Digest>,
        manifests: impl IntoIterator<Item = Digest>,
    ) -> Refusal {
        let (mut kept_blobs, mut kept_manifests, mut more) = (Vec::new(), Vec::new(), 0u32);
        for blob in blobs {
            if kept_blobs.len() < REFUSAL_DIGESTS_MAX {
                kept_blobs.push(blob);
            } else {
                more = more.saturating_add(1);
            }
        }
        for manifest in manifests {
            if kept_blobs.len() + kept_manifests.len() < REFUSAL_DIGESTS_MAX {
                kept_manifests.push(manifest);
            } else {
                more = more.saturating_add(1);
            }
        }
        Refusal::ManifestReferencesUnknown { blobs: kept_blobs, manifests: kept_manifests, more }
    }
}

/// Free text for a refusal, cut at [`DETAIL_BYTES_MAX`] and without control characters, so that it is safe in a log
/// line.
pub fn detail(text: impl std::fmt::Display) -> String {
    let text = text.to_string();
    let mut out = String::with_capacity(text.len().min(DETAIL_BYTES_MAX));
    for character in text.chars() {
        let character = if character.is_control() { '\u{fffd}' } else { character };
        if out.len() + character.len_utf8() > DETAIL_BYTES_MAX {
            break;
        }
        out.push(character);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(refusal: &Refusal) -> Vec<u8> {
        bincode::encode_to_vec(refusal, bincode::config::standard()).unwrap()
    }

    // The stored numbers are those written in the source, with and without fields, and never move.
    #[test]
    fn golden_bytes() {
        let digest = Digest::sha256(b"");
        for (refusal, tag) in [
            (Refusal::Unauthenticated, 0u8),
            (Refusal::Denied { detail: "x".into() }, 1),
            (Refusal::StorageFull, 4),
            (Refusal::PageInvalid, 8),
            (Refusal::FeatureLevel { level: 3 }, 11),
            (Refusal::NameInvalid { detail: String::new() }, 20),
            (Refusal::QuotaExceeded { holder: "r".into(), unit: "bytes".into(), limit: 300 }, 24),
            (Refusal::QuotaShare { bytes: 1, tags: 0 }, 25),
            (Refusal::ManifestUnknown { reference: Reference::Digest(digest) }, 40),
            (Refusal::ImageExists { digest }, 47),
            (Refusal::TagMoved { tag: Tag::parse("a").unwrap() }, 62),
            (Refusal::BlobTooLarge { allowed: 1 }, 84),
            (Refusal::UploadUnknown, 100),
            (Refusal::RangeInvalid { offset: 1 }, 102),
            (Refusal::PolicyUnknown, 124),
            (Refusal::CopiesNeeded { blobs: 1 }, 145),
        ] {
            let bytes = encoded(&refusal);
            assert_eq!(bytes[0], tag, "{refusal:?}");
            let (back, length): (Refusal, usize) =
                bincode::decode_from_slice(&bytes, bincode::config::standard()).unwrap();
            assert_eq!((back, length), (refusal, bytes.len()));
        }
        let range = encoded(&Refusal::RangeInvalid { offset: 300 });
        assert_eq!(range, [102, 251, 44, 1]);
    }

    // ECR's clients match on this text (ecr-api §14).
    #[test]
    fn immutable_text() {
        let refusal =
            Refusal::TagImmutable { tag: Tag::parse("v1").unwrap(), repository: RepositoryName::parse("r").unwrap() };
        assert_eq!(
            refusal.to_string(),
            "The image tag 'v1' already exists in the 'r' repository and cannot be overwritten because the tag is \
             immutable."
        );
    }

    // The lists of a refusal are bounded and the rest is counted.
    #[test]
    fn references_are_bounded() {
        let digests = |count: u8| (0..count).map(|byte| Digest::sha256(&[byte]));
        let Refusal::ManifestReferencesUnknown { blobs, manifests, more } =
            Refusal::references_unknown(digests(10), digests(10))
        else {
            panic!("another refusal");
        };
        assert_eq!((blobs.len(), manifests.len(), more), (10, 6, 4));
        let all = Refusal::references_unknown(digests(40), digests(1));
        assert!(all.to_string().contains(" 41 "), "{all}");
    }

    // Text from outside cannot break a line or grow a record.
    #[test]
    fn detail_is_tame() {
        assert_eq!(detail("a\r\nb\u{1b}[0m"), "a\u{fffd}\u{fffd}b\u{fffd}[0m");
        assert!(detail("ä".repeat(1000)).len() <= DETAIL_BYTES_MAX);
    }
}
