//! Which node a command talks to, and as whom.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;

use super::error::CliError;
use crate::auth::parse_key_file;
use crate::config::{Door, Settings, Sources};
use crate::ground::Secret;
use crate::ground::secret;

/// Longest secret read from standard input, in bytes.
const SECRET_BYTES_MAX: u64 = 4096;

/// How to reach a node, for every command that talks to one.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct ConnectionArguments {
    /// Admin listener of a node, as http://127.0.0.1:7403; left out: the one of this machine's configuration.
    #[arg(long, env = "PORTOLAN_ADMIN", value_name = "URL", global = true)]
    admin: Option<String>,
    /// Authority that the node's certificate must come from (PEM); left out: those the system trusts.
    #[arg(long, value_name = "FILE", global = true)]
    ca: Option<PathBuf>,
    /// An operator's certificate from `portolan certs operator`, in place of an access key (PEM).
    #[arg(long, value_name = "FILE", requires = "key", global = true)]
    cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, value_name = "FILE", requires = "cert", global = true)]
    key: Option<PathBuf>,
    /// File with an access key, "ID:SECRET" on one line, mode 0600.
    #[arg(long, env = "PORTOLAN_CREDENTIALS_FILE", value_name = "FILE", global = true)]
    credentials_file: Option<PathBuf>,
    /// An access key's id; its secret comes with --password-stdin, or from PORTOLAN_SECRET_ACCESS_KEY.
    #[arg(long, env = "PORTOLAN_ACCESS_KEY_ID", value_name = "ID", global = true)]
    access_key_id: Option<String>,
    /// Read the secret of --access-key-id from standard input.
    #[arg(long, requires = "access_key_id", global = true)]
    password_stdin: bool,
}

/// An access key.
#[derive(Clone, Debug)]
pub(super) struct Credential {
    pub(super) key_id: String,
    pub(super) secret: Secret<String>,
}

/// A node's listener and how to trust it.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    /// Scheme, host and port.
    pub(super) base: String,
    /// Where the host of `base` is, when it is this machine and names need not be asked for.
    pub(super) at: Option<SocketAddr>,
    /// The only authority to trust.
    pub(super) ca: Option<PathBuf>,
    /// An authority to trust beside the system's.
    pub(super) also_ca: Option<PathBuf>,
    /// An operator's certificate and key.
    pub(super) client: Option<(PathBuf, PathBuf)>,
}

impl ConnectionArguments {
    /// The admin listener.
    pub(super) fn admin(&self) -> Result<Endpoint, CliError> {
        self.endpoint(self.admin.as_deref(), Door::Admin)
    }

    /// The admin listener at a URL, trusted and spoken to as the flags say.
    pub(super) fn of_admin(&self, url: &str) -> Result<Endpoint, CliError> {
        self.endpoint(Some(url), Door::Admin)
    }

    /// The public listener: the URL given, else that of this machine's configuration.
    pub(super) fn registry(&self, given: Option<&str>) -> Result<Endpoint, CliError> {
        self.endpoint(given, Door::Public)
    }

    fn endpoint(&self, given: Option<&str>, door: Door) -> Result<Endpoint, CliError> {
        let own = |path: &Option<PathBuf>| path.clone();
        let client = own(&self.cert).zip(own(&self.key));
        let ca = own(&self.ca);
        if let Some(given) = given {
            let base = base(given)?;
            return Ok(Endpoint { base, at: None, ca, also_ca: None, client });
        }
        // A configuration that another user can't fully read still leaves the default address to try.
        let loaded = Sources::of_process().load();
        let settings = loaded.as_ref().map(|loaded| &loaded.settings).ok();
        let found = settings.map_or_else(|| default_endpoint(door), |settings| configured(settings, door));
        Ok(Endpoint { ca, client, ..found })
    }

    /// The access key to use; `None` when none was given.
    pub(super) fn credential(&self) -> Result<Option<Credential>, CliError> {
        if let Some(path) = &self.credentials_file {
            return read_credential(path).map(Some);
        }
        let Some(key_id) = self.access_key_id.clone() else { return Ok(None) };
        let secret = if self.password_stdin { secret_from(std::io::stdin())? } else { secret_from_environment()? };
        Ok(Some(Credential { key_id, secret }))
    }
}

