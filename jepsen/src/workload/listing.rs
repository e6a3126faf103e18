//! `listing`: lists of tags, of referrers and of repositories are read in small pages, each page from another node,
//! while elements come and go. Every element has one owner, so that its history is a straight line; some never go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, LINK};
use reqwest::{Method, Url};
use serde_json::{Value, json};

use super::Shared;
use super::client::{Answer, Client, MANIFEST_TYPE, Trouble, Way, newest};
use super::image::{Blob, sha256, small_manifest};
use super::nodes::{Node, Nodes, failed, refused};
use super::register::prepare;
use crate::history::{Act, Actor, Certainty, Op, Outcome};

/// Elements of each owner that stay.
const ANCHORS: usize = 4;
/// Elements of each owner that come and go.
const CHURNING: usize = 8;
/// Elements of one owner whose standing nobody knows; then it adds no new ones in their place.
const LOST_MAX: usize = 200;
/// How often those look who wait until a list is prepared.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Pages of one listing: a list that links on for ever is an error.
const PAGES_MAX: usize = 1000;

/// Which list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tags,
    Referrers,
    Catalog,
}

/// A list that clients share.
#[derive(Debug)]
pub(crate) struct List {
    kind: Kind,
    repository: String,
    blob: Blob,
    /// What referrers are attached to.
    subject: Bytes,
    is_prepared: AtomicBool,
}

/// The lists of a run: the catalog, and pairs of a list of tags and one of referrers.
pub(crate) fn lists(seed: u64, clients: usize) -> Vec<Arc<List>> {
    let pairs = (clients / 12).max(1);
    let of_pair = |number: usize| [(Kind::Tags, number), (Kind::Referrers, number)];
    let all = (0..pairs).flat_map(of_pair).chain([(Kind::Catalog, 0)]);
    let list = |(kind, number): (Kind, usize)| {
        let repository = match kind {
            Kind::Tags => format!("list/t{number}"),
            Kind::Referrers => format!("list/r{number}"),
            Kind::Catalog => String::new(),
        };
        let blob = json!({"seed": seed, "list": repository}).to_string();
        let blob = Blob::new(blob.into_bytes(), Way::Whole);
        let subject = small_manifest(&blob, "subject", None);
        Arc::new(List { kind, repository, blob, subject, is_prepared: AtomicBool::new(kind == Kind::Catalog) })
    };
    all.map(list).collect()
}

/// Prefix of the repositories that come and go; all others in the catalog are somebody else's.
const CATALOG_PREFIX: &str = "cat-";

impl List {
    /// Its name in the history.
    fn key(&self) -> String {
        match self.kind {
            Kind::Tags => format!("tags of {}", self.repository),
            Kind::Referrers => format!("referrers of {}@{}", self.repository, sha256(&self.subject)),
            Kind::Catalog => "catalog".to_owned(),
        }
    }

    fn prefix(&self) -> &'static str {
        if self.kind == Kind::Catalog { CATALOG_PREFIX } else { "" }
    }

    fn first_page(&self) -> String {
        match self.kind {
            Kind::Tags => format!("/v2/{}/tags/list", self.repository),
            Kind::Referrers => format!("/v2/{}/referrers/{}", self.repository, sha256(&self.subject)),
            Kind::Catalog => "/v2/_catalog".to_owned(),
        }
    }

    /// The elements of a page.
    fn items(&self, answer: &Answer) -> Option<Vec<String>> {
        let document: Value = serde_json::from_slice(&answer.body).ok()?;
        let (field, is_plain) = match self.kind {
            Kind::Tags => ("tags", true),
            Kind::Catalog => ("repositories", true),
            Kind::Referrers => ("manifests", false),
        };
        let items = document.get(field)?.as_array()?.iter();
        items.map(|item| Some(if is_plain { item } else { item.get("digest")? }.as_str()?.to_owned())).collect()
    }

    /// Makes what elements need, at the first owner's call; the others wait.
    async fn prepare(&self, shared: &Shared, nodes: &Nodes, is_first: bool, random: &mut fastrand::Rng) {
        while !is_first && !self.is_prepared.load(Ordering::Acquire) && !shared.is_over() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        if self.is_prepared.load(Ordering::Acquire) {
            return;
        }
        let is_there = prepare(shared, nodes, &self.repository, &self.blob, random).await;
        while is_there && self.kind == Kind::Referrers && !shared.is_over() {
            let client = &nodes.any(random).public;
            let url = client.url(&format!("/v2/{}/manifests/subject", self.repository));
            let kind = [(CONTENT_TYPE, MANIFEST_TYPE.to_owned())];
            if client.expect(201, Method::PUT, url, &kind, self.subject.clone()).await.is_ok() {
                break;
            }
        }
        self.is_prepared.store(true, Ordering::Release);
    }
}

