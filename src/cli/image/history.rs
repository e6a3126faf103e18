//! `portolan image history` and `restore`: what happened to tags, and setting them back.

use registry_core::vocabulary::{Reference, RepositoryName, Tag, Timestamp};
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use serde_json::{Value, json};

use super::{ACCEPTED, manifest, parse, succeeded};
use crate::cli::client::{Client, part, path};
use crate::cli::error::CliError;
use crate::cli::output::Printer;

/// To what tags are set back.
#[derive(Debug, Default, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct Point {
    /// To what the tag named after its change of this number (see history).
    #[arg(long, value_name = "NUMBER")]
    change: Option<u64>,
    /// To what was named at this time, as 2026-01-02T03:04:05Z.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
}

/// What is to happen to a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    tag: String,
    now: Option<String>,
    then: Option<String>,
    /// `set`, `delete`, `keep`, or why it can't be done.
    what: &'static str,
}

impl Step {
    /// Reads what the node tells of a tag then and now.
    fn new(tag: &str, now: &Value, was: &str, then: &Value, is_held: bool) -> Step {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let (now, then) = (text(now), text(then));
        let what = match (was, &then) {
            ("forgotten", _) => "unknown: the journal does not reach back so far",
            _ if now == then => "keep",
            (_, None) => "delete",
            (_, Some(_)) if is_held => "set",
            (_, Some(_)) => "gone: the manifest was deleted; push the image again",
        };
        Step { tag: tag.to_owned(), now, then, what }
    }

    fn changes(&self) -> bool {
        matches!(self.what, "set" | "delete")
    }

    fn document(&self) -> Value {
        json!({ "tag": self.tag, "now": self.now, "then": self.then, "what": self.what })
    }
}

fn of_tag(repository: &RepositoryName, tag: &Tag) -> String {
    format!("/v1/history/{}?tag={}", path(repository.as_str()), part(tag.as_str()))
}

/// Shows the changes of a tag, oldest first.
pub(super) async fn show(admin: &Client, image: &str, printer: Printer) -> Result<(), CliError> {
    let (repository, tag) = tag_of(image)?;
    let found = admin.get(&of_tag(&repository, &tag)).await?;
    let columns = [("CHANGE", "number"), ("AT", "at"), ("DIGEST", "digest"), ("BY", "by"), ("STILL HERE", "held")];
    printer.list(&found, "changes", &columns)
}

fn tag_of(image: &str) -> Result<(RepositoryName, Tag), CliError> {
    match parse(image)? {
        (repository, Reference::Tag(tag)) => Ok((repository, tag)),
        (_, Reference::Digest(_)) => {
            Err(CliError::usage(format!("{image:?}: what a digest names never changes; write repository:tag")))
        }
    }
}

