//! Every limit of the product that is not a configuration setting, by name, in one place.
//!
//! A limit bounds what one request, one record or one queue may cost. The block at the end asserts at compile time how
//! the limits relate; whoever changes one learns there whom it touches. Sizes are in bytes, times in milliseconds,
//! counts are counts.

/// One kibibyte in bytes.
pub const KIB: usize = 1024;
/// One mebibyte in bytes.
pub const MIB: usize = 1024 * KIB;

// Names. Source: OCI distribution specification 1.1, "Pulling manifests"; ECR model for repository names.

/// Longest repository name in bytes (ECR: 256).
pub const REPOSITORY_NAME_BYTES_MAX: usize = 256;
/// Longest tag in bytes (`[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`).
pub const TAG_BYTES_MAX: usize = 128;
/// Longest media type or artifact type in bytes (RFC 6838 §4.2: 127 + `/` + 127).
pub const MEDIA_TYPE_BYTES_MAX: usize = 255;
/// Longest type and longest subtype of a media type in bytes (RFC 6838 §4.2).
pub const MEDIA_TYPE_PART_BYTES_MAX: usize = 127;
/// Longest zone or region name in bytes (a DNS label).
pub const PLACE_NAME_BYTES_MAX: usize = 63;
/// Longest user name in bytes (IAM: 64).
pub const USER_NAME_BYTES_MAX: usize = 64;
/// Longest text of a digest in bytes: `sha512:` and 128 characters.
pub const DIGEST_TEXT_BYTES_MAX: usize = 7 + 128;

// Manifests. Source: OCI distribution specification ("at least 4 mebibytes"); security cases M5, M6, M10.

/// Largest manifest accepted, in bytes; one byte more is answered with 413.
pub const MANIFEST_BYTES_MAX: usize = 4 * MIB;
/// Largest manifest kept inside the metadata; a larger one goes to the blob plane.
pub const MANIFEST_INLINE_BYTES_MAX: usize = 64 * KIB;
/// Most descriptors a manifest may name (config, layers, children and subject together), repeated ones included.
pub const MANIFEST_DESCRIPTORS_MAX: usize = 4096;
/// Most annotations of one manifest or descriptor.
pub const ANNOTATIONS_MAX: usize = 1024;
/// Deepest nesting of JSON values in a manifest or policy.
pub const JSON_DEPTH_MAX: usize = 32;
/// Most JSON values (objects, arrays, scalars) in one document: bounds the memory that parsing takes.
pub const JSON_VALUES_MAX: usize = 200_000;
/// Most `urls` of one descriptor.
pub const DESCRIPTOR_URLS_MAX: usize = 32;
/// Deepest chain of indexes that is put, and that a walk follows.
pub const WALK_DEPTH_MAX: usize = 16;
/// Most distinct manifests that one walk visits.
pub const WALK_MANIFESTS_MAX: usize = 10_000;
/// Largest annotations of a referrer that are kept in its row for listing; longer ones are read from the manifest.
pub const REFERRER_ANNOTATIONS_BYTES_MAX: usize = 4 * KIB;

// Lists.

/// Entries on a page when the client asks for no number.
pub const PAGE_ENTRIES_DEFAULT: usize = 1000;
/// Most entries on a page; a larger wish is cut down to it.
pub const PAGE_ENTRIES_MAX: usize = 1000;
/// Longest page token (`last`, `nextToken`) in bytes.
pub const PAGE_TOKEN_BYTES_MAX: usize = 1024;
/// Largest page of referrers in bytes: clients read it like a manifest.
pub const REFERRERS_PAGE_BYTES_MAX: usize = MANIFEST_BYTES_MAX;
/// Referrers of one page at most.
pub const REFERRERS_PAGE_ENTRIES_MAX: usize = 1000;
/// Referrers looked at for one page: behind a filter that hides so many, the page ends with what it has (M12).
pub const REFERRERS_LOOKED_AT_MAX: usize = 20_000;

/// Manifests attached to one, directly and by others, that are looked at before it is deleted by age; what has more
/// stays.
pub const REFERRERS_WALKED_MAX: usize = 1000;

