//! Makes certificates: an authority per cluster, and what it signs.
//!
//! Keys are ECDSA P-256, which every TLS stack speaks. An authority's key is needed to add or renew, never to run.

use std::net::IpAddr;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use registry_core::vocabulary::ids::ClusterId;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::{Duration, OffsetDateTime};

use super::{Identity, Role};
use crate::ground::{Secret, random};

/// How long an authority lasts, in days: ten years.
pub const AUTHORITY_DAYS: u32 = 3650;
/// How long what it signs lasts, in days, when nothing else is asked for.
pub const LEAF_DAYS_DEFAULT: u32 = 365;
/// Longest life of what it signs, in days.
pub const LEAF_DAYS_MAX: u32 = 1825;
/// Certificates are good from an hour before they are made: clocks of other machines may be behind.
const BEFORE: Duration = Duration::hours(1);

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The authority's files.
    #[error("the authority can't be used: {0}")]
    Authority(String),
    /// An address that is neither an IP address nor a DNS name.
    #[error("{0:?} is neither an IP address nor a DNS name; give the names by which others reach this machine")]
    Address(String),
    /// Encoding or signing failed.
    #[error("the certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// A certificate with its key, both PEM.
#[derive(Debug)]
pub struct Pair {
    /// The certificate.
    pub cert_pem: String,
    /// Its private key (PKCS #8).
    pub key_pem: Secret<String>,
}

/// Who signs for a cluster.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    cluster: Option<ClusterId>,
}

impl Authority {
    /// Makes a new authority for a cluster.
    ///
    /// # Errors
    /// [`MintError::Make`] when the library refuses.
    pub fn create(cluster: ClusterId) -> Result<(Authority, Pair), MintError> {
        let identity = Identity { cluster, role: Role::Authority };
        let mut params = params(&format!("Portolan cluster {cluster}"), AUTHORITY_DAYS);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(&identity)?];
        let key = KeyPair::generate()?;
        let cert_pem = params.self_signed(&key)?.pem();
        let pair = Pair { cert_pem, key_pem: Secret::new(key.serialize_pem()) };
        Ok((Authority { issuer: Issuer::new(params, key), cluster: Some(cluster) }, pair))
    }

    /// Takes up an authority from its files.
    ///
    /// # Errors
    /// [`MintError::Authority`] when they can't be read, don't belong together or are no authority's.
    pub fn load(pair: &Pair) -> Result<Authority, MintError> {
        let refuse = |problem: String| MintError::Authority(problem);
        let der = CertificateDer::from_pem_slice(pair.cert_pem.as_bytes())
            .map_err(|error| refuse(format!("its certificate is damaged ({error})")))?;
        let summary = super::summary(&der).map_err(|problem| refuse(format!("its certificate {problem}")))?;
        if !summary.is_authority {
            return Err(refuse("its certificate may not sign others".to_owned()));
        }
        let key = KeyPair::from_pem(pair.key_pem.expose());
        let key = key.map_err(|error| refuse(format!("its key is damaged ({error})")))?;
        if !super::carries_key(&der, &rcgen::PublicKeyData::subject_public_key_info(&key)) {
            return Err(refuse("its key belongs to another certificate".to_owned()));
        }
        let cluster = summary.identity.map(|identity| identity.cluster);
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        Ok(Authority { issuer, cluster })
    }

    /// The cluster it was made for; `None` for an authority of the operator's own.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// Signs a certificate for a node, a region or an operator. `addresses` are DNS names and IP addresses by which
    /// others reach the holder.
    ///
    /// # Errors
    /// [`MintError::Address`] for an address of no known form; [`MintError::Make`] when the library refuses.
    pub fn issue(&self, identity: &Identity, addresses: &[String], days: u32) -> Result<Pair, MintError> {
        let mut params = params(&identity.to_string(), days);
        params.subject_alt_names = sans(addresses)?;
        params.subject_alt_names.push(uri(identity)?);
        params.extended_key_usages = match identity.role {
            Role::Node(_) | Role::Region(_) => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
            Role::Operator(_) | Role::Authority => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        self.sign(params)
    }

    /// Signs a certificate for a listener that clients of the registry meet; it carries no identity.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn issue_public(&self, addresses: &[String], days: u32) -> Result<Pair, MintError> {
        let mut params = params(addresses.first().map_or("Portolan", String::as_str), days);
        params.subject_alt_names = sans(addresses)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Pair, MintError> {
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let cert_pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Pair { cert_pem, key_pem: Secret::new(key.serialize_pem()) })
    }
}

