//! `portolan repo`.

use clap::{Args, Subcommand, ValueEnum};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, part, path};
use super::connection::ConnectionArguments;
use super::error::CliError;
use super::output::{Column, Printer};
use super::quota::QuotaArguments;

#[derive(Debug, Args)]
pub(super) struct RepoArguments {
    #[command(flatten)]
    connection: ConnectionArguments,
    #[command(subcommand)]
    command: RepoCommand,
}

#[derive(Debug, Subcommand)]
enum RepoCommand {
    /// List the repositories you may see.
    List,
    /// Make a repository.
    Create {
        /// Its name.
        name: String,
        #[command(flatten)]
        settings: SettingsArguments,
    },
    /// Show a repository.
    Show {
        /// Its name.
        name: String,
    },
    /// Change a repository's settings; what is left out stays.
    Set {
        /// Its name.
        name: String,
        #[command(flatten)]
        settings: SettingsArguments,
    },
    /// Say which region alone takes pushes and deletes of a repository that is copied between regions.
    Home {
        /// Its name.
        name: String,
        /// What is to become of its home.
        #[arg(value_enum)]
        wish: HomeWish,
        /// Take it although the other region has not frozen it: it is lost, and what it still took loses. Or take, or
        /// leave, one that is frozen here, because no other region has taken it.
        #[arg(long)]
        accept_loss: bool,
    },
    /// Delete a repository.
    Delete {
        /// Its name.
        name: String,
        /// Also when it holds images.
        #[arg(long)]
        force: bool,
    },
}

/// What becomes of a home.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum HomeWish {
    /// The asked region is it from now on.
    Take,
    /// It takes nothing any more, so that another region can take it over without a loss.
    Freeze,
    /// Every region may write again.
    Leave,
}

/// Whether tags may move.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mutability {
    /// They may.
    Mutable,
    /// They may not.
    Immutable,
    /// They may, but for those that an exclusion matches.
    MutableWithExclusion,
    /// They may not, but for those that an exclusion matches.
    ImmutableWithExclusion,
}

#[derive(Debug, Args)]
struct SettingsArguments {
    /// Whether tags may move.
    #[arg(long, value_enum)]
    mutability: Option<Mutability>,
    /// Tags that the exclusion is for, as "dev-*"; once for each.
    #[arg(long = "exclusion", visible_alias = "exclude", value_name = "PATTERN")]
    exclusions: Vec<String>,
    /// Whether manifests may name layers or images that are not there.
    #[arg(long)]
    sparse: Option<bool>,
    #[command(flatten)]
    quota: QuotaArguments,
}

impl SettingsArguments {
    /// Only what was given.
    fn document(&self) -> Value {
        let mut document = json!({});
        if let Some(mutability) = self.mutability {
            document["mutability"] = json!(match mutability {
                Mutability::Mutable => "mutable",
                Mutability::Immutable => "immutable",
                Mutability::MutableWithExclusion => "mutable_with_exclusion",
                Mutability::ImmutableWithExclusion => "immutable_with_exclusion",
            });
        }
        if !self.exclusions.is_empty() {
            document["exclusions"] = json!(self.exclusions);
        }
        if let Some(sparse) = self.sparse {
            document["sparse"] = json!(sparse);
        }
        document
    }
}

const COLUMNS: [Column; 13] = [
    ("name", "name"),
    ("registry", "registry"),
    ("created", "created_at"),
    ("by", "created_by"),
    ("mutability", "settings.mutability"),
    ("exclusions", "settings.exclusions"),
    ("sparse", "settings.sparse"),
    ("home", "home.region"),
    ("frozen", "home.frozen"),
    ("bytes", "usage.bytes"),
    ("bytes at most", "quota.bytes"),
    ("tags", "usage.tags"),
    ("tags at most", "quota.tags"),
];

