//! Which regions may call, and by whose certificates they are known.
//!
//! A region is known by the cluster id in its node's certificate, signed by the authority that was entered for that
//! very cluster: another region's authority can't speak for it (R16). Who was removed is refused at the next call.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use raft::network::transport::PeerInfo;
use raft::{NodeTls, TlsSource};
use registry_core::metadata::peer::{self, PeerRow};
use registry_core::vocabulary::ids::ClusterId;
use registry_core::vocabulary::names::RegionName;
use tonic::Status;

use crate::ground::tls::Trust;
use crate::metadata::Metadata;

/// A region that calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// Its number.
    pub(super) number: u16,
    /// Its name.
    pub(super) region: RegionName,
}

/// The regions that are known.
pub(super) struct Peers {
    metadata: Metadata,
    own: Option<TlsSource>,
    made: Mutex<Made>,
}

/// What was made of rows and files, as long as they stay as they are.
#[derive(Default)]
struct Made {
    rows: Vec<(u16, PeerRow)>,
    trust: BTreeMap<ClusterId, (Caller, Trust)>,
    files: Option<(Arc<NodeTls>, Arc<NodeTls>)>,
}

impl Peers {
    pub(super) fn new(metadata: Metadata, own: Option<TlsSource>) -> Peers {
        Peers { metadata, own, made: Mutex::default() }
    }

    pub(super) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Whether there is any.
    pub(super) fn are_known(&self) -> bool {
        self.metadata.peek(|view| !peer::list(view).is_empty())
    }

    /// Brings what was made in line with the rows.
    fn present(&self, made: &mut Made) {
        let rows = self.metadata.peek(|view| peer::list(view));
        if rows == made.rows {
            return;
        }
        let trust = |(number, row): &(u16, PeerRow)| match Trust::of(row.region.as_str(), row.ca_pem.as_bytes()) {
            Ok(trust) => Some((row.cluster, (Caller { number: *number, region: row.region.clone() }, trust))),
            Err(problem) => {
                tracing::error!(region = %row.region, problem, "the region's certificates can't be used: enter it again");
                None
            }
        };
        *made = Made { trust: rows.iter().filter_map(trust).collect(), files: None, rows };
    }

    /// What the listener shows, and whom it trusts: any authority that is known. Which one counts for a caller is
    /// looked at when it calls.
    pub(super) fn server_files(&self) -> Option<Arc<NodeTls>> {
        let own = self.own.as_ref()?();
        let mut made = self.made.lock();
        self.present(&mut made);
        if let Some((known, files)) = &made.files
            && Arc::ptr_eq(known, &own)
        {
            return Some(Arc::clone(files));
        }
        let ca_pem = made.rows.iter().flat_map(|(_, row)| [row.ca_pem.as_bytes(), b"\n"].concat()).collect();
        let NodeTls { cert_pem, key_pem, .. } = &*own;
        let files = Arc::new(NodeTls { ca_pem, cert_pem: cert_pem.clone(), key_pem: key_pem.clone() });
        made.files = Some((own, Arc::clone(&files)));
        Some(files)
    }

    /// Who calls.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`, for who shows no certificate of a region that is known.
    pub(super) fn caller(&self, info: Option<&PeerInfo>) -> Result<Caller, Status> {
        let stranger = || Status::permission_denied("this region does not know the caller");
        let info = info.ok_or_else(stranger)?;
        let identity = info.identity.as_ref().filter(|identity| identity.node_id().is_some()).ok_or_else(stranger)?;
        let mut made = self.made.lock();
        self.present(&mut made);
        let (caller, trust) = made.trust.get(&ClusterId(identity.cluster_id)).ok_or_else(stranger)?;
        trust.accepts(&info.certificates).map_err(|problem| {
            tracing::warn!(region = %caller.region, address = %info.addr, problem, "a caller pretends to be of a region");
            stranger()
        })?;
        Ok(caller.clone())
    }

    /// Whether a caller is known still: a stream asks again and again.
    pub(super) fn still(&self, caller: &Caller) -> bool {
        self.metadata.peek(|view| peer::read(view, caller.number).is_some_and(|row| row.region == caller.region))
    }
}

/// What a node shows a region that it calls, and whom it believes there.
pub(super) fn client_files(own: &TlsSource, ca_pem: &str) -> TlsSource {
    let (own, ca_pem) = (Arc::clone(own), ca_pem.as_bytes().to_vec());
    Arc::new(move || {
        let NodeTls { cert_pem, key_pem, .. } = &*own();
        Arc::new(NodeTls { ca_pem: ca_pem.clone(), cert_pem: cert_pem.clone(), key_pem: key_pem.clone() })
    })
}
