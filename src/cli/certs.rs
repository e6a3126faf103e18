//! `portolan certs`: an authority for a cluster, and what it signs. Works on files alone.

mod invite;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use registry_core::vocabulary::ids::{ClusterId, NodeId};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::CliError;
use super::output::Printer;
use crate::ground::certs::mint::{Authority, LEAF_DAYS_DEFAULT, LEAF_DAYS_MAX, Pair};
use crate::ground::certs::{self, Identity, Role};
use crate::ground::files::{self, PRIVATE_FILE_MODE, PUBLIC_FILE_MODE};
use crate::ground::{Secret, random};

/// Name of the authority's certificate, in its directory and beside all that it signs.
pub(super) const CA_FILE: &str = "ca.pem";
const CA_KEY_FILE: &str = "ca.key";
/// Certificates that end sooner are made again by whoever looks after them.
const RENEW_BEFORE_S: i64 = 30 * 24 * 3600;

#[derive(Debug, Args)]
pub(super) struct CertsArguments {
    #[command(subcommand)]
    command: CertsCommand,
}

#[derive(Debug, Subcommand)]
enum CertsCommand {
    /// Make an authority for a new cluster: ca.pem and ca.key. Keep ca.key away from the nodes.
    Init {
        #[command(flatten)]
        place: Place,
        /// The cluster's id, 32 hexadecimal digits; left out: a new one.
        #[arg(long, value_parser = cluster_id)]
        cluster_id: Option<ClusterId>,
    },
    /// Make or renew a node's certificate, in <DIR>/nodes/<NAME>/.
    Node {
        #[command(flatten)]
        leaf: Leaf,
        /// Name of the node, for its directory: lower-case letters, digits and dashes.
        #[arg(long)]
        name: String,
        /// The node's id, 16 hexadecimal digits; left out: the one of the certificate to renew, else a new one.
        #[arg(long, value_parser = node_id)]
        node_id: Option<NodeId>,
    },
    /// Make a certificate for a new node, in <DIR>/nodes/<NAME>/, and a join token: one file with which a server joins
    /// the cluster by itself. It holds the node's private key, and is good for one node.
    Invite(invite::InviteArguments),
    /// Make or renew a certificate for another region, in <DIR>/regions/<NAME>/.
    Region {
        #[command(flatten)]
        leaf: Leaf,
        /// Name of the region.
        #[arg(long)]
        name: String,
    },
    /// Make or renew an operator's certificate for the admin listener, in <DIR>/operators/<NAME>/.
    Operator {
        #[command(flatten)]
        leaf: Leaf,
        /// Name of the operator, as it stands in the audit.
        #[arg(long)]
        name: String,
    },
    /// Make or renew a certificate for the public and the admin listener, in <DIR>/public/<NAME>/.
    Public {
        #[command(flatten)]
        leaf: Leaf,
        /// Name of the directory.
        #[arg(long, default_value = "server")]
        name: String,
    },
    /// Show who certificates are for, and how long they are good.
    Show {
        /// PEM files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

#[derive(Debug, Args)]
struct Place {
    /// Directory of the authority.
    #[arg(long, default_value = "certs")]
    dir: PathBuf,
}

#[derive(Debug, Args)]
struct Leaf {
    #[command(flatten)]
    place: Place,
    /// A DNS name or IP address by which others reach the holder; once for each.
    #[arg(long = "address")]
    addresses: Vec<String>,
    /// How many days it is good.
    #[arg(
        long,
        default_value_t = LEAF_DAYS_DEFAULT,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(LEAF_DAYS_MAX))
    )]
    days: u32,
    /// The cluster's id, for an authority that was not made by `certs init`.
    #[arg(long, value_parser = cluster_id)]
    cluster_id: Option<ClusterId>,
}

fn cluster_id(text: &str) -> Result<ClusterId, &'static str> {
    ClusterId::parse(text).ok_or("a cluster's id has 32 hexadecimal digits in lower case")
}

fn node_id(text: &str) -> Result<NodeId, &'static str> {
    NodeId::parse(text).filter(|id| id.0 != 0).ok_or("a node's id has 16 hexadecimal digits in lower case")
}

