//! The generated messages, and their translation to and from the core's words. Nothing else knows the wire's forms;
//! what comes from another region is parsed here as strictly as a client's request.

use std::net::IpAddr;

use registry_core::decide::nearest::Declined;
use registry_core::decide::replication::compare::{Record, Register, Sum, There};
use registry_core::decide::replication::rules::{Prefix, ReadThrough};
use registry_core::decide::replication::tags::{SentTags, TagScope};
use registry_core::decide::tag_move::{Mutability, TagFilter, TagFilters};
use registry_core::metadata::offer::OfferRow;
use registry_core::metadata::outbox::Change;
use registry_core::metadata::replication_rules::SentRow;
use registry_core::metadata::repository::Settings;
use registry_core::metadata::settings::{self, Home};
use registry_core::vocabulary::limits::TAG_CHANGES_KEPT_MAX;
use registry_core::vocabulary::names::RegionName;
use registry_core::vocabulary::network::is_origin;
use registry_core::vocabulary::{Digest, RepositoryName, Tag, Version};
use tonic::Status;

use crate::registry::{Located, Visit, is_link};

#[allow(
    unused_qualifications,
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated; what it trips over changes"
)]
pub(super) mod proto {
    tonic::include_proto!("portolan.region.v1");
}

use proto::change::Kind;

/// A change as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Travelling {
    /// Its index in the source's log.
    pub(super) index: u64,
    /// In which repository.
    pub(super) repository: RepositoryName,
    /// What changed.
    pub(super) change: Change,
    /// When, the source's replicated milliseconds since 1970.
    pub(super) at_ms: u64,
    /// Of a delete: the rule has it followed.
    pub(super) acts: bool,
}

fn malformed(what: &str) -> Status {
    Status::invalid_argument(format!("malformed {what}"))
}

pub(super) fn digest(text: &str) -> Result<Digest, Status> {
    Digest::parse(text).map_err(|_| malformed("digest"))
}

pub(super) fn repository(text: &str) -> Result<RepositoryName, Status> {
    RepositoryName::parse(text).map_err(|_| malformed("repository name"))
}

pub(super) fn tag(text: &str) -> Result<Tag, Status> {
    Tag::parse(text).map_err(|_| malformed("tag"))
}

pub(super) fn version(version: Option<proto::Version>) -> Result<Version, Status> {
    let proto::Version { home_epoch, hlc, region } = version.ok_or_else(|| malformed("version"))?;
    Ok(Version { home_epoch, hlc, region: u16::try_from(region).map_err(|_| malformed("version"))? })
}

impl From<Version> for proto::Version {
    fn from(Version { home_epoch, hlc, region }: Version) -> proto::Version {
        proto::Version { home_epoch, hlc, region: region.into() }
    }
}

impl From<&Travelling> for proto::Change {
    fn from(travelling: &Travelling) -> proto::Change {
        let kind = match &travelling.change {
            Change::ManifestHere { digest, presence } => Kind::ManifestHere(proto::ManifestChange {
                digest: digest.to_string(),
                version: Some((*presence).into()),
            }),
            Change::ManifestGone { digest, version, is_attached, is_filtered } => {
                Kind::ManifestGone(proto::ManifestGone {
                    digest: digest.to_string(),
                    version: Some((*version).into()),
                    is_attached: *is_attached,
                    is_filtered: *is_filtered,
                })
            }
            Change::TagSet { tag, digest, version, base, previous } => Kind::TagSet(proto::TagSet {
                tag: tag.to_string(),
                digest: digest.to_string(),
                version: Some((*version).into()),
                base: Some((*base).into()),
                previous: Some((*previous).into()),
            }),
            Change::TagGone { tag, version, previous } => Kind::TagGone(proto::TagGone {
                tag: tag.to_string(),
                version: Some((*version).into()),
                previous: Some((*previous).into()),
            }),
            Change::SettingsSet { settings, home, version } => Kind::SettingsSet(proto::SettingsSet {
                settings: Some(settings_told(settings, home)),
                version: Some((*version).into()),
            }),
        };
        proto::Change {
            index: travelling.index,
            repository: travelling.repository.to_string(),
            at_ms: travelling.at_ms,
            kind: Some(kind),
            acts: travelling.acts,
        }
    }
}

