//! A join token: what a new node needs to join a cluster, as one line of text in one file.
//!
//! `ptln-join-1.` and base64url, without padding, of eight bytes of SHA-256 and of what they are the sum of: a JSON
//! object with the cluster's authority, the node's certificate and its private key (PEM), and addresses of nodes of the
//! cluster. The sum tells a text that was cut off or changed by mistake; what makes a token good is the authority's
//! signature. Whoever holds one can be that node, so it is a secret.
//!
//! A node unpacks its token once, into a directory of its own, and lives by the files there from then on.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;
use registry_core::vocabulary::limits::{ADDRESS_BYTES_MAX, JOIN_TOKEN_BYTES_MAX, SEEDS_MAX};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::certs::{self, Identity};
use super::files::{self, PRIVATE_FILE_MODE, PUBLIC_FILE_MODE};
use super::secret::{self, Secret, SecretFileError};
use super::tls::{self, NodeFiles, NodePems};

/// Directory, below a node's data directory, that a token is unpacked into.
pub const DIR: &str = "cluster";

const NAME: &str = "ptln-join-";
const VERSION: &str = "1";
/// Digits that a version may have; more are no version.
const VERSION_DIGITS_MAX: usize = 4;
const SUM_BYTES: usize = 8;
const SEEDS_FILE: &str = "seeds";

/// What a new node needs to join a cluster.
#[derive(Clone, Debug)]
pub struct JoinToken {
    /// Authority of the cluster, PEM.
    pub ca_pem: String,
    /// The node's certificate, PEM.
    pub cert_pem: String,
    /// Its private key, PEM.
    pub key_pem: Secret<String>,
    /// Consensus addresses (`host:port`) of nodes of the cluster.
    pub seeds: Vec<String>,
}

/// As it stands in the text. Its names are part of the format.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    ca: String,
    cert: String,
    key: String,
    seeds: Vec<String>,
}

/// Why a text is no join token; the end of a sentence that begins with where it stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Something else.
    #[error("holds no join token; `portolan certs invite` writes one, a single line that begins with ptln-join-")]
    Foreign,
    /// Of another release.
    #[error(
        "holds a join token of version {0}, which this program does not know; start the node with the release that \
         made it, or make another one with `portolan certs invite` of this release"
    )]
    Version(String),
    /// Cut off, or changed.
    #[error("was cut off or changed; copy the whole line again from the file that `portolan certs invite` wrote")]
    Damaged,
    /// Longer than any.
    #[error("is larger than {JOIN_TOKEN_BYTES_MAX} bytes, so it is no join token")]
    TooLarge,
    /// Nobody to ask, or too many.
    #[error("must name 1 to {SEEDS_MAX} nodes of the cluster, host:port")]
    Seeds,
}

