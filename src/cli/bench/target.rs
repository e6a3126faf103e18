//! Whom to load: addresses that were looked at once and are then used as they are.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::http::HeaderValue;
use data_encoding::BASE64;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::LoadArguments;
use crate::cli::connection::{Credential, Endpoint};
use crate::cli::error::CliError;

/// One listener.
#[derive(Clone)]
pub(super) struct Target {
    /// For `Host`.
    pub(super) authority: HeaderValue,
    /// Where it is, looked up once: what was allowed is what is loaded.
    pub(super) at: SocketAddr,
    /// How to speak TLS with it.
    pub(super) tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// The listeners, and as whom to load them.
pub(super) struct Targets {
    listeners: Vec<Target>,
    /// `Authorization: Basic` of the access key.
    pub(super) basic: Option<HeaderValue>,
    /// Send a token of the token service instead.
    pub(super) bearer: bool,
}

impl Targets {
    /// Looks the addresses up. Refuses any that is not this machine's, unless told that it is the caller's own.
    pub(super) async fn find(
        endpoints: &[Endpoint],
        credential: Option<Credential>,
        asked: &LoadArguments,
    ) -> Result<Targets, CliError> {
        if asked.bearer && credential.is_none() {
            return Err(CliError::usage("--bearer needs an access key; give it with --credentials-file"));
        }
        let mut listeners = Vec::new();
        for endpoint in endpoints {
            let target = look_up(endpoint).await?;
            if !target.at.ip().to_canonical().is_loopback() && !asked.i_own_this_target {
                let told = format!(
                    "{} is at {}, which is not this machine; add --i-own-this-target if you may load it",
                    endpoint.base, target.at
                );
                return Err(CliError::usage(told));
            }
            listeners.push(target);
        }
        Ok(Targets { listeners, basic: credential.as_ref().map(basic).transpose()?, bearer: asked.bearer })
    }

    /// The listener of a client.
    pub(super) fn of(&self, client: usize) -> &Target {
        &self.listeners[client % self.listeners.len()]
    }

    /// All of them, for the report.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.listeners.iter().map(|target| target.at.to_string()).collect()
    }
}

fn basic(credential: &Credential) -> Result<HeaderValue, CliError> {
    let pair = format!("{}:{}", credential.key_id, credential.secret.expose());
    let value = HeaderValue::try_from(format!("Basic {}", BASE64.encode(pair.as_bytes())));
    let mut value = value.map_err(|_| CliError::usage("the access key is no text that a header can carry"))?;
    value.set_sensitive(true);
    Ok(value)
}

async fn look_up(endpoint: &Endpoint) -> Result<Target, CliError> {
    let (scheme, authority) = endpoint.base.split_once("://").unwrap_or(("http", &endpoint.base));
    let is_tls = scheme == "https";
    let told = |problem: String| CliError::usage(format!("{}: {problem}", endpoint.base));
    let parsed: axum::http::uri::Authority = authority.parse().map_err(|_| told("no host".to_owned()))?;
    let port = parsed.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let host = parsed.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let at = match endpoint.at {
        Some(at) => at,
        None => {
            let found = tokio::net::lookup_host((host.as_str(), port)).await;
            let mut found = found.map_err(|error| told(format!("the host is not found: {error}")))?;
            found.next().ok_or_else(|| told("the host has no address".to_owned()))?
        }
    };
    let tls = if is_tls {
        let name = ServerName::try_from(host).map_err(|_| told("the host is no name for TLS".to_owned()))?;
        Some((connector(endpoint)?, name))
    } else {
        None
    };
    let authority = HeaderValue::try_from(authority).map_err(|_| told("no host".to_owned()))?;
    Ok(Target { authority, at, tls })
}

fn connector(endpoint: &Endpoint) -> Result<TlsConnector, CliError> {
    let ca = endpoint.ca.as_deref().or(endpoint.also_ca.as_deref());
    let ca = ca.ok_or_else(|| CliError::usage("https needs the authority to trust; name its file with --ca"))?;
    let mut config = ClientConfig::builder().with_root_certificates(roots(ca)?).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn roots(ca: &Path) -> Result<RootCertStore, CliError> {
    let told = |problem: String| CliError::usage(format!("{}: {problem}", ca.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(|error| told(error.to_string()))? {
        let certificate = certificate.map_err(|error| told(error.to_string()))?;
        roots.add(certificate).map_err(|error| told(error.to_string()))?;
    }
    if roots.is_empty() { Err(told("holds no certificate".to_owned())) } else { Ok(roots) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Shell {
        #[command(flatten)]
        load: LoadArguments,
    }

    fn endpoint(base: &str) -> Endpoint {
        Endpoint { base: base.to_owned(), at: None, ca: None, also_ca: None, client: None }
    }

    // Another machine is never loaded by accident: not by name, not by address, not beside one of this machine.
    #[tokio::test]
    async fn only_this_machine() {
        let find = async |bases: &[&str], flags: &[&str]| {
            let shell = Shell::parse_from(["bench"].iter().chain(flags));
            let endpoints: Vec<Endpoint> = bases.iter().map(|base| endpoint(base)).collect();
            Targets::find(&endpoints, None, &shell.load).await.map(|targets| targets.addresses())
        };
        for bases in
            [&["http://192.0.2.1:7400"][..], &["http://127.0.0.1:1", "http://192.0.2.1"], &["http://[2001:db8::1]:1"]]
        {
            let refused = find(bases, &[]).await.unwrap_err().to_string();
            assert!(refused.contains("--i-own-this-target"), "{refused}");
        }
        assert_eq!(find(&["http://127.1.2.3:7400"], &[]).await.unwrap(), ["127.1.2.3:7400"]);
        assert_eq!(find(&["http://[::1]:7400"], &[]).await.unwrap(), ["[::1]:7400"]);
        assert_eq!(find(&["http://192.0.2.1"], &["--i-own-this-target"]).await.unwrap(), ["192.0.2.1:80"]);
    }
}
