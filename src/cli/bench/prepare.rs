//! What must be there before a workload can run: repositories, blobs, manifests, tags.

use std::sync::Arc;

use axum::http::{Method, Uri};
use registry_core::vocabulary::{Digest, RepositoryName};

use super::blobs::BlobMaker;
use super::conversation::{Conversation, Failure, Parts, uri};
use super::drive::{Act, Job, Load, drive};
use super::images::{Shelf, has_blob, push_blob, scopes};
use super::{
    BlobGetArguments, BlobPushArguments, DURATION_MAX, ImagesArguments, Naming, PutArguments, TagsListArguments,
    Workload,
};
use crate::cli::error::CliError;
use crate::ground::random;

/// Prepares the workload, and says what its operations are.
pub(super) async fn prepare(load: &Load, workload: &Workload, prefix: &RepositoryName) -> Result<Job, CliError> {
    match workload {
        Workload::ManifestGet(images) => read_images(load, images, prefix, Method::GET).await,
        Workload::ManifestHead(images) => read_images(load, images, prefix, Method::HEAD).await,
        Workload::ManifestPut(put) => {
            // no earlier run's tags
            let tags = format!("r{:016x}-", random::number64());
            put_manifests(load, put, &names(prefix, "put", put.repositories)?, tags, 0).await
        }
        Workload::Fill(fill) => {
            let names = names(prefix, "fill", fill.put.repositories)?;
            let job = put_manifests(load, &fill.put, &names, "t".to_owned(), fill.first).await?;
            Ok(Job { name: "fill", ..job })
        }
        Workload::BlobPush(push) => push_blobs(load, push, prefix),
        Workload::BlobGet(get) => read_blobs(load, get, prefix).await,
        Workload::TagsList(list) => list_tags(load, list, prefix).await,
    }
}

/// `<prefix>/<kind><number>`.
fn names(prefix: &RepositoryName, kind: &str, count: u32) -> Result<Vec<RepositoryName>, CliError> {
    let name = |number| {
        let name = format!("{prefix}/{kind}{number}");
        RepositoryName::parse(&name).map_err(|error| CliError::usage(format!("--prefix makes {name:?}: {error}")))
    };
    (0..count).map(name).collect()
}

fn scopes_of(load: &Load, names: &[RepositoryName]) -> Result<Arc<str>, CliError> {
    match scopes(names.iter()) {
        Some(scopes) => Ok(scopes.into()),
        None if !load.targets.bearer => Ok("".into()),
        None => Err(CliError::usage("one token can't name so many repositories; use fewer, or leave --bearer out")),
    }
}

/// The client that prepares.
async fn talk(load: &Load, scopes: &Arc<str>) -> Result<Conversation, CliError> {
    let mut talk = Conversation::new(Arc::clone(&load.targets), 0, Arc::clone(scopes));
    talk.prepare().await.map_err(failed("the node can't be asked"))?;
    Ok(talk)
}

fn failed(what: &'static str) -> impl FnOnce(Failure) -> CliError {
    move |failure| {
        let hint = match failure {
            Failure::Status(401) => "; give an access key with --credentials-file",
            Failure::Connect(_) => "; is the node running, and is this its address? name it with --registry",
            Failure::Broken(_) | Failure::TimedOut | Failure::Status(_) | Failure::Answer(_) => "",
        };
        CliError::failed(format!("{what}: {failure}{hint}"))
    }
}

async fn read_images(
    load: &Load,
    images: &ImagesArguments,
    prefix: &RepositoryName,
    method: Method,
) -> Result<Job, CliError> {
    let names = names(prefix, "images", images.repositories.min(images.images))?;
    let scopes = scopes_of(load, &names)?;
    let told = failed("the images can't be pushed");
    let paths = push_images(&mut talk(load, &scopes).await?, images, &names).await.map_err(told)?;
    let name = match (method == Method::HEAD, images.by) {
        (false, Naming::Tag) => "manifest-get by tag",
        (false, Naming::Digest) => "manifest-get by digest",
        (true, Naming::Tag) => "manifest-head by tag",
        (true, Naming::Digest) => "manifest-head by digest",
    };
    Ok(Job { name, scopes, act: Act::Read { method, paths } })
}

