//! `portolan image`: tags and manifests, through the registry's own API.

mod copies;
mod history;

use clap::{Args, Subcommand};
use registry_core::vocabulary::{Digest, Reference, RepositoryName, Tag};
use reqwest::Method;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue, LINK};
use serde_json::{Value, json};

use super::client::{Answer, Client, part, path};
use super::connection::ConnectionArguments;
use super::error::CliError;
use super::output::Printer;

/// Every form of manifest there is: what is stored is shown as it is.
const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, */*";

#[derive(Debug, Args)]
pub(super) struct ImageArguments {
    #[command(flatten)]
    connection: ConnectionArguments,
    /// Public listener of a node, as http://127.0.0.1:7400; left out: the one of this machine's configuration.
    #[arg(long, env = "PORTOLAN_REGISTRY", value_name = "URL", global = true)]
    registry: Option<String>,
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// List the tags of a repository.
    List {
        /// Name of the repository.
        repository: String,
    },
    /// Show a manifest.
    Show {
        /// repository:tag or repository@digest.
        image: String,
    },
    /// Show where the copies of an image's blobs lie, asking the admin listener as well.
    Copies {
        /// repository:tag or repository@digest.
        image: String,
    },
    /// Show what changed a tag, when and by whom, asking the admin listener.
    History {
        /// repository:tag.
        image: String,
    },
    /// Set a tag, or all tags of a repository, back to what they named.
    Restore {
        /// repository:tag, or repository with --at.
        image: String,
        #[command(flatten)]
        point: history::Point,
        /// Do it; without this only what would happen is shown.
        #[arg(long)]
        yes: bool,
    },
    /// Delete a tag, or a manifest with all its tags.
    Delete {
        /// repository:tag or repository@digest.
        image: String,
    },
}

pub(super) async fn run(arguments: ImageArguments, printer: Printer) -> Result<(), CliError> {
    let client = Client::registry(&arguments.connection, arguments.registry.as_deref())?;
    match arguments.command {
        ImageCommand::List { repository } => list(&client, &repository, printer).await,
        ImageCommand::Show { image } => show(&client, &image, printer).await,
        ImageCommand::Copies { image } => {
            let admin = Client::admin(&arguments.connection)?;
            copies::show(&client, &admin, &image, printer).await
        }
        ImageCommand::History { image } => history::show(&Client::admin(&arguments.connection)?, &image, printer).await,
        ImageCommand::Restore { image, point, yes } => {
            let admin = Client::admin(&arguments.connection)?;
            history::restore(&client, &admin, &image, &point, yes, printer).await
        }
        ImageCommand::Delete { image } => {
            let (repository, reference) = parse(&image)?;
            client.call(Method::DELETE, &manifest(&repository, &reference), None).await?;
            printer.done(&format!("{image} is deleted"))
        }
    }
}

fn manifest(repository: &RepositoryName, reference: &Reference) -> String {
    format!("/v2/{}/manifests/{}", path(repository.as_str()), part(&reference.to_string()))
}

/// A digest follows `@`, a tag the last `:` after the last `/`.
fn parse(image: &str) -> Result<(RepositoryName, Reference), CliError> {
    let told = || CliError::usage(format!("{image:?} is no image; write repository:tag or repository@digest"));
    let (name, reference) = match image.split_once('@') {
        // what stands behind an @ is never looked up among the tags (M16)
        Some((name, digest)) => (name, Digest::parse(digest).ok().map(Reference::Digest)),
        None => {
            let split = image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
            let (name, tag) = split.ok_or_else(told)?;
            (name, Tag::parse(tag).ok().map(Reference::Tag))
        }
    };
    let name = RepositoryName::parse(name).map_err(|_| told())?;
    Ok((name, reference.ok_or_else(told)?))
}

async fn list(client: &Client, repository: &str, printer: Printer) -> Result<(), CliError> {
    let name = RepositoryName::parse(repository);
    let name = name.map_err(|error| CliError::usage(format!("{repository:?}: {error}")))?;
    let mut tags: Vec<Value> = Vec::new();
    loop {
        let last = tags.last().and_then(Value::as_str).map(|last| format!("&last={}", part(last)));
        let at = format!("/v2/{}/tags/list?n=1000{}", path(name.as_str()), last.unwrap_or_default());
        let answer = succeeded(client, client.send(Method::GET, &at, HeaderMap::new(), None).await?)?;
        let page: Value = serde_json::from_slice(&answer.body)
            .map_err(|error| CliError::failed(format!("the list of tags is not JSON: {error}")))?;
        let found = page.get("tags").and_then(Value::as_array).cloned().unwrap_or_default();
        let is_last = found.is_empty() || !answer.headers.contains_key(LINK);
        tags.extend(found);
        if is_last {
            break;
        }
    }
    printer.list(&json!({ "name": repository, "tags": tags }), "tags", &[("TAG", "")])
}

fn succeeded(client: &Client, answer: Answer) -> Result<Answer, CliError> {
    if answer.status.is_success() { Ok(answer) } else { Err(client.refused(&answer)) }
}

/// Asks for a manifest: the answer, and its body as a document.
async fn fetch(
    client: &Client,
    repository: &RepositoryName,
    reference: &Reference,
) -> Result<(Answer, Value), CliError> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
    let sent = client.send(Method::GET, &manifest(repository, reference), headers, None).await?;
    let answer = succeeded(client, sent)?;
    let document = serde_json::from_slice(&answer.body)
        .map_err(|error| CliError::failed(format!("the manifest is not JSON: {error}")))?;
    Ok((answer, document))
}

async fn show(client: &Client, image: &str, printer: Printer) -> Result<(), CliError> {
    let (repository, reference) = parse(image)?;
    let (answer, document) = fetch(client, &repository, &reference).await?;
    let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok());
    let shown = json!({
        "digest": header("docker-content-digest"),
        "media_type": header("content-type"),
        "size_bytes": answer.body.len(),
        "manifest": document,
    });
    if printer.is_json() {
        return printer.json(&shown);
    }
    printer.one(&shown, &[("digest", "digest"), ("media type", "media_type"), ("size", "size_bytes")])?;
    printer.done("")?;
    printer.json(&shown["manifest"])
}

#[cfg(test)]
mod tests {
    use super::*;

    // Images are named as clients name them; a port-like colon belongs to no name.
    #[test]
    fn names() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let table = [
            ("a:1".to_owned(), "a", "1".to_owned()),
            ("team/app:v1.0".to_owned(), "team/app", "v1.0".to_owned()),
            (format!("team/app@{digest}"), "team/app", digest.clone()),
        ];
        for (image, name, reference) in table {
            let (repository, found) = parse(&image).unwrap();
            assert_eq!((repository.as_str(), found.to_string()), (name, reference));
        }
        for bad in ["a", "a:", ":1", "host:7400/a", "a@latest", "a@sha256:1", "A:1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