impl TryFrom<proto::Change> for Travelling {
    type Error = Status;

    fn try_from(change: proto::Change) -> Result<Travelling, Status> {
        let proto::Change { index, repository: name, at_ms, kind, acts } = change;
        let change = match kind.ok_or_else(|| malformed("change"))? {
            Kind::ManifestHere(here) => {
                Change::ManifestHere { digest: digest(&here.digest)?, presence: version(here.version)? }
            }
            Kind::ManifestGone(gone) => {
                let proto::ManifestGone { digest: of, version: at, is_attached, is_filtered } = gone;
                Change::ManifestGone { digest: digest(&of)?, version: version(at)?, is_attached, is_filtered }
            }
            Kind::TagSet(set) => Change::TagSet {
                tag: tag(&set.tag)?,
                digest: digest(&set.digest)?,
                version: version(set.version)?,
                base: version(set.base)?,
                previous: version(set.previous)?,
            },
            Kind::TagGone(gone) => Change::TagGone {
                tag: tag(&gone.tag)?,
                version: version(gone.version)?,
                previous: version(gone.previous)?,
            },
            Kind::SettingsSet(set) => {
                let (settings, home) = settings_heard(set.settings.ok_or_else(|| malformed("settings"))?)?;
                Change::SettingsSet { settings, home, version: version(set.version)? }
            }
        };
        Ok(Travelling { index, repository: repository(&name)?, change, at_ms, acts })
    }
}

impl Travelling {
    /// A record that was stored before it was to be sent: what it replaced is not known, and no index is its.
    /// `settings`: those of the repository, without which a record of them is not sent.
    pub(super) fn stored(
        repository: RepositoryName,
        (register, record): (Register, &Record),
        settings: Option<&(Settings, Home)>,
        at_ms: u64,
    ) -> Option<Travelling> {
        let Record { digest, version, base } = *record;
        let change = match register {
            Register::Manifest(digest) => Change::ManifestHere { digest, presence: version },
            Register::Tag(tag) => Change::TagSet { tag, digest, version, base, previous: version },
            Register::Settings => {
                let (settings, home) = settings?.clone();
                Change::SettingsSet { settings, home, version }
            }
        };
        Some(Travelling { index: 0, repository, change, at_ms, acts: false })
    }
}

/// What an owner set of a repository, and where that is written, as it travels.
fn settings_told(Settings { mutability, sparse }: &Settings, home: &Home) -> proto::Settings {
    let (immutable, excluded) = match mutability {
        Mutability::Mutable => (false, None),
        Mutability::Immutable => (true, None),
        Mutability::MutableWithExclusion(filters) => (false, Some(filters)),
        Mutability::ImmutableWithExclusion(filters) => (true, Some(filters)),
    };
    let excluded = excluded.into_iter().flat_map(TagFilters::iter).map(ToString::to_string).collect();
    let Home { region, epoch: home_epoch, is_frozen: frozen } = home;
    let (home_epoch, frozen, home) =
        (*home_epoch, *frozen, region.as_ref().map_or_else(String::new, ToString::to_string));
    proto::Settings { immutable, excluded, sparse: *sparse, home, home_epoch, frozen }
}

fn filters_heard(told: &[String]) -> Result<Vec<TagFilter>, Status> {
    let filters = told.iter().map(|text| TagFilter::parse(text)).collect::<Result<Vec<_>, _>>();
    filters.map_err(|_| malformed("tag filter"))
}