// Blobs and uploads. Source: consensus-and-faults §5.2–5.4, §5.7.

/// Largest blob that goes to a pack segment instead of a file of its own.
pub const PACK_BLOB_BYTES_MAX: usize = 64 * KIB;
/// Bytes of a part that is sent to a bucket; more only where a blob would have too many. At least 5 MiB by the
/// protocol.
pub const BUCKET_PART_BYTES: u64 = 8 * MIB as u64;
/// Most parts of an object, by the protocol.
pub const BUCKET_PARTS_MAX: u64 = 10_000;
/// Blobs that a node sends to a bucket at once; each takes the memory of a part.
pub const BUCKET_SENDS_MAX: usize = 8;
/// Block whose checksum is verified before it leaves.
pub const BLOCK_BYTES: usize = 64 * KIB;
/// Largest blob in bytes: 10 TiB; offsets stay far below 2^63.
pub const BLOB_BYTES_MAX: u64 = 10 * 1024 * 1024 * 1024 * 1024;
/// Smallest chunk that a client should send but for the last, told as `OCI-Chunk-Min-Length`; smaller ones work as
/// well.
pub const UPLOAD_CHUNK_BYTES_MIN: usize = 64 * KIB;
/// Age at which an upload is expired, in milliseconds of ticks: no commit of it succeeds from then on.
pub const UPLOAD_LIFETIME_MS: u64 = 48 * 3600 * 1000;
/// Idle time after which a holder frees unsealed staging, on its own clock.
pub const UPLOAD_IDLE_MS: u64 = 24 * 3600 * 1000;
/// Open uploads of one principal on one node.
pub const UPLOADS_PER_PRINCIPAL_MAX: usize = 1000;
/// Copies wanted of each blob.
pub const REPLICAS_TARGET: usize = 3;
/// Zones (or, in one zone, nodes) that must hold a blob durably before 201.
pub const REPLICAS_DURABLE_MIN: usize = 2;
/// Grace between unlink and condemn, and between condemn and sweep, in milliseconds of ticks (default of the setting).
pub const GRACE_MS_DEFAULT: u64 = 24 * 3600 * 1000;
/// Per cent of all bytes that one cycle of collection condemns without asking (default of the setting).
pub const GC_FUSE_PERCENT: u8 = 20;
/// So many bytes are condemned without asking, whatever part of the whole they are (default of the setting).
pub const GC_FUSE_FLOOR_BYTES: u64 = 1024 * 1024 * 1024;
/// Copies that a node could not make and remembers, to rest before it tries again.
pub const REPAIR_FAILURES_MAX: usize = 4096;
/// Of these, told to operators at once.
pub const REPAIR_FAILURES_TOLD_MAX: usize = 20;
/// Blobs named when a removal would lose some.
pub const LOSSES_TOLD_MAX: usize = 20;
/// Missing copies counted for each slot and zone when an operator asks.
pub const NEEDS_COUNTED_MAX: usize = 10_000;
/// How much less than its share of its zone a volume holds before copies move to it, bytes.
pub const REBALANCE_FLOOR_BYTES: u64 = 1024 * 1024 * 1024;
/// How long a node that is not heard is waited for before its copies are made elsewhere.
pub const REPLACE_AFTER_S: u64 = 15 * 60;
/// How long a zone of which no node is heard is waited for with a last copy.
pub const ZONE_LOST_AFTER_S: u64 = 60 * 60;
/// Files let go by the state that a node remembers to look at; beyond that a walk over the volume finds them.
pub const FREED_REMEMBERED_MAX: usize = 65_536;
/// How long what no record explains is kept in quarantine before it is deleted, in milliseconds of the node's clock.
pub const QUARANTINE_MS: u64 = 7 * 24 * 3600 * 1000;
/// Ticks in one grace.
pub const TICKS_PER_GRACE: u64 = 8;

// Bytes between the nodes of a region. Source: consensus-and-faults §5.3, §5.4, §5.7.

