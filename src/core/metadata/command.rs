//! The list of what can change the state: one line per command, append-only, each with a stored number.
//!
//! A command is `[number u16][bincode]` inside a [`Proposal`]. A node that meets a number it does not know stops: it
//! must never skip what others applied.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, CodecError};
use super::keys::Slot;
use super::reply::Reply;
use super::tables::Tables;
use super::{
    absence, backfill, blob, clock, cluster, cursor, gc, idle, link, manifest, need, node, offer, outbox, parked, peer,
    places, principal, quota, region_link, register, remote, replica, replication_rules, repository, settings, sweep,
    tag, untagged, upgrade, upload, usage,
};
use crate::vocabulary::ids::RequestId;
use crate::vocabulary::limits::PROPOSAL_COMMANDS_MAX;
use crate::vocabulary::refusal::Refusal;

/// One kind of change.
pub trait Apply: Encode + Decode<()> + Sized {
    /// The one slot this command reads and writes.
    fn slot(&self) -> Slot;

    /// Reads, checks, writes. Total and deterministic; a refusal leaves nothing behind.
    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal>;
}

macro_rules! commands {
    ($($number:literal $name:ident($kind:path),)*) => {
        /// A change of the state. Numbers are stored: append, never reuse.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each variant is documented at the struct it holds")]
        pub enum Command {
            $($name($kind),)*
        }

        impl Command {
            /// Every command's name, in the order of the list.
            pub const NAMES: &[&str] = &[$(stringify!($name),)*];

            /// The stored number.
            pub fn number(&self) -> u16 {
                match self { $(Command::$name(_) => $number,)* }
            }

            /// The command's name, for traces and metrics.
            pub fn name(&self) -> &'static str {
                match self { $(Command::$name(_) => stringify!($name),)* }
            }

            /// The slot it stays inside.
            pub fn slot(&self) -> Slot {
                match self { $(Command::$name(command) => command.slot(),)* }
            }

            fn body(&self) -> Vec<u8> {
                match self { $(Command::$name(command) => codec::encode_bare(command),)* }
            }

            fn decode(number: u16, body: &[u8]) -> Result<Command, CodecError> {
                match number {
                    $($number => codec::decode_bare(stringify!($name), body).map(Command::$name),)*
                    other => Err(CodecError::new("command", format!("number {other} is not known to this binary"))),
                }
            }

            /// Runs the command on `tables`.
            pub fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
                match self { $(Command::$name(command) => command.apply(context, tables),)* }
            }
        }

        $(impl From<$kind> for Command {
            fn from(command: $kind) -> Command {
                Command::$name(command)
            }
        })*
    };
}

/// Commands from this number on came with level 2.
const FIRST_OF_LEVEL_2: u16 = 80;
/// Commands from this number on came with level 3.
const FIRST_OF_LEVEL_3: u16 = 140;