fn scope_told(tags: &TagScope) -> proto::Tags {
    proto::Tags {
        include: tags.include().map(ToString::to_string).collect(),
        exclude: tags.exclude().map(ToString::to_string).collect(),
        before: Vec::new(),
    }
}

fn scope_heard(include: &[String], exclude: &[String]) -> Result<TagScope, Status> {
    TagScope::new(filters_heard(include)?, filters_heard(exclude)?).map_err(|_| malformed("tag filters"))
}

/// Which tags are sent, as it travels; nothing for all of them.
pub(super) fn tags_told(SentTags { now, before }: &SentTags) -> Option<proto::Tags> {
    let former = |(until, tags): &(u64, TagScope)| {
        let proto::Tags { include, exclude, .. } = scope_told(tags);
        proto::FormerTags { until: *until, include, exclude }
    };
    let is_told = !(now.is_all() && before.is_empty());
    is_told.then(|| proto::Tags { before: before.iter().map(former).collect(), ..scope_told(now) })
}

/// Which tags are sent.
pub(super) fn tags_heard(told: Option<&proto::Tags>) -> Result<SentTags, Status> {
    let Some(proto::Tags { include, exclude, before }) = told else { return Ok(SentTags::ALL) };
    if before.len() > TAG_CHANGES_KEPT_MAX {
        return Err(malformed("tag filters"));
    }
    let former =
        |former: &proto::FormerTags| Ok::<_, Status>((former.until, scope_heard(&former.include, &former.exclude)?));
    let before = before.iter().map(former).collect::<Result<Vec<_>, Status>>()?;
    Ok(SentTags { now: scope_heard(include, exclude)?, before })
}

fn settings_heard(told: proto::Settings) -> Result<(Settings, Home), Status> {
    let proto::Settings { immutable, excluded, sparse, home, home_epoch: epoch, frozen: is_frozen } = told;
    let filters = filters_heard(&excluded)?;
    let mutability = match (immutable, filters.is_empty()) {
        (false, true) => Mutability::Mutable,
        (true, true) => Mutability::Immutable,
        (is_immutable, false) => {
            let filters = TagFilters::new(filters).map_err(|_| malformed("tag filters"))?;
            match is_immutable {
                true => Mutability::ImmutableWithExclusion(filters),
                false => Mutability::MutableWithExclusion(filters),
            }
        }
    };
    let region = (!home.is_empty()).then(|| RegionName::parse(&home).map_err(|_| malformed("home"))).transpose()?;
    Ok((Settings { mutability, sparse }, Home { region, epoch, is_frozen }))
}

impl From<&SentRow> for proto::Sent {
    fn from(SentRow { filters, read_through, transitive, settings, tags }: &SentRow) -> proto::Sent {
        let read_through = match read_through {
            ReadThrough::Off => 0,
            ReadThrough::Digest => 1,
            ReadThrough::Full => 2,
        };
        let filters = filters.iter().map(ToString::to_string).collect();
        let (transitive, settings, tags) = (*transitive, *settings, (!tags.is_all()).then(|| scope_told(tags)));
        proto::Sent { filters, read_through, transitive, settings, tags }
    }
}

impl TryFrom<proto::Sent> for SentRow {
    type Error = Status;

    fn try_from(sent: proto::Sent) -> Result<SentRow, Status> {
        let proto::Sent { filters, read_through, transitive, settings, tags } = sent;
        let filter = |text: &String| Prefix::parse(text).map_err(|_| malformed("filter"));
        let read_through = match read_through {
            0 => ReadThrough::Off,
            1 => ReadThrough::Digest,
            2 => ReadThrough::Full,
            _ => return Err(malformed("read-through")),
        };
        let filters = filters.iter().map(filter).collect::<Result<_, _>>()?;
        // what it was before is of no matter for what may be read
        let tags = tags_heard(tags.as_ref())?.now;
        Ok(SentRow { filters, read_through, transitive, settings, tags })
    }
}