pub(super) async fn run(arguments: RepoArguments, printer: Printer) -> Result<(), CliError> {
    let client = Client::admin(&arguments.connection)?;
    match arguments.command {
        RepoCommand::List => list(&client, printer).await,
        RepoCommand::Show { name } => printer.one(&client.get(&at(&name)).await?, &COLUMNS),
        RepoCommand::Create { name, settings } => {
            let made = client.post("/v1/repositories", &creation(&name, &settings)?).await?;
            printer.one(&made, &COLUMNS)
        }
        RepoCommand::Set { name, settings } => {
            let mut wish = settings.document();
            if let Some(quota) = settings.quota.document() {
                wish["quota"] = quota;
            }
            if wish == json!({}) {
                return Err(CliError::usage("nothing to set; give --mutability, --exclusion, --sparse or --quota-…"));
            }
            printer.one(&client.call(Method::PATCH, &at(&name), Some(&wish)).await?, &COLUMNS)
        }
        RepoCommand::Home { name, wish, accept_loss } => {
            let wish = match wish {
                HomeWish::Take => "take",
                HomeWish::Freeze => "freeze",
                HomeWish::Leave => "leave",
            };
            let document = json!({ "home": wish, "accept_loss": accept_loss });
            printer.one(&client.call(Method::PATCH, &at(&name), Some(&document)).await?, &COLUMNS)
        }
        RepoCommand::Delete { name, force } => {
            client.call(Method::DELETE, &format!("{}?force={force}", at(&name)), None).await?;
            printer.done(&format!("{name} is deleted"))
        }
    }
}

fn at(name: &str) -> String {
    format!("/v1/repositories/{}", path(name))
}

fn creation(name: &str, given: &SettingsArguments) -> Result<Value, CliError> {
    let mut creation = json!({ "name": name });
    if let Some(quota) = given.quota.document() {
        creation["quota"] = quota;
    }
    let mut settings = given.document();
    if settings == json!({}) {
        return Ok(creation);
    }
    if settings.get("mutability").is_none() {
        if settings.get("exclusions").is_some() {
            return Err(CliError::usage("--exclusion goes with --mutability …-with-exclusion"));
        }
        settings["mutability"] = json!("mutable");
    }
    creation["settings"] = settings;
    Ok(creation)
}

/// All pages, as one list.
async fn list(client: &Client, printer: Printer) -> Result<(), CliError> {
    let mut names: Vec<Value> = Vec::new();
    loop {
        let after = names.last().and_then(Value::as_str).map(|last| format!("?after={}", part(last)));
        let page = client.get(&format!("/v1/repositories{}", after.unwrap_or_default())).await?;
        let found = page.get("repositories").and_then(Value::as_array).cloned().unwrap_or_default();
        let is_last = found.is_empty() || page.get("more") != Some(&Value::Bool(true));
        names.extend(found);
        if is_last {
            break;
        }
    }
    printer.list(&json!({ "repositories": names }), "repositories", &[("NAME", "")])
}

#[cfg(test)]
mod tests {
    use super::*;

    // Only what was given is sent; a pattern without a rule to belong to is told.
    #[test]
    fn settings() {
        let given = |mutability, exclusions: &[&str], sparse| SettingsArguments {
            mutability,
            exclusions: exclusions.iter().map(|text| (*text).to_owned()).collect(),
            sparse,
            quota: QuotaArguments::default(),
        };
        assert_eq!(creation("a", &given(None, &[], None)).unwrap(), json!({ "name": "a" }));
        let settings = &given(Some(Mutability::ImmutableWithExclusion), &["dev-*"], None);
        assert_eq!(
            creation("a", settings).unwrap()["settings"],
            json!({ "mutability": "immutable_with_exclusion", "exclusions": ["dev-*"] })
        );
        assert_eq!(creation("a", &given(None, &[], Some(true))).unwrap()["settings"]["mutability"], "mutable");
        assert!(creation("a", &given(None, &["x"], None)).is_err());
    }
}