pub(super) fn run(arguments: CertsArguments, printer: Printer) -> Result<(), CliError> {
    let made = match arguments.command {
        CertsCommand::Init { place, cluster_id } => {
            return init(&place.dir, cluster_id.unwrap_or_else(random::cluster_id), printer);
        }
        CertsCommand::Show { files } => return show(&files, printer),
        CertsCommand::Invite(wish) => return invite::run(&wish, printer),
        CertsCommand::Node { leaf, name, node_id } => node(&leaf, &name, node_id)?,
        CertsCommand::Region { leaf, name } => {
            let name = named(&name)?;
            identified(&leaf, &leaf.place.dir.join("regions").join(name), "region", Role::Region(name.to_owned()))?
        }
        CertsCommand::Operator { leaf, name } => {
            let name = named(&name)?;
            let dir = leaf.place.dir.join("operators").join(name);
            identified(&leaf, &dir, "operator", Role::Operator(name.to_owned()))?
        }
        CertsCommand::Public { leaf, name } => public(&leaf, named(&name)?)?,
    };
    printer.one(&made, &[("certificate", "cert"), ("key", "key"), ("authority", "ca"), ("identity", "identity")])
}

fn named(name: &str) -> Result<&str, CliError> {
    let told = || CliError::usage(format!("{name:?} is no name; use lower-case letters, digits and dashes"));
    certs::checked_name(name).ok_or_else(told)
}

/// Makes an authority in `dir`; one that is there is never replaced, for all that it signed would be lost.
pub(super) fn make_authority(dir: &Path, cluster: ClusterId) -> Result<(), CliError> {
    let (_, pair) = Authority::create(cluster).map_err(|error| CliError::failed(error.to_string()))?;
    files::create_private_dir(dir).map_err(|error| unwritable(dir, &error))?;
    let write = |name: &str, text: &str, mode| {
        let path = dir.join(name);
        files::create_new(&path, text.as_bytes(), mode).map_err(|error| {
            if error.kind() != std::io::ErrorKind::AlreadyExists {
                return unwritable(&path, &error);
            }
            let path = path.display();
            CliError::failed(format!("{path} is there already; choose another --dir, or remove it if nothing uses it"))
        })
    };
    // The key first: a certificate without it would look like an authority that can't sign.
    write(CA_KEY_FILE, pair.key_pem.expose(), PRIVATE_FILE_MODE)?;
    write(CA_FILE, &pair.cert_pem, PUBLIC_FILE_MODE)
}

fn init(dir: &Path, cluster: ClusterId, printer: Printer) -> Result<(), CliError> {
    make_authority(dir, cluster)?;
    let (cert, key) = (dir.join(CA_FILE), dir.join(CA_KEY_FILE));
    let made = json!({ "cert": cert, "key": key, "cluster": cluster.to_string() });
    printer.one(&made, &[("certificate", "cert"), ("key", "key"), ("cluster", "cluster")])
}

fn node(leaf: &Leaf, name: &str, node_id: Option<NodeId>) -> Result<Value, CliError> {
    let dir = leaf.place.dir.join("nodes").join(named(name)?);
    let renewed = present_node(&dir.join("node.pem"))?.map(|(id, _)| id);
    if let (Some(wanted), Some(present)) = (node_id, renewed)
        && wanted != present
    {
        let told = format!("{name} has the id {present}; give the new node a name of its own, or leave --node-id out");
        return Err(CliError::usage(told));
    }
    if leaf.addresses.is_empty() {
        return Err(CliError::usage("a node needs at least one --address, by which the other nodes reach it"));
    }
    identified(leaf, &dir, "node", Role::Node(node_id.or(renewed).unwrap_or_else(random::node_id)))
}

fn leaf_of(authority_dir: &Path, addresses: &[String]) -> Leaf {
    let place = Place { dir: authority_dir.to_owned() };
    Leaf { place, addresses: addresses.to_vec(), days: LEAF_DAYS_DEFAULT, cluster_id: None }
}

/// Makes a node's files in `dir`: `ca.pem`, `node.pem`, `node.key`.
pub(super) fn make_node(authority_dir: &Path, dir: &Path, id: NodeId, address: &str) -> Result<(), CliError> {
    let leaf = leaf_of(authority_dir, &[address.to_owned()]);
    identified(&leaf, dir, "node", Role::Node(id)).map(drop)
}

/// Makes an operator's files in `<authority_dir>/operators/<name>/`.
pub(super) fn make_operator(authority_dir: &Path, name: &str) -> Result<(), CliError> {
    let dir = authority_dir.join("operators").join(name);
    identified(&leaf_of(authority_dir, &[]), &dir, "operator", Role::Operator(name.to_owned())).map(drop)
}

/// Makes a certificate for clients in `dir`: `tls.pem`, `tls.key`.
pub(super) fn make_public(authority_dir: &Path, dir: &Path, addresses: &[String]) -> Result<(), CliError> {
    let (authority, ca_pem) = load_authority(authority_dir)?;
    let pair = authority.issue_public(addresses, LEAF_DAYS_DEFAULT);
    let pair = pair.map_err(|error| CliError::usage(error.to_string()))?;
    write_pair(dir, "tls", &pair, &ca_pem).map(drop)
}