/// What rules of another region send here, and the youngest of them that has what was before it copied.
pub(super) fn offer(proto::Offer { sent, backfill }: proto::Offer) -> Result<(OfferRow, u64), Status> {
    let sent = sent.into_iter().map(SentRow::try_from).collect::<Result<_, _>>()?;
    Ok((OfferRow(sent), backfill))
}

/// Where a backfill goes on.
pub(super) fn place(place: proto::Place) -> Result<(RepositoryName, Option<(Version, Register)>), Status> {
    let proto::Place { repository: name, version: of, register } = place;
    let record = register.map(|register| Ok::<_, Status>((version(of)?, Register::try_from(register)?))).transpose()?;
    Ok((repository(&name)?, record))
}

/// A record as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// Whose.
    pub(super) register: Register,
    /// What is known of it.
    pub(super) there: There,
    /// The row is what that region's own journal says of it.
    pub(super) is_proven: bool,
    /// The settings of the repository, where they are asked for and sent, and its home.
    pub(super) settings: Option<(Settings, Home)>,
}

impl From<Sum> for proto::Sum {
    fn from(Sum { hash, count }: Sum) -> proto::Sum {
        proto::Sum { hash: hash.to_be_bytes().to_vec().into(), count }
    }
}

/// A sum.
pub(super) fn sum(proto::Sum { hash, count }: &proto::Sum) -> Result<Sum, Status> {
    let hash = hash.as_ref().try_into().map_err(|_| malformed("sum"))?;
    Ok(Sum { hash: u128::from_be_bytes(hash), count: *count })
}

impl From<&Register> for proto::Register {
    fn from(register: &Register) -> proto::Register {
        let name = match register {
            Register::Manifest(digest) => proto::register::Name::Manifest(digest.to_string()),
            Register::Tag(tag) => proto::register::Name::Tag(tag.to_string()),
            Register::Settings => proto::register::Name::Settings(true),
        };
        proto::Register { name: Some(name) }
    }
}

impl TryFrom<proto::Register> for Register {
    type Error = Status;

    fn try_from(register: proto::Register) -> Result<Register, Status> {
        match register.name.ok_or_else(|| malformed("register"))? {
            proto::register::Name::Manifest(text) => Ok(Register::Manifest(digest(&text)?)),
            proto::register::Name::Tag(text) => Ok(Register::Tag(tag(&text)?)),
            proto::register::Name::Settings(_) => Ok(Register::Settings),
        }
    }
}

impl From<&Told> for proto::Record {
    fn from(Told { register, there, is_proven, settings }: &Told) -> proto::Record {
        use proto::record::State;
        let none = proto::Record {
            register: Some(register.into()),
            state: State::Never.into(),
            digest: String::new(),
            version: None,
            base: None,
            unproven: !is_proven,
            settings: settings.as_ref().map(|(settings, home)| settings_told(settings, home)),
        };
        let of = |record: &Record, state: State| proto::Record {
            state: state.into(),
            digest: match register {
                Register::Manifest(_) => String::new(),
                Register::Settings if settings.is_some() => String::new(),
                Register::Tag(_) | Register::Settings => record.digest.to_string(),
            },
            version: Some(record.version.into()),
            base: Some(record.base.into()),
            ..none.clone()
        };
        match there {
            There::Never => none,
            There::Cleaned => proto::Record { state: State::Cleaned.into(), ..none },
            There::Sent(record) => of(record, State::Sent),
            There::Apart(record) => of(record, State::Apart),
            There::Gone(version) => {
                proto::Record { state: State::Gone.into(), version: Some((*version).into()), ..none }
            }
            There::Ended { version, base } => {
                let (version, base) = (Some((*version).into()), Some((*base).into()));
                proto::Record { state: State::Ended.into(), version, base, ..none }
            }
        }
    }
}

impl TryFrom<proto::Record> for Told {
    type Error = Status;

