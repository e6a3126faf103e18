//! `portolan why`: who uses a blob.

use clap::Args;
use serde_json::{Value, json};

use super::client::Client;
use super::connection::ConnectionArguments;
use super::error::CliError;
use super::gc::uses_path;
use super::output::Printer;

#[derive(Debug, Args)]
pub(super) struct WhyArguments {
    #[command(flatten)]
    connection: ConnectionArguments,
    /// Digest of a blob.
    digest: String,
}

pub(super) async fn run(arguments: WhyArguments, printer: Printer) -> Result<(), CliError> {
    let document = Client::admin(&arguments.connection)?.get(&uses_path(&arguments.digest)).await?;
    if printer.is_json() {
        return printer.json(&document);
    }
    let rows = json!({ "uses": rows(&document) });
    let columns = [("REPOSITORY", "repository"), ("MANIFEST", "manifest"), ("NAMES IT", "how"), ("TAGS", "tags")];
    printer.list(&rows, "uses", &columns)?;
    printer.done("")?;
    let explanation = document.get("explanation").and_then(Value::as_str).unwrap_or_default();
    printer.done(explanation)?;
    if document.get("cut").and_then(Value::as_bool) == Some(true) {
        printer.done("more repositories may use it than are shown")?;
    }
    Ok(())
}

/// A row for each manifest, and one for each repository without any.
fn rows(document: &Value) -> Vec<Value> {
    let list = |value: &Value, name: &str| value.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut rows = Vec::new();
    for used in list(document, "repositories") {
        let manifests = list(&used, "manifests");
        if manifests.is_empty() {
            let how = if used["linked"] == true { "linked only" } else { "not any more" };
            rows.push(json!({ "repository": used["repository"], "manifest": null, "how": how, "tags": [] }));
        }
        for manifest in manifests {
            let how = if manifest["direct"] == true { "itself" } else { "by an index" };
            let (repository, digest, tags) = (&used["repository"], &manifest["digest"], &manifest["tags"]);
            rows.push(json!({ "repository": repository, "manifest": digest, "how": how, "tags": tags }));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    // One row for each manifest with its tags, one for a repository that only links the blob.
    #[test]
    fn rows_table() {
        let document = json!({ "repositories": [
            { "repository": "a", "linked": true, "manifests": [
                { "digest": "d1", "direct": true, "tags": [] }, { "digest": "d2", "direct": false, "tags": ["v1"] },
            ] },
            { "repository": "b", "linked": true, "manifests": [] },
            { "repository": "c", "linked": false, "manifests": [] },
        ] });
        let shown: Vec<String> = rows(&document)
            .iter()
            .map(|row| format!("{} {} {} {}", row["repository"], row["manifest"], row["how"], row["tags"]))
            .collect();
        assert_eq!(
            shown,
            [
                r#""a" "d1" "itself" []"#,
                r#""a" "d2" "by an index" ["v1"]"#,
                r#""b" null "linked only" []"#,
                r#""c" null "not any more" []"#,
            ]
        );
    }
}