/// A certificate that is there already.
pub(super) struct Present(certs::Summary);

impl Present {
    /// Whether it need not be made again for a while, and names these addresses.
    pub(super) fn is_good_for(&self, addresses: &[String]) -> bool {
        let left_s = self.0.not_after_s - OffsetDateTime::now_utc().unix_timestamp();
        left_s > RENEW_BEFORE_S && addresses.iter().all(|address| self.0.addresses.contains(address))
    }
}

/// Reads a certificate; `None` if there is none.
pub(super) fn present(path: &Path) -> Result<Option<Present>, CliError> {
    if !path.exists() {
        return Ok(None);
    }
    let told = |problem: String| unusable(path, &problem);
    let der = CertificateDer::from_pem_file(path).map_err(|error| told(error.to_string()))?;
    certs::summary(&der).map(Present).map(Some).map_err(told)
}

/// Reads a node's certificate and the id in it; `None` if there is none.
pub(super) fn present_node(path: &Path) -> Result<Option<(NodeId, Present)>, CliError> {
    let Some(found) = present(path)? else { return Ok(None) };
    match found.0.identity.as_ref().map(|identity| &identity.role) {
        Some(Role::Node(id)) => Ok(Some((*id, found))),
        Some(_) | None => Err(unusable(path, "is not for a node")),
    }
}

fn unusable(path: &Path, problem: &str) -> CliError {
    CliError::failed(format!("{}: {problem}; move it away", path.display()))
}

/// Signs for someone with a role, and writes `<stem>.pem`, `<stem>.key` and `ca.pem` into `dir`.
fn identified(leaf: &Leaf, dir: &Path, stem: &str, role: Role) -> Result<Value, CliError> {
    let (authority, ca_pem) = load_authority(&leaf.place.dir)?;
    let cluster = match (authority.cluster(), leaf.cluster_id) {
        (Some(own), Some(wanted)) if own != wanted => {
            return Err(CliError::usage(format!("this authority is of cluster {own}, not of {wanted}")));
        }
        (Some(cluster), _) | (None, Some(cluster)) => cluster,
        (None, None) => {
            return Err(CliError::usage("this authority names no cluster; say which with --cluster-id"));
        }
    };
    let identity = Identity { cluster, role };
    let pair = authority.issue(&identity, &leaf.addresses, leaf.days);
    let pair = pair.map_err(|error| CliError::usage(error.to_string()))?;
    let mut made = write_pair(dir, stem, &pair, &ca_pem)?;
    made["identity"] = Value::String(identity.to_string());
    Ok(made)
}

fn public(leaf: &Leaf, name: &str) -> Result<Value, CliError> {
    if leaf.addresses.is_empty() {
        return Err(CliError::usage("give at least one --address: the names that clients put into image references"));
    }
    let (authority, ca_pem) = load_authority(&leaf.place.dir)?;
    let pair = authority.issue_public(&leaf.addresses, leaf.days);
    let pair = pair.map_err(|error| CliError::usage(error.to_string()))?;
    write_pair(&leaf.place.dir.join("public").join(name), "tls", &pair, &ca_pem)
}

fn write_pair(dir: &Path, stem: &str, pair: &Pair, ca_pem: &str) -> Result<Value, CliError> {
    files::create_private_dir(dir).map_err(|error| unwritable(dir, &error))?;
    let paths = [dir.join(CA_FILE), dir.join(format!("{stem}.key")), dir.join(format!("{stem}.pem"))];
    let [ca, key, cert] = &paths;
    // The certificate last: whoever watches the files then finds its key in place.
    let writes = [
        (ca, ca_pem, PUBLIC_FILE_MODE),
        (key, pair.key_pem.expose().as_str(), PRIVATE_FILE_MODE),
        (cert, pair.cert_pem.as_str(), PUBLIC_FILE_MODE),
    ];
    for (path, text, mode) in writes {
        files::write_atomic(path, text.as_bytes(), mode).map_err(|error| unwritable(path, &error))?;
    }
    Ok(json!({ "cert": cert, "key": key, "ca": ca }))
}

fn load_authority(dir: &Path) -> Result<(Authority, String), CliError> {
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read_to_string(&path).map_err(|error| {
            let shown = path.display();
            CliError::failed(format!("{shown} can't be read: {error}; make an authority with `portolan certs init`"))
        })
    };
    let pair = Pair { cert_pem: read(CA_FILE)?, key_pem: Secret::new(read(CA_KEY_FILE)?) };
    let authority = Authority::load(&pair).map_err(|error| CliError::failed(format!("{}: {error}", dir.display())))?;
    Ok((authority, pair.cert_pem))
}