    fn try_from(record: proto::Record) -> Result<Told, Status> {
        use proto::record::State;
        let state = record.state();
        let proto::Record { register, digest: text, version: of, base, unproven, settings, .. } = record;
        let register = Register::try_from(register.ok_or_else(|| malformed("record"))?)?;
        let settings = settings.map(settings_heard).transpose()?;
        let set = || {
            let named = match &register {
                Register::Manifest(own) => *own,
                Register::Tag(_) => digest(&text)?,
                // only of what is sent they are told
                Register::Settings => match &settings {
                    Some((settings, home)) => settings::digest(settings, home),
                    None if state == State::Apart => digest(&text)?,
                    None => return Err(malformed("settings")),
                },
            };
            Ok::<Record, Status>(Record { digest: named, version: version(of)?, base: version(base)? })
        };
        let there = match state {
            State::Never => There::Never,
            State::Cleaned => There::Cleaned,
            State::Sent => There::Sent(set()?),
            State::Apart => There::Apart(set()?),
            State::Gone => There::Gone(version(of)?),
            State::Ended if matches!(register, Register::Tag(_)) => {
                There::Ended { version: version(of)?, base: version(base)? }
            }
            State::Ended => return Err(malformed("record")),
        };
        Ok(Told { register, there, is_proven: !unproven, settings })
    }
}

impl From<Visit> for proto::LocateRequest {
    fn from(Visit { repository, digest, client, back, right }: Visit) -> proto::LocateRequest {
        let (repository, digest, client) = (repository.to_string(), digest.to_string(), client.to_string());
        proto::LocateRequest { repository, digest, client, back, right }
    }
}

impl TryFrom<proto::LocateRequest> for Visit {
    type Error = Status;

    fn try_from(request: proto::LocateRequest) -> Result<Visit, Status> {
        let proto::LocateRequest { repository: name, digest: of, client, back, right } = request;
        // it ends up in the address of a redirect
        if !is_origin(&back) || !(right.is_empty() || is_link(&right)) {
            return Err(malformed("way back"));
        }
        let client: IpAddr = client.parse().map_err(|_| malformed("address of a client"))?;
        let (repository, digest) = (repository(&name)?, digest(&of)?);
        Ok(Visit { repository, digest, client: client.to_canonical(), back, right })
    }
}

impl From<Result<Located, Declined>> for proto::LocateReply {
    fn from(located: Result<Located, Declined>) -> proto::LocateReply {
        use proto::locate_reply::Reason;
        let declined = |reason: Reason| proto::LocateReply { reason: reason.into(), ..Default::default() };
        match located {
            Ok(Located { address, link }) => proto::LocateReply { reason: Reason::Served.into(), address, link },
            Err(Declined::NoCopy) => declined(Reason::NoCopy),
            Err(Declined::NoAddress) => declined(Reason::NoAddress),
            Err(Declined::Clock) => declined(Reason::Clock),
            // what a caller may not have is told apart, by a status
            Err(Declined::Unfit | Declined::Silent | Declined::Unknown | Declined::Bound | Declined::Apart) => {
                declined(Reason::Unfit)
            }
        }
    }
}

/// Where a region says that its client is served; a reason that is not known here is one all the same.
pub(super) fn located(reply: proto::LocateReply) -> Result<Located, Declined> {
    use proto::locate_reply::Reason;
    let proto::LocateReply { reason, address, link } = reply;
    match Reason::try_from(reason) {
        Ok(Reason::Served) => Ok(Located { address, link }),
        Ok(Reason::NoCopy) => Err(Declined::NoCopy),
        Ok(Reason::NoAddress) => Err(Declined::NoAddress),
        Ok(Reason::Clock) => Err(Declined::Clock),
        Ok(Reason::Unfit) | Err(_) => Err(Declined::Unfit),
    }
}

