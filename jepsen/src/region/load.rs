//! What clients do in two regions: tags that both put, move and delete, and tags that only one of them puts, once.

use std::sync::Arc;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::history::{Act, Actor, Op, Outcome};
use crate::workload::Shared;
use crate::workload::client::{MANIFEST_TYPE, Trouble, Way, newest};
use crate::workload::image::{Blob, sha256, small_manifest};
use crate::workload::nodes::{Node, Nodes, failed, refused};
use crate::workload::register::prepare;

/// Repositories whose tags both regions write.
const SHARED: usize = 4;
/// Tags of each of them.
const TAGS: usize = 12;

/// The repositories of a run, and the blob that all manifests of one name.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    config: Blob,
}

impl Field {
    pub(crate) fn new(seed: u64) -> Field {
        Field { config: Blob::new(json!({"seed": seed, "regions": 2}).to_string().into_bytes(), Way::Whole) }
    }

    /// Every repository, whichever region writes it.
    pub(crate) fn repositories() -> Vec<String> {
        let shared = (0..SHARED).map(|number| format!("shared/r{number}"));
        shared.chain(Field::own_repositories()).collect()
    }

    /// The repositories that only one region writes.
    pub(crate) fn own_repositories() -> [String; 2] {
        [1, 2].map(own)
    }

    /// The keys of all shared tags.
    pub(crate) fn shared_keys() -> Vec<String> {
        let tags = |number| (0..TAGS).map(move |tag| format!("shared/r{number}:t{tag}"));
        (0..SHARED).flat_map(tags).collect()
    }

    /// Pushes the blob to every repository of a region, so that manifests can name it.
    pub(crate) async fn prepare(&self, shared: &Shared, nodes: &Nodes) -> bool {
        let mut random = fastrand::Rng::with_seed(shared.seed);
        for repository in Field::repositories() {
            if !prepare(shared, nodes, &repository, &self.config, &mut random).await {
                return false;
            }
        }
        true
    }
}

fn own(region: usize) -> String {
    format!("own/of{region}")
}

/// Who acts where.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// 1 or 2.
    pub(crate) region: usize,
    pub(crate) nodes: Nodes,
    pub(crate) field: Field,
}

/// `r1/a-1`: a node and its region, as histories name it.
pub(crate) fn node_name(region: usize, node: &Node) -> String {
    format!("r{region}/{}", node.name)
}

/// Acts until the load ends.
pub(crate) async fn run(shared: Arc<Shared>, place: Place, mut actor: Actor, number: usize) {
    let mut random = fastrand::Rng::with_seed(shared.seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut count = 0u64;
    while !shared.is_over() {
        shared.pause(&mut random).await;
        count += 1;
        let (repository, tag) = match random.u8(0..100) {
            0..30 => (own(place.region), format!("t{number}-{count}")),
            _ => (format!("shared/r{}", random.usize(0..SHARED)), format!("t{}", random.usize(0..TAGS))),
        };
        let is_own = repository.starts_with("own/");
        let manifest = || small_manifest(&place.field.config, &format!("{}/{number}/{count}", place.region), None);
        let act = match random.u8(0..100) {
            _ if is_own => Act::RegionPut,
            0..45 => Act::RegionPut,
            45..58 => Act::RegionDelete,
            _ => Act::RegionGet,
        };
        let body = if act == Act::RegionPut { manifest() } else { Bytes::new() };
        let node = place.nodes.any(&mut random);
        ask(&mut actor, place.region, node, act, (&repository, &tag), body).await;
    }
}

/// One operation at one node, noted.
pub(crate) async fn ask(
    actor: &mut Actor,
    region: usize,
    node: &Node,
    act: Act,
    (repository, tag): (&str, &str),
    body: Bytes,
) {
    let key = format!("{repository}:{tag}");
    let value = if act == Act::RegionPut { json!({"digest": sha256(&body)}) } else { Value::Null };
    let name = node_name(region, node);
    let op = Op { f: act, key: &key, node: Some(&name), value };
    let asked = async {
        let url = node.public.url(&format!("/v2/{repository}/manifests/{tag}"));
        let (method, header) = if act == Act::RegionPut {
            (Method::PUT, (CONTENT_TYPE, MANIFEST_TYPE.to_owned()))
        } else if act == Act::RegionDelete {
            (Method::DELETE, newest())
        } else {
            (Method::GET, newest())
        };
        let sent = node.public.send(method, url, &[header], body).await;
        let answer = match sent {
            Ok(answer) => answer,
            Err(trouble) => return failed(trouble),
        };
        let ok = |value| Outcome { value, rev: answer.rev(), error: None };
        match (act, answer.status) {
            (Act::RegionPut, 201) | (Act::RegionDelete, 202) => ok(Value::Null),
            (Act::RegionDelete, 404) => refused(&answer, json!({"status": 404})),
            (Act::RegionGet | Act::RegionFinal, 200) => ok(json!({"digest": sha256(&answer.body)})),
            (Act::RegionGet | Act::RegionFinal, 404) => ok(json!({"digest": null})),
            _ => failed(Trouble::of_answer(&answer)),
        }
    };
    actor.run(op, asked).await;
}

/// Reads every key in a region when everything is over, and the blob of what it names: the image has to be whole.
pub(crate) async fn read_all(place: &Place, keys: &[String], actor: &mut Actor) {
    for (at, key) in keys.iter().enumerate() {
        let Some((repository, tag)) = key.split_once(':') else { continue };
        let node = place.nodes.iter().nth(at % place.nodes.count()).expect("a region has nodes");
        ask(actor, place.region, node, Act::RegionFinal, (repository, tag), Bytes::new()).await;
    }
    for repository in Field::repositories() {
        let key = format!("{repository}@{}", place.field.config.digest);
        for node in place.nodes.iter() {
            let name = node_name(place.region, node);
            let op = Op { f: Act::RegionBlob, key: &key, node: Some(&name), value: Value::Null };
            let url = node.public.url(&format!("/v2/{repository}/blobs/{}", place.field.config.digest));
            let pulled = async {
                match node.public.send(Method::GET, url, &[], Bytes::new()).await {
                    Ok(answer) if answer.status == 200 => {
                        Outcome { value: json!({"digest": sha256(&answer.body)}), ..Outcome::default() }
                    }
                    Ok(answer) => failed(Trouble::of_answer(&answer)),
                    Err(trouble) => failed(trouble),
                }
            };
            actor.run(op, pulled).await;
        }
    }
}