/// Bytes that a push gathers before it writes and sends them on.
pub const TRANSFER_BATCH_BYTES: usize = 512 * KIB;
/// Most bytes in one frame of a push or a read between nodes.
pub const TRANSFER_FRAME_BYTES_MAX: usize = MIB;
/// Largest message of the blob service: a frame and its framing.
pub const TRANSFER_MESSAGE_BYTES_MAX: usize = 2 * MIB;
/// Frames queued to a holder that is slower than the client.
pub const TRANSFER_QUEUED_FRAMES_MAX: usize = 2;
/// Bytes that one stream between nodes may have in flight.
pub const TRANSFER_WINDOW_BYTES: usize = MIB;
/// Streams of one connection between nodes.
pub const TRANSFER_STREAMS_MAX: usize = 1024;
/// Bytes read from an own disk at once, while few read: what a second-level cache holds until they are sent.
pub const TRANSFER_READ_BYTES: usize = 256 * KIB;
/// Memory of all reads from own disks together: where many read at once, each reads less at a time, down to a block.
pub const TRANSFER_READS_BYTES: usize = 64 * MIB;
/// Memory of checked blocks that several readers of one blob share.
pub const BLOCKS_SHARED_BYTES: usize = 32 * MIB;
/// Time for which a new writer of an upload waits for the one before it to go, in milliseconds: a client that lost its
/// connection comes back at once.
pub const WRITER_WAIT_MS: u64 = 3_000;
/// Uploads of which a holder remembers that it knows their epoch.
pub const UPLOADS_REMEMBERED_MAX: usize = 65_536;
/// Time for which a holder may verify and sync an upload, in milliseconds; that it is alive is watched apart.
pub const PLACE_TIMEOUT_MS: u64 = 600_000;
/// Least wait for a first byte before another copy is asked as well, in milliseconds.
pub const HEDGE_DELAY_MS_MIN: u64 = 50;
/// Reads per hundred that may ask another copy as well.
pub const HEDGE_PERCENT_MAX: u32 = 5;

// Disks: per cent of a blob volume that is used. Source: consensus-and-faults §5.7.

/// Above: not chosen for new placements.
pub const WATERMARK_FULL_PERCENT: u8 = 85;
/// Above: uploads are refused with 503.
pub const WATERMARK_REFUSE_PERCENT: u8 = 92;
/// Above: leadership goes away and repairs to here stop.
pub const WATERMARK_URGENT_PERCENT: u8 = 95;

// Consensus. Source: consensus-and-faults §1.

/// Largest proposal (envelope of commands) in bytes.
pub const PROPOSAL_BYTES_MAX: usize = MIB;
/// Most commands in one envelope.
pub const PROPOSAL_COMMANDS_MAX: usize = 1024;
/// Proposals queued on a node; the next one is refused with 503.
pub const PROPOSALS_QUEUED_MAX: usize = 4096;
/// Log entries for which a request id is remembered (W): a command older than this against its base is refused.
pub const REQUEST_WINDOW_ENTRIES: u64 = 200_000;
/// Tags told of in one proposal's outcome after which its next command is refused: outcomes are state, and are read
/// back.
pub const OUTCOME_TAGS_MAX: usize = 4096;
/// Age up to which a node answers pulls by digest from its own state, in milliseconds.
pub const STALE_MAX_MS: u64 = 60_000;
/// Largest message between nodes in bytes.
pub const RPC_MESSAGE_BYTES_MAX: usize = 64 * MIB;
/// How far a node's clock may be off the median of the voters' clocks, in milliseconds: beyond that changes are not
/// stamped by it, and a node ahead does not lead. Clients are not sent to a node whose clock differs by more, either.
pub const CLOCK_SKEW_MS_MAX: u64 = 500;
/// How wrong a reading of another node's clock may be and still count, in milliseconds.
pub const CLOCK_READING_ERROR_MS_MAX: u64 = 100;
/// How old the reading of another node's clock may be, in milliseconds: ten pings.
pub const CLOCK_READING_AGE_MS_MAX: u64 = 5_000;
/// Digests in one batch of replica confirmations.
pub const CONFIRM_BATCH_MAX: usize = 1000;

// Requests. Source: security cases T5, T6, L1, L9, H7; clients §1 (authorization tokens of up to 3 kB).