#[cfg(test)]
mod tests {
    use registry_core::vocabulary::limits::LINK_BYTES_MAX;

    use super::*;

    fn changes() -> Vec<Change> {
        let (digest, tag) = (Digest::sha256(b"x"), Tag::parse("v1").unwrap());
        let version = Version { home_epoch: 1, hlc: 300, region: 2 };
        vec![
            Change::ManifestHere { digest, presence: version },
            Change::ManifestGone { digest, version, is_attached: false, is_filtered: true },
            Change::ManifestGone { digest, version, is_attached: true, is_filtered: false },
            Change::TagSet { tag: tag.clone(), digest, version, base: Version::default(), previous: version },
            Change::TagGone { tag, version, previous: Version::default() },
            Change::SettingsSet { settings: some_settings(), home: some_home(), version },
        ]
    }

    fn some_tags(include: &[&str], exclude: &[&str]) -> TagScope {
        let filters = |texts: &[&str]| texts.iter().map(|text| TagFilter::parse(text).unwrap()).collect::<Vec<_>>();
        TagScope::new(filters(include), filters(exclude)).unwrap()
    }

    fn some_home() -> Home {
        Home { region: Some(RegionName::parse("eu").unwrap()), epoch: 7, is_frozen: true }
    }

    fn some_settings() -> Settings {
        let filters = TagFilters::new([TagFilter::parse("dev-*").unwrap()]).unwrap();
        Settings { mutability: Mutability::ImmutableWithExclusion(filters), sparse: true }
    }

    fn travelling(change: Change) -> Travelling {
        Travelling { index: 7, repository: RepositoryName::parse("team/app").unwrap(), change, at_ms: 9, acts: true }
    }

    // Every change arrives as it was sent.
    #[test]
    fn there_and_back() {
        for change in changes() {
            let sent = travelling(change);
            assert_eq!(Travelling::try_from(proto::Change::from(&sent)).unwrap(), sent);
        }
    }

    fn told() -> Vec<Told> {
        let version = Version { home_epoch: 1, hlc: 300, region: 2 };
        let digest = Digest::sha256(b"manifest");
        let record = Record { digest, version, base: Version { hlc: 200, ..version } };
        let registers = [Register::Tag(Tag::parse("v1").unwrap()), Register::Manifest(digest)];
        let (sent, apart) = (There::Sent(record), There::Apart(record));
        let states = [sent, apart, There::Gone(version), There::Cleaned, There::Never];
        let told =
            |register: &Register, there| Told { register: register.clone(), there, is_proven: true, settings: None };
        let mut all: Vec<Told> =
            registers.iter().flat_map(|register| states.map(|there| told(register, there))).collect();
        all.push(told(&registers[0], There::Ended { version, base: record.base }));
        let settings = (some_settings(), some_home());
        let digest = settings::digest(&settings.0, &settings.1);
        let there = There::Sent(Record { digest, version, base: version });
        all.push(Told { settings: Some(settings), ..told(&Register::Settings, there) });
        all.push(told(&Register::Settings, There::Never));
        all.push(told(&Register::Settings, There::Apart(record)));
        all
    }

    // Settings of every kind arrive as they were sent; a filter that is none is refused, and so is a record without
    // the settings that it is of.
    #[test]
    fn settings_there_and_back() {
        let filters = || TagFilters::new([TagFilter::parse("v*").unwrap()]).unwrap();
        for mutability in [
            Mutability::Mutable,
            Mutability::Immutable,
            Mutability::MutableWithExclusion(filters()),
            Mutability::ImmutableWithExclusion(filters()),
        ] {
            for home in [Home::default(), some_home()] {
                let sent = (Settings { mutability: mutability.clone(), sparse: false }, home);
                assert_eq!(settings_heard(settings_told(&sent.0, &sent.1)).unwrap(), sent);
            }
        }
        let good = settings_told(&some_settings(), &some_home());
        for excluded in [vec!["a b".to_owned()], vec!["v*".to_owned(); 100]] {
            assert!(settings_heard(proto::Settings { excluded, ..good.clone() }).is_err());
        }
        assert!(settings_heard(proto::Settings { home: "a b".to_owned(), ..good }).is_err());
        let told = told().into_iter().find(|told| told.settings.is_some()).unwrap();
        let without = proto::Record { settings: None, ..(&told).into() };
        assert!(Told::try_from(without).is_err());
    }