fn base(given: &str) -> Result<String, CliError> {
    let parsed = crate::config::PublicUrl::parse(given);
    let told = || CliError::usage(format!("{given:?} is no URL of a node; write it as http://127.0.0.1:7403"));
    parsed.map(|url| url.as_str().to_owned()).ok_or_else(told)
}

fn default_endpoint(door: Door) -> Endpoint {
    let port = if door == Door::Admin { 7403 } else { 7400 };
    Endpoint { base: format!("http://127.0.0.1:{port}"), at: None, ca: None, also_ca: None, client: None }
}

fn configured(settings: &Settings, door: Door) -> Endpoint {
    let is_tls = if door == Door::Admin { settings.admin_tls() } else { settings.public_tls() }.is_some();
    let at = reachable(settings.listen_address(door));
    // In the clear the address is enough; a certificate is for the name that others know.
    let (base, at) = if is_tls {
        (format!("https://{}", settings.advertised(door)), Some(at))
    } else {
        (format!("http://{at}"), None)
    };
    Endpoint { base, at, ca: None, also_ca: settings.cluster.ca.clone(), client: None }
}

/// Where a listener of this machine is reached.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Reads "ID:SECRET" from a file; one that others can read is used, and told.
pub(super) fn read_credential(path: &Path) -> Result<Credential, CliError> {
    let shown = path.display();
    let read = secret::read_file(path).map_err(|error| CliError::usage(format!("{shown} {error}")))?;
    let (text, warning) = read;
    if let Some(warning) = warning {
        eprintln!("warning: {}", super::output::safe(&warning));
    }
    let parsed = parse_key_file(text.expose()).map_err(|error| CliError::usage(format!("{shown}: {error}")))?;
    let (key_id, secret) = parsed;
    Ok(Credential { key_id, secret })
}

fn secret_from(input: impl Read) -> Result<Secret<String>, CliError> {
    let mut text = String::new();
    let read = input.take(SECRET_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| CliError::usage(format!("standard input can't be read: {error}")))?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        return Err(CliError::usage("standard input is empty; pipe the secret into it"));
    }
    Ok(Secret::new(text.to_owned()))
}

fn secret_from_environment() -> Result<Secret<String>, CliError> {
    let told = "--access-key-id needs its secret: pipe it in with --password-stdin, or set PORTOLAN_SECRET_ACCESS_KEY";
    let found = std::env::var("PORTOLAN_SECRET_ACCESS_KEY").ok().filter(|secret| !secret.is_empty());
    found.map(Secret::new).ok_or_else(|| CliError::usage(told))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        let environment = Environment::of(variables.iter().copied().chain([("HOME", "/h")]));
        Sources { file: None, environment, flags: Vec::new() }.load().unwrap().settings
    }

    // Without a URL the node of this machine's configuration is asked, at an address that exists.
    #[test]
    fn from_configuration() {
        let found = configured(&settings(&[("PORTOLAN_LISTEN_ADMIN", "127.0.3.1:9403")]), Door::Admin);
        assert_eq!((found.base.as_str(), found.at), ("http://127.0.3.1:9403", None));
        let everywhere = [
            ("PORTOLAN_LISTEN_ADMIN", "0.0.0.0:7403"),
            ("PORTOLAN_LISTEN_ADMIN_INSECURE", "true"),
            ("PORTOLAN_NODE_ADVERTISE", "n1.example"),
        ];
        assert_eq!(configured(&settings(&everywhere), Door::Admin).base, "http://127.0.0.1:7403");
        assert_eq!(reachable("[::]:1".parse().unwrap()), "[::1]:1".parse().unwrap());
    }

    // U8: secrets come from standard input or files, without their line end; an empty one is told.
    #[test]
    fn secrets() {
        assert_eq!(secret_from(&b"hunter2\n"[..]).unwrap().expose(), "hunter2");
        assert!(secret_from(&b"\n"[..]).unwrap_err().to_string().contains("is empty"));
        assert!(base("127.0.0.1:7403").unwrap_err().to_string().contains("write it as"));
        assert_eq!(base("https://n1.example:7403/").unwrap(), "https://n1.example:7403");
    }
}