/// All headers of one request together.
pub const HEADERS_BYTES_MAX: usize = 64 * KIB;
/// Headers of one request.
pub const HEADERS_MAX: usize = 128;
/// One `Authorization` header.
pub const AUTHORIZATION_BYTES_MAX: usize = 16 * KIB;
/// Path and query of one request.
pub const REQUEST_TARGET_BYTES_MAX: usize = 16 * KIB;
/// `scope` values of one token request, those in one parameter counted apart.
pub const TOKEN_SCOPES_MAX: usize = 64;
/// Accepted media types looked at in one request.
pub const ACCEPT_TYPES_MAX: usize = 64;
/// Tags set by one manifest push through `?tag=`.
pub const TAGS_PER_PUSH_MAX: usize = 10;
/// Body of a JSON request to the admin API.
pub const ADMIN_BODY_BYTES_MAX: usize = MIB;
/// Milliseconds a client is told to wait when the cluster has no leader or is full.
pub const RETRY_AFTER_MS: u32 = 1000;

// Credentials. Source: security cases T3, T8.

/// Failed attempts of an account or an address before delays begin.
pub const GUESSES_FREE: u32 = 5;
/// Delay of the next attempt after that, in milliseconds; it doubles with each further failure.
pub const GUESS_DELAY_MS: u64 = 100;
/// Longest delay of an attempt, in milliseconds: nobody is ever locked out.
pub const GUESS_DELAY_MS_MAX: u64 = 5000;
/// Time in which the count of failures halves, in milliseconds.
pub const GUESS_FADE_MS: u64 = 60_000;
/// Accounts and addresses whose failures a node remembers.
pub const GUESSES_TRACKED_MAX: usize = 20_000;
/// Attempts that wait at once on a node; the next one is answered with 429.
pub const GUESSES_WAITING_MAX: usize = 1000;
/// Shortest life of a bearer token in seconds (clients expect at least this).
pub const TOKEN_LIFETIME_S_MIN: u64 = 60;
/// Longest life of a bearer token in seconds.
pub const TOKEN_LIFETIME_S_MAX: u64 = 12 * 3600;
/// Clocks of two nodes, or of a node over time, may differ by this much for bearer tokens, in milliseconds.
pub const TOKEN_SKEW_MS: u64 = 60_000;
/// Access keys, known or not, whose owner's rights a node keeps compiled.
pub const CREDENTIALS_CACHED_MAX: usize = 20_000;
/// Repositories for which a principal's rights are kept decided.
pub const DECISIONS_CACHED_MAX: usize = 4096;

// Policies. Source: ECR quotas (10,240 characters for repository and registry policies).

/// Longest text of one policy in bytes.
pub const POLICY_BYTES_MAX: usize = 10_240;
/// Statements of one policy.
pub const POLICY_STATEMENTS_MAX: usize = 100;
/// Values (actions, resources, principals, condition values) in one list of a policy.
pub const POLICY_VALUES_MAX: usize = 256;
/// Longest pattern in a policy, grant or filter, in bytes.
pub const PATTERN_BYTES_MAX: usize = 512;
/// Filters of a tag-mutability setting (ECR: 1–5), and of each list of tags of a replication rule.
pub const TAG_FILTERS_MAX: usize = 5;
/// `*` in one filter of tags.
pub const TAG_FILTER_WILDCARDS_MAX: usize = 2;

// The cluster and its people.

/// Nodes a cluster has ever had.
pub const NODES_MAX: usize = 1000;
/// Blob volumes of a cluster.
pub const STORES_MAX: usize = 4000;
/// Consensus addresses that a joining node is given to ask at.
pub const SEEDS_MAX: usize = 32;
/// Largest join token in bytes: an authority, a certificate with its chain, a key, and the addresses.
pub const JOIN_TOKEN_BYTES_MAX: usize = 32 * KIB;
/// Longest address, URL or version of a node in bytes.
pub const ADDRESS_BYTES_MAX: usize = 512;
/// Repositories looked at for one that a blob may be mounted from. Few enough that a fruitless search is over before
/// its answer is due (A4).
pub const MOUNT_SOURCES_MAX: usize = 100;
/// Users of a registry.
pub const USERS_MAX: usize = 5000;
/// Access keys of one user: two, as in IAM, and room for rotation by robots.
pub const KEYS_PER_USER_MAX: usize = 10;
/// Longest id of an access key in bytes (IAM: 128).
pub const KEY_ID_BYTES_MAX: usize = 128;
/// Longest sealed secret of an access key in bytes.
pub const SEALED_SECRET_BYTES_MAX: usize = 512;
/// Policies of one user, or of requests without a credential.
pub const POLICIES_PER_PRINCIPAL_MAX: usize = 20;

