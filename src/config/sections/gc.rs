//! `[gc]`

use std::time::Duration;

use registry_core::vocabulary::limits;

use super::{ms, s};
use crate::config::section::section;
use crate::config::value::ByteSize;

section! {
    /// Garbage collection: it runs all the time and never stops pushes.
    GcSection "gc"

    /// How long a blob that nothing names any more is kept by its repository, and then once more before its files
    /// go. Longer than the longest pause inside a push: a shorter one only makes clients push again. Counts when
    /// the cluster is founded, and stays as it was then.
    grace: Duration = ms(limits::GRACE_MS_DEFAULT) => s(0)..=s(90 * 24 * 3600);

    /// A cycle that would condemn more than so many per cent of all bytes stops and asks (portolan gc run
    /// --allow-fraction). 100: it never asks. All nodes of a cluster should have the same; the leader's counts.
    fuse_percent: u8 = limits::GC_FUSE_PERCENT => 0..=100;

    /// So many bytes are condemned without asking, whatever part of the whole they are.
    fuse_floor: ByteSize = ByteSize(limits::GC_FUSE_FLOOR_BYTES);

    /// Age from which on a manifest is deleted that no tag and no index names and that is attached to nothing, counted
    /// from the change that left it so. Left out: never. What a kept manifest reaches, and what a tagged signature or
    /// attestation belongs to, stays.
    untagged: Option<Duration> = None => Some(s(1))..=Some(s(3650 * 24 * 3600));

    /// The same for signatures, attestations and other manifests whose subject is not here, counted from its delete or
    /// from their push. Left out: never.
    orphaned: Option<Duration> = None => Some(s(1))..=Some(s(3650 * 24 * 3600));
}
