//! `[auth]`

use std::path::PathBuf;
use std::time::Duration;

use super::s;
use crate::config::raw::Given;
use crate::config::section::section;
use crate::config::value::Value;
use crate::ground::Secret;

/// How a client without a credential is asked for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub enum Challenge {
    /// Send it to the token service, as the large registries do.
    Bearer,
    /// Ask for name and password with each request.
    Basic,
}

impl Value for Challenge {
    fn read(given: &Given) -> Result<Challenge, String> {
        match String::read(given).as_deref() {
            Ok("bearer") => Ok(Challenge::Bearer),
            Ok("basic") => Ok(Challenge::Basic),
            Ok(_) | Err(_) => Err("is not known; write \"bearer\" or \"basic\"".to_owned()),
        }
    }

    fn to_toml(&self) -> Option<String> {
        let word = match self {
            Challenge::Bearer => "bearer",
            Challenge::Basic => "basic",
        };
        word.to_owned().to_toml()
    }
}

section! {
    /// Who may come in.
    AuthSection "auth"

    /// File with the root user's access key, "ID:SECRET" on one line, mode 0600: used when the cluster is made, and put
    /// in force again when a node starts with one that the cluster does not accept (a lost or deleted key).
    /// Left out: one is made up and shown once, by `portolan cluster init` or the first start of a single node.
    root_key_file: Option<PathBuf> = None;

    /// The same as a value; from the environment only. Not together with root_key_file.
    root_key: Option<Secret<String>> = None;

    /// false: requests without a credential are refused whatever policies say. true: policies decide; without one they
    /// are refused as well.
    anonymous: bool = true;

    /// How long a token of the token service is good. Shorter: revoked rights end sooner. Longer: fewer logins.
    /// A long push asks for new ones by itself.
    token_lifetime: Duration = s(900) => s(60)..=s(12 * 3600);

    /// How a client without a credential is asked for one: "bearer", or "basic" for clients that know nothing else.
    challenge: Challenge = Challenge::Bearer;
}
