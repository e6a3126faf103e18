//! A backup of a running cluster, and a cluster that lost everything but its blobs and goes on from one. As
//! `src/docs/operations.md` tells an operator.

use std::path::Path;

use serde_json::Value;

use super::Cluster;
use super::tools::call;
use crate::fault::{Fault, told};

/// Where the blobs lie in a node's data directory.
const BLOBS: &str = "blobs";

impl Cluster {
    /// Backs the metadata up to `dir`, which is made, through a node that runs.
    pub(crate) fn back_up(&self, through: usize, dir: &Path) -> Result<(), Fault> {
        let admin = format!("http://{}", self.nodes[through].seat.admin);
        let (binary, key_file) = (self.plan.binary.to_string_lossy(), self.plan.data().join("root-key"));
        let (dir, key_file) = (dir.to_string_lossy(), key_file.to_string_lossy());
        let words = ["backup", "create", &dir, "--admin", &admin, "--credentials-file", &key_file];
        tokio::task::block_in_place(|| call(&binary, &words)).map(drop).map_err(of_product)
    }

    /// Brings a cluster back of which no node runs: every directory but the blobs is emptied, one node begins with the
    /// backup, the others join it as new ones with their old volumes. Back when all vote; what the restore told.
    pub(crate) async fn restore(&mut self, backup: &Path) -> Result<Value, Fault> {
        for at in 0..self.nodes.len() {
            self.empty_but_blobs(at)?;
            self.renew_certificate(at)?;
        }
        let report = tokio::task::block_in_place(|| self.restore_first(backup))?;
        self.spawn(0)?;
        self.wait_ready(0).await?;
        self.learn_id(0).await?;
        for at in 1..self.nodes.len() {
            self.spawn(at)?;
            self.join_new(at, 0).await?;
        }
        Ok(report)
    }

    fn restore_first(&self, backup: &Path) -> Result<Value, Fault> {
        let (first, others) = (&self.nodes[0], &self.nodes[1..]);
        let (binary, backup, config) =
            (self.plan.binary.to_string_lossy(), backup.to_string_lossy(), first.config.to_string_lossy());
        let volumes: Vec<String> =
            others.iter().map(|node| node.data.join(BLOBS).to_string_lossy().into_owned()).collect();
        let mut words = vec!["backup", "restore", &backup, "-o", "json", "--config", &config];
        words.extend(first.settings.iter().flat_map(|setting| ["--set", setting]));
        words.extend(volumes.iter().flat_map(|volume| ["--volume", volume.as_str()]));
        let said = call(&binary, &words).map_err(of_product)?;
        serde_json::from_str(&said).map_err(told("what `portolan backup restore` tells"))
    }

    /// Removes all that a node has kept but the blobs.
    fn empty_but_blobs(&self, at: usize) -> Result<(), Fault> {
        let data = &self.nodes[at].data;
        let remove = || -> std::io::Result<()> {
            for entry in std::fs::read_dir(data)? {
                let path = entry?.path();
                match path.is_dir() {
                    _ if path.file_name().is_some_and(|name| name == BLOBS) => {}
                    true => std::fs::remove_dir_all(path)?,
                    false => std::fs::remove_file(path)?,
                }
            }
            Ok(())
        };
        remove().map_err(told(&data.to_string_lossy()))
    }
}

/// A backup that can't be made or restored ends the run with a verdict.
fn of_product(fault: Fault) -> Fault {
    Fault::of_product(fault.to_string())
}