// Quotas. Source: decision 6 in `src/docs/decisions`.

/// Shares granted in one envelope; the rest is left for what asked for them.
pub const QUOTA_GRANTS_MAX: usize = 1000;
/// Registries of one slot that are looked at for what all of them hold.
pub const REGISTRIES_SUMMED_MAX: usize = 10_000;
/// Rounds that one push takes part in before its client is told to come back.
pub const QUOTA_ROUNDS_MAX: usize = 16;

// Regions. Source: ECR quotas for the first three.

/// Rules of replication of one registry.
pub const REPLICATION_RULES_MAX: usize = 10;
/// Different destinations of all rules of a registry.
pub const REPLICATION_DESTINATIONS_MAX: usize = 25;
/// Repositories that the answer to a dry run of rules lists, those of all destinations together.
pub const DRY_RUN_LISTED_MAX: usize = 1000;
/// Blobs that a dry run of rules tells apart, so that each counts once for a destination; about 64 MiB of memory.
pub const DRY_RUN_BLOBS_MAX: usize = 1_000_000;
/// Filters of one rule.
pub const REPLICATION_FILTERS_MAX: usize = 100;
/// Tags looked at to tell which tags lead to a manifest; what has more counts as led to by all.
pub const TAGS_ABOVE_MAX: usize = 1000;
/// References followed upwards for that, from a manifest to the indexes that name it; with more it is the same.
pub const REFERENCES_ABOVE_MAX: usize = 2000;
/// Manifests below one, and attached to it or to those, that are looked at for what comes with it by a filter of tags.
pub const ATTACHED_MAX: usize = 5000;
/// Such looks that a node asks of one region at once, and that it takes at once for one: each walks through indexes.
pub const ATTACHED_ASKED_MAX: usize = 16;
/// Changes of the tags of a replication rule that it goes on with: what was made before them is judged by the tags of
/// its time.
pub const TAG_CHANGES_KEPT_MAX: usize = 8;
/// Other regions that a cluster knows.
pub const PEERS_MAX: usize = REPLICATION_DESTINATIONS_MAX;
/// Addresses of one other region.
pub const PEER_ENDPOINTS_MAX: usize = 16;
/// Longest certificate of another region's authority in bytes.
pub const PEER_CA_BYTES_MAX: usize = 16 * KIB;
/// Batches of changes that wait for a destination to read them.
pub const CHANGES_QUEUED_MAX: usize = 8;
/// Changes of one region that are being applied, or wait for it, at once.
pub const CHANGES_OPEN_MAX: usize = 10_000;
/// Lanes in which the changes of one region are applied: a repository's all go into one.
pub const CHANGE_LANES: usize = 64;
/// Changes of one lane that are brought side by side.
pub const LANE_AT_ONCE: usize = 32;
/// Bytes of a blob that one request of another region asks for.
pub const REGION_RANGE_BYTES_MAX: u64 = 8 * MIB as u64;
/// Pieces of a blob that a region has to show before what is here by others' doing is given to it; one in each part.
pub const SHOWN_PIECES: u64 = 4;
/// Bytes of each of them. A blob that is no larger than all of them is shown whole.
pub const SHOWN_BYTES: u64 = 4 * 1024;
/// Blobs of which one region is asked for such pieces at once, for what arrives; clients wait behind none of these.
pub const SHOWN_AT_ONCE: usize = 8;
/// Manifests that are here by others' doing, below one that a region names, of which it has to show the blobs.
pub const SHOWN_MANIFESTS_MAX: usize = 16_384;
/// Ranges of one blob that are fetched before they can be written.
pub const REGION_RANGES_AHEAD: usize = 4;
/// Ranges of blobs under way from one region.
pub const REGION_RANGES_MAX: usize = 16;
/// Ranges of blobs that a node sends to other regions at once.
pub const REGION_STREAMS_MAX: usize = 64;
/// Repositories whose sums another region is told in one message.
pub const SUMS_PER_MESSAGE: usize = 64;
/// Repositories that another region may ask the sums of by name.
pub const SUMS_ASKED_MAX: usize = 4096;
/// Records that another region is told in one message, and that it may ask about at once.
pub const RECORDS_PER_MESSAGE: usize = 500;
/// Comparisons that a node answers at once.
pub const COMPARISONS_MAX: usize = 4;
/// Differences of one repository that one comparison looks at twice and repairs.
pub const SUSPECTS_MAX: usize = 10_000;
/// Differences that a report lists.
pub const DRIFTS_TOLD_MAX: usize = 1000;
/// Of so many blobs that a comparison of all repositories covers, one is read and hashed on both sides
/// (consensus-and-faults §6.5).
pub const SAMPLED_ONE_IN: u64 = 10_000;
/// So many at least, if there are so many.
pub const SAMPLED_BLOBS_MIN: usize = 8;
/// And so many at most.
pub const SAMPLED_BLOBS_MAX: usize = 1000;
/// Bytes of all of them together; a blob that does not fit any more is left to each region's own scrub.
pub const SAMPLED_BYTES_MAX: u64 = 16 * 1024 * MIB as u64;
/// How fast a copy is read for another region's comparison, bytes per second: as a scrub, it may take its time.
pub const VERIFY_BYTES_PER_SECOND: u64 = 64 * MIB as u64;
/// Copies that a node hashes at once because somebody asks, and blobs that it has hashed at once for other regions.
pub const VERIFIES_MAX: usize = 2;
/// Time for which one copy may be waited for and hashed, in milliseconds.
pub const VERIFY_COPY_TIMEOUT_MS: u64 = 600_000;
/// Time for which another region may take to have all copies of a blob hashed, in milliseconds.
pub const VERIFY_TIMEOUT_MS: u64 = 900_000;
/// Time after which hashing blobs for a comparison ends, whatever is left of them, in milliseconds.
pub const SAMPLE_MS_MAX: u64 = 1_800_000;
/// Changes of one region that are put aside.
pub const PARKED_MAX: usize = 10_000;
/// Longest key of a register: a byte for its kind, and a tag.
pub const REGISTER_KEY_BYTES_MAX: usize = 129;
/// Conflicts that are kept of one repository; the oldest go.
pub const CONFLICTS_PER_REPOSITORY_MAX: usize = 100;
/// Records of what a region held before a rule that are brought at once.
pub const BACKFILL_AT_ONCE: usize = 8;
/// Per cent of the connections it takes from which on a node is sent no clients: what is left is for its own.
pub const NODE_FULL_PERCENT: usize = 90;
/// Networks of clients whose place is known, and addresses of nodes for clients of some networks.
pub const PLACES_MAX: usize = 1000;
/// How long a link to another node holds, in milliseconds.
pub const LINK_LIFETIME_MS: u64 = 60_000;
/// Longest such link in bytes; one of a client of another region holds another one, by which it comes back.
pub const LINK_BYTES_MAX: usize = 4 * KIB;
/// How long another region may take to say where one of its clients is served, in milliseconds; then that is here.
pub const LOCATE_TIMEOUT_MS: u64 = 500;
/// How long a region is not asked that again after it did not say so in time, in milliseconds.
pub const LOCATE_PAUSE_MS: u64 = 5_000;
/// Such questions that a node asks at once, and that it answers at once.
pub const LOCATES_MAX: usize = 64;
/// Manifests that name a blob which are looked at for one that another region made.
pub const SHARED_LOOKED_AT_MAX: usize = 32;
/// Blobs of other regions that a node brings for waiting clients at once.
pub const FLIGHTS_MAX: usize = 64;
/// Walks through what was before a rule that a node answers at once.
pub const BACKFILLS_MAX: usize = 4;
/// Rows of the change stream that one command trims.
pub const OUTBOX_TRIMMED_MAX: usize = 1000;
/// How long changes are kept for a region that does not take them, in milliseconds: seven days.
pub const OUTBOX_RETENTION_MS: u64 = 7 * 24 * 3600 * 1000;
/// How far a change of another region may lie in the future, in milliseconds.
pub const CLOCK_AHEAD_MS_MAX: u64 = 5 * 60 * 1000;
/// How many homes of a repository another region may be ahead with a change of it: more than any has had by the time
/// that two regions are linked. It bounds all the same: a change of the largest `u32` would leave no number for a later
/// home, and it takes more than 4,000 changes, each further ahead, to come there.
pub const HOME_EPOCHS_AHEAD_MAX: u32 = 1_000_000;

