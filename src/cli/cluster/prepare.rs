//! `portolan cluster prepare`: what lies on disk before the first node starts. Works on files alone, and may be run
//! before every start: what is there and good stays as it is.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use crate::cli::certs::{self, CA_FILE};
use crate::cli::error::CliError;
use crate::cli::output::Printer;
use crate::ground::certs::checked_name;
use crate::ground::files::{self, PRIVATE_FILE_MODE};
use crate::ground::random;

/// Name of the operator's certificate that `cluster form` uses.
const OPERATOR: &str = "setup";
/// The first access key, beside the authority and beside each node's certificates.
const ROOT_KEY_FILE: &str = "root-key";

#[derive(Debug, Args)]
pub(super) struct PrepareArguments {
    /// Directory of everything that is made. Only <DIR>/nodes/<NAME>/ is for a node.
    #[arg(long, default_value = "setup")]
    dir: PathBuf,
    /// A node: its name, and the host name or address by which the others reach it; once for each.
    #[arg(long = "node", value_name = "NAME=ADDRESS", required = true, value_parser = planned)]
    nodes: Vec<Planned>,
    /// A name or address by which clients reach every node, for its TLS certificate; once for each.
    #[arg(long = "public-address", value_name = "ADDRESS")]
    public: Vec<String>,
}

/// A node to prepare.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Planned {
    name: String,
    address: String,
}

fn planned(text: &str) -> Result<Planned, &'static str> {
    let told = "write NAME=ADDRESS, as a=node-a.example; a name has lower-case letters, digits and dashes";
    let (name, address) = text.split_once('=').ok_or(told)?;
    let name = checked_name(name).filter(|_| !address.is_empty()).ok_or(told)?;
    Ok(Planned { name: name.to_owned(), address: address.to_owned() })
}

/// Makes what is missing, and tells for each thing whether it was made now.
pub(super) fn run(arguments: &PrepareArguments, printer: Printer) -> Result<(), CliError> {
    let made = prepare(arguments)?;
    printer.list(&json!({ "prepared": made }), "prepared", &[("WHAT", "what"), ("PATH", "path"), ("STATE", "state")])
}

fn prepare(arguments: &PrepareArguments) -> Result<Vec<Value>, CliError> {
    let PrepareArguments { dir, nodes, public } = arguments;
    for (at, node) in nodes.iter().enumerate() {
        if nodes[..at].iter().any(|other| other.name == node.name || other.address == node.address) {
            return Err(CliError::usage(format!("--node {}={}: stands twice", node.name, node.address)));
        }
    }
    let mut made = vec![authority(dir, nodes)?, operator(dir)?, root_key(dir)?];
    for node in nodes {
        made.extend(prepare_node(dir, node, public)?);
    }
    Ok(made)
}

fn entry(what: String, path: &Path, is_new: bool) -> Value {
    json!({ "what": what, "path": path, "state": if is_new { "made" } else { "kept" } })
}

/// A new authority beside nodes of an older one would cut the cluster in two.
fn authority(dir: &Path, nodes: &[Planned]) -> Result<Value, CliError> {
    let path = dir.join(CA_FILE);
    let is_new = !path.exists();
    if is_new {
        if let Some(node) = nodes.iter().find(|node| node_dir(dir, node).join("node.pem").exists()) {
            let (shown, node) = (path.display(), node_dir(dir, node));
            return Err(CliError::failed(format!(
                "{shown} is missing, and {} is of the authority that was there; bring it back, or remove both to begin \
                 a new cluster",
                node.display()
            )));
        }
        certs::make_authority(dir, random::cluster_id())?;
    }
    Ok(entry("authority".to_owned(), &path, is_new))
}

fn operator(dir: &Path) -> Result<Value, CliError> {
    let path = dir.join("operators").join(OPERATOR).join("operator.pem");
    let is_new = !certs::present(&path)?.is_some_and(|present| present.is_good_for(&[]));
    if is_new {
        certs::make_operator(dir, OPERATOR)?;
    }
    Ok(entry(format!("operator {OPERATOR}"), &path, is_new))
}

fn root_key(dir: &Path) -> Result<Value, CliError> {
    let path = dir.join(ROOT_KEY_FILE);
    let is_new = !path.exists();
    if is_new {
        let line = format!("{}:{}\n", random::access_key_id(), random::secret_access_key().expose());
        let made = files::create_new(&path, line.as_bytes(), PRIVATE_FILE_MODE);
        made.map_err(|error| certs::unwritable(&path, &error))?;
    }
    Ok(entry("first access key".to_owned(), &path, is_new))
}

fn node_dir(dir: &Path, node: &Planned) -> PathBuf {
    dir.join("nodes").join(&node.name)
}

