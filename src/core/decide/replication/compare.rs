//! Whether two regions hold the same: records of registers, sums over them, and what a difference means.
//!
//! The two sides differ by design: a destination has changes of its own, keeps what the source deletes, and puts aside
//! what it can't apply. So equal means *explained*: [`judge`] says of each register why its records differ, and only
//! [`Verdict::Drift`] is repaired. Compared are the records that the source made since the rule stands; equal sums over
//! them are the quick way to know that there is nothing to judge. Source: consensus-and-faults §6.5.

use super::rank::Rank;
use super::tags::SentTags;
use crate::vocabulary::digest::Digest;
use crate::vocabulary::tag::Tag;
use crate::vocabulary::version::Version;

/// Sums of one repository.
pub const BUCKETS: usize = 256;

/// What two regions may hold different records of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Register {
    /// Presence of a manifest.
    Manifest(Digest),
    /// A tag.
    Tag(Tag),
    /// Settings of the repository.
    Settings,
}

impl Register {
    /// Its name in keys and sums: manifests before tags, and both before settings.
    pub fn key(&self) -> Vec<u8> {
        match self {
            Register::Manifest(digest) => [&[1][..], &digest.key_bytes()].concat(),
            Register::Tag(tag) => [&[2], tag.as_str().as_bytes()].concat(),
            Register::Settings => vec![3],
        }
    }

    /// What [`key`](Register::key) gave; `None` for anything else.
    pub fn from_key(key: &[u8]) -> Option<Register> {
        match key.split_first()? {
            (1, rest) => Digest::from_key(rest)
                .filter(|(_, length)| *length == rest.len())
                .map(|(digest, _)| Register::Manifest(digest)),
            (2, rest) => Some(Register::Tag(Tag::parse(std::str::from_utf8(rest).ok()?).ok()?)),
            (3, []) => Some(Register::Settings),
            _ => None,
        }
    }

    /// XXH3-64 of its name.
    pub fn hash(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(&self.key())
    }

    /// The sum that it is part of.
    pub fn bucket(&self) -> usize {
        (self.hash() % BUCKETS as u64) as usize
    }

    /// The tag that it is, or the manifest; neither for settings.
    pub fn named(&self) -> (Option<&Tag>, Option<&Digest>) {
        match self {
            Register::Tag(tag) => (Some(tag), None),
            Register::Manifest(digest) => (None, Some(digest)),
            Register::Settings => (None, None),
        }
    }
}

/// What a register is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// What a tag names; of a manifest its own digest; of settings that of what they are.
    pub digest: Digest,
    /// Version of the setting, or of the presence.
    pub version: Version,
    /// What it ranks by.
    pub base: Version,
}

impl Record {
    /// Where it stands among all records of its register.
    pub fn rank(&self) -> Rank {
        Rank::of_set(self.version, self.base)
    }
}

/// Hybrid logical times of the rules that send records: those up to them came before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Since {
    /// Of what the source made itself.
    pub own: u64,
    /// Of what it has from other regions; `None`: no rule sends that on.
    pub others: Option<u64>,
    /// Of settings, whoever's of these; `None`: no rule sends any.
    pub settings: Option<u64>,
}

impl Since {
    /// Whether nothing is sent but settings.
    pub fn is_of_settings(&self) -> bool {
        self.own == u64::MAX && self.others.is_none_or(|others| others == u64::MAX)
    }
}

/// Which records are compared: those that a source sends to a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The source's number.
    pub source: u16,
    /// The destination's number: what it made itself is not sent back to it.
    pub destination: u16,
    /// Since when.
    pub since: Since,
    /// Of which tags, by hybrid logical times.
    pub tags: SentTags,
}

