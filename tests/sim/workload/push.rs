//! Pushing: blobs one by one, by whatever way, then the manifest under a tag.

use bytes::Bytes;
use portolan::registry::{MountSource, PutManifest};
use registry_core::vocabulary::{Digest, Reference, Refusal, RepositoryName, Tag};

use super::{BLOB_BYTES, Client, Failed, Image, Memory, TRIES, blob};
use crate::network::stream;

/// Chunks after which an upload that always starts anew is given up.
const CHUNKS_MAX: usize = 24;

impl Client {
    /// Pushes an image of some of the blobs that everybody shares, under a tag of its own.
    pub(super) async fn push(&self, memory: &mut Memory) {
        let repository = self.repository();
        let mut numbers: Vec<usize> = (0..BLOB_BYTES.len()).filter(|_| self.dice.percent(25)).collect();
        numbers.push(self.dice.below(BLOB_BYTES.len() as u64) as usize);
        if self.dice.percent(40) {
            // one that nobody else has
            numbers.push((1000 * self.number + memory.made) as usize);
        }
        numbers.sort_unstable();
        numbers.dedup();
        memory.made += 1;
        let name = format!("{}-{}", self.number, memory.made);
        let manifest = manifest(&name, &numbers);
        let digest = Digest::sha256(&manifest);
        let moves = memory.images.iter().rposition(|(image, tag)| image.repository == repository && tag.is_some());
        let mut moved = moves.filter(|_| self.dice.percent(30));
        let tag = match moved {
            Some(at) => memory.images[at].1.clone(),
            None => Tag::parse(&format!("t{name}")).ok(),
        };
        let Some(tag) = tag else { return };
        for _ in 0..TRIES {
            let mut are_there = true;
            for number in &numbers {
                are_there &= self.push_blob(&repository, *number).await;
            }
            if !are_there {
                break;
            }
            if let Some(at) = moved {
                memory.images[at].1 = None;
                self.ledger.moving(&repository, &tag, Some(digest));
            }
            let put = PutManifest {
                reference: Reference::Tag(tag.clone()),
                content_type: None,
                body: manifest.clone(),
                tags: Vec::new(),
                expected: None,
            };
            let permit = self.permit(&repository);
            let done = self.ask(move |node| async move { node.registry.put_manifest(&permit, put).await }).await;
            match done {
                Ok(_) => {
                    let blobs = numbers.iter().map(|number| Digest::sha256(&blob(*number))).collect();
                    let image = Image { repository: repository.clone(), digest, manifest: manifest.clone(), blobs };
                    self.trace.note(format!("client {} pushed {repository}:{tag} {digest}", self.number));
                    self.ledger.pushed(image.clone(), &tag);
                    memory.images.push((image, Some(tag)));
                    return;
                }
                // its blobs were collected, or the link was dropped: they are pushed again
                Err(Failed::Refused(refusal)) if is_missing(&refusal) => {
                    // it may have been moved by an earlier try; what it named before is not known any more
                    if moved.take().is_some() {
                        self.ledger.forget_tag(&repository, &tag);
                    }
                }
                Err(failed) => {
                    self.ledger.forget_tag(&repository, &tag);
                    if !failed.is_passing() {
                        self.trace.fail(format!("a push was refused: {failed:?}"));
                    }
                    return;
                }
            }
        }
    }

    /// Makes a blob be in a repository; whether it was told that it is.
    async fn push_blob(&self, repository: &RepositoryName, number: usize) -> bool {
        let bytes = blob(number);
        let digest = Digest::sha256(&bytes);
        for _ in 0..TRIES {
            let permit = self.permit(repository);
            if self.dice.percent(70)
                && self.ask(move |node| async move { node.registry.stat_blob(&permit, &digest).await }).await.is_ok()
            {
                return true;
            }
            let done = match self.dice.below(3) {
                0 => self.mount(repository, digest).await,
                1 => self.push_whole(repository, digest, bytes.clone()).await,
                _ => self.push_in_chunks(repository, digest, bytes.clone()).await,
            };
            match done {
                Ok(is_there) if is_there => return true,
                Ok(_) => {}
                Err(failed) if failed.is_passing() => {}
                Err(Failed::Refused(refusal)) if matches!(*refusal, Refusal::UploadUnknown) => {}
                Err(failed) => {
                    self.trace.fail(format!("a blob was refused: {failed:?}"));
                    return false;
                }
            }
            tokio::time::sleep(self.dice.wait(50, 800)).await;
        }
        false
    }

