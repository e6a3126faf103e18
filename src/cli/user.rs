//! `portolan user`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use registry_core::decide::policy::grants::Grant;
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, part};
use super::connection::ConnectionArguments;
use super::error::CliError;
use super::output::{Column, Printer};
use crate::ground::files::{self, PRIVATE_FILE_MODE};

#[derive(Debug, Args)]
pub(super) struct UserArguments {
    #[command(flatten)]
    connection: ConnectionArguments,
    #[command(subcommand)]
    command: UserCommand,
}

#[derive(Debug, Subcommand)]
enum UserCommand {
    /// List the users.
    List,
    /// Make a user. Without grants it may do nothing.
    Create {
        /// Its name.
        name: String,
        /// What it may do, as "read,write:team/*"; once for each.
        #[arg(long = "grant", value_name = "RIGHTS:PATTERN", value_parser = checked_grant)]
        grants: Vec<String>,
    },
    /// Show a user.
    Show {
        /// Its name.
        name: String,
    },
    /// Let a user in again.
    Enable {
        /// Its name.
        name: String,
    },
    /// Keep a user out, with all its keys.
    Disable {
        /// Its name.
        name: String,
    },
    /// Delete a user with its keys and policies.
    Delete {
        /// Its name.
        name: String,
    },
    /// Say what a user may do; replaces all grants, none takes all away. The user "anonymous" is everyone without a
    /// key.
    Grant {
        /// Its name.
        name: String,
        /// As "read,write:team/*".
        #[arg(value_name = "RIGHTS:PATTERN", value_parser = checked_grant)]
        grants: Vec<String>,
    },
    /// Access keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Policies.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Show who the credential given belongs to.
    Whoami,
    /// Show whether somebody may do something, and which statement decides.
    Explain {
        /// A user, or "anonymous".
        principal: String,
        /// As policies name it: ecr:PutImage.
        action: String,
        /// Name of the repository; left out: the registry itself.
        repository: Option<String>,
        /// For ecr:PutImage: whether the tag exists.
        #[arg(long)]
        tag_exists: Option<bool>,
    },
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// List a user's access keys.
    List {
        /// The user.
        user: String,
    },
    /// Make an access key; its secret is shown this once.
    Create {
        /// The user.
        user: String,
        /// When it ends by itself, as "90d"; left out: never.
        #[arg(long, value_parser = humantime::parse_duration)]
        lifetime: Option<Duration>,
        /// Write it into this file ("ID:SECRET", mode 0600) instead of showing it.
        #[arg(long, value_name = "FILE")]
        save_credentials: Option<PathBuf>,
    },
    /// Let a key in again.
    Enable {
        /// The user.
        user: String,
        /// The key's id.
        key_id: String,
    },
    /// Keep a key out.
    Disable {
        /// The user.
        user: String,
        /// The key's id.
        key_id: String,
    },
    /// Delete a key.
    Delete {
        /// The user.
        user: String,
        /// The key's id.
        key_id: String,
    },
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Show a user's policies.
    List {
        /// The user.
        user: String,
    },
    /// Set a policy from a file.
    Put {
        /// The user.
        user: String,
        /// Name of the policy.
        policy: String,
        /// The policy (JSON).
        file: PathBuf,
    },
    /// Delete a policy.
    Delete {
        /// The user.
        user: String,
        /// Name of the policy.
        policy: String,
    },
}

const USER: [Column; 4] = [("NAME", "name"), ("ROOT", "root"), ("ENABLED", "enabled"), ("CREATED", "created_at")];
const KEY: [Column; 5] = [
    ("KEY", "key_id"),
    ("ENABLED", "enabled"),
    ("CREATED", "created_at"),
    ("EXPIRES", "expires_at"),
    ("FINGERPRINT", "fingerprint"),
];

pub(super) async fn run(arguments: UserArguments, printer: Printer) -> Result<(), CliError> {
    let client = Client::admin(&arguments.connection)?;
    match arguments.command {
        UserCommand::List => printer.list(&client.get("/v1/users").await?, "users", &USER),
        UserCommand::Show { name } => printer.one(&client.get(&at(&name)).await?, &USER),
        UserCommand::Create { name, grants } => {
            let made = client.post("/v1/users", &json!({ "name": name })).await?;
            if !grants.is_empty() {
                let told = |error| {
                    CliError::failed(format!(
                        "{name} is made, but has no grants yet ({error}); use `portolan user grant`"
                    ))
                };
                grant(&client, &name, &grants).await.map_err(told)?;
            }
            printer.one(&made, &USER)
        }
        UserCommand::Enable { name } => enable(&client, &at(&name), &name, true, printer).await,
        UserCommand::Disable { name } => enable(&client, &at(&name), &name, false, printer).await,
        UserCommand::Delete { name } => delete(&client, &at(&name), &name, printer).await,
        UserCommand::Grant { name, grants } => {
            grant(&client, &name, &grants).await?;
            printer.done(&format!("{name} has {} grants", grants.len()))
        }
        UserCommand::Key(command) => key(&client, command, printer).await,
        UserCommand::Policy(command) => policy(&client, command, printer).await,
        UserCommand::Whoami => {
            let columns = [("name", "name"), ("kind", "kind"), ("credential", "credential"), ("key", "key_id")];
            printer.one(&client.get("/v1/whoami").await?, &columns)
        }
        UserCommand::Explain { principal, action, repository, tag_exists } => {
            let wish = json!({
                "principal": principal,
                "action": action,
                "repository": repository,
                "tag_exists": tag_exists,
            });
            let columns = [("allowed", "allowed"), ("resource", "resource"), ("reason", "reason")];
            printer.one(&client.post("/v1/explain", &wish).await?, &columns)
        }
    }
}

