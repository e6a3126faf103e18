//! `portolan certs invite`: a certificate for a new node, and a join token that holds all that it needs to join.

use std::path::{Path, PathBuf};

use clap::Args;
use registry_core::vocabulary::limits::SEEDS_MAX;
use serde_json::{Value, json};

use super::{Leaf, named, node, present_node};
use crate::cli::error::CliError;
use crate::cli::output::{self, Printer};
use crate::config::is_host_and_port;
use crate::ground::files::{self, PRIVATE_FILE_MODE};
use crate::ground::join_token::{self, JoinToken};
use crate::ground::{Secret, tls::NodeFiles};

/// The token, beside the files of its node.
const TOKEN_FILE: &str = "join-token";

#[derive(Debug, Args)]
pub(super) struct InviteArguments {
    #[command(flatten)]
    leaf: Leaf,
    /// Name of the new node, for its directory: lower-case letters, digits and dashes.
    #[arg(long)]
    name: String,
    /// Consensus address of a node of the cluster, as 10.0.0.1:7401; once for each.
    #[arg(long = "seed", required = true, value_name = "HOST:PORT", value_parser = seed)]
    seeds: Vec<String>,
    /// File for the token (mode 0600), or - to show it. Left out: <DIR>/nodes/<NAME>/join-token.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

fn seed(text: &str) -> Result<String, &'static str> {
    let told =
        "write the consensus address of a node as HOST:PORT; `portolan cluster status -o json` shows raft_address";
    is_host_and_port(text).then(|| text.to_owned()).ok_or(told)
}

pub(super) fn run(wish: &InviteArguments, printer: Printer) -> Result<(), CliError> {
    let is_shown = wish.out.as_deref() == Some(Path::new("-"));
    let (made, token) = invite(wish, !is_shown)?;
    if is_shown {
        return output::show(token.expose());
    }
    let columns = [
        ("join token", "token"),
        ("identity", "identity"),
        ("certificate", "cert"),
        ("key", "key"),
        ("authority", "ca"),
    ];
    printer.one(&made, &columns)?;
    printer.done(
        "\nBring the token to the new machine and start it there: portolan server --join-token-file FILE. It holds the \
         node's private key: keep it secret, and remove it when the node has joined",
    )
}

/// Makes the certificate and the token, and writes the token into its file if it is to be kept.
fn invite(wish: &InviteArguments, is_kept: bool) -> Result<(Value, Secret<String>), CliError> {
    let InviteArguments { leaf, name, seeds, out } = wish;
    let dir = leaf.place.dir.join("nodes").join(named(name)?);
    if let Some((id, _)) = present_node(&dir.join("node.pem"))? {
        let shown = dir.display();
        return Err(CliError::usage(format!(
            "{name} has a certificate already, of node {id}, and a token is for a new node: choose another --name. To \
             renew the certificate, use `portolan certs node --name {name}`. If its token was lost before the node \
             ever started, remove {shown} and invite it again"
        )));
    }
    if seeds.len() > SEEDS_MAX {
        return Err(CliError::usage(format!("a token names {SEEDS_MAX} nodes at most; give fewer --seed")));
    }
    let path = out.clone().unwrap_or_else(|| dir.join(TOKEN_FILE));
    // refused before anything is made: a token that can't be written is lost
    if is_kept && path.exists() {
        return Err(CliError::usage(format!("{} is there already; remove it, or name another --out", path.display())));
    }
    let mut made = node(leaf, name, None)?;
    let lost = |problem: String| {
        let shown = dir.display();
        CliError::failed(format!(
            "{problem}. The certificate is made, its token is not: remove {shown} and repeat this"
        ))
    };
    let token = token(&dir, seeds).map_err(lost)?;
    if is_kept {
        let line = format!("{}\n", token.expose());
        let written = files::create_new(&path, line.as_bytes(), PRIVATE_FILE_MODE);
        written.map_err(|error| lost(format!("{} can't be written: {error}", path.display())))?;
        made["token"] = json!(path);
    }
    Ok((made, token))
}

