//! What lies on disk before the nodes start: certificates, the first access key, a configuration file for each.

use super::plan::{Plan, PlannedNode};
use super::unwritable;
use crate::cli::certs::{CA_FILE, make_authority, make_node, present_node};
use crate::cli::error::CliError;
use crate::config::Door;
use crate::ground::files::{self, PRIVATE_FILE_MODE};
use crate::ground::random;

/// Makes what is missing, and writes each node's configuration.
pub(super) fn prepare(plan: &Plan) -> Result<(), CliError> {
    refuse_strangers(plan)?;
    if !plan.certs_dir().join(CA_FILE).exists() {
        make_authority(&plan.certs_dir(), random::cluster_id())?;
    }
    let key_file = plan.root_key_file();
    if !key_file.exists() {
        let line = format!("{}:{}\n", random::access_key_id(), random::secret_access_key().expose());
        let made = files::create_new(&key_file, line.as_bytes(), PRIVATE_FILE_MODE);
        made.map_err(|error| unwritable(&key_file, &error))?;
    }
    plan.nodes.iter().try_for_each(|node| prepare_node(plan, node))
}

/// Nodes of an earlier start that are not in the plan would be missing from the majority.
fn refuse_strangers(plan: &Plan) -> Result<(), CliError> {
    let Ok(entries) = std::fs::read_dir(plan.dir.join("nodes")) else { return Ok(()) };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut strangers: Vec<String> = names.filter(|name| plan.nodes.iter().all(|node| node.name != *name)).collect();
    strangers.sort();
    if strangers.is_empty() {
        return Ok(());
    }
    let (dir, strangers) = (plan.dir.display(), strangers.join(", "));
    let told = format!("{dir} holds a cluster with {strangers} in it; start it with those, or choose another --dir");
    Err(CliError::usage(told))
}

fn prepare_node(plan: &Plan, node: &PlannedNode) -> Result<(), CliError> {
    files::create_private_dir(&node.dir).map_err(|error| unwritable(&node.dir, &error))?;
    let present = present_node(&node.certs_dir().join("node.pem"))?;
    if !present.as_ref().is_some_and(|(_, cert)| cert.is_good_for(&[node.ip.to_string()])) {
        let id = present.map_or_else(random::node_id, |(id, _)| id);
        make_node(&plan.certs_dir(), &node.certs_dir(), id, &node.ip.to_string())?;
    }
    let path = node.config_file();
    let written = files::write_atomic(&path, configuration(plan, node).as_bytes(), PRIVATE_FILE_MODE);
    written.map_err(|error| unwritable(&path, &error))
}

fn configuration(plan: &Plan, node: &PlannedNode) -> String {
    let quoted = |text: &dyn std::fmt::Display| toml::Value::String(text.to_string()).to_string();
    let path = |path: std::path::PathBuf| quoted(&path.display());
    let door = |door: Door| quoted(&plan.address(node, door));
    format!(
        "# Written by `portolan dev` at every start; a change here is lost.\n\
         [node]\ndata_dir = {data}\nzone = {zone}\nregion = {name}\nregion_number = {region}\nbind_source = {ip}\n\n\
         [listen]\npublic = {public}\nraft = {raft}\nblob = {blob}\nadmin = {admin}\nregion = {other_regions}\n\n\
         [cluster]\nca = {ca}\ncert = {cert}\nkey = {key}\n\n\
         [auth]\nroot_key_file = {root_key}\n",
        data = path(node.dir.join("data")),
        zone = quoted(&node.zone),
        name = quoted(&plan.name),
        region = plan.region,
        ip = quoted(&node.ip),
        public = door(Door::Public),
        raft = door(Door::Raft),
        blob = door(Door::Blob),
        admin = door(Door::Admin),
        other_regions = quoted(&plan.region_address(node)),
        ca = path(node.certs_dir().join(CA_FILE)),
        cert = path(node.certs_dir().join("node.pem")),
        key = path(node.certs_dir().join("node.key")),
        root_key = path(plan.root_key_file()),
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Environment, Sources};

    fn plan(dir: &Path, nodes: u8) -> Plan {
        Plan::new(dir.to_owned(), nodes, &["a".into(), "b".into()], 7, 7400).unwrap()
    }

    // What is written is a configuration without mistakes, and a second start changes no identity and no key.
    #[test]
    fn writes_good_configurations() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(dir.path(), 2);
        prepare(&plan).unwrap();
        let load = || {
            let of = |node: &PlannedNode| {
                let sources =
                    Sources { file: Some(node.config_file()), environment: Environment::default(), flags: Vec::new() };
                let loaded = sources.load().unwrap();
                assert_eq!(loaded.warnings, Vec::<String>::new());
                let files = loaded.settings.cluster_tls().unwrap();
                (loaded.settings.node.zone.to_string(), std::fs::read(files.cert).unwrap())
            };
            plan.nodes.iter().map(of).collect::<Vec<_>>()
        };
        let (first, key) = (load(), std::fs::read(plan.root_key_file()).unwrap());
        assert_eq!((first[0].0.as_str(), first[1].0.as_str()), ("a", "b"));
        prepare(&plan).unwrap();
        assert_eq!((load(), std::fs::read(plan.root_key_file()).unwrap()), (first, key));
    }

    // Fewer nodes than the directory knows are refused: the rest might be no majority.
    #[test]
    fn strangers() {
        let dir = tempfile::tempdir().unwrap();
        prepare(&plan(dir.path(), 3)).unwrap();
        let told = prepare(&plan(dir.path(), 2)).unwrap_err().to_string();
        assert!(told.contains("a cluster with a-2 in it"), "{told}");
        prepare(&plan(dir.path(), 4)).unwrap();
    }
}