    async fn mount(&self, repository: &RepositoryName, digest: Digest) -> Result<bool, Failed> {
        let (target, source) = (self.permit(repository), self.permit(&self.repository()));
        let mounted = self.ask(move |node| async move {
            node.registry.mount_blob(&target, &digest, MountSource::Repository(&source)).await
        });
        Ok(mounted.await?.is_some())
    }

    async fn push_whole(&self, repository: &RepositoryName, digest: Digest, bytes: Bytes) -> Result<bool, Failed> {
        let (permit, body) = (self.permit(repository), stream(&bytes, self.dice.between(1, 5) as usize));
        self.ask(move |node| async move { node.registry.push_blob(&permit, &digest, body).await }).await.map(|_| true)
    }

    /// Each chunk at another node; goes on where the upload says that it is.
    async fn push_in_chunks(&self, repository: &RepositoryName, digest: Digest, bytes: Bytes) -> Result<bool, Failed> {
        let permit = self.permit(repository);
        let begun = {
            let permit = permit.clone();
            self.ask(move |node| async move { node.registry.begin_upload(&permit).await }).await?
        };
        let (mut token, mut at) = (begun.token, 0);
        for _ in 0..CHUNKS_MAX {
            let (permit, sent) = (permit.clone(), token.clone());
            if at == bytes.len() {
                let body = stream(&Bytes::new(), 1);
                let finished = self.ask(move |node| async move {
                    node.registry.finish_upload(&permit, &sent, &digest, None, body).await
                });
                match finished.await {
                    Ok(_) => return Ok(true),
                    Err(failed) if failed.is_passing() && self.dice.percent(80) => continue,
                    Err(failed) => return Err(failed),
                }
            }
            let end = bytes.len().min(at + self.dice.between(1, 1 + bytes.len() as u64) as usize);
            let (chunk, offset) = (stream(&bytes.slice(at..end), 3), at as u64);
            let appended = self
                .ask(move |node| async move { node.registry.append_upload(&permit, &sent, Some(offset), chunk).await });
            match appended.await {
                Ok(progress) => (token, at) = (progress.token, progress.offset_bytes as usize),
                Err(Failed::Refused(refusal)) if matches!(*refusal, Refusal::RangeInvalid { .. }) => {
                    (token, at) = self.look_again(repository, &token).await?;
                }
                Err(failed) if failed.is_passing() => {
                    tokio::time::sleep(self.dice.wait(20, 700)).await;
                    if let Ok(found) = self.look_again(repository, &token).await {
                        (token, at) = found;
                    }
                }
                Err(failed) => return Err(failed),
            }
            if at > bytes.len() {
                self.trace.fail(format!("an upload of {} bytes says that it has {at}", bytes.len()));
                return Ok(false);
            }
        }
        Ok(false)
    }

    async fn look_again(&self, repository: &RepositoryName, token: &str) -> Result<(String, usize), Failed> {
        let (permit, token) = (self.permit(repository), token.to_owned());
        let asked = self.ask(move |node| async move { node.registry.upload_progress(&permit, &token).await });
        asked.await.map(|progress| (progress.token, progress.offset_bytes as usize))
    }

    /// Begins an upload and ends it, or leaves it alone.
    pub(super) async fn give_up_upload(&self) {
        let permit = self.permit(&self.repository());
        let begun = {
            let permit = permit.clone();
            self.ask(move |node| async move { node.registry.begin_upload(&permit).await }).await
        };
        let Ok(begun) = begun else { return };
        let (chunk, own, token) = (stream(&blob(4), 2), permit.clone(), begun.token.clone());
        let appended =
            self.ask(move |node| async move { node.registry.append_upload(&own, &token, None, chunk).await });
        if appended.await.is_ok() && self.dice.percent(70) {
            let token = begun.token;
            drop(self.ask(move |node| async move { node.registry.cancel_upload(&permit, &token).await }).await);
        }
    }
}

/// Whether a push of the blobs makes it good.
fn is_missing(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::ManifestReferencesUnknown { .. })
}

/// An image of these blobs that no other client makes.
fn manifest(name: &str, numbers: &[usize]) -> Bytes {
    let described = |number: &usize| {
        let bytes = blob(*number);
        let digest = Digest::sha256(&bytes);
        format!(r#"{{"mediaType":"application/octet-stream","digest":"{digest}","size":{}}}"#, bytes.len())
    };
    let layers: Vec<String> = numbers.iter().map(described).collect();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let (config, layers) = (&layers[0], layers.join(","));
    let annotations = format!(r#"{{"name":"{name}"}}"#);
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{kind}","config":{config},"layers":[{layers}],"annotations":{annotations}}}"#
    )
    .into()
}
