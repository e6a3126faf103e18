//! Grants: read, append, write, delete, create on repositories by pattern. The simple layer over policies.
//!
//! A grant is nothing but a statement; a list of grants compiles to an identity policy, which is what is stored and
//! decided. Who outgrows grants edits the policy.

use std::fmt;
use std::str::FromStr;

use serde_json::{Value, json};

use super::action::Action;
use crate::vocabulary::limits::PATTERN_BYTES_MAX;

/// What a grant gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Right {
    /// Pull, and list what there is.
    Read,
    /// Push under new tags. A tag that exists stays where it is, `latest` as well (A8).
    Append,
    /// Push, and move tags.
    Write,
    /// Delete images, tags and blobs.
    Delete,
    /// Make repositories, by a push as well.
    Create,
}

impl Right {
    /// All rights.
    pub const ALL: [Right; 5] = [Right::Read, Right::Append, Right::Write, Right::Delete, Right::Create];

    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Right::Read => "read",
            Right::Append => "append",
            Right::Write => "write",
            Right::Delete => "delete",
            Right::Create => "create",
        }
    }

    /// The actions it stands for.
    pub fn actions(self) -> &'static [Action] {
        match self {
            Right::Read => &[
                Action::BatchCheckLayerAvailability,
                Action::BatchGetImage,
                Action::DescribeImages,
                Action::DescribeRepositories,
                Action::GetDownloadUrlForLayer,
                Action::ListImages,
                Action::ListTagsForResource,
            ],
            Right::Append | Right::Write => &[
                Action::BatchCheckLayerAvailability,
                Action::CompleteLayerUpload,
                Action::InitiateLayerUpload,
                Action::PutImage,
                Action::UploadLayerPart,
            ],
            Right::Delete => &[Action::BatchDeleteImage],
            Right::Create => &[Action::CreateRepository],
        }
    }
}

impl FromStr for Right {
    type Err = GrantError;

    fn from_str(text: &str) -> Result<Right, GrantError> {
        Right::ALL.into_iter().find(|right| right.name() == text).ok_or_else(|| GrantError::Right(text.to_owned()))
    }
}

/// Why a text is not a grant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// No such right.
    #[error("'{0}' is not a right: read, append, write, delete or create")]
    Right(String),
    /// No pattern of repository names.
    #[error(
        "'{0}' is not a pattern of repository names: lower-case letters, digits, . _ - / and the wildcards * and ?"
    )]
    Pattern(String),
    /// Not `rights:pattern`.
    #[error("'{0}' is not a grant: write for example read,write:team/*")]
    Form(String),
}

/// One or more rights on the repositories that a pattern matches. `*` crosses slashes: `team/*` is all below `team/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    rights: Vec<Right>,
    pattern: String,
}

impl Grant {
    /// A grant; the pattern may only hold what can occur in a repository name, and `*` and `?`. One with an element
    /// that no name has, empty or of dots alone, would match nothing, or not what its writer meant (A24).
    pub fn new(rights: impl IntoIterator<Item = Right>, pattern: &str) -> Result<Grant, GrantError> {
        let is_legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-/*?".contains(&byte);
        let is_whole = pattern.split('/').all(|part| part.bytes().any(|byte| byte != b'.'));
        if !is_whole || pattern.len() > PATTERN_BYTES_MAX / 2 || !pattern.bytes().all(is_legal) {
            return Err(GrantError::Pattern(pattern.chars().take(100).collect()));
        }
        let mut rights: Vec<Right> = rights.into_iter().collect();
        rights.sort_unstable();
        rights.dedup();
        if rights.is_empty() {
            return Err(GrantError::Form(pattern.to_owned()));
        }
        Ok(Grant { rights, pattern: pattern.to_owned() })
    }

    /// The rights.
    pub fn rights(&self) -> &[Right] {
        &self.rights
    }

    /// The pattern.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }
}

/// Reads `read,write:team/*`.
impl FromStr for Grant {
    type Err = GrantError;

    fn from_str(text: &str) -> Result<Grant, GrantError> {
        let (rights, pattern) =
            text.split_once(':').ok_or_else(|| GrantError::Form(text.chars().take(100).collect()))?;
        let rights: Result<Vec<Right>, GrantError> = rights.split(',').map(str::parse).collect();
        Grant::new(rights?, pattern)
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rights: Vec<&str> = self.rights.iter().map(|right| right.name()).collect();
        write!(out, "{}:{}", rights.join(","), self.pattern)
    }
}

/// The identity policy that these grants stand for, as JSON text. Its statements carry the grants as their names. It
/// may come out longer than a policy may be: then parsing it says so.
pub fn compile(grants: &[Grant]) -> String {
    let mut statements = Vec::new();
    for Grant { rights, pattern } in grants {
        for right in rights {
            let name = format!("{}:{pattern}", right.name());
            if *right == Right::Append {
                let upload: Vec<Action> =
                    right.actions().iter().copied().filter(|one| *one != Action::PutImage).collect();
                statements.push(statement(&name, &upload, pattern));
                // Not `BoolIfExists`: whoever forgets to say whether the tag exists gets a no.
                let mut put = statement(&name, &[Action::PutImage], pattern);
                put["Condition"] = json!({"Bool": {"portolan:TagExists": "false"}});
                statements.push(put);
            } else {
                statements.push(statement(&name, right.actions(), pattern));
            }
        }
    }
    json!({"Version": "2012-10-17", "Statement": statements}).to_string()
}

fn statement(name: &str, actions: &[Action], pattern: &str) -> Value {
    let actions: Vec<&str> = actions.iter().map(|action| action.name()).collect();
    let resource = format!("arn:aws:ecr:*:*:repository/{pattern}");
    json!({"Sid": name, "Effect": "Allow", "Action": actions, "Resource": resource})
}