impl Scope {
    /// What the destination made of what it covers, since the same time: it sent that to the source, and may have lost
    /// some. Of all tags: what came was let through by the destination's own rule, which this one's filter says nothing
    /// of, and what that rule kept away shows as not heard of yet.
    pub fn turned(self) -> Scope {
        let Scope { source, destination, since, .. } = self;
        let since = Since { others: None, ..since };
        Scope { source: destination, destination: source, since, tags: SentTags::ALL }
    }

    /// Whether a record is compared. `is_attached`: of a manifest, that it is attached to another one.
    pub fn covers(&self, register: &Register, record: &Record, is_attached: bool) -> bool {
        let Version { hlc, region, .. } = record.version;
        match register {
            Register::Manifest(_) => self.covers_manifest(record.version, is_attached),
            Register::Tag(tag) => self.covers_tag(tag, record.version),
            Register::Settings => {
                // where nothing else is walked, what others made is not bounded by that
                let is_on = |since: u64| since == u64::MAX || hlc > since;
                let is_others = || region != self.destination && self.since.others.is_some_and(is_on);
                (region == self.source || is_others()) && self.since.settings.is_some_and(|since| hlc > since)
            }
        }
    }

    /// Whether a manifest of this presence is compared. Where not all tags are sent, none is for its own sake, but for
    /// one that is attached to another.
    pub fn covers_manifest(&self, presence: Version, is_attached: bool) -> bool {
        (is_attached || self.tags.passes_manifests(presence.hlc)) && self.covers_version(presence)
    }

    /// Whether a tag that was set at this version is compared.
    pub fn covers_tag(&self, tag: &Tag, version: Version) -> bool {
        self.covers_version(version) && self.tags.passes(tag, version.hlc)
    }

    /// Whether what was made at this version is compared, if it is of a kind that is.
    pub fn covers_version(&self, version: Version) -> bool {
        let Version { hlc, region, .. } = version;
        match region == self.source {
            true => hlc > self.since.own,
            false => region != self.destination && self.since.others.is_some_and(|since| hlc > since),
        }
    }
}

/// Sum over the records of a bucket: order does not matter, and equal sets have equal sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Wrapping sum of each record's XXH3-128.
    pub hash: u128,
    /// How many there are.
    pub count: u64,
}

/// Sums over the records of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sums([Sum; BUCKETS]);

impl Default for Sums {
    fn default() -> Sums {
        Sums([Sum::default(); BUCKETS])
    }
}

impl Sums {
    /// Of all buckets in order; `None` unless there are [`BUCKETS`].
    pub fn of(sums: Vec<Sum>) -> Option<Sums> {
        sums.try_into().ok().map(Sums)
    }

    /// Bucket by bucket.
    pub fn iter(&self) -> impl Iterator<Item = &Sum> {
        self.0.iter()
    }

    /// Adds a record.
    pub fn add(&mut self, register: &Register, record: &Record) {
        let sum = &mut self.0[register.bucket()];
        sum.hash = sum.hash.wrapping_add(leaf(register, record));
        sum.count += 1;
    }

    /// The sum of all buckets.
    pub fn whole(&self) -> Sum {
        let add = |left: Sum, right: &Sum| Sum {
            hash: left.hash.wrapping_add(right.hash),
            count: left.count.wrapping_add(right.count),
        };
        self.0.iter().fold(Sum::default(), add)
    }

    /// Which buckets differ from another's.
    pub fn differing(&self, other: &Sums) -> Vec<usize> {
        (0..BUCKETS).filter(|at| self.0[*at] != other.0[*at]).collect()
    }
}

/// XXH3-128 of a record: register, digest, version, base; each part with its length or of fixed width, big-endian.
fn leaf(register: &Register, record: &Record) -> u128 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    for part in [register.key(), record.digest.key_bytes()] {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(&part);
    }
    for Version { home_epoch, hlc, region } in [record.version, record.base] {
        hasher.update(&home_epoch.to_be_bytes());
        hasher.update(&hlc.to_be_bytes());
        hasher.update(&region.to_be_bytes());
    }
    hasher.digest128()
}