fn prepare_node(dir: &Path, node: &Planned, public: &[String]) -> Result<[Value; 2], CliError> {
    let own = node_dir(dir, node);
    let ca = |dir: &Path| std::fs::read(dir.join(CA_FILE)).ok();
    let (cert, tls) = (own.join("node.pem"), own.join("tls.pem"));
    let present = certs::present_node(&cert)?;
    if present.is_some() && ca(&own) != ca(dir) {
        let (own, dir) = (own.display(), dir.display());
        return Err(CliError::failed(format!(
            "{own} is of another authority than {dir}; move it away, or bring that back"
        )));
    }
    let is_new = !present.as_ref().is_some_and(|(_, found)| found.is_good_for(std::slice::from_ref(&node.address)));
    if is_new {
        let id = present.map_or_else(random::node_id, |(id, _)| id);
        certs::make_node(dir, &own, id, &node.address)?;
    }
    let mut addresses = vec![node.address.clone()];
    for address in public {
        if !addresses.contains(address) {
            addresses.push(address.clone());
        }
    }
    let is_tls_new = !certs::present(&tls)?.is_some_and(|present| present.is_good_for(&addresses));
    if is_tls_new {
        certs::make_public(dir, &own, &addresses)?;
    }
    copy_root_key(dir, &own)?;
    Ok([
        entry(format!("node {}", node.name), &cert, is_new),
        entry(format!("node {} for clients", node.name), &tls, is_tls_new),
    ])
}

fn copy_root_key(dir: &Path, own: &Path) -> Result<(), CliError> {
    let (from, to) = (dir.join(ROOT_KEY_FILE), own.join(ROOT_KEY_FILE));
    let read = std::fs::read(&from);
    let key = read.map_err(|error| CliError::failed(format!("{} can't be read: {error}", from.display())))?;
    if std::fs::read(&to).is_ok_and(|present| present == key) {
        return Ok(());
    }
    files::write_atomic(&to, &key, PRIVATE_FILE_MODE).map_err(|error| certs::unwritable(&to, &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::tls::{NodeFiles, ServerFiles, check_server_files, load_node_files};

    fn arguments(dir: &Path, public: &[&str]) -> PrepareArguments {
        let nodes = ["a=node-a", "b=node-b"].map(|node| planned(node).unwrap()).to_vec();
        PrepareArguments { dir: dir.to_owned(), nodes, public: public.iter().map(|text| (*text).to_owned()).collect() }
    }

    fn states(made: &[Value]) -> Vec<&str> {
        made.iter().map(|entry| entry["state"].as_str().unwrap()).collect()
    }

    // What is made is what nodes load; a second run keeps every byte; another public name renews that certificate
    // alone.
    #[test]
    fn makes_once() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("setup");
        assert_eq!(states(&prepare(&arguments(&dir, &["127.0.0.1"])).unwrap()), ["made"; 7]);
        for name in ["a", "b"] {
            let own = dir.join("nodes").join(name);
            let file = |name: &str| own.join(name);
            load_node_files(&NodeFiles { ca: file(CA_FILE), cert: file("node.pem"), key: file("node.key") }).unwrap();
            let server = ServerFiles { cert: file("tls.pem"), key: file("tls.key"), client_ca: None };
            check_server_files(&server).unwrap();
            assert_eq!(std::fs::read(file(ROOT_KEY_FILE)).unwrap(), std::fs::read(dir.join(ROOT_KEY_FILE)).unwrap());
        }
        let read = |path: &str| std::fs::read(dir.join(path)).unwrap();
        let all = || ["ca.key", "root-key", "nodes/a/node.pem", "nodes/a/tls.key", "nodes/b/node.key"].map(read);
        let first = all();
        assert_eq!(states(&prepare(&arguments(&dir, &["127.0.0.1"])).unwrap()), ["kept"; 7]);
        assert_eq!(all(), first);
        let renewed = prepare(&arguments(&dir, &["127.0.0.1", "registry.example"])).unwrap();
        assert_eq!(states(&renewed), ["kept", "kept", "kept", "kept", "made", "kept", "made"]);
    }

    // A lost authority is not made up for: the nodes' certificates are of the old one.
    #[test]
    fn strangers() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("setup");
        let arguments = arguments(&dir, &[]);
        prepare(&arguments).unwrap();
        let (ca, key) = (dir.join(CA_FILE), dir.join("ca.key"));
        std::fs::remove_file(&ca).unwrap();
        std::fs::remove_file(&key).unwrap();
        assert!(prepare(&arguments).unwrap_err().to_string().contains("bring it back"));
        certs::make_authority(&dir, random::cluster_id()).unwrap();
        assert!(prepare(&arguments).unwrap_err().to_string().contains("of another authority"));
    }

    // Nodes are told apart by name and address.
    #[test]
    fn refusals() {
        for bad in ["a", "=x", "a=", "A=x", "../a=x"] {
            assert!(planned(bad).is_err(), "{bad}");
        }
        let dir = tempfile::tempdir().unwrap();
        let mut twice = arguments(dir.path(), &[]);
        twice.nodes[1].address = "node-a".into();
        assert!(prepare(&twice).unwrap_err().to_string().contains("stands twice"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
