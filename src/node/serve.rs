//! Opens a node's doors for clients and operators.

use std::sync::Arc;
use std::time::Duration;

use registry_core::vocabulary::ids::RegistryId;
use tokio::task::JoinHandle;

use super::{NodeError, Parts};
use crate::api::admin::Admin;
use crate::api::oci::Oci;
use crate::auth::audit::before_anybody;
use crate::auth::{RootKey, parse_key_file};
use crate::cluster::Cluster;
use crate::config::Door;
use crate::ground::tls::{Acceptor, ServerFiles};
use crate::ground::{Secret, sockets};
use crate::http::{self, TlsSource};
use crate::jobs::repair_replicas::RepairSettings;
use crate::jobs::replicate::Links;

/// The running listeners.
pub(super) struct Serving {
    tasks: Vec<JoinHandle<()>>,
}

impl Serving {
    /// Waits until the requests under way have ended; each listener bounds its own draining.
    pub(super) async fn finish(self, drain: Duration) {
        let all = futures_util::future::join_all(self.tasks);
        if tokio::time::timeout(drain + Duration::from_secs(2), all).await.is_err() {
            tracing::warn!("a listener did not end in time");
        }
    }
}

/// Starts the listeners.
pub(super) async fn start(parts: &Arc<Parts>) -> Result<Serving, NodeError> {
    let mut tasks = Vec::new();
    parts.replication.serve(parts.shutdown.clone())?;
    let app = Oci::new(parts.registry.clone(), parts.auth.clone(), RegistryId::DEFAULT);
    tasks.push(open(parts, Door::Public, "public", parts.settings.public_tls(), app)?);
    let admin = Admin {
        auth: parts.auth.clone(),
        registry: parts.registry.clone(),
        cluster: parts.cluster.clone(),
        founding: parts.founding(),
        root_key: brought(parts).map_err(NodeError::RootKey)?,
        freed: parts.freed.clone(),
        scrub: parts.scrub.clone(),
        repairs: parts.repairs.clone(),
        links: Links(parts.replication.clone()),
        repair: RepairSettings { mib_per_s: parts.settings.repair.mib_per_s, patience: parts.patience() },
        metrics: parts.metrics.clone(),
        shutdown: parts.shutdown.clone(),
    };
    tasks.push(open(parts, Door::Admin, "admin", parts.settings.admin_tls(), admin.router())?);
    Ok(Serving { tasks })
}

fn open(
    parts: &Parts,
    door: Door,
    name: &'static str,
    files: Option<ServerFiles>,
    app: impl http::App,
) -> Result<JoinHandle<()>, NodeError> {
    let listener = sockets::listen(parts.settings.listen_address(door), door.setting())?;
    let tls: Option<TlsSource> = match files {
        Some(files) => {
            let acceptor = Acceptor::start(name, files, parts.shutdown.clone()).map_err(NodeError::Tls)?;
            Some(Arc::new(move || acceptor.config()))
        }
        None => None,
    };
    let mut settings = http::Settings::new(name, &parts.settings.http, parts.settings.log.access);
    if door == Door::Admin {
        // the public URL names the registry: operators, probes and scrapers come to each node by its own address
        settings.hosts.clear();
    } else {
        settings.traffic = parts.traffic.clone();
        settings.crowd = parts.transfer.crowd();
        // beside the public name the node's own: clients are sent there for blobs
        let listen = &parts.settings.listen;
        let is_named = listen.public_advertise.is_some() || parts.settings.node.advertise.is_some();
        if is_named && !settings.hosts.is_empty() {
            settings.hosts.push(http::host_of(&parts.settings.advertised(Door::Public)).to_owned());
        }
    }
    let shutdown = parts.shutdown.clone();
    let stop = async move { shutdown.requested().await };
    Ok(tokio::spawn(http::serve(listener, app, settings, tls, stop)))
}

/// The first access key as the configuration brings it.
fn brought(parts: &Parts) -> Result<Option<RootKey>, String> {
    let auth = &parts.settings.auth;
    let text = match (&auth.root_key_file, &auth.root_key) {
        (Some(path), _) => {
            let text = std::fs::read_to_string(path);
            Some(Secret::new(text.map_err(|error| format!("auth.root_key_file {}: {error}", path.display()))?))
        }
        (None, Some(key)) => Some(key.clone()),
        (None, None) => None,
    };
    let Some(text) = text else { return Ok(None) };
    let setting = match &auth.root_key_file {
        Some(path) => format!("auth.root_key_file {}", path.display()),
        None => "PORTOLAN_AUTH_ROOT_KEY".to_owned(),
    };
    let (key_id, secret) = parse_key_file(text.expose()).map_err(|error| format!("{setting}: {error}"))?;
    Ok(Some(RootKey { key_id, secret }))
}

/// Makes the root user and its first key, if there is none; a key that was made up is shown, this once.
pub(super) async fn first_key(parts: &Parts) -> Result<Option<String>, String> {
    let brought = brought(parts)?;
    let is_brought = brought.is_some();
    let made = parts.auth.bootstrap(brought).await.map_err(|refusal| refusal.to_string())?;
    if let Some(RootKey { key_id, .. }) = &made {
        audit(parts, "key.create", &format!("root/{key_id}"), None);
    }
    match made {
        Some(_) if is_brought => Ok(None),
        Some(RootKey { key_id, secret }) => Ok(Some(format!(
            "The first access key of this cluster, shown this once:\n\n  user      {key_id}\n  password  {}\n\nLog in with:  \
             docker login -u {key_id} {}\n",
            secret.expose(),
            parts.seat.public_url
        ))),
        None => Ok(None),
    }
}

/// Puts the access key that the configuration brings in force in a cluster that exists: whoever may write the
/// configuration of a node can get in again. Ends when that is settled; the founding of a cluster does it by itself.
pub(super) async fn keep_key_in_force(parts: Arc<Parts>) {
    let Ok(Some(key)) = brought(&parts) else { return };
    while !parts.shutdown.is_requested() {
        let settled = if parts.auth.has_root() { parts.auth.bootstrap(Some(key.clone())).await } else { Ok(None) };
        match settled {
            Ok(Some(RootKey { key_id, .. })) => {
                audit(&parts, "key.create", &format!("root/{key_id}"), None);
                tracing::warn!(key_id, "the access key of the configuration was not accepted and is from now on");
                return;
            }
            Ok(None) if parts.auth.has_root() => return,
            Ok(None) | Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            () = parts.shutdown.requested() => {}
        }
    }
}

/// Writes down a change that this node made by itself, or was refused.
pub(super) fn audit(parts: &Parts, action: &'static str, resource: &str, refused: Option<&str>) {
    before_anybody(&Cluster::principal(parts.identity.node), LOCAL, "", action, resource, refused);
}

/// The address of what a node does by itself.
const LOCAL: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