    // Records and sums survive the wire; what is not whole is refused.
    #[test]
    fn records_there_and_back() {
        for told in told() {
            let sent = proto::Record::from(&told);
            assert_eq!(Told::try_from(sent.clone()).unwrap(), told);
            assert!(Told::try_from(proto::Record { register: None, ..sent.clone() }).is_err());
            let is_set = matches!(told.there, There::Sent(_) | There::Apart(_));
            let has_base = is_set || matches!(told.there, There::Ended { .. });
            assert_eq!(Told::try_from(proto::Record { base: None, ..sent.clone() }).is_err(), has_base);
            let unnamed = proto::Record { digest: String::new(), ..sent };
            let is_named = matches!(told.register, Register::Manifest(_)) || told.settings.is_some();
            assert_eq!(Told::try_from(unnamed).is_err(), is_set && !is_named);
        }
        let of = Sum { hash: u128::MAX - 9, count: 7 };
        assert_eq!(sum(&of.into()).unwrap(), of);
        assert!(sum(&proto::Sum { hash: vec![1; 15].into(), count: 7 }).is_err());
    }

    // What a region sends, and where a walk goes on, survive the wire.
    #[test]
    fn offers_and_places_there_and_back() {
        for read_through in [ReadThrough::Off, ReadThrough::Digest, ReadThrough::Full] {
            let transitive = read_through == ReadThrough::Full;
            let (filters, settings) = (vec![Prefix::parse("team/").unwrap()], !transitive);
            for tags in [TagScope::ALL, some_tags(&["v*", "latest"], &[]), some_tags(&[], &["*-rc*"])] {
                let sent = SentRow { filters: filters.clone(), read_through, transitive, settings, tags };
                assert_eq!(SentRow::try_from(proto::Sent::from(&sent)).unwrap(), sent);
            }
        }
        let good = proto::Sent::default();
        assert!(SentRow::try_from(good.clone()).is_ok());
        for bad in [(vec!["A".to_owned()], 0), (vec![], 3)] {
            let bad = proto::Sent { filters: bad.0, read_through: bad.1, ..good.clone() };
            assert!(SentRow::try_from(bad).is_err());
        }
        for bad in [vec!["a b".to_owned()], vec!["***".to_owned()], vec!["v*".to_owned(); 100]] {
            for (include, exclude) in [(bad.clone(), vec![]), (vec![], bad.clone())] {
                let tags = Some(proto::Tags { include, exclude, before: vec![] });
                assert!(SentRow::try_from(proto::Sent { tags, ..good.clone() }).is_err(), "{bad:?}");
            }
        }
        // and what was sent before a filter changed
        let before = vec![(300, TagScope::ALL), (400, some_tags(&["v*"], &["*-rc*"]))];
        for sent in [
            SentTags::ALL,
            some_tags(&[], &["dev"]).into(),
            SentTags { now: some_tags(&["dev"], &[]), before: before.clone() },
            SentTags { now: TagScope::ALL, before },
        ] {
            assert_eq!(tags_heard(tags_told(&sent).as_ref()).unwrap(), sent);
        }
        let former = proto::FormerTags { until: 1, include: vec!["v*".to_owned()], exclude: vec![] };
        let spoilt = proto::FormerTags { include: vec!["a b".to_owned()], ..former.clone() };
        for before in [vec![former; TAG_CHANGES_KEPT_MAX + 1], vec![spoilt]] {
            assert!(tags_heard(Some(&proto::Tags { before, ..Default::default() })).is_err());
        }
        let version = Version { home_epoch: 0, hlc: 300, region: 2 };
        let register = Register::Tag(Tag::parse("v1").unwrap());
        let sent = proto::Place {
            repository: "team/app".into(),
            version: Some(version.into()),
            register: Some((&register).into()),
        };
        let name = RepositoryName::parse("team/app").unwrap();
        assert_eq!(place(sent.clone()).unwrap(), (name.clone(), Some((version, register))));
        assert_eq!(place(proto::Place { register: None, ..sent.clone() }).unwrap(), (name, None));
        assert!(place(proto::Place { version: None, ..sent }).is_err());
    }

