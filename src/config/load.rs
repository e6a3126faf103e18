//! From sources to settings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Settings;
use super::check;
use super::environment::Environment;
use super::mistake::{Mistake, Mistakes, Origin};
use super::raw::RawSettings;
use super::section::{Known, Listing, Reader, Section};
use super::sections::{
    AuthSection, BlobsSection, ClusterSection, GcSection, HttpSection, ListenSection, LogSection, NodeSection,
    RaftSection, RepairSection, S3Section, TlsSection, TraceSection,
};
use crate::ground::join_token;
use crate::ground::tls::NodeFiles;

/// Largest configuration file, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Where settings come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The configuration file, if one was named.
    pub file: Option<PathBuf>,
    /// The environment.
    pub environment: Environment,
    /// Flags: as typed, the `section.key` they set, the value.
    pub flags: Vec<(String, String, String)>,
}

/// Settings, and what to tell about them.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Where each setting that is not a default came from, by section and key.
    pub origins: BTreeMap<(&'static str, &'static str), Origin>,
    /// What is allowed and should be looked at.
    pub warnings: Vec<String>,
}

pub(super) fn known() -> Known {
    Known(vec![
        Listing::of::<NodeSection>(),
        Listing::of::<ListenSection>(),
        Listing::of::<TlsSection>(),
        Listing::of::<ClusterSection>(),
        Listing::of::<RaftSection>(),
        Listing::of::<BlobsSection>(),
        Listing::of::<S3Section>(),
        Listing::of::<AuthSection>(),
        Listing::of::<HttpSection>(),
        Listing::of::<GcSection>(),
        Listing::of::<RepairSection>(),
        Listing::of::<LogSection>(),
        Listing::of::<TraceSection>(),
    ])
}

impl Sources {
    /// The process's environment, and the file it names in `PORTOLAN_CONFIG`.
    pub fn of_process() -> Sources {
        let environment = Environment::of_process();
        let file = environment.get("PORTOLAN_CONFIG").map(PathBuf::from);
        Sources { file, environment, flags: Vec::new() }
    }

    /// Reads, types and checks everything.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn load(&self) -> Result<Loaded, Mistakes> {
        let known = known();
        let mut raw = RawSettings::default();
        if let Some(path) = &self.file {
            match read_file(path) {
                Ok(text) => raw.add_file(&known, path, &text),
                Err(text) => raw.mistakes.push(Mistake { origin: Origin::Default, text }),
            }
        }
        raw.add_environment(&known, &self.environment);
        raw.add_flags(&known, &self.flags);
        let mut warnings = std::mem::take(&mut raw.warnings);
        let mut reader = Reader::new(raw);
        let mut settings = read_sections(&mut reader);
        settle_data_dir(&mut settings, &self.environment, &mut reader.mistakes);
        settle_cluster_files(&mut settings);
        check::together(&settings, &mut reader, &mut warnings);
        if reader.mistakes.is_empty() {
            Ok(Loaded { settings, origins: reader.origins, warnings })
        } else {
            Err(Mistakes(in_order(reader.mistakes)))
        }
    }
}

/// Mistakes of the file in the order of its lines, then the others as they were found.
fn in_order(mut mistakes: Vec<Mistake>) -> Vec<Mistake> {
    mistakes.sort_by_key(|mistake| match mistake.origin {
        Origin::File { line, .. } => (0, line),
        Origin::Environment(_) => (1, 0),
        Origin::Flag(_) => (2, 0),
        Origin::Default => (3, 0),
    });
    mistakes
}

fn read_file(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let size = std::fs::metadata(path).map(|found| found.len());
    let size = size.map_err(|error| format!("{shown} can't be read: {error}; check the path given by --config"))?;
    if size > FILE_BYTES_MAX {
        return Err(format!("{shown} is larger than {FILE_BYTES_MAX} bytes, so it is no configuration file"));
    }
    std::fs::read_to_string(path).map_err(|error| format!("{shown} can't be read: {error}"))
}

fn read_sections(reader: &mut Reader) -> Settings {
    Settings {
        node: Section::read(reader),
        listen: Section::read(reader),
        tls: Section::read(reader),
        cluster: Section::read(reader),
        raft: Section::read(reader),
        blobs: Section::read(reader),
        s3: Section::read(reader),
        auth: Section::read(reader),
        http: Section::read(reader),
        gc: Section::read(reader),
        repair: Section::read(reader),
        log: Section::read(reader),
        trace: Section::read(reader),
    }
}

fn settle_data_dir(settings: &mut Settings, environment: &Environment, mistakes: &mut Vec<Mistake>) {
    if !settings.node.data_dir.as_os_str().is_empty() {
        return;
    }
    match environment.state_dir() {
        Some(dir) => settings.node.data_dir = dir,
        None => mistakes.push(Mistake {
            origin: Origin::Default,
            text: "node.data_dir is not set, and neither is HOME; set it to a directory on a local disk".to_owned(),
        }),
    }
}

/// Where no certificates are configured, those of a join token are used, and once it has been unpacked also without it.
fn settle_cluster_files(settings: &mut Settings) {
    let Settings { node, cluster, .. } = settings;
    let is_configured = cluster.ca.is_some() || cluster.cert.is_some() || cluster.key.is_some();
    if is_configured || node.data_dir.as_os_str().is_empty() {
        return;
    }
    let dir = node.data_dir.join(join_token::DIR);
    if cluster.join_token_file.is_some() || dir.exists() {
        let NodeFiles { ca, cert, key } = join_token::files_in(&dir);
        (cluster.ca, cluster.cert, cluster.key) = (Some(ca), Some(cert), Some(key));
    }
}

#[cfg(test)]
mod tests;
