//! Who a certificate says its holder is.
//!
//! The name is a URI in the subject alternative names: `portolan://<cluster id, 32 hex>/<role>/<id>`, where the id of a
//! node is 16 hex digits. Nothing else of a certificate is looked at: host names change, identities don't.

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The name in a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster the holder belongs to.
    pub cluster_id: u128,
    /// What it may do.
    pub role: Role,
    /// Which one of its kind it is.
    pub id: String,
}

/// What the holder of a certificate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A node of the cluster.
    Node,
    /// A linked region: reaches only the replication service.
    Region,
    /// A person or a tool that administers the cluster.
    Operator,
}

/// A certificate without a name of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It is not an X.509 certificate.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// It has no `portolan:` URI.
    #[error("the certificate names no portolan identity")]
    Missing,
    /// It has one that doesn't have the form, or more than one.
    #[error("the identity in the certificate is malformed")]
    Malformed,
}

impl Identity {
    /// The node id, if the holder is a node.
    pub fn node_id(&self) -> Option<u64> {
        match self.role {
            Role::Node => hex(&self.id, 16).and_then(|id| u64::try_from(id).ok()),
            Role::Region | Role::Operator => None,
        }
    }

    /// Reads the URI form.
    pub fn parse(uri: &str) -> Result<Identity, IdentityError> {
        let rest = uri.strip_prefix("portolan://").ok_or(IdentityError::Malformed)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [cluster, role, id] = parts[..] else { return Err(IdentityError::Malformed) };
        let role = match role {
            "node" => Role::Node,
            "region" => Role::Region,
            "operator" => Role::Operator,
            _ => return Err(IdentityError::Malformed),
        };
        let cluster_id = hex(cluster, 32).ok_or(IdentityError::Malformed)?;
        let identity = Identity { cluster_id, role, id: id.to_owned() };
        let known = if role == Role::Node { identity.node_id().is_some() } else { !id.is_empty() };
        if known { Ok(identity) } else { Err(IdentityError::Malformed) }
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let role = match self.role {
            Role::Node => "node",
            Role::Region => "region",
            Role::Operator => "operator",
        };
        write!(out, "portolan://{:032x}/{role}/{}", self.cluster_id, self.id)
    }
}

fn hex(text: &str, digits: usize) -> Option<u128> {
    let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != digits || !text.bytes().all(lower) {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

/// The identity in a DER certificate. The caller has verified the chain.
pub fn peer_identity(cert_der: &[u8]) -> Result<Identity, IdentityError> {
    let (_, certificate) = X509Certificate::from_der(cert_der).map_err(|_| IdentityError::Unreadable)?;
    let names = certificate.subject_alternative_name().map_err(|_| IdentityError::Unreadable)?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let mut ours = names.iter().filter_map(|name| {
        let GeneralName::URI(uri) = name else { return None };
        uri.starts_with("portolan:").then_some(*uri)
    });
    let uri = ours.next().ok_or(IdentityError::Missing)?;
    if ours.next().is_some() {
        return Err(IdentityError::Malformed);
    }
    Identity::parse(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Only the exact form is an identity; what reads as one prints as itself.
    #[test]
    fn parses_the_exact_form() {
        let cluster = "0123456789abcdef0123456789abcdef";
        let good = [
            (format!("portolan://{cluster}/node/00000000000000ff"), Role::Node, Some(255)),
            (format!("portolan://{cluster}/operator/alice"), Role::Operator, None),
            (format!("portolan://{cluster}/region/eu-1"), Role::Region, None),
        ];
        for (uri, role, node_id) in good {
            let identity = Identity::parse(&uri).unwrap();
            assert_eq!((identity.role, identity.node_id(), identity.to_string()), (role, node_id, uri));
        }
        for bad in [
            format!("portolan://{cluster}/node/ff"),
            format!("portolan://{cluster}/node/00000000000000FF"),
            format!("portolan://{cluster}/node/+0000000000000ff"),
            format!("portolan://{cluster}/root/00000000000000ff"),
            format!("portolan://{cluster}/operator/"),
            format!("portolan://{cluster}/node/00000000000000ff/more"),
            format!("portolan://{}/node/00000000000000ff", &cluster[1..]),
            format!("http://{cluster}/node/00000000000000ff"),
        ] {
            assert_eq!(Identity::parse(&bad), Err(IdentityError::Malformed), "{bad}");
        }
    }
}