/// Something in a list.
#[derive(Clone, Debug)]
struct Element {
    name: String,
    /// Of a referrer and a tag.
    manifest: Bytes,
    is_there: bool,
}

impl List {
    /// A new element; names of different owners lie between each other.
    fn element(&self, note: &str, random: &mut fastrand::Rng) -> Element {
        let manifest = match self.kind {
            Kind::Referrers => small_manifest(&self.blob, note, Some(&self.subject)),
            Kind::Tags | Kind::Catalog => small_manifest(&self.blob, "element", None),
        };
        let name = match self.kind {
            Kind::Referrers => sha256(&manifest),
            Kind::Tags => format!("{:04x}-{note}", random.u16(..)),
            Kind::Catalog => format!("{CATALOG_PREFIX}{:04x}-{note}", random.u16(..)),
        };
        Element { name, manifest, is_there: false }
    }

    /// Adds, removes or looks for an element at one node; `None` when nobody knows what came of it.
    async fn ask(&self, f: Act, element: &Element, node: &Node, actor: &mut Actor) -> Option<bool> {
        let key = self.key();
        let op = Op { f, key: &key, node: Some(&node.name), value: json!({"element": element.name}) };
        let mut is_known = true;
        let asked = async {
            let outcome = match self.send(f, element, node).await {
                Ok(answer) => outcome(f, self.kind == Kind::Catalog, &answer),
                Err(trouble) => failed(trouble),
            };
            is_known = outcome.error.as_ref().is_none_or(|(_, certainty)| *certainty == Certainty::Never);
            outcome
        };
        let is_ok = actor.run(op, asked).await;
        is_known.then_some(is_ok)
    }

    async fn send(&self, f: Act, element: &Element, node: &Node) -> Result<Answer, Trouble> {
        let name = &element.name;
        let json_type = [(CONTENT_TYPE, "application/json".to_owned())];
        let manifest_type = [(CONTENT_TYPE, MANIFEST_TYPE.to_owned())];
        let newest = [newest()];
        let (public, admin) = (&node.public, &node.admin);
        let url = public.url(&format!("/v2/{}/manifests/{name}", self.repository));
        match (self.kind, f) {
            (Kind::Catalog, Act::Add) => {
                let wanted = Bytes::from(json!({"name": name}).to_string());
                admin.send(Method::POST, admin.url("/v1/repositories"), &json_type, wanted).await
            }
            (Kind::Catalog, Act::Remove) => {
                let url = admin.url(&format!("/v1/repositories/{name}"));
                admin.send(Method::DELETE, url, &[], Bytes::new()).await
            }
            (Kind::Catalog, _) => {
                let url = public.url(&format!("/v2/{name}/tags/list"));
                public.send(Method::GET, url, &newest, Bytes::new()).await
            }
            (Kind::Tags | Kind::Referrers, Act::Add) => {
                public.send(Method::PUT, url, &manifest_type, element.manifest.clone()).await
            }
            (Kind::Tags | Kind::Referrers, Act::Remove) => public.send(Method::DELETE, url, &[], Bytes::new()).await,
            (Kind::Tags | Kind::Referrers, _) => public.send(Method::GET, url, &newest, Bytes::new()).await,
        }
    }

    /// Reads the whole list in pages of `n`, each from another node.
    async fn read(&self, nodes: &[Node], n: usize, actor: &mut Actor) {
        let key = self.key();
        let value = json!({"n": n, "prefix": self.prefix()});
        let op = Op { f: Act::List, key: &key, node: None, value };
        let read = async {
            match self.pages(nodes, n).await {
                Ok(pages) => Outcome { value: json!({"pages": pages}), ..Outcome::default() },
                Err(trouble) => failed(trouble),
            }
        };
        actor.run(op, read).await;
    }