/// The sentence for a file that can't be written.
pub(super) fn unwritable(path: &Path, error: &std::io::Error) -> CliError {
    CliError::failed(format!("{} can't be written: {error}", path.display()))
}

fn show(paths: &[PathBuf], printer: Printer) -> Result<(), CliError> {
    let mut found = Vec::new();
    for path in paths {
        let told = |problem: String| CliError::failed(format!("{}: {problem}", path.display()));
        let bytes = std::fs::read(path).map_err(|error| told(error.to_string()))?;
        let before = found.len();
        for der in CertificateDer::pem_slice_iter(&bytes) {
            let der = der.map_err(|error| told(format!("damaged PEM ({error})")))?;
            found.push(describe(path, &certs::summary(&der).map_err(told)?));
        }
        if found.len() == before {
            return Err(told("holds no certificate".to_owned()));
        }
    }
    let columns = [
        ("FILE", "file"),
        ("SUBJECT", "subject"),
        ("IDENTITY", "identity"),
        ("ADDRESSES", "addresses"),
        ("ENDS", "not_after"),
        ("DAYS", "days_left"),
    ];
    printer.list(&json!({ "certificates": found }), "certificates", &columns)
}

fn describe(path: &Path, summary: &certs::Summary) -> Value {
    let time = |s: i64| OffsetDateTime::from_unix_timestamp(s).ok().and_then(|at| at.format(&Rfc3339).ok());
    let left = summary.not_after_s - OffsetDateTime::now_utc().unix_timestamp();
    json!({
        "file": path,
        "subject": summary.subject,
        "issuer": summary.issuer,
        "identity": summary.identity.as_ref().map(ToString::to_string),
        "addresses": summary.addresses,
        "is_authority": summary.is_authority,
        "not_before": time(summary.not_before_s),
        "not_after": time(summary.not_after_s),
        "days_left": left.div_euclid(24 * 3600),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::tls::{NodeFiles, load_node_files};
    use std::os::unix::fs::PermissionsExt;

    fn leaf(dir: &Path, addresses: &[&str]) -> Leaf {
        let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
        Leaf { place: Place { dir: dir.to_owned() }, addresses, days: 30, cluster_id: None }
    }

    fn node_files(dir: &Path) -> NodeFiles {
        NodeFiles { ca: dir.join(CA_FILE), cert: dir.join("node.pem"), key: dir.join("node.key") }
    }

    // What is written is what a node loads; a renewal keeps the id and makes a new key; keys are private.
    #[test]
    fn node_round_trip() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("certs");
        make_authority(&dir, ClusterId(7)).unwrap();
        node(&leaf(&dir, &["127.0.1.1"]), "n1", None).unwrap();
        let n1 = dir.join("nodes/n1");
        let first = load_node_files(&node_files(&n1)).unwrap();
        assert_eq!(first.identity.cluster, ClusterId(7));
        node(&leaf(&dir, &["127.0.1.1"]), "n1", None).unwrap();
        let second = load_node_files(&node_files(&n1)).unwrap();
        assert_eq!(first.identity, second.identity);
        assert_ne!(first.key_pem.expose(), second.key_pem.expose());
        let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(n1.join("node.key")), mode(dir.join(CA_KEY_FILE)), mode(n1)), (0o600, 0o600, 0o700));
    }

    // Mistakes are told, and nothing is overwritten.
    #[test]
    fn refusals() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let told = |result: Result<Value, CliError>| result.unwrap_err().to_string();
        assert!(told(node(&leaf(dir, &["a"]), "n1", None)).contains("portolan certs init"));
        make_authority(dir, ClusterId(7)).unwrap();
        let ca = std::fs::read(dir.join(CA_FILE)).unwrap();
        assert!(make_authority(dir, ClusterId(8)).unwrap_err().to_string().contains("there already"));
        assert_eq!(std::fs::read(dir.join(CA_FILE)).unwrap(), ca);
        node(&leaf(dir, &["a"]), "n1", Some(NodeId(5))).unwrap();
        assert!(told(node(&leaf(dir, &["a"]), "n1", Some(NodeId(6)))).contains("has the id 0000000000000005"));
        assert!(told(node(&leaf(dir, &[]), "n2", None)).contains("--address"));
        assert!(told(node(&leaf(dir, &["a b"]), "n2", None)).contains("neither an IP address nor a DNS name"));
        assert!(told(node(&leaf(dir, &["a"]), "../n2", None)).contains("is no name"));
        assert!(told(public(&leaf(dir, &[]), "server")).contains("image references"));
        let other = Leaf { cluster_id: Some(ClusterId(9)), ..leaf(dir, &["a"]) };
        assert!(told(node(&other, "n2", None)).contains("is of cluster"));
        assert!(!dir.join("nodes/n2").exists());
    }
}
