//! Certificates by which the parts of a cluster know each other.
//!
//! Who someone is stands in the certificate's one URI name, `portolan://<cluster>/<role>/<name>`, and nowhere else: not
//! in the common name, not in what a message says of itself (security case T24). [`mint`] makes them, [`identity`]
//! reads them. Never decides what a role may do.

pub mod mint;

use std::fmt;

use registry_core::vocabulary::ids::{ClusterId, NodeId};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Longest name of a region or operator in bytes (a DNS label).
const NAME_BYTES_MAX: usize = 63;
const SCHEME: &str = "portolan://";

/// What the holder of a certificate is in its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// The authority itself, which only signs.
    Authority,
    /// A member of the cluster; served as long as the applied state says that it is one.
    Node(NodeId),
    /// Another region, by name; reaches the replication service only.
    Region(String),
    /// A person or tool that operates the cluster, by name; reaches the admin listener only.
    Operator(String),
}

/// Who the holder of a certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Whose cluster.
    pub cluster: ClusterId,
    /// What they are in it.
    pub role: Role,
}

impl fmt::Display for Identity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{SCHEME}{}/", self.cluster)?;
        match &self.role {
            Role::Authority => out.write_str("authority"),
            Role::Node(node) => write!(out, "node/{node}"),
            Role::Region(name) => write!(out, "region/{name}"),
            Role::Operator(name) => write!(out, "operator/{name}"),
        }
    }
}

impl Identity {
    /// Reads the form that `Display` writes; `None` for anything else.
    pub fn parse(text: &str) -> Option<Identity> {
        let (cluster, rest) = text.strip_prefix(SCHEME)?.split_once('/')?;
        let role = match rest.split_once('/') {
            None if rest == "authority" => Role::Authority,
            Some(("node", id)) => Role::Node(NodeId::parse(id)?),
            Some(("region", name)) => Role::Region(checked_name(name)?.to_owned()),
            Some(("operator", name)) => Role::Operator(checked_name(name)?.to_owned()),
            None | Some(_) => return None,
        };
        Some(Identity { cluster: ClusterId::parse(cluster)?, role })
    }
}

/// A name of a region or operator: lower-case letters, digits and inner dashes.
pub fn checked_name(name: &str) -> Option<&str> {
    let has_shape = name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    let is_bounded = !name.is_empty() && name.len() <= NAME_BYTES_MAX;
    (has_shape && is_bounded && !name.starts_with('-') && !name.ends_with('-')).then_some(name)
}

/// Who a certificate says its holder is. The caller has verified the chain.
///
/// # Errors
/// A sentence, when the certificate has no identity, several, or one of another form.
pub fn identity(der: &[u8]) -> Result<Identity, String> {
    let uris = uris(&parse(der)?);
    match uris.as_slice() {
        [one] => Identity::parse(one).ok_or_else(|| format!("its identity {one:?} is of another form")),
        [] => Err("carries no identity (URI name portolan://…)".to_owned()),
        _ => Err(format!("carries {} identities; one is allowed", uris.len())),
    }
}

/// When a certificate ends, in seconds of Unix time.
///
/// # Errors
/// A sentence, when it can't be parsed.
pub fn not_after_s(der: &[u8]) -> Result<i64, String> {
    Ok(parse(der)?.validity().not_after.timestamp())
}

/// Whether a certificate is for this public key (its `SubjectPublicKeyInfo`, DER).
pub fn carries_key(der: &[u8], public_key: &[u8]) -> bool {
    parse(der).is_ok_and(|parsed| parsed.public_key().raw == public_key)
}

/// What a person wants to know of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Common names of its holder.
    pub subject: String,
    /// Common names of who signed it.
    pub issuer: String,
    /// Its cluster identity, if it has one.
    pub identity: Option<Identity>,
    /// DNS names and addresses it is good for.
    pub addresses: Vec<String>,
    /// Whether it may sign others.
    pub is_authority: bool,
    /// From when it is good, in seconds of Unix time.
    pub not_before_s: i64,
    /// When it ends, in seconds of Unix time.
    pub not_after_s: i64,
}

/// Reads what a person wants to know of a certificate.
///
/// # Errors
/// A sentence, when it can't be parsed.
pub fn summary(der: &[u8]) -> Result<Summary, String> {
    let parsed = parse(der)?;
    let addresses = names(&parsed).iter().filter_map(|name| address(name)).collect();
    Ok(Summary {
        subject: parsed.subject().to_string(),
        issuer: parsed.issuer().to_string(),
        identity: uris(&parsed).iter().find_map(|uri| Identity::parse(uri)),
        addresses,
        is_authority: parsed.is_ca(),
        not_before_s: parsed.validity().not_before.timestamp(),
        not_after_s: parsed.validity().not_after.timestamp(),
    })
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, String> {
    match X509Certificate::from_der(der) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err("has bytes after its end".to_owned()),
        Err(error) => Err(format!("is no certificate ({error})")),
    }
}

fn names<'a>(parsed: &'a X509Certificate<'_>) -> Vec<GeneralName<'a>> {
    let extension = parsed.subject_alternative_name().ok().flatten();
    extension.map(|found| found.value.general_names.clone()).unwrap_or_default()
}

fn uris(parsed: &X509Certificate<'_>) -> Vec<String> {
    let uri = |name: &GeneralName<'_>| if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None };
    names(parsed).iter().filter_map(uri).collect()
}

fn address(name: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::DNSName(name) = name {
        return Some((*name).to_owned());
    }
    let GeneralName::IPAddress(bytes) = name else { return None };
    let v4 = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
    let v6 = <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from);
    v4.or(v6).ok().map(|address| address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    // Identities read back what they print; anything near them is refused.
    #[test]
    fn identities() {
        let cluster = ClusterId(0xc1);
        let roles =
            [Role::Authority, Role::Node(NodeId(7)), Role::Region("eu-north".into()), Role::Operator("ann".into())];
        for role in roles {
            let identity = Identity { cluster, role };
            assert_eq!(Identity::parse(&identity.to_string()), Some(identity));
        }
        let hex = cluster.to_string();
        let bad = [
            "".to_owned(),
            format!("https://{hex}/node/0000000000000007"),
            format!("portolan://{hex}/node/7"),
            format!("portolan://{hex}/node/0000000000000007/"),
            format!("portolan://{hex}/Node/0000000000000007"),
            format!("portolan://{hex}/operator/"),
            format!("portolan://{hex}/operator/a/b"),
            format!("portolan://{hex}/operator/-a"),
            format!("portolan://{hex}/admin/a"),
            format!("portolan://{hex}"),
            "portolan://c1/node/0000000000000007".to_owned(),
        ];
        for text in bad {
            assert_eq!(Identity::parse(&text), None, "{text}");
        }
    }

    // Bytes that are no certificate are told, not trusted.
    #[test]
    fn garbage() {
        assert!(identity(b"").unwrap_err().contains("no certificate"));
        assert!(summary(&[0x30, 0x03, 1, 2, 3]).is_err());
    }
}