async fn push_images(
    talk: &mut Conversation,
    images: &ImagesArguments,
    names: &[RepositoryName],
) -> Result<Vec<Uri>, Failure> {
    let shelves: Vec<Shelf> = names.iter().map(|name| Shelf::new(name.clone(), images.layers)).collect();
    for shelf in &shelves {
        shelf.stock(talk, images.layers).await?;
    }
    let mut paths = Vec::new();
    for number in 0..images.images as usize {
        let shelf = &shelves[number % shelves.len()];
        let (tag, manifest) = (format!("v{number}"), shelf.manifest(number));
        let reference = match images.by {
            Naming::Tag => tag.clone(),
            Naming::Digest => Digest::sha256(&manifest).to_string(),
        };
        shelf.put(talk, &tag, manifest).await?;
        paths.push(uri(&format!("/v2/{}/manifests/{reference}", shelf.name()))?);
    }
    Ok(paths)
}

async fn put_manifests(
    load: &Load,
    put: &PutArguments,
    names: &[RepositoryName],
    prefix: String,
    first: u64,
) -> Result<Job, CliError> {
    let scopes = scopes_of(load, names)?;
    let shelves: Vec<Shelf> = names.iter().map(|name| Shelf::new(name.clone(), put.layers)).collect();
    let mut talk = talk(load, &scopes).await?;
    for shelf in &shelves {
        shelf.stock(&mut talk, put.layers).await.map_err(failed("the layers can't be pushed"))?;
    }
    Ok(Job { name: "manifest-put", scopes, act: Act::PutManifest { shelves, prefix, first } })
}

fn push_blobs(load: &Load, push: &BlobPushArguments, prefix: &RepositoryName) -> Result<Job, CliError> {
    let repositories = names(prefix, "push", push.repositories)?;
    let scopes = scopes_of(load, &repositories)?;
    let maker = Box::new(BlobMaker::new(push.size.0, random::number64()));
    let chunk_bytes = push.chunk.map(|chunk| chunk.0);
    let name = if chunk_bytes.is_some() { "blob-push in chunks" } else { "blob-push" };
    Ok(Job { name, scopes, act: Act::PushBlob { repositories, maker, chunk_bytes } })
}

async fn read_blobs(load: &Load, get: &BlobGetArguments, prefix: &RepositoryName) -> Result<Job, CliError> {
    let names = names(prefix, "blobs", 1)?;
    let scopes = scopes_of(load, &names)?;
    // the same blobs at each run: what is there already is not pushed again
    let maker = BlobMaker::new(get.size.0, get.size.0);
    let push = async |talk: &mut Conversation| {
        let mut paths = Vec::new();
        for number in 0..get.blobs {
            let (digest, body) = maker.make(u64::from(number));
            if !has_blob(talk, &names[0], &digest).await? {
                push_blob(talk, &names[0], &digest, body, None).await?;
            }
            paths.push(uri(&format!("/v2/{}/blobs/{digest}", names[0]))?);
        }
        Ok(paths)
    };
    let paths = push(&mut talk(load, &scopes).await?).await.map_err(failed("the blobs can't be pushed"))?;
    Ok(Job { name: "blob-get", scopes, act: Act::Read { method: Method::GET, paths } })
}

async fn list_tags(load: &Load, list: &TagsListArguments, prefix: &RepositoryName) -> Result<Job, CliError> {
    let names = names(prefix, &format!("tags{}-", list.tags), 1)?;
    let name = &names[0];
    let fill = PutArguments { repositories: 1, layers: 1 };
    let filling = put_manifests(load, &fill, &names, "t".to_owned(), 0).await?;
    let scopes = Arc::clone(&filling.scopes);
    let last = format!("/v2/{name}/manifests/t{:09}", list.tags - 1);
    let asked = async |talk: &mut Conversation| {
        let answer = talk.request(Method::HEAD, uri(&last)?, &[], Parts::default()).await?;
        Ok(answer.status == 200)
    };
    let is_there = asked(&mut talk(load, &scopes).await?).await.map_err(failed("the tags can't be looked up"))?;
    if !is_there {
        let count = u64::from(list.tags);
        let clients = load.clients.max(16);
        let load = Load { count, clients, duration: DURATION_MAX, rate: None, ..load.clone() };
        let report = drive(&load, Arc::new(filling), true).await?;
        if let Some(reason) = report.failure() {
            return Err(CliError::failed(format!("not all tags could be pushed: {reason}")));
        }
    }
    // pages from everywhere in the list, not one that is always in memory
    let pages = u64::from(list.tags).div_ceil(u64::from(list.page)).min(100);
    let page = |number: u64| {
        let after = u64::from(list.tags) * number / pages;
        let last = if number == 0 { String::new() } else { format!("&last=t{after:09}") };
        uri(&format!("/v2/{name}/tags/list?n={}{last}", list.page))
    };
    let paths = (0..pages).map(page).collect::<Result<_, _>>().map_err(failed("no list"))?;
    Ok(Job { name: "tags-list", scopes, act: Act::Read { method: Method::GET, paths } })
}