/// The token of the node whose files are in `dir`.
fn token(dir: &Path, seeds: &[String]) -> Result<Secret<String>, String> {
    let read = |path: PathBuf| {
        std::fs::read_to_string(&path).map_err(|error| format!("{} can't be read: {error}", path.display()))
    };
    let NodeFiles { ca, cert, key } = join_token::files_in(dir);
    let (ca_pem, cert_pem, key_pem) = (read(ca)?, read(cert)?, Secret::new(read(key)?));
    let token = JoinToken { ca_pem, cert_pem, key_pem, seeds: seeds.to_vec() };
    token.encode().map_err(|error| format!("the token {error}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use registry_core::vocabulary::ids::ClusterId;

    use super::*;
    use crate::cli::certs::{Place, make_authority};

    fn wish(dir: &Path, name: &str) -> InviteArguments {
        let place = Place { dir: dir.to_owned() };
        let leaf = Leaf { place, addresses: vec!["127.0.1.1".to_owned()], days: 30, cluster_id: None };
        InviteArguments { leaf, name: name.to_owned(), seeds: vec!["127.0.1.2:7401".to_owned()], out: None }
    }

    // The token in the file is what a new node needs; the files of the node are where a renewal looks for them.
    #[test]
    fn makes_a_token() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("certs");
        make_authority(&dir, ClusterId(7)).unwrap();
        let (made, shown) = invite(&wish(&dir, "n4"), true).unwrap();
        let own = dir.join("nodes/n4");
        let path = own.join(TOKEN_FILE);
        assert_eq!(made["token"], json!(path));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (token, warning) = JoinToken::read(&path).unwrap();
        assert_eq!((token.seeds.as_slice(), warning), (["127.0.1.2:7401".to_owned()].as_slice(), None));
        assert_eq!(token.check(&path).unwrap().identity.to_string(), made["identity"].as_str().unwrap());
        assert_eq!(token.encode().unwrap(), shown);
        node(&wish(&dir, "n4").leaf, "n4", None).unwrap();
        let renewed = present_node(&own.join("node.pem")).unwrap().unwrap().0;
        assert!(made["identity"].as_str().unwrap().ends_with(&renewed.to_string()));
    }

    // A node is invited once, nothing is overwritten, and what is refused makes nothing.
    #[test]
    fn refusals() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let told = |wish: &InviteArguments| invite(wish, true).map(drop).unwrap_err().to_string();
        make_authority(dir, ClusterId(7)).unwrap();
        let taken = dir.join("taken");
        std::fs::write(&taken, "x").unwrap();
        assert!(told(&InviteArguments { out: Some(taken), ..wish(dir, "n4") }).contains("is there already"));
        assert!(told(&wish(dir, "../n4")).contains("is no name"));
        let many = vec!["n1:7401".to_owned(); SEEDS_MAX + 1];
        assert!(told(&InviteArguments { seeds: many, ..wish(dir, "n4") }).contains("give fewer --seed"));
        assert!(!dir.join("nodes").exists());
        invite(&wish(dir, "n4"), false).unwrap();
        assert!(!dir.join("nodes/n4").join(TOKEN_FILE).exists());
        let again = told(&wish(dir, "n4"));
        assert!(again.contains("choose another --name") && again.contains("certs node --name n4"), "{again}");
        let out = Some(dir.join("absent/token"));
        let lost = told(&InviteArguments { out, ..wish(dir, "n5") });
        assert!(lost.contains("can't be written") && lost.contains("nodes/n5 and repeat"), "{lost}");
        for bad in ["", "n1", "n1:", ":7401", "n1:x", "a b:1", "user@n1:7401"] {
            assert!(seed(bad).is_err(), "{bad}");
        }
        assert!(seed("n1.example:7401").is_ok() && seed("[::1]:7401").is_ok());
    }
}