commands! {
    1 InitCluster(cluster::InitCluster),
    2 Tick(clock::Tick),
    3 TakeDigest(cluster::TakeDigest),
    4 ReportDigest(cluster::ReportDigest),
    10 RegisterNode(node::RegisterNode),
    11 RegisterStore(node::RegisterStore),
    12 SetNodeState(node::SetNodeState),
    20 PutUser(principal::PutUser),
    21 DeleteUser(principal::DeleteUser),
    22 PutKey(principal::PutKey),
    23 DeleteKey(principal::DeleteKey),
    24 PutPolicy(principal::PutPolicy),
    25 DeletePolicy(principal::DeletePolicy),
    26 SetUserEnabled(principal::SetUserEnabled),
    27 SetKeyEnabled(principal::SetKeyEnabled),
    30 CreateRepository(repository::CreateRepository),
    31 ChangeRepository(repository::ChangeRepository),
    32 DeleteRepository(repository::DeleteRepository),
    33 PurgeRepository(repository::PurgeRepository),
    40 PutManifest(manifest::PutManifest),
    41 DeleteManifest(manifest::DeleteManifest),
    42 DeleteTag(tag::DeleteTag),
    50 Link(link::Link),
    51 Unlink(link::Unlink),
    52 TouchLink(link::TouchLink),
    53 ForgetUse(link::ForgetUse),
    60 TakeUpload(upload::TakeUpload),
    61 FinishUpload(upload::FinishUpload),
    62 CloseUpload(upload::CloseUpload),
    63 ForgetUploads(upload::ForgetUploads),
    70 CommitBlob(blob::CommitBlob),
    71 AddUse(blob::AddUse),
    72 DropUse(blob::DropUse),
    73 ConfirmReplica(blob::ConfirmReplica),
    74 UnconfirmReplica(blob::UnconfirmReplica),
    75 ReviewNeeds(need::ReviewNeeds),
    80 UnlinkIdle(idle::UnlinkIdle),
    81 FenceUse(idle::FenceUse),
    82 Condemn(sweep::Condemn),
    83 Sweep(sweep::Sweep),
    84 ControlGc(gc::ControlGc),
    85 NoteGc(gc::NoteGc),
    86 DeleteUntagged(untagged::DeleteUntagged),
    90 NoteAbsence(absence::NoteAbsence),
    91 ConfirmCopy(replica::ConfirmCopy),
    92 FenceCopy(replica::FenceCopy),
    93 DropReplica(replica::DropReplica),
    120 SetRepositoryQuota(usage::SetRepositoryQuota),
    121 AdmitBlob(usage::AdmitBlob),
    122 SetRegistryQuota(quota::SetRegistryQuota),
    123 RecallShares(quota::RecallShares),
    124 GrantShare(quota::GrantShare),
    130 BeginLineage(cluster::BeginLineage),
    131 RaiseLevel(upgrade::RaiseLevel),
    132 MigrateSlot(upgrade::MigrateSlot),
    133 EndUpgrade(upgrade::EndUpgrade),
    140 PutPeer(peer::PutPeer),
    141 DeletePeer(peer::DeletePeer),
    142 PutReplicationRules(replication_rules::PutReplicationRules),
    143 MoveCursor(cursor::MoveCursor),
    144 NoteDestination(cursor::NoteDestination),
    145 TrimOutbox(outbox::TrimOutbox),
    146 PutRemoteManifest(remote::PutRemoteManifest),
    147 SetRemoteTag(remote::SetRemoteTag),
    148 DropRemoteTag(remote::DropRemoteTag),
    149 ParkEvent(parked::ParkEvent),
    150 UnparkEvent(parked::UnparkEvent),
    151 MendTag(register::MendTag),
    152 DropRemoteManifest(remote::DropRemoteManifest),
    153 MoveBackfill(backfill::MoveBackfill),
    154 SetRegionLink(region_link::SetRegionLink),
    155 NoteOffer(offer::NoteOffer),
    156 PutPlaces(places::PutPlaces),
    157 TakeOverRegion(region_link::TakeOverRegion),
    158 PutRemoteSettings(remote::PutRemoteSettings),
    159 MendSettings(settings::MendSettings),
    160 SetHome(settings::SetHome),
}

impl Command {
    /// Lowest feature level at which nodes of every release know it. The step to a level is taken at the one below, by
    /// nodes that all know it already; a new life begins at whatever level there is, with one node.
    pub fn level(&self) -> u16 {
        let is_known_before = matches!(self, Command::RaiseLevel(_) | Command::BeginLineage(_));
        match self.number() {
            _ if is_known_before => 1,
            ..FIRST_OF_LEVEL_2 => 1,
            FIRST_OF_LEVEL_2..FIRST_OF_LEVEL_3 => upgrade::LEVEL_2,
            FIRST_OF_LEVEL_3.. => upgrade::LEVEL_3,
        }
    }

    /// Whether it makes the state or the blobs grow, so that it waits while the volume of a log is nearly full. What
    /// frees space, ends things, revokes rights or concerns the nodes themselves does not wait.
    pub fn grows(&self) -> bool {
        match self {
            Command::PutUser(_)
            | Command::PutKey(_)
            | Command::PutPolicy(_)
            | Command::CreateRepository(_)
            | Command::PutManifest(_)
            | Command::Link(_)
            | Command::TakeUpload(_)
            | Command::FinishUpload(_)
            | Command::CommitBlob(_)
            | Command::AddUse(_)
            | Command::TakeDigest(_)
            | Command::PutPeer(_)
            | Command::PutReplicationRules(_)
            | Command::PutRemoteManifest(_)
            | Command::SetRemoteTag(_) => true,
            Command::InitCluster(_)
            | Command::Tick(_)
            | Command::ReportDigest(_)
            | Command::RegisterNode(_)
            | Command::RegisterStore(_)
            | Command::SetNodeState(_)
            | Command::DeleteUser(_)
            | Command::DeleteKey(_)
            | Command::DeletePolicy(_)
            | Command::SetUserEnabled(_)
            | Command::SetKeyEnabled(_)
            | Command::ChangeRepository(_)
            | Command::DeleteRepository(_)
            | Command::PurgeRepository(_)
            | Command::DeleteManifest(_)
            | Command::DeleteTag(_)
            | Command::Unlink(_)
            | Command::TouchLink(_)
            | Command::ForgetUse(_)
            | Command::CloseUpload(_)
            | Command::ForgetUploads(_)
            | Command::DropUse(_)
            | Command::ConfirmReplica(_)
            | Command::UnconfirmReplica(_)
            | Command::ReviewNeeds(_)
            | Command::UnlinkIdle(_)
            | Command::FenceUse(_)
            | Command::Condemn(_)
            | Command::Sweep(_)
            | Command::ControlGc(_)
            | Command::NoteGc(_)
            | Command::DeleteUntagged(_)
            | Command::NoteAbsence(_)
            | Command::ConfirmCopy(_)
            | Command::FenceCopy(_)
            | Command::DropReplica(_)
            | Command::SetRepositoryQuota(_)
            | Command::AdmitBlob(_)
            | Command::SetRegistryQuota(_)
            | Command::RecallShares(_)
            | Command::GrantShare(_)
            | Command::BeginLineage(_)
            | Command::RaiseLevel(_)
            | Command::MigrateSlot(_)
            | Command::EndUpgrade(_)
            | Command::DeletePeer(_)
            | Command::MoveCursor(_)
            | Command::NoteDestination(_)
            | Command::TrimOutbox(_)
            | Command::ParkEvent(_)
            | Command::UnparkEvent(_)
            | Command::MendTag(_)
            | Command::MoveBackfill(_)
            | Command::SetRegionLink(_)
            | Command::NoteOffer(_)
            | Command::PutPlaces(_)
            | Command::TakeOverRegion(_)
            | Command::PutRemoteSettings(_)
            | Command::MendSettings(_)
            | Command::SetHome(_)
            | Command::DropRemoteManifest(_)
            | Command::DropRemoteTag(_) => false,
        }
    }
}