/// What a source says of a register that it was asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum There {
    /// It has a record that it sends.
    Sent(Record),
    /// It has one of another region, or from before the rule.
    Apart(Record),
    /// It was deleted.
    Gone(Version),
    /// A tag went with its manifest, which was deleted in a third region, or in the destination: a setting of this
    /// version, that ranked by this, ended so.
    Ended {
        /// Version of the setting.
        version: Version,
        /// What it ranked by.
        base: Version,
    },
    /// A manifest that nothing named there went by age, which concerns nobody else.
    Cleaned,
    /// Nothing is known of it.
    Never,
}

impl There {
    /// Rank of what ended the register there, and its version; `None` if it did not end.
    fn end(&self) -> Option<(Rank, Version)> {
        match *self {
            There::Gone(version) => Some((Rank::of_delete(version), version)),
            There::Ended { version, base } => Some((Rank::of_end(version, base), version)),
            There::Sent(_) | There::Apart(_) | There::Cleaned | There::Never => None,
        }
    }
}

/// Which deletes of a source a destination follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deletes {
    /// Those made after this hybrid logical time; `None`: none of them.
    pub since: Option<u64>,
    /// Those of these tags, by hybrid logical times; and of manifests, if not attached to another one, those made while
    /// all were sent: what was deleted else may never have been sent, and is for the stream to tell.
    pub tags: SentTags,
}

impl Deletes {
    /// Whether the end that a register came to is followed. `is_attached`: of a manifest, that it is attached to
    /// another one.
    pub fn follow(&self, register: &Register, there: &There, is_attached: bool) -> bool {
        let Some((_, Version { hlc, .. })) = there.end() else { return false };
        let is_told = match register {
            Register::Manifest(_) => is_attached || self.tags.passes_manifests(hlc),
            Register::Tag(tag) => self.tags.passes(tag, hlc),
            Register::Settings => false,
        };
        is_told && self.since.is_some_and(|since| hlc > since)
    }

    /// Whether the delete of a record is followed by the region that made it, and has lost it since it was set back:
    /// whatever tags it is sent, this one was its own.
    pub fn follow_own(&self, there: &There, own: u16) -> bool {
        let There::Gone(version) = there else { return false };
        version.region == own && self.since.is_some_and(|since| version.hlc > since)
    }
}

/// What a destination has of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Here {
    /// Its record.
    pub record: Option<Record>,
    /// Rank of the register, with its last delete.
    pub rank: Rank,
    /// When the manifest that the source's tag names was deleted here.
    pub target_gone: Option<Version>,
    /// A change of it was put aside.
    pub is_parked: bool,
}

/// A difference that nothing explains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drift {
    /// The source has a record, the destination none.
    Missing,
    /// The destination has an older one.
    Stale,
    /// The destination has one of the source's of which the source knows nothing, or which it deleted and the rule has
    /// deletes followed.
    Extra,
    /// Records of one version name different things.
    Different,
}

impl Drift {
    /// As it is told.
    pub fn as_str(self) -> &'static str {
        match self {
            Drift::Missing => "missing",
            Drift::Stale => "stale",
            Drift::Extra => "extra",
            Drift::Different => "different",
        }
    }
}

/// Why the records of a register are as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// They are the same.
    Same,
    /// The destination has a record of higher rank, made there or elsewhere.
    WonHere,
    /// It was deleted at the destination since.
    DeletedHere,
    /// The change was put aside at the destination.
    Parked,
    /// It was deleted at the source, and that delete is not one to be followed here.
    KeptHere,
    /// What is at the source now came from another region, or before the rule, and is not sent on.
    NotChained,
    /// The destination has a record of a third region, from there or by another way than the source.
    CameElsewhere,
    /// The destination has a record of the source that ranks above what the source has: the source has lost some.
    Ahead,
    /// Nothing explains it.
    Drift(Drift),
}

