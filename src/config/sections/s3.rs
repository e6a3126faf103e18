//! `[s3]`

use std::path::PathBuf;
use std::time::Duration;

use super::s;
use crate::config::section::section;
use crate::config::value::ByteSize;
use crate::ground::Secret;

section! {
    /// The bucket of blobs.driver = "s3". All nodes of a cluster name the same one. It must know If-None-Match on PUT and
    /// on completing an upload in parts, as S3, MinIO, Ceph and versitygw do. Keep versioning off, or let old versions
    /// expire: what is deleted is deleted for good.
    S3Section "s3"

    /// The bucket. It is never made here.
    bucket: Option<String> = None;

    /// URL of the service, as "https://s3.example.com". Left out: the vendor's for the region.
    endpoint: Option<String> = None;

    /// The service's region.
    region: String = "us-east-1".to_owned();

    /// What the names of all objects begin with, as "registry/". Left out: nothing. Clusters that share a bucket keep
    /// apart by themselves.
    prefix: Option<String> = None;

    /// true: the bucket stands in the path of a URL, which every service understands. false: in its host name.
    path_style: bool = true;

    /// Id of the access key. It needs to read, write, delete and list objects, and to list and abort uploads in parts.
    access_key: Option<String> = None;

    /// File with its secret, mode 0600.
    secret_key_file: Option<PathBuf> = None;

    /// The same as a value; from the environment only. Not together with secret_key_file.
    secret_key: Option<Secret<String>> = None;

    /// How much of the blobs this node keeps on its own disk, in blobs.dir, so that pulls need no bucket. More: fewer
    /// requests, and more pulls that go on while the bucket is out of reach.
    cache: ByteSize = ByteSize(100 << 30);

    /// The same as a share of that disk, in percent; the smaller one counts. What is left is for uploads under way.
    cache_percent: u8 = 70 => 1..=80;

    /// Parts and block sums that no object came of go after this time. Longer than the longest push takes.
    parts_idle: Duration = s(24 * 3600) => s(60)..=s(30 * 24 * 3600);

    /// The scrub asks the bucket about every object, and reads so many percent of them whole, others each day.
    scrub_percent: u8 = 5 => 0..=100;
}