/// A grant that the node will take, as it was written: found out before anything is changed.
fn checked_grant(text: &str) -> Result<String, String> {
    text.parse::<Grant>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn at(user: &str) -> String {
    format!("/v1/users/{}", part(user))
}

async fn grant(client: &Client, user: &str, grants: &[String]) -> Result<(), CliError> {
    let wish = json!({ "grants": grants });
    client.call(Method::PUT, &format!("{}/grants", at(user)), Some(&wish)).await.map(drop)
}

async fn enable(client: &Client, at: &str, name: &str, wish: bool, printer: Printer) -> Result<(), CliError> {
    client.call(Method::PATCH, at, Some(&json!({ "enabled": wish }))).await?;
    printer.done(&format!("{name} is {}", if wish { "enabled" } else { "disabled" }))
}

async fn delete(client: &Client, at: &str, name: &str, printer: Printer) -> Result<(), CliError> {
    client.call(Method::DELETE, at, None).await?;
    printer.done(&format!("{name} is deleted"))
}

async fn key(client: &Client, command: KeyCommand, printer: Printer) -> Result<(), CliError> {
    let of = |user: &str, key_id: &str| format!("{}/keys/{}", at(user), part(key_id));
    match command {
        KeyCommand::List { user } => printer.list(&client.get(&format!("{}/keys", at(&user))).await?, "keys", &KEY),
        KeyCommand::Create { user, lifetime, save_credentials } => {
            create_key(client, &user, lifetime, save_credentials.as_deref(), printer).await
        }
        KeyCommand::Enable { user, key_id } => enable(client, &of(&user, &key_id), &key_id, true, printer).await,
        KeyCommand::Disable { user, key_id } => enable(client, &of(&user, &key_id), &key_id, false, printer).await,
        KeyCommand::Delete { user, key_id } => delete(client, &of(&user, &key_id), &key_id, printer).await,
    }
}

async fn create_key(
    client: &Client,
    user: &str,
    lifetime: Option<Duration>,
    save: Option<&Path>,
    printer: Printer,
) -> Result<(), CliError> {
    if let Some(path) = save.filter(|path| path.exists()) {
        return Err(CliError::usage(format!("{} is there already; name another file", path.display())));
    }
    let wish = json!({ "lifetime_s": lifetime.map(|lifetime| lifetime.as_secs().max(1)) });
    let made = client.post(&format!("{}/keys", at(user)), &wish).await?;
    let field = |name: &str| made.get(name).and_then(Value::as_str).unwrap_or_default();
    let Some(path) = save else {
        return printer.one(&made, &[("id", "key_id"), ("secret", "secret")]);
    };
    let (key_id, line) = (field("key_id"), format!("{}:{}\n", field("key_id"), field("secret")));
    if let Err(error) = files::create_new(path, line.as_bytes(), PRIVATE_FILE_MODE) {
        let told = format!("{} can't be written ({error}); delete the key {key_id} and try again", path.display());
        return Err(CliError::failed(told));
    }
    if printer.is_json() {
        return printer.json(&json!({ "key_id": key_id, "file": path }));
    }
    printer.done(&format!("access key {key_id} is in {}", path.display()))
}

async fn policy(client: &Client, command: PolicyCommand, printer: Printer) -> Result<(), CliError> {
    let of = |user: &str, policy: &str| format!("{}/policies/{}", at(user), part(policy));
    match command {
        PolicyCommand::List { user } => {
            let found = client.get(&format!("{}/policies", at(&user))).await?;
            printer.list(&found, "policies", &[("NAME", "name"), ("DOCUMENT", "document")])
        }
        PolicyCommand::Put { user, policy, file } => {
            let told = |problem: String| CliError::usage(format!("{}: {problem}", file.display()));
            let text = std::fs::read(&file).map_err(|error| told(error.to_string()))?;
            let document: Value = serde_json::from_slice(&text).map_err(|error| told(error.to_string()))?;
            client.call(Method::PUT, &of(&user, &policy), Some(&document)).await?;
            printer.done(&format!("{policy} is in force for {user}"))
        }
        PolicyCommand::Delete { user, policy } => delete(client, &of(&user, &policy), &policy, printer).await,
    }
}