impl Verdict {
    /// As it is told.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Same => "same",
            Verdict::WonHere => "won_here",
            Verdict::DeletedHere => "deleted_here",
            Verdict::Parked => "parked",
            Verdict::KeptHere => "kept_here",
            Verdict::NotChained => "not_chained",
            Verdict::CameElsewhere => "came_elsewhere",
            Verdict::Ahead => "ahead",
            Verdict::Drift(drift) => drift.as_str(),
        }
    }
}

/// Says why a register is here what it is, beside what it is at a source.
///
/// `is_followed`: the end that it came to at the source, if it did, is to be followed ([`Deletes`]).
pub fn judge(source: u16, there: &There, here: &Here, is_followed: bool) -> Verdict {
    match (there, &here.record) {
        (There::Sent(sent), Some(record)) if sent == record => Verdict::Same,
        (There::Sent(sent), Some(record)) if sent.version == record.version => Verdict::Drift(Drift::Different),
        (There::Sent(sent), Some(record)) if record.rank() > sent.rank() => Verdict::WonHere,
        (There::Sent(sent), _) if here.target_gone.is_some_and(|gone| gone > sent.version) => Verdict::DeletedHere,
        (There::Sent(sent), None) if here.rank >= sent.rank() => Verdict::DeletedHere,
        (There::Sent(_), _) if here.is_parked => Verdict::Parked,
        (There::Sent(_), Some(_)) => Verdict::Drift(Drift::Stale),
        (There::Sent(_), None) => Verdict::Drift(Drift::Missing),
        // nothing is here that came from there
        (_, None) => Verdict::Same,
        (There::Apart(apart), Some(record)) if apart == record => Verdict::Same,
        // a manifest that came with a newer one that names it has that one's version here
        (There::Apart(apart), Some(record)) if apart.rank() > record.rank() || apart.digest == record.digest => {
            Verdict::NotChained
        }
        (There::Gone(_) | There::Ended { .. }, Some(record))
            if there.end().is_some_and(|(rank, _)| rank > record.rank()) =>
        {
            match is_followed {
                true if here.is_parked => Verdict::Parked,
                true => Verdict::Drift(Drift::Extra),
                false => Verdict::KeptHere,
            }
        }
        (There::Cleaned, Some(_)) => Verdict::KeptHere,
        (_, Some(record)) if record.version.region != source => Verdict::CameElsewhere,
        (There::Apart(_) | There::Gone(_) | There::Ended { .. }, Some(_)) => Verdict::Ahead,
        (There::Never, Some(_)) => Verdict::Drift(Drift::Extra),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::replication::tags::TagScope;
    use crate::decide::tag_move::TagFilter;

    fn version(hlc: u64, region: u16) -> Version {
        Version { home_epoch: 0, hlc, region }
    }

    fn record(bytes: &[u8], hlc: u64, region: u16) -> Record {
        Record { digest: Digest::sha256(bytes), version: version(hlc, region), base: version(hlc, region) }
    }

    fn here(record: Option<Record>, gone: Option<u64>) -> Here {
        let deleted = gone.map_or(Rank::NEVER, |hlc| Rank::of_delete(version(hlc, 2)));
        let rank = record.map_or(deleted, |record| record.rank());
        Here { record, rank, target_gone: None, is_parked: false }
    }

    // Each difference by design has its name, and what has none is drift.
    #[test]
    fn verdicts() {
        let (one, newer, other) = (record(b"1", 10, 1), record(b"2", 20, 1), record(b"3", 15, 2));
        let sent = There::Sent;
        let parked = |record| Here { is_parked: true, ..here(record, None) };
        let cases = [
            (sent(one), here(Some(one), None), Verdict::Same),
            (sent(one), here(Some(other), None), Verdict::WonHere),
            (sent(one), here(Some(newer), None), Verdict::WonHere),
            (sent(one), here(None, Some(11)), Verdict::DeletedHere),
            (sent(one), Here { target_gone: Some(version(12, 2)), ..here(None, None) }, Verdict::DeletedHere),
            (sent(one), Here { target_gone: Some(version(9, 2)), ..here(None, None) }, Verdict::Drift(Drift::Missing)),
            (sent(newer), Here { target_gone: Some(version(21, 2)), ..here(Some(one), None) }, Verdict::DeletedHere),
            (sent(one), parked(None), Verdict::Parked),
            (sent(newer), parked(Some(one)), Verdict::Parked),
            (sent(one), here(None, Some(9)), Verdict::Drift(Drift::Missing)),
            (sent(newer), here(Some(one), None), Verdict::Drift(Drift::Stale)),
            (sent(newer), here(Some(other), None), Verdict::Drift(Drift::Stale)),
            (sent(Record { digest: newer.digest, ..one }), here(Some(one), None), Verdict::Drift(Drift::Different)),
            (sent(Record { base: version(1, 1), ..one }), here(Some(one), None), Verdict::Drift(Drift::Different)),
            (There::Apart(one), here(Some(one), None), Verdict::Same),
            (There::Apart(other), here(Some(one), None), Verdict::NotChained),
            (There::Apart(one), here(Some(newer), None), Verdict::Ahead),
            (There::Apart(Record { digest: newer.digest, ..one }), here(Some(newer), None), Verdict::NotChained),
            (There::Gone(version(11, 1)), here(Some(one), None), Verdict::KeptHere),
            (There::Gone(version(9, 1)), here(Some(one), None), Verdict::Ahead),
            (There::Cleaned, here(Some(one), None), Verdict::KeptHere),
            (There::Never, here(Some(one), None), Verdict::Drift(Drift::Extra)),
            (There::Never, here(None, None), Verdict::Same),
            (There::Never, here(Some(other), None), Verdict::CameElsewhere),
            (There::Apart(one), here(Some(other), None), Verdict::CameElsewhere),
            (There::Gone(version(9, 1)), here(Some(other), None), Verdict::CameElsewhere),
            (There::Gone(version(16, 1)), here(Some(other), None), Verdict::KeptHere),
        ];
        for (there, here, verdict) in cases {
            assert_eq!(judge(1, &there, &here, false), verdict, "{there:?} {here:?}");
        }
        let gone = There::Gone(version(11, 1));
        assert_eq!(judge(1, &gone, &here(Some(one), None), true), Verdict::Drift(Drift::Extra));
        assert_eq!(judge(1, &gone, &parked(Some(one)), true), Verdict::Parked);
        // a setting that ended is above itself and below all that a delete of that version would be above
        let ended = There::Ended { version: one.version, base: one.base };
        assert_eq!(judge(1, &ended, &here(Some(one), None), true), Verdict::Drift(Drift::Extra));
        assert_eq!(judge(1, &ended, &here(Some(one), None), false), Verdict::KeptHere);
        assert_eq!(judge(1, &ended, &here(Some(newer), None), true), Verdict::Ahead);
        assert_eq!(judge(1, &ended, &here(Some(other), None), true), Verdict::CameElsewhere);
        let fixed = |hlc: u64| Record { base: Version::default(), ..record(b"1", hlc, 1) };
        let ended = There::Ended { version: version(10, 1), base: Version::default() };
        assert_eq!(
            [9, 10, 11].map(|hlc| judge(1, &ended, &here(Some(fixed(hlc)), None), true)),
            [Verdict::Ahead, Verdict::Drift(Drift::Extra), Verdict::Drift(Drift::Extra)]
        );
    }

    // Deletes are followed from when the rule says so, if its filter let them through then and does now; of manifests
    // those made while all were sent, and of what is attached any.
    #[test]
    fn deletes_that_are_followed() {
        let scope = |text: &str| TagScope::new([TagFilter::parse(text).unwrap()], []).unwrap();
        let (manifest, settings) = (Register::Manifest(Digest::sha256(b"1")), Register::Settings);
        let [v1, dev] = ["v1", "dev"].map(|text| Register::Tag(Tag::parse(text).unwrap()));
        let gone = |hlc: u64| There::Gone(version(hlc, 1));
        let plain = Deletes { since: Some(10), tags: SentTags::ALL };
        for register in [&manifest, &v1] {
            assert_eq!([10, 11].map(|hlc| plain.follow(register, &gone(hlc), false)), [false, true]);
            assert!(!Deletes { since: None, ..plain.clone() }.follow(register, &gone(11), true));
            assert!(!plain.follow(register, &There::Never, false));
        }
        assert!(!plain.follow(&settings, &gone(11), false));
        let ended = There::Ended { version: version(11, 1), base: Version::default() };
        assert!(plain.follow(&v1, &ended, false));
        let some = Deletes { tags: scope("v*").into(), ..plain.clone() };
        assert!(some.follow(&v1, &gone(11), false) && !some.follow(&dev, &gone(11), false));
        assert!(some.follow(&manifest, &gone(11), true) && !some.follow(&manifest, &gone(11), false));
        let freed = Deletes { tags: SentTags { now: TagScope::ALL, before: vec![(20, scope("v*"))] }, ..plain };
        assert_eq!([20, 21].map(|hlc| freed.follow(&manifest, &gone(hlc), false)), [false, true]);
        assert_eq!([20, 21].map(|hlc| freed.follow(&dev, &gone(hlc), false)), [false, true]);
        assert!(freed.follow(&manifest, &gone(20), true) && freed.follow(&v1, &gone(20), false));
        // by the region that made it and was set back, whatever it is sent
        assert_eq!([10, 11].map(|hlc| some.follow_own(&gone(hlc), 1)), [false, true]);
        assert!(!some.follow_own(&gone(11), 2) && !some.follow_own(&ended, 1) && !some.follow_own(&There::Never, 1));
        assert!(!Deletes { since: None, ..some }.follow_own(&gone(11), 1));
    }

    // Sums do not depend on order, and any part of a record that changes shows in its own bucket alone.
    #[test]
    fn sums_tell_records_apart() {
        let registers: Vec<Register> = (0..300u32)
            .map(|number| match number % 2 {
                0 => Register::Manifest(Digest::sha256(&number.to_be_bytes())),
                _ => Register::Tag(Tag::parse(&format!("t{number}")).unwrap()),
            })
            .collect();
        let sums = |records: &mut dyn Iterator<Item = (&Register, Record)>| {
            let mut sums = Sums::default();
            records.for_each(|(register, record)| sums.add(register, &record));
            sums
        };
        let all = |changed: Record| {
            let record = move |at: usize| if at == 7 { changed } else { record(b"x", 5, 1) };
            sums(&mut registers.iter().enumerate().map(|(at, register)| (register, record(at))))
        };
        let plain = all(record(b"x", 5, 1));
        assert_eq!(plain, sums(&mut registers.iter().rev().map(|register| (register, record(b"x", 5, 1)))));
        assert_eq!(plain.whole().count, 300);
        let base = Record { base: version(4, 1), ..record(b"x", 5, 1) };
        for changed in [record(b"y", 5, 1), record(b"x", 6, 1), record(b"x", 5, 2), base] {
            assert_eq!(all(changed).differing(&plain), [registers[7].bucket()]);
            assert_ne!(all(changed).whole(), plain.whole());
        }
        assert_eq!(Sums::of(plain.iter().copied().collect()), Some(plain));
        assert_eq!(Sums::of(vec![Sum::default(); BUCKETS - 1]), None);
    }

    // What the rule does not send is not compared.
    #[test]
    fn scopes() {
        let since = Since { own: 10, others: None, settings: None };
        let scope = Scope { source: 1, destination: 2, since, tags: SentTags::ALL };
        let covers = |scope: &Scope, record: &Record| scope.covers(&Register::Manifest(record.digest), record, false);
        assert!(covers(&scope, &record(b"1", 11, 1)));
        assert!(!covers(&scope, &record(b"1", 10, 1)) && !covers(&scope, &record(b"1", 11, 3)));
        let on = Scope { since: Since { others: Some(5), ..since }, ..scope.clone() };
        assert!(covers(&on, &record(b"1", 11, 1)) && covers(&on, &record(b"1", 6, 3)));
        assert!(!covers(&on, &record(b"1", 5, 3)) && !covers(&on, &record(b"1", 9, 1)));
        assert!(!covers(&on, &record(b"1", 11, 2)), "what the destination made does not come back");
        let with = Scope { since: Since { settings: Some(0), ..since }, ..scope.clone() };
        let (old, other) = (record(b"1", 1, 1), record(b"1", 99, 3));
        let covers_settings = |scope: &Scope, record: &Record| scope.covers(&Register::Settings, record, false);
        assert!(covers_settings(&with, &old) && !covers_settings(&scope, &old));
        assert!(!covers_settings(&with, &other) && !covers_settings(&with, &record(b"1", 99, 2)));
        let on_with = Scope { since: Since { settings: Some(5), ..on.since }, ..on.clone() };
        assert!(covers_settings(&on_with, &other) && !covers_settings(&on_with, &old));
        let turned = on.turned();
        assert!(covers(&turned, &record(b"1", 11, 2)) && !covers(&turned, &record(b"1", 10, 2)));
        assert!(!covers(&turned, &record(b"1", 11, 1)) && !covers(&turned, &record(b"1", 11, 3)));
    }

    // With a filter its tags are compared, and of manifests those that are attached to another; settings as ever. The
    // other way round it says nothing.
    #[test]
    fn scopes_of_some_tags() {
        let since = Since { own: 10, others: None, settings: Some(0) };
        let tags = TagScope::new([TagFilter::parse("v*").unwrap()], [TagFilter::parse("*-rc*").unwrap()]).unwrap();
        let scope = Scope { source: 1, destination: 2, since, tags: tags.into() };
        let (new, old, theirs) = (record(b"1", 11, 1), record(b"1", 10, 1), record(b"1", 11, 2));
        let manifest = Register::Manifest(new.digest);
        let tag = |text: &str| Register::Tag(Tag::parse(text).unwrap());
        assert!(scope.covers(&manifest, &new, true) && !scope.covers(&manifest, &new, false));
        assert!(!scope.covers(&manifest, &old, true) && !scope.covers(&manifest, &theirs, true));
        assert!(scope.covers(&tag("v1"), &new, false) && !scope.covers(&tag("v1"), &old, false));
        assert!(!scope.covers(&tag("dev"), &new, false) && !scope.covers(&tag("v1-rc1"), &new, false));
        let signature = tag(&format!("sha256-{}.sig", "0".repeat(64)));
        assert!(scope.covers(&signature, &new, false) && !scope.covers(&signature, &old, false));
        assert!(scope.covers(&Register::Settings, &old, false));
        // of what was made before a filter counted, that one's too; what is attached goes by neither
        let before = vec![(20, scope.tags.now.clone())];
        let changed = Scope { tags: SentTags { now: TagScope::ALL, before }, ..scope.clone() };
        let late = record(b"1", 21, 1);
        assert!(!changed.covers(&tag("dev"), &new, false) && changed.covers(&tag("dev"), &late, false));
        assert!(!changed.covers(&manifest, &new, false) && changed.covers(&manifest, &late, false));
        assert!(changed.covers(&manifest, &new, true) && changed.covers(&tag("v1"), &new, false));
        let turned = scope.turned();
        assert!(turned.covers(&tag("dev"), &theirs, false) && turned.covers(&manifest, &theirs, false));
    }
}