/// What one log entry carries: an envelope of commands applied in order in one batch, ending at the first refusal.
///
/// An envelope must stay correct when its parts become entries of their own with anything between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Names the proposal: a retried one applies once.
    pub request: RequestId,
    /// The proposer's applied log index when `request` was made; bounds how late a copy may still apply.
    pub base: u64,
    /// Lowest feature level at which every command of it is known.
    pub min_level: u16,
    /// Who asked, for the journal: a principal's name, or `node/<id>` for what nodes do by themselves.
    pub principal: String,
    /// The commands, at most [`PROPOSAL_COMMANDS_MAX`].
    pub commands: Vec<Command>,
}

/// Version of the proposal's own layout.
const FORMAT: u8 = 1;

#[derive(Encode, Decode)]
struct Wire {
    request: RequestId,
    base: u64,
    min_level: u16,
    principal: String,
    commands: Vec<(u16, Vec<u8>)>,
}

/// A proposal whose commands are still bytes: what can be judged without knowing every command in it.
pub(crate) struct Sealed {
    wire: Wire,
}

impl Sealed {
    /// Reads the layout of a payload, and no command of it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Sealed, CodecError> {
        let Some((&FORMAT, rest)) = bytes.split_first() else {
            return Err(CodecError::new("proposal", format!("format {:?}, this binary knows {FORMAT}", bytes.first())));
        };
        let wire: Wire = codec::decode_bare("proposal", rest)?;
        if wire.commands.len() > PROPOSAL_COMMANDS_MAX {
            return Err(CodecError::new("proposal", format!("{} commands", wire.commands.len())));
        }
        Ok(Sealed { wire })
    }

    pub(crate) fn request(&self) -> RequestId {
        self.wire.request
    }

    pub(crate) fn base(&self) -> u64 {
        self.wire.base
    }

    pub(crate) fn min_level(&self) -> u16 {
        self.wire.min_level
    }

    /// Reads the commands. An error means that this binary must not go on.
    pub(crate) fn open(self) -> Result<Proposal, CodecError> {
        let Wire { request, base, min_level, principal, commands } = self.wire;
        let commands = commands.iter().map(|(number, body)| Command::decode(*number, body));
        Ok(Proposal { request, base, min_level, principal, commands: commands.collect::<Result<_, _>>()? })
    }
}

impl Proposal {
    /// The level that a proposal of these commands needs.
    pub fn level(commands: &[Command]) -> u16 {
        commands.iter().map(Command::level).max().unwrap_or(1)
    }

    /// The log entry's payload.
    pub fn encode(&self) -> Vec<u8> {
        let wire = Wire {
            request: self.request,
            base: self.base,
            min_level: self.min_level,
            principal: self.principal.clone(),
            commands: self.commands.iter().map(|command| (command.number(), command.body())).collect(),
        };
        let mut out = vec![FORMAT];
        out.append(&mut codec::encode_bare(&wire));
        out
    }

    /// Reads a payload. An error means this binary must not go on.
    pub fn decode(bytes: &[u8]) -> Result<Proposal, CodecError> {
        Sealed::decode(bytes)?.open()
    }
}