    // R16: what another region sends is parsed as strictly as a client's request.
    #[test]
    fn r16_malformed_changes_are_refused() {
        let good = || proto::Change::from(&travelling(changes().remove(3)));
        let spoilt = |spoil: &dyn Fn(&mut proto::TagSet)| {
            let mut change = good();
            let Some(Kind::TagSet(set)) = &mut change.kind else { panic!("another kind") };
            spoil(set);
            change
        };
        let bad = [
            proto::Change { kind: None, ..good() },
            proto::Change { repository: "../x".into(), ..good() },
            spoilt(&|set| set.tag = "-".repeat(200)),
            spoilt(&|set| set.digest = "sha256:12".into()),
            spoilt(&|set| set.version = None),
            spoilt(&|set| set.base = Some(proto::Version { home_epoch: 0, hlc: 1, region: 70_000 })),
        ];
        for change in bad {
            assert!(Travelling::try_from(change.clone()).is_err(), "{change:?}");
        }
    }

    // A client that is sent to its region, and what that one says, survive the wire; what would make a redirect lead
    // anywhere else does not.
    #[test]
    fn visits_there_and_back() {
        let visit = Visit {
            repository: RepositoryName::parse("team/app").unwrap(),
            digest: Digest::sha256(b"x"),
            client: "2001:db8::1".parse().unwrap(),
            back: "https://eu.example.com:7400".to_owned(),
            right: "AbC-_9".to_owned(),
        };
        let request = proto::LocateRequest::from(visit.clone());
        assert_eq!(Visit::try_from(request.clone()).unwrap(), visit);
        assert!(Visit::try_from(proto::LocateRequest { right: String::new(), ..request.clone() }).is_ok());
        for bad in [
            proto::LocateRequest { client: "10.0.0.1:80".to_owned(), ..request.clone() },
            proto::LocateRequest { client: String::new(), ..request.clone() },
            proto::LocateRequest { repository: "../x".to_owned(), ..request.clone() },
            proto::LocateRequest { digest: "sha256:12".to_owned(), ..request.clone() },
            proto::LocateRequest { back: "https://eu.example.com/v2/".to_owned(), ..request.clone() },
            proto::LocateRequest { back: "eu.example.com".to_owned(), ..request.clone() },
            proto::LocateRequest { back: "https://a\r\nb".to_owned(), ..request.clone() },
            proto::LocateRequest { right: "a&b".to_owned(), ..request.clone() },
            proto::LocateRequest { right: "a".repeat(LINK_BYTES_MAX + 1), ..request },
        ] {
            assert!(Visit::try_from(bad.clone()).is_err(), "{bad:?}");
        }
        let there = Located { address: "https://us.example.com".to_owned(), link: "A".to_owned() };
        for answer in
            [Ok(there), Err(Declined::NoCopy), Err(Declined::NoAddress), Err(Declined::Unfit), Err(Declined::Clock)]
        {
            assert_eq!(located(proto::LocateReply::from(answer.clone())), answer);
        }
        let newer = proto::LocateReply { reason: 99, ..Default::default() };
        assert_eq!(located(newer), Err(Declined::Unfit));
    }
}