// State.

/// Changes of one tag that its journal keeps.
pub const TAG_JOURNAL_MAX: usize = 100;
/// Tags in one page of what a repository's tags named at a time; each costs up to [`TAG_JOURNAL_MAX`] rows.
pub const HISTORY_PAGE_TAGS_MAX: usize = 100;
/// Tags that go with one manifest in one command; of a manifest with more, tags are dropped on their own first.
pub const TAGS_PER_DELETE_MAX: usize = 1000;
/// Rows that one purging command removes.
pub const PURGE_ROWS_MAX: usize = 1000;

// Text that goes into results and logs.

/// Longest free text (`detail`) of a refusal in bytes.
pub const DETAIL_BYTES_MAX: usize = 512;
/// Digests named in one refusal; the rest is counted only.
pub const REFUSAL_DIGESTS_MAX: usize = 16;

/// Backups that a node holds for who fetches them.
pub const BACKUPS_HELD_MAX: usize = 2;
/// Bytes of a backup's file in one answer.
pub const BACKUP_PIECE_BYTES_MAX: usize = 4 * 1024 * 1024;

const _: () = {
    assert!(MANIFEST_INLINE_BYTES_MAX <= MANIFEST_BYTES_MAX);
    // An inline manifest travels in one command; its parsed descriptors (≤ 80 bytes each: digest, size, kind) beside
    // it.
    assert!(MANIFEST_INLINE_BYTES_MAX + MANIFEST_DESCRIPTORS_MAX * 80 < PROPOSAL_BYTES_MAX);
    assert!(PROPOSAL_BYTES_MAX < RPC_MESSAGE_BYTES_MAX);
    // A descriptor takes at least five JSON values, and usually a dozen.
    assert!(MANIFEST_DESCRIPTORS_MAX * 12 < JSON_VALUES_MAX);
    assert!(MEDIA_TYPE_BYTES_MAX == 2 * MEDIA_TYPE_PART_BYTES_MAX + 1);
    assert!(PACK_BLOB_BYTES_MAX.is_multiple_of(BLOCK_BYTES));
    assert!(PAGE_ENTRIES_DEFAULT <= PAGE_ENTRIES_MAX);
    assert!(REFERRERS_LOOKED_AT_MAX > 2 * REFERRERS_PAGE_ENTRIES_MAX);
    assert!(REFERRERS_PAGE_ENTRIES_MAX * REFERRER_ANNOTATIONS_BYTES_MAX <= REFERRERS_PAGE_BYTES_MAX);
    // Names, tags and digests fit into page tokens and request targets with percent-encoding.
    assert!((REPOSITORY_NAME_BYTES_MAX + DIGEST_TEXT_BYTES_MAX) * 3 <= REQUEST_TARGET_BYTES_MAX);
    assert!(REPOSITORY_NAME_BYTES_MAX * 3 <= PAGE_TOKEN_BYTES_MAX && TAG_BYTES_MAX * 3 <= PAGE_TOKEN_BYTES_MAX);
    assert!(REQUEST_TARGET_BYTES_MAX < HEADERS_BYTES_MAX && AUTHORIZATION_BYTES_MAX < HEADERS_BYTES_MAX);
    assert!(REPLICAS_DURABLE_MIN <= REPLICAS_TARGET);
    assert!(UPLOAD_IDLE_MS < UPLOAD_LIFETIME_MS);
    assert!(QUOTA_GRANTS_MAX + 8 <= PROPOSAL_COMMANDS_MAX);
    assert!(CLOCK_READING_ERROR_MS_MAX < CLOCK_SKEW_MS_MAX && CLOCK_SKEW_MS_MAX < CLOCK_AHEAD_MS_MAX);
    assert!(CLOCK_SKEW_MS_MAX < LINK_LIFETIME_MS && CLOCK_SKEW_MS_MAX < TOKEN_SKEW_MS);
    // A client that was sent on follows in time, and with a request target that is taken there.
    assert!(LOCATE_TIMEOUT_MS < LOCATE_PAUSE_MS && LOCATE_TIMEOUT_MS < LINK_LIFETIME_MS);
    assert!(LINK_BYTES_MAX + REPOSITORY_NAME_BYTES_MAX + DIGEST_TEXT_BYTES_MAX < REQUEST_TARGET_BYTES_MAX / 2);
    assert!(WATERMARK_FULL_PERCENT < WATERMARK_REFUSE_PERCENT);
    assert!(WATERMARK_REFUSE_PERCENT < WATERMARK_URGENT_PERCENT && WATERMARK_URGENT_PERCENT < 100);
    // Remembered request ids outlive everything that can be queued at once.
    assert!(REQUEST_WINDOW_ENTRIES > 16 * PROPOSALS_QUEUED_MAX as u64);
    // An outcome (at most 256 bytes for a tag) fits where it is decoded.
    assert!((OUTCOME_TAGS_MAX + TAGS_PER_DELETE_MAX) * 256 < 4 * PROPOSAL_BYTES_MAX);
    // In base64 all its seeds leave room for the rest.
    assert!(2 * SEEDS_MAX * ADDRESS_BYTES_MAX <= JOIN_TOKEN_BYTES_MAX);
    assert!(BLOB_BYTES_MAX < i64::MAX as u64);
    assert!(TRANSFER_BATCH_BYTES <= TRANSFER_FRAME_BYTES_MAX && TRANSFER_READ_BYTES <= TRANSFER_FRAME_BYTES_MAX);
    assert!(TRANSFER_READ_BYTES.is_multiple_of(BLOCK_BYTES) && PACK_BLOB_BYTES_MAX <= TRANSFER_FRAME_BYTES_MAX);
    assert!(TRANSFER_FRAME_BYTES_MAX < TRANSFER_MESSAGE_BYTES_MAX);
    assert!(SAMPLED_BLOBS_MIN <= SAMPLED_BLOBS_MAX);
    // What is shown waits for no large range of a blob, and leaves room for those where it is sent.
    assert!(SHOWN_PIECES * SHOWN_BYTES <= PACK_BLOB_BYTES_MAX as u64);
    assert!(SHOWN_AT_ONCE * SHOWN_PIECES as usize <= REGION_STREAMS_MAX / 2);
    // What is attached is told in one message: digests with their versions.
    assert!(ATTACHED_MAX * (DIGEST_TEXT_BYTES_MAX + 64) < TRANSFER_MESSAGE_BYTES_MAX);
    // The largest copy that is asked for is hashed in time, also behind another one, where the disk gives it so fast;
    // and who asks hears of those that were.
    assert!(2 * 1000 * SAMPLED_BYTES_MAX / VERIFY_BYTES_PER_SECOND < VERIFY_COPY_TIMEOUT_MS);
    assert!(VERIFY_COPY_TIMEOUT_MS < VERIFY_TIMEOUT_MS && VERIFY_TIMEOUT_MS < SAMPLE_MS_MAX);
    // All streams of a connection may be full at once without starving each other; HTTP/2 windows are 31 bits wide.
    assert!(TRANSFER_WINDOW_BYTES * TRANSFER_STREAMS_MAX < i32::MAX as usize);
    assert!(PATTERN_BYTES_MAX > REPOSITORY_NAME_BYTES_MAX && PATTERN_BYTES_MAX < POLICY_BYTES_MAX);
};