    async fn pages(&self, nodes: &[Node], n: usize) -> Result<Vec<Value>, Trouble> {
        let (mut pages, mut next) = (Vec::new(), Some(format!("{}?n={n}", self.first_page())));
        for node in nodes.iter().cycle() {
            let Some(reference) = next else { return Ok(pages) };
            let client: &Client = &node.public;
            let url: Result<Url, _> = client.url("/").join(&reference);
            let url = url.map_err(|error| Trouble::wrong(format!("a link to nowhere, {reference}: {error}")))?;
            let answer = client.expect(200, Method::GET, url, &[], Bytes::new()).await?;
            let items = self.items(&answer).ok_or_else(|| Trouble::wrong("a page that is no list".to_owned()))?;
            next = answer.header(LINK).and_then(link);
            let is_last = next.is_none();
            pages.push(json!({"node": node.name, "rev": answer.rev(), "items": items, "is_last": is_last}));
            if pages.len() > PAGES_MAX {
                break;
            }
        }
        Err(Trouble::wrong(format!("a list of more than {PAGES_MAX} pages")))
    }
}

/// `<target>; rel="next"`
fn link(header: &str) -> Option<String> {
    let (target, rest) = header.strip_prefix('<')?.split_once('>')?;
    rest.contains("rel=\"next\"").then(|| target.to_owned())
}

fn outcome(f: Act, is_catalog: bool, answer: &Answer) -> Outcome {
    let ok = |value| Outcome { value, rev: answer.rev(), error: None };
    match (f, answer.status) {
        (Act::Look, 200) => ok(json!({"present": true})),
        (Act::Look, 404) => ok(json!({"present": false})),
        // the operators' interface shows a new repository as it is some time after it was made
        (Act::Add, 201) if is_catalog => ok(json!({"rev_is_bound": true})),
        (Act::Add | Act::Remove, 200..=202) => ok(Value::Null),
        // its one owner knows better: the judge hears of it
        (Act::Remove, 404) => refused(answer, json!({"status": 404})),
        _ => failed(Trouble::of_answer(answer)),
    }
}

/// Adds and removes elements of its own until the load ends, looking for some between.
pub(crate) async fn own(
    shared: Arc<Shared>,
    list: Arc<List>,
    nodes: Nodes,
    mut actor: Actor,
    (owner, is_first): (usize, bool),
) {
    let mut random = fastrand::Rng::with_seed(shared.seed ^ (owner as u64).wrapping_mul(0xd6e8_feb8_6659_fd93));
    list.prepare(&shared, &nodes, is_first, &mut random).await;
    let mut elements: Vec<Element> = Vec::new();
    let (mut number, mut lost) = (0, 0);
    while !shared.is_over() {
        shared.pause(&mut random).await;
        if elements.len() < ANCHORS + CHURNING && lost < LOST_MAX {
            elements.push(list.element(&format!("{owner}-{number}"), &mut random));
            number += 1;
        }
        let at = random.usize(0..elements.len());
        let node = nodes.any(&mut random).clone();
        let f = match (elements[at].is_there, random.u8(0..4)) {
            (_, 0) => Act::Look,
            (false, _) => Act::Add,
            (true, _) if at < ANCHORS => Act::Look,
            (true, _) => Act::Remove,
        };
        match (list.ask(f, &elements[at], &node, &mut actor).await, f) {
            (_, Act::Look) => {}
            (Some(is_ok), _) => elements[at].is_there ^= is_ok,
            // nobody knows whether it is there: nobody touches it again
            (None, _) => {
                elements.remove(at);
                lost += 1;
            }
        }
        if elements.is_empty() {
            return;
        }
    }
}

/// Reads lists page by page until the load ends.
pub(crate) async fn page(shared: Arc<Shared>, list: Arc<List>, nodes: Nodes, mut actor: Actor, number: usize) {
    let mut random = fastrand::Rng::with_seed(shared.seed ^ (number as u64).wrapping_mul(0xa076_1d64_78bd_642f));
    list.prepare(&shared, &nodes, false, &mut random).await;
    let all: Vec<Node> = nodes.iter().cloned().collect();
    while !shared.is_over() {
        shared.pause(&mut random).await;
        let mut order = all.clone();
        random.shuffle(&mut order);
        let n = if list.kind == Kind::Catalog { random.usize(3..=20) } else { random.usize(1..=7) };
        list.read(&order, n, &mut actor).await;
    }
}

/// Reads each list once from every node, when everything is over. Actors are numbered from `first`.
pub(crate) async fn read_all(shared: &Shared, nodes: &Nodes, first: usize) {
    let lists = shared.lists.lock().clone();
    let reads = nodes.iter().enumerate().map(|(at, node)| {
        let mut actor = Actor::new(&shared.recorder, first + at, nodes.count());
        let lists = &lists;
        async move {
            for list in lists.iter().filter(|list| list.is_prepared.load(Ordering::Acquire)) {
                list.read(std::slice::from_ref(node), 5, &mut actor).await;
            }
        }
    });
    futures_util::future::join_all(reads).await;
}