fn params(common_name: &str, days: u32) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    // X.520 bounds a common name to 64 characters.
    name.push(DnType::CommonName, common_name.chars().take(64).collect::<String>());
    params.distinguished_name = name;
    params.serial_number = Some(SerialNumber::from(random::bytes::<16>().to_vec()));
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BEFORE;
    params.not_after = now + Duration::days(i64::from(days));
    params
}

fn uri(identity: &Identity) -> Result<SanType, MintError> {
    Ok(SanType::URI(Ia5String::try_from(identity.to_string())?))
}

fn sans(addresses: &[String]) -> Result<Vec<SanType>, MintError> {
    addresses.iter().map(|address| san(address)).collect()
}

fn san(address: &str) -> Result<SanType, MintError> {
    if let Ok(ip) = address.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(ip));
    }
    let refused = || MintError::Address(address.to_owned());
    let name = address.strip_prefix("*.").unwrap_or(address);
    if address.len() > 253 || !name.split('.').all(is_label) {
        return Err(refused());
    }
    Ok(SanType::DnsName(Ia5String::try_from(address).map_err(|_| refused())?))
}

fn is_label(label: &str) -> bool {
    let has_shape = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    has_shape && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::certs;
    use registry_core::vocabulary::ids::NodeId;

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    // What is minted says who it is for, where, and for how long; an authority read from its files signs like before.
    #[test]
    fn round_trip() {
        let cluster = ClusterId(5);
        let (_, ca) = Authority::create(cluster).unwrap();
        let authority = Authority::load(&ca).unwrap();
        assert_eq!(authority.cluster(), Some(cluster));
        let identity = Identity { cluster, role: Role::Node(NodeId(9)) };
        let node = authority.issue(&identity, &["n1.example".into(), "127.0.1.1".into(), "::1".into()], 30).unwrap();
        let summary = certs::summary(&der(&node.cert_pem)).unwrap();
        assert_eq!(certs::identity(&der(&node.cert_pem)), Ok(identity.clone()));
        assert_eq!(summary.identity, Some(identity));
        assert_eq!(summary.addresses, ["n1.example", "127.0.1.1", "::1"]);
        assert!(!summary.is_authority);
        assert_eq!((summary.not_after_s - summary.not_before_s) / 3600, 30 * 24 + 1);
        let ca_summary = certs::summary(&der(&ca.cert_pem)).unwrap();
        assert!(ca_summary.is_authority && ca_summary.subject.contains(&cluster.to_string()));
        assert_eq!(summary.issuer, ca_summary.subject);
    }

    // A public certificate carries no identity, so it opens nothing between nodes.
    #[test]
    fn public_has_no_identity() {
        let (authority, _) = Authority::create(ClusterId(5)).unwrap();
        let pair = authority.issue_public(&["registry.example".into()], 30).unwrap();
        assert!(certs::identity(&der(&pair.cert_pem)).unwrap_err().contains("no identity"));
    }

    // Files that don't belong together, or are no authority's, sign nothing.
    #[test]
    fn bad_authority() {
        let (authority, ca) = Authority::create(ClusterId(5)).unwrap();
        let (_, other) = Authority::create(ClusterId(5)).unwrap();
        let leaf = authority.issue_public(&["a.example".into()], 1).unwrap();
        let mixed = Pair { cert_pem: ca.cert_pem.clone(), key_pem: other.key_pem };
        let damaged = Pair { cert_pem: "-----BEGIN CERT".into(), key_pem: Secret::new(String::new()) };
        let table = [(mixed, "belongs to another"), (leaf, "may not sign"), (damaged, "damaged")];
        for (pair, text) in table {
            let told = Authority::load(&pair).unwrap_err().to_string();
            assert!(told.contains(text), "{told}");
        }
    }

    // Addresses are IP addresses or DNS names, a wildcard in front included; nothing else.
    #[test]
    fn addresses() {
        for good in ["10.0.0.1", "::1", "localhost", "a-b.example", "*.example.com", "node_1"] {
            assert!(san(good).is_ok(), "{good}");
        }
        for bad in ["", "*", "a..b", "a b", "-a", "a-.b", "https://a", "a:7400", "a.*.b", "ä.example", "."] {
            assert!(matches!(san(bad), Err(MintError::Address(_))), "{bad}");
        }
    }
}