/// Sets a tag, or all tags of a repository, back to what they named; without `is_meant` only shows what would happen.
///
/// Each tag is set under the condition that it still names what was seen: who pushed meanwhile wins, and is told of.
pub(super) async fn restore(
    registry: &Client,
    admin: &Client,
    image: &str,
    point: &Point,
    is_meant: bool,
    printer: Printer,
) -> Result<(), CliError> {
    let (repository, steps) = plan(admin, image, point).await?;
    let due = steps.iter().filter(|step| step.changes()).count();
    if !is_meant {
        let entries: Vec<Value> = steps.iter().map(Step::document).collect();
        let columns = [("TAG", "tag"), ("NOW", "now"), ("THEN", "then"), ("WHAT", "what")];
        printer.list(&json!({ "repository": repository.as_str(), "tags": entries }), "tags", &columns)?;
        return printer.done(&format!("nothing is changed; with --yes {due} tags are set back"));
    }
    let mut failures = Vec::new();
    for step in steps {
        let ended = match step.what {
            "keep" => continue,
            "set" | "delete" => take(registry, &repository, &step).await.map_err(|error| error.to_string()),
            why => Err(why.to_owned()),
        };
        match ended {
            Ok(()) => printer.done(&format!("{repository}:{} is set back", step.tag))?,
            Err(why) => failures.push(format!("{repository}:{}: {why}", step.tag)),
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(CliError::failed(failures.join("\n"))) }
}

async fn plan(admin: &Client, image: &str, point: &Point) -> Result<(RepositoryName, Vec<Step>), CliError> {
    if let Some(time) = &point.at {
        let time = Timestamp::parse(time)
            .ok_or_else(|| CliError::usage(format!("--at {time:?} is no time; write 2026-01-02T03:04:05Z")))?;
        let (repository, only) = match RepositoryName::parse(image) {
            Ok(repository) => (repository, None),
            Err(_) => tag_of(image).map(|(repository, tag)| (repository, Some(tag)))?,
        };
        let mut steps = tags_at(admin, &repository, time).await?;
        if let Some(tag) = only {
            steps.retain(|step| step.tag == tag.as_str());
            if steps.is_empty() {
                return Err(CliError::failed(format!("{image} was not there then, and is not there now")));
            }
        }
        return Ok((repository, steps));
    }
    let number = point.change.unwrap_or_default();
    let (repository, tag) = tag_of(image)?;
    let found = admin.get(&of_tag(&repository, &tag)).await?;
    let changes = found["changes"].as_array().map_or(&[][..], Vec::as_slice);
    let change = changes.iter().find(|change| change["number"] == number).ok_or_else(|| {
        CliError::usage(format!("{image} has no change {number}; see `portolan image history {image}`"))
    })?;
    let is_held = change["held"].as_bool().unwrap_or(false);
    Ok((repository, vec![Step::new(tag.as_str(), &found["now"], "named", &change["digest"], is_held)]))
}

async fn tags_at(admin: &Client, repository: &RepositoryName, time: Timestamp) -> Result<Vec<Step>, CliError> {
    let mut steps: Vec<Step> = Vec::new();
    loop {
        let after = steps.last().map(|last| format!("&after={}", part(&last.tag))).unwrap_or_default();
        let at = format!("/v1/history/{}?at={}{after}", path(repository.as_str()), part(&time.to_string()));
        let page = admin.get(&at).await?;
        let tags = page["tags"].as_array().map_or(&[][..], Vec::as_slice);
        let known = steps.len();
        steps.extend(tags.iter().filter_map(|entry| {
            let is_held = entry["held"].as_bool().unwrap_or(false);
            Some(Step::new(entry["tag"].as_str()?, &entry["now"], entry["was"].as_str()?, &entry["then"], is_held))
        }));
        if page["more"] != true || steps.len() == known {
            return Ok(steps);
        }
    }
}

async fn take(registry: &Client, repository: &RepositoryName, step: &Step) -> Result<(), CliError> {
    let tag = Tag::parse(&step.tag).map_err(|error| CliError::failed(format!("the node tells a tag: {error}")))?;
    let mut headers = condition(step.now.as_deref())?;
    let target = manifest(repository, &Reference::Tag(tag));
    let answer = match &step.then {
        Some(digest) => {
            let mut accept = HeaderMap::new();
            accept.insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
            let source = format!("/v2/{}/manifests/{}", path(repository.as_str()), part(digest));
            let found = succeeded(registry, registry.send(Method::GET, &source, accept, None).await?)?;
            headers.extend(found.headers.get(CONTENT_TYPE).map(|kind| (CONTENT_TYPE, kind.clone())));
            registry.send_bytes(Method::PUT, &target, headers, found.body).await?
        }
        None => registry.send(Method::DELETE, &target, headers, None).await?,
    };
    succeeded(registry, answer).map(drop)
}

/// That the tag still names what was seen.
fn condition(now: Option<&str>) -> Result<HeaderMap, CliError> {
    let (name, value): (HeaderName, String) = match now {
        Some(digest) => (IF_MATCH, format!("\"{digest}\"")),
        None => (IF_NONE_MATCH, "*".to_owned()),
    };
    let value = HeaderValue::try_from(value)
        .map_err(|error| CliError::failed(format!("the node tells a digest that is none: {error}")))?;
    Ok(HeaderMap::from_iter([(name, value)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    // What is to happen follows from what was, what is, and whether the manifest is still there.
    #[test]
    fn steps() {
        let (a, b, none) = (json!("sha256:a"), json!("sha256:b"), Value::Null);
        for (now, was, then, is_held, what) in [
            (&a, "named", &a, true, "keep"),
            (&a, "named", &b, true, "set"),
            (&none, "named", &b, true, "set"),
            (&a, "absent", &none, false, "delete"),
            (&a, "named", &b, false, "gone: the manifest was deleted; push the image again"),
            (&a, "forgotten", &none, false, "unknown: the journal does not reach back so far"),
            (&none, "forgotten", &none, false, "unknown: the journal does not reach back so far"),
        ] {
            assert_eq!(Step::new("t", now, was, then, is_held).what, what);
        }
        assert_eq!(condition(None).unwrap()[IF_NONE_MATCH], "*");
        assert_eq!(condition(Some("sha256:a")).unwrap()[IF_MATCH], "\"sha256:a\"");
    }
}