/// Why a file gave no join token; the end of a sentence that begins with the file.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// The file.
    #[error("{0}; bring back what `portolan certs invite` wrote: it is needed until the node has started with it once")]
    File(#[from] SecretFileError),
    /// What stands in it.
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl TokenFileError {
    /// Whether there is no such file.
    pub fn is_absent(&self) -> bool {
        match self {
            TokenFileError::File(SecretFileError::Unreadable(error)) => error.kind() == io::ErrorKind::NotFound,
            TokenFileError::File(_) | TokenFileError::Token(_) => false,
        }
    }
}

impl JoinToken {
    /// As one line of text, without a line end.
    ///
    /// # Errors
    /// [`TokenError::Seeds`] and [`TokenError::TooLarge`], for what would not be taken again.
    pub fn encode(&self) -> Result<Secret<String>, TokenError> {
        check_seeds(&self.seeds)?;
        let JoinToken { ca_pem, cert_pem, key_pem, seeds } = self.clone();
        let content = Content { ca: ca_pem, cert: cert_pem, key: key_pem.expose().clone(), seeds };
        let content = serde_json::to_vec(&content).expect("texts serialize");
        let bytes = [&sum(&content)[..], &content[..]].concat();
        let text = format!("{NAME}{VERSION}.{}", BASE64URL_NOPAD.encode(&bytes));
        if text.len() > JOIN_TOKEN_BYTES_MAX { Err(TokenError::TooLarge) } else { Ok(Secret::new(text)) }
    }

    /// Reads what [`JoinToken::encode`] made. Whether its parts are good is for [`JoinToken::check`].
    ///
    /// # Errors
    /// When it is anything else.
    pub fn parse(text: &str) -> Result<JoinToken, TokenError> {
        if text.len() > JOIN_TOKEN_BYTES_MAX {
            return Err(TokenError::TooLarge);
        }
        let named = text.strip_prefix(NAME).and_then(|rest| rest.split_once('.'));
        let (version, body) = named.ok_or(TokenError::Foreign)?;
        if version != VERSION {
            let is_number = (1..=VERSION_DIGITS_MAX).contains(&version.len())
                && !version.starts_with('0')
                && version.bytes().all(|b| b.is_ascii_digit());
            return Err(if is_number { TokenError::Version(version.to_owned()) } else { TokenError::Foreign });
        }
        let bytes = BASE64URL_NOPAD.decode(body.as_bytes()).map_err(|_| TokenError::Damaged)?;
        let (told, content) = bytes.split_first_chunk::<SUM_BYTES>().ok_or(TokenError::Damaged)?;
        if *told != sum(content) {
            return Err(TokenError::Damaged);
        }
        let content: Content = serde_json::from_slice(content).map_err(|_| TokenError::Damaged)?;
        let Content { ca, cert, key, seeds } = content;
        check_seeds(&seeds)?;
        Ok(JoinToken { ca_pem: ca, cert_pem: cert, key_pem: Secret::new(key), seeds })
    }

    /// Reads a token from its file; with the warning to give when others may read it.
    ///
    /// # Errors
    /// When the file can't be read, or holds no token.
    pub fn read(path: &Path) -> Result<(JoinToken, Option<String>), TokenFileError> {
        let (text, warning) = secret::read_file(path)?;
        Ok((JoinToken::parse(text.expose())?, warning))
    }

    /// Checks its parts as a node's files are: they belong together, are in force, and name a node. `path` is where the
    /// token stands, for what is told.
    ///
    /// # Errors
    /// A sentence with the part and what to do.
    pub fn check(&self, path: &Path) -> Result<NodePems, String> {
        let part = |name: &str| PathBuf::from(format!("{} ({name})", path.display()));
        let names = NodeFiles { ca: part("authority"), cert: part("certificate"), key: part("key") };
        let [ca_pem, cert_pem, key_pem] =
            [&self.ca_pem, &self.cert_pem, self.key_pem.expose()].map(|pem| pem.clone().into_bytes());
        tls::check_node_pems(&names, ca_pem, cert_pem, Secret::new(key_pem))
    }

    /// Who its certificate is for, whether or not it is still in force.
    ///
    /// # Errors
    /// A sentence, when it can't be parsed or says nothing.
    pub fn identity(&self) -> Result<Identity, String> {
        let der = CertificateDer::from_pem_slice(self.cert_pem.as_bytes());
        certs::identity(&der.map_err(|error| format!("its certificate is damaged ({error})"))?)
    }

    /// Puts its parts into `dir`, which is not there yet: all of them, durable, or nothing. Only one at a time may do
    /// that beside `dir`.
    ///
    /// # Errors
    /// When a step fails; what was left half-way is taken away by the next try.
    pub fn unpack(&self, dir: &Path) -> io::Result<()> {
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let temporary = parent.join(format!(".{DIR}.tmp"));
        match fs::remove_dir_all(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        files::create_private_dir(&temporary)?;
        let NodeFiles { ca, cert, key } = files_in(&temporary);
        let seeds = self.seeds.join("\n") + "\n";
        let writes = [
            (key, self.key_pem.expose(), PRIVATE_FILE_MODE),
            (ca, &self.ca_pem, PUBLIC_FILE_MODE),
            (cert, &self.cert_pem, PUBLIC_FILE_MODE),
            (temporary.join(SEEDS_FILE), &seeds, PUBLIC_FILE_MODE),
        ];
        for (path, text, mode) in writes {
            files::write_atomic(&path, text.as_bytes(), mode)?;
        }
        fs::rename(&temporary, dir)?;
        files::sync_dir(parent)
    }
}

fn sum(content: &[u8]) -> [u8; SUM_BYTES] {
    let whole: [u8; 32] = Sha256::digest(content).into();
    std::array::from_fn(|at| whole[at])
}

fn check_seeds(seeds: &[String]) -> Result<(), TokenError> {
    // one stands on one line of a file
    let is_good = |seed: &String| {
        (1..=ADDRESS_BYTES_MAX).contains(&seed.len()) && !seed.chars().any(|c| c.is_control() || c.is_whitespace())
    };
    let are_good = (1..=SEEDS_MAX).contains(&seeds.len()) && seeds.iter().all(is_good);
    if are_good { Ok(()) } else { Err(TokenError::Seeds) }
}

/// The node's files in a directory that a token was unpacked into. A renewed certificate is put in their place.
pub fn files_in(dir: &Path) -> NodeFiles {
    NodeFiles { ca: dir.join("ca.pem"), cert: dir.join("node.pem"), key: dir.join("node.key") }
}

/// Where to ask to join, as the token that was unpacked into `dir` said; nowhere, if only the files are there.
///
/// # Errors
/// When the list can't be read.
pub fn seeds_in(dir: &Path) -> io::Result<Vec<String>> {
    match fs::read_to_string(dir.join(SEEDS_FILE)) {
        Ok(text) => Ok(text.split_whitespace().take(SEEDS_MAX).map(str::to_owned).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use registry_core::vocabulary::ids::{ClusterId, NodeId};

    use super::*;
    use crate::ground::certs::Role;
    use crate::ground::certs::mint::Authority;

    fn made_up() -> JoinToken {
        let seeds = vec!["10.0.0.1:7401".to_owned(), "n2.example:7401".to_owned()];
        let key_pem = Secret::new("the key\n".to_owned());
        JoinToken { ca_pem: "the authority\n".to_owned(), cert_pem: "the certificate\n".to_owned(), key_pem, seeds }
    }

    fn issued(role: Role) -> JoinToken {
        let (authority, ca) = Authority::create(ClusterId(7)).unwrap();
        let identity = Identity { cluster: ClusterId(7), role };
        let pair = authority.issue(&identity, &["127.0.0.1".to_owned()], 30).unwrap();
        let seeds = vec!["10.0.0.1:7401".to_owned()];
        JoinToken { ca_pem: ca.cert_pem, cert_pem: pair.cert_pem, key_pem: pair.key_pem, seeds }
    }

    fn refused(text: &str) -> TokenError {
        JoinToken::parse(text).map(drop).expect_err(text)
    }

    // A token reads back what it was made of, is one line, and is not printed by accident.
    #[test]
    fn round_trip() {
        let token = made_up();
        let text = token.encode().unwrap();
        assert!(text.expose().starts_with("ptln-join-1.") && !text.expose().contains(char::is_whitespace));
        let read = JoinToken::parse(text.expose()).unwrap();
        assert_eq!((&read.ca_pem, &read.cert_pem, &read.seeds), (&token.ca_pem, &token.cert_pem, &token.seeds));
        assert_eq!(read.key_pem.expose(), "the key\n");
        assert!(!format!("{token:?} {text:?}").contains("the key"));
    }

    // One character that was changed, one that is missing or too many, and a text that was cut anywhere are found.
    #[test]
    fn every_change_is_found() {
        let text = made_up().encode().unwrap().expose().clone();
        for at in 0..text.len() {
            refused(&text[..at]);
            refused(&format!("{}{}", &text[..at], &text[at + 1..]));
            for other in ["A", "b", "3", "-", "_", ".", "=", "\n", "é"] {
                if text[at..=at] != *other {
                    refused(&format!("{}{other}{}", &text[..at], &text[at + 1..]));
                }
            }
        }
        refused(&format!("{text}A"));
        assert_eq!(refused(&text[..text.len() - 9]), TokenError::Damaged);
    }

    // A token of a later release is told apart from a damaged one, whatever stands in it; and so is something else.
    #[test]
    fn versions() {
        let text = made_up().encode().unwrap().expose().replace("ptln-join-1.", "ptln-join-2.");
        assert_eq!(refused(&text), TokenError::Version("2".to_owned()));
        assert!(refused("ptln-join-12.{}").to_string().contains("of version 12"));
        for foreign in ["", "ptln-join-1", "ptln-join-.AAAA", "ptln-join-01.AAAA", "ptln-join-x.AAAA", "-----BEGIN"] {
            assert_eq!(refused(foreign), TokenError::Foreign, "{foreign}");
        }
    }

    // What is encoded is bounded as what is read is.
    #[test]
    fn bounds() {
        assert_eq!(refused(&"x".repeat(JOIN_TOKEN_BYTES_MAX + 1)), TokenError::TooLarge);
        let large = JoinToken { ca_pem: "x".repeat(JOIN_TOKEN_BYTES_MAX), ..made_up() };
        assert_eq!(large.encode().map(drop), Err(TokenError::TooLarge));
        let one = || "n1:7401".to_owned();
        for seeds in [vec![], vec![one(); SEEDS_MAX + 1], vec![String::new()], vec!["n1:7401\nn2:7401".to_owned()]] {
            assert_eq!(JoinToken { seeds, ..made_up() }.encode().map(drop), Err(TokenError::Seeds));
        }
    }

    // The parts are checked as files are: for a node, its own key, the authority's signature.
    #[test]
    fn parts_belong_together() {
        let place = Path::new("/run/token");
        let good = issued(Role::Node(NodeId(9)));
        let identity = Identity { cluster: ClusterId(7), role: Role::Node(NodeId(9)) };
        assert_eq!(good.check(place).unwrap().identity, identity);
        assert_eq!(good.identity(), Ok(identity));
        let other = issued(Role::Node(NodeId(9)));
        let cases = [
            (JoinToken { key_pem: other.key_pem, ..good.clone() }, "/run/token (key) is not the key of"),
            (JoinToken { ca_pem: other.ca_pem, ..good }, "/run/token (certificate): is not accepted under"),
            (issued(Role::Operator("ann".to_owned())), "not for a node"),
            (made_up(), "/run/token (certificate): holds no certificate"),
        ];
        for (token, text) in cases {
            let told = token.check(place).unwrap_err();
            assert!(told.contains(text), "{told}");
        }
    }

    // What is unpacked is what a node loads, private where it must be; what a try before has left goes, and what is
    // there already stays.
    #[test]
    fn unpacks_once() {
        let data = tempfile::tempdir().unwrap();
        let dir = data.path().join(DIR);
        let left = data.path().join(".cluster.tmp");
        fs::create_dir(&left).unwrap();
        fs::write(left.join("node.key"), "half").unwrap();
        let token = issued(Role::Node(NodeId(9)));
        token.unpack(&dir).unwrap();
        assert!(!left.exists());
        assert_eq!(tls::load_node_files(&files_in(&dir)).unwrap().identity, token.identity().unwrap());
        assert_eq!(seeds_in(&dir).unwrap(), token.seeds);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&files_in(&dir).key)), (0o700, 0o600));
        assert!(issued(Role::Node(NodeId(8))).unpack(&dir).is_err());
        assert_eq!(tls::load_node_files(&files_in(&dir)).unwrap().identity, token.identity().unwrap());
        assert_eq!(seeds_in(data.path()).unwrap(), Vec::<String>::new());
    }

    // A file that is not there is told apart from one that holds something else.
    #[test]
    fn from_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        assert!(JoinToken::read(&path).map(drop).unwrap_err().is_absent());
        fs::write(&path, "something else\n").unwrap();
        let told = JoinToken::read(&path).map(drop).unwrap_err();
        assert!(!told.is_absent() && told.to_string().contains("holds no join token"), "{told}");
        let text = made_up().encode().unwrap();
        files::write_atomic(&path, format!("{}\n", text.expose()).as_bytes(), PUBLIC_FILE_MODE).unwrap();
        let (token, warning) = JoinToken::read(&path).unwrap();
        assert_eq!(token.seeds, made_up().seeds);
        assert!(warning.unwrap().contains("chmod 600"));
    }
}
