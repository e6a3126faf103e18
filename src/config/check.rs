//! What must hold between settings, and what the files they name must be.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::mistake::{Mistake, Origin};
use super::section::Reader;
use super::{BlobDriver, Door, Settings};
use crate::ground::certs::Role;
use crate::ground::join_token::JoinToken;
use crate::ground::{files, secret, telemetry, tls};

type Name = (&'static str, &'static str);

/// Gathers mistakes and warnings.
struct Checker<'r> {
    settings: &'r Settings,
    reader: &'r mut Reader,
    warnings: &'r mut Vec<String>,
}

/// Checks settings against each other and against the machine.
pub(super) fn together(settings: &Settings, reader: &mut Reader, warnings: &mut Vec<String>) {
    let mut checker = Checker { settings, reader, warnings };
    checker.times();
    checker.marks();
    checker.doors();
    checker.addresses();
    checker.public_files();
    checker.cluster_files();
    checker.root_key();
    checker.bucket();
    checker.log();
    checker.trace();
}

impl Checker<'_> {
    /// Refuses, told at the place of the first of these settings that was given.
    fn refuse(&mut self, names: &[Name], text: String) {
        let origin = names.iter().find_map(|name| self.reader.origins.get(name)).cloned();
        self.reader.mistakes.push(Mistake { origin: origin.unwrap_or(Origin::Default), text });
    }

    fn times(&mut self) {
        let raft = &self.settings.raft;
        let (heartbeat, least, most) = (raft.heartbeat, raft.election_min, raft.election_max);
        let text = |duration: Duration| humantime::format_duration(duration).to_string();
        if least < heartbeat * 3 {
            let (least, heartbeat) = (text(least), text(heartbeat));
            let problem = "is below three heartbeats";
            let told = format!("raft.election_min = {least} {problem} of {heartbeat}; one lost packet would elect");
            self.refuse(&[("raft", "election_min"), ("raft", "heartbeat")], told);
        }
        if most <= least {
            let (least, most) = (text(least), text(most));
            let told = format!("raft.election_max = {most} is not above raft.election_min = {least}; twice it is good");
            self.refuse(&[("raft", "election_max"), ("raft", "election_min")], told);
        }
    }

    fn marks(&mut self) {
        let blobs = &self.settings.blobs;
        let (full, refuse, urgent) = (blobs.full_percent, blobs.refuse_percent, blobs.urgent_percent);
        if full >= refuse || refuse >= urgent {
            let names = [("blobs", "full_percent"), ("blobs", "refuse_percent"), ("blobs", "urgent_percent")];
            let told = format!(
                "blobs.full_percent = {full}, refuse_percent = {refuse} and urgent_percent = {urgent} must rise in \
                 this order, as 85, 92, 95"
            );
            self.refuse(&names, told);
        }
    }

    fn doors(&mut self) {
        for (index, door) in Door::ALL.into_iter().enumerate() {
            let address = self.settings.listen_address(door);
            let before = &Door::ALL[..index];
            let same = before.iter().find(|other| clash(self.settings.listen_address(**other), address));
            if let Some(other) = same {
                let told =
                    format!("{} and {} both want {address}; give each its own port", other.setting(), door.setting());
                self.refuse(&[name(door), name(*other)], told);
            }
        }
        let Some(region) = self.settings.listen.region else { return };
        if let Some(other) = Door::ALL.into_iter().find(|door| clash(self.settings.listen_address(*door), region)) {
            let told = format!("{} and listen.region both want {region}; give each its own port", other.setting());
            self.refuse(&[("listen", "region"), name(other)], told);
        }
        if self.settings.cluster_tls().is_none() && self.settings.cluster.join_token_file.is_none() {
            let told = "listen.region needs cluster.ca, cluster.cert and cluster.key: regions know each other by \
                        certificates; make them with `portolan certs`";
            self.refuse(&[("listen", "region")], told.to_owned());
        }
    }

    fn addresses(&mut self) {
        for door in Door::ALL {
            let address = self.settings.listen_address(door);
            let advertised = self.settings.advertised(door);
            if address.ip().is_unspecified() && advertised == address.to_string() {
                let setting = door.setting();
                let told = format!(
                    "{setting} = {address} is every address of this machine, which tells others none; set \
                     node.advertise to the name or address they reach it by"
                );
                self.refuse(&[name(door)], told);
            } else if !is_host_and_port(&advertised) {
                let (section, key) = advertise_name(door);
                let told = format!("{section}.{key}: {advertised:?} is not \"host:port\"");
                self.refuse(&[("listen", key), ("node", "advertise")], told);
            }
        }
        if let Some(source) = self.settings.node.bind_source
            && source.is_unspecified()
        {
            let told = format!("node.bind_source = {source} is no address of its own; leave it out instead");
            self.refuse(&[("node", "bind_source")], told);
        }
    }

    /// Certificate of the public and the admin listener; clear text beyond loopback only where it is said (H6).
    fn public_files(&mut self) {
        let tls = &self.settings.tls;
        let names = [("tls", "cert"), ("tls", "key")];
        match (&tls.cert, &tls.key) {
            (Some(cert), Some(key)) => {
                let files = tls::ServerFiles { cert: cert.clone(), key: key.clone(), client_ca: None };
                if let Err(problem) = tls::check_server_files(&files) {
                    self.refuse(&names, problem);
                }
                self.warn_if_readable(key);
            }
            (None, None) => self.clear_doors(),
            (Some(_), None) => self.refuse(&names, "tls.cert is set and tls.key is not; set both".to_owned()),
            (None, Some(_)) => self.refuse(&names, "tls.key is set and tls.cert is not; set both".to_owned()),
        }
    }

    fn clear_doors(&mut self) {
        let listen = &self.settings.listen;
        for (door, said) in [(Door::Public, listen.public_insecure), (Door::Admin, listen.admin_insecure)] {
            let address = self.settings.listen_address(door);
            if !address.ip().is_loopback() && !said {
                let setting = door.setting();
                let told = format!(
                    "{setting} = {address} would speak in the clear beyond this machine; set tls.cert and tls.key, or \
                     say {setting}_insecure = true"
                );
                self.refuse(&[name(door)], told);
            }
        }
    }

    /// Between nodes there is no clear text beyond loopback, whatever is said (T24).
    fn cluster_files(&mut self) {
        let cluster = &self.settings.cluster;
        let names = [("cluster", "ca"), ("cluster", "cert"), ("cluster", "key")];
        if let Some(path) = &cluster.join_token_file
            && !self.join_token(path)
        {
            return;
        }
        let parts = [("ca", &cluster.ca), ("cert", &cluster.cert), ("key", &cluster.key)];
        let missing: Vec<&str> = parts.iter().filter(|(_, path)| path.is_none()).map(|(key, _)| *key).collect();
        if missing.len() == 3 {
            for door in [Door::Raft, Door::Blob] {
                let address = self.settings.listen_address(door);
                if !address.ip().is_loopback() {
                    let told = format!(
                        "{} = {address} is beyond this machine and needs cluster.ca, cluster.cert and cluster.key, or \
                         cluster.join_token_file; make them with `portolan certs`",
                        door.setting()
                    );
                    self.refuse(&[name(door)], told);
                }
            }
        } else if let Some(files) = self.settings.cluster_tls() {
            match tls::load_node_files(&files) {
                Err(problem) => self.refuse(&names, problem),
                Ok(pems) => self.same_node(&pems.identity.role),
            }
            self.warn_if_readable(&files.key);
        } else {
            let missing: Vec<String> = missing.iter().map(|key| format!("cluster.{key}")).collect();
            let told = format!("[cluster] is incomplete; set {} as well", missing.join(" and "));
            self.refuse(&names, told);
        }
    }

    /// A join token brings the three files with it. Tells whether they are there already: then they are looked at like
    /// any others, and the token may be gone.
    fn join_token(&mut self, path: &Path) -> bool {
        let name = ("cluster", "join_token_file");
        let shown = path.display();
        let Some(dir) = self.settings.unpacked_dir() else {
            let told = "cluster.join_token_file is set together with cluster.ca, cert or key, which a token brings with it; \
                        leave out the one or the others";
            self.refuse(&[name], told.to_owned());
            return false;
        };
        let is_unpacked = dir.exists();
        let token = match JoinToken::read(path) {
            Ok((token, warning)) => {
                self.warnings.extend(warning);
                token
            }
            Err(error) if is_unpacked && error.is_absent() => return true,
            Err(error) => {
                self.refuse(&[name], format!("cluster.join_token_file: {shown} {error}"));
                return false;
            }
        };
        if is_unpacked {
            return self.same_token(&token, path, &dir);
        }
        match token.check(path) {
            Ok(pems) => self.same_node(&pems.identity.role),
            Err(problem) => {
                let what = "It came in a join token: make another one with `portolan certs invite`";
                self.refuse(&[name], format!("cluster.join_token_file: {problem}. {what}"));
            }
        }
        false
    }

    /// A data directory belongs to one node. A certificate that has ended, or can't be read, is told elsewhere.
    fn same_token(&mut self, token: &JoinToken, path: &Path, dir: &Path) -> bool {
        let present = self.settings.cluster_tls().and_then(|files| tls::load_node_files(&files).ok());
        let (Ok(invited), Some(present)) = (token.identity(), present) else { return true };
        if invited == present.identity {
            return true;
        }
        let told = format!(
            "cluster.join_token_file: {} is for {invited}, but {} holds the certificate of {}; leave the setting out to go \
             on as that node, or give the new node an empty data directory",
            path.display(),
            dir.display(),
            present.identity
        );
        self.refuse(&[("cluster", "join_token_file")], told);
        false
    }

    fn same_node(&mut self, role: &Role) {
        let (Some(id), Role::Node(certified)) = (self.settings.node.id, role) else { return };
        if id != *certified {
            let told = format!("node.id = {id} is not the {certified} of cluster.cert; leave node.id out");
            self.refuse(&[("node", "id")], told);
        }
    }

    fn root_key(&mut self) {
        let auth = &self.settings.auth;
        let names = [("auth", "root_key_file"), ("auth", "root_key")];
        self.secret(names, auth.root_key_file.as_deref(), auth.root_key.is_some());
    }

    /// A secret comes from a file or from the environment, not from both.
    fn secret(&mut self, names: [Name; 2], path: Option<&Path>, is_given: bool) {
        let [(section, file), (_, value)] = names;
        if is_given && path.is_some() {
            self.refuse(&names, format!("{section}.{value} and {section}.{file} are both set; set one"));
        }
        let Some(path) = path else { return };
        match secret::read_file(path) {
            Ok((_, warning)) => self.warnings.extend(warning),
            Err(problem) => self.refuse(&names[..1], format!("{section}.{file}: {} {problem}", path.display())),
        }
    }

    /// With the driver for it, the bucket must be named, and so must who asks.
    fn bucket(&mut self) {
        let s3 = &self.settings.s3;
        if let Some(prefix) = &s3.prefix
            && (prefix.starts_with('/') || !prefix.ends_with('/'))
        {
            self.refuse(
                &[("s3", "prefix")],
                format!("s3.prefix = {prefix:?} must end with a slash and not begin with one"),
            );
        }
        if let Some(endpoint) = &s3.endpoint {
            let uri = endpoint.parse::<axum::http::Uri>().ok().filter(|uri| uri.host().is_some());
            match uri.as_ref().and_then(|uri| uri.scheme_str()) {
                Some("https") => {}
                Some("http") => self.warnings.push(format!(
                    "s3.endpoint = {endpoint} is not encrypted: who is on the way can read what is pushed and pulled"
                )),
                Some(_) | None => {
                    let told = format!("s3.endpoint = {endpoint:?} is no URL, as \"https://s3.example.com\"");
                    self.refuse(&[("s3", "endpoint")], told);
                }
            }
        }
        let names = [("s3", "secret_key_file"), ("s3", "secret_key")];
        self.secret(names, s3.secret_key_file.as_deref(), s3.secret_key.is_some());
        let has_secret = s3.secret_key.is_some() || s3.secret_key_file.is_some();
        let parts =
            [("bucket", s3.bucket.is_some()), ("access_key", s3.access_key.is_some()), ("secret_key_file", has_secret)];
        let missing: Vec<String> =
            parts.iter().filter(|(_, is_set)| !is_set).map(|(key, _)| format!("s3.{key}")).collect();
        if self.settings.blobs.driver == BlobDriver::S3 && !missing.is_empty() {
            let told = format!("blobs.driver = \"s3\" needs {} as well", missing.join(" and "));
            self.refuse(&[("blobs", "driver")], told);
        }
    }

    fn log(&mut self) {
        if let Err(problem) = telemetry::check_filter(&self.settings.log.level) {
            self.refuse(&[("log", "level")], problem.to_string());
        }
    }

    fn trace(&mut self) {
        let Some(endpoint) = &self.settings.trace.endpoint else { return };
        let uri: Option<axum::http::Uri> = endpoint.parse().ok();
        if !uri.is_some_and(|uri| uri.scheme_str() == Some("http") && uri.port().is_some()) {
            let told =
                format!("trace.endpoint = {endpoint:?} is not understood; write it as \"http://127.0.0.1:4317\"");
            self.refuse(&[("trace", "endpoint")], told);
        }
    }

    fn warn_if_readable(&mut self, path: &Path) {
        self.warnings.extend(files::permission_warning(path));
    }
}

fn name(door: Door) -> Name {
    let setting = door.setting();
    setting.split_once('.').unwrap_or(("listen", setting))
}

fn advertise_name(door: Door) -> Name {
    let key = match door {
        Door::Public => "public_advertise",
        Door::Raft => "raft_advertise",
        Door::Blob => "blob_advertise",
        Door::Admin => "admin_advertise",
    };
    ("listen", key)
}

/// Whether two listeners would take each other's port. Port 0 is a different one each time.
fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    let same_ip = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && one.port() != 0 && same_ip
}

/// Whether a text names a host, or an address, and a port.
pub fn is_host_and_port(text: &str) -> bool {
    let parsed = text.parse::<axum::http::uri::Authority>();
    parsed.is_ok_and(|parsed| !parsed.host().is_empty() && parsed.port_u16().is_some() && !text.contains('@'))
}
