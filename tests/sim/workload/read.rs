//! Pulling what the ledger promises: any node, by digest from a fresh state, tags linearizably.

use std::time::Duration;

use futures_util::StreamExt as _;
use portolan::node::simulated::SimulatedNode;
use portolan::registry::Consistency;
use registry_core::decide::permit::Permit;
use registry_core::vocabulary::{Digest, Reference, Refusal};

use super::{Client, Failed, Image, TRIES};

/// Until what could not be had is asked for again, when all is well.
const PAUSE: Duration = Duration::from_secs(1);

/// What a pull came to.
enum Pulled {
    Whole,
    /// It can't be had now.
    NotNow,
    /// Something is not there.
    Missing(String),
    /// Bytes are not what they should be.
    Wrong(String),
}

fn judged(refusal: &Refusal, what: &str) -> Pulled {
    if matches!(refusal, Refusal::Unavailable { .. } | Refusal::Throttled { .. }) {
        return Pulled::NotNow;
    }
    Pulled::Missing(format!("{what}: {refusal}"))
}

/// Pulls an image as a client does: the manifest, then every blob, each byte of it.
async fn pull(node: SimulatedNode, permit: Permit, image: Image) -> Result<Pulled, Refusal> {
    let reference = Reference::Digest(image.digest);
    match node.registry.manifest(&permit, &reference, Consistency::Fresh).await {
        Err(refusal) => return Ok(judged(&refusal, "manifest")),
        Ok(found) if found.value.bytes != image.manifest => return Ok(Pulled::Wrong("manifest".into())),
        Ok(_) => {}
    }
    for digest in &image.blobs {
        let what = digest.to_string();
        let content = match node.registry.open_blob(&permit, digest).await {
            Err(refusal) => return Ok(judged(&refusal, &what)),
            Ok(found) => found.value,
        };
        let size_bytes = content.info.size_bytes;
        let mut stream = match content.stream(0..size_bytes).await {
            Err(refusal) => return Ok(judged(&refusal, &what)),
            Ok(stream) => stream,
        };
        let mut bytes = Vec::new();
        while let Some(part) = stream.next().await {
            match part {
                Ok(part) => bytes.extend_from_slice(&part),
                Err(_) => return Ok(Pulled::NotNow),
            }
        }
        if Digest::sha256(&bytes) != *digest {
            return Ok(Pulled::Wrong(what));
        }
    }
    Ok(Pulled::Whole)
}

impl Client {
    /// Pulls an image that is promised. One that is deleted meanwhile may be gone.
    pub(super) async fn pull(&self) {
        let images = self.ledger.images();
        if images.is_empty() {
            return;
        }
        let image = self.dice.pick(&images).clone();
        let (permit, wanted) = (self.permit(&image.repository), image.clone());
        let pulled = self.ask(move |node| pull(node, permit, wanted)).await;
        self.judge(&image, pulled);
    }

    /// Whether it was whole; fails the run if it is missing though it is promised.
    fn judge(&self, image: &Image, pulled: Result<Pulled, Failed>) -> bool {
        let name = format!("{}@{}", image.repository, image.digest);
        match pulled {
            Ok(Pulled::Whole) => {
                self.ledger.pulled();
                self.trace.note(format!("client {} pulled {name}", self.number));
                return true;
            }
            Ok(Pulled::Missing(what)) if self.ledger.promises(image) => {
                self.trace.fail(format!("acknowledged pushes are readable: {name} lacks {what}"));
            }
            Ok(Pulled::Wrong(what)) => self.trace.fail(format!("wrong bytes of {what} of {name} were served")),
            Ok(Pulled::Missing(_) | Pulled::NotNow) | Err(_) => {}
        }
        false
    }

    /// Reads a tag: it names what its writer was told, or what came since.
    pub(super) async fn read_tag(&self) {
        let tags = self.ledger.tags();
        if tags.is_empty() {
            return;
        }
        let (repository, tag, since) = self.dice.pick(&tags).clone();
        let (permit, reference) = (self.permit(&repository), Reference::Tag(tag.clone()));
        let read = self.ask(move |node| async move {
            node.registry.stat_manifest(&permit, &reference, Consistency::Linearizable).await
        });
        let found = match read.await {
            Ok(found) => Some(found.value.digest),
            Err(Failed::Refused(refusal)) if matches!(*refusal, Refusal::ManifestUnknown { .. }) => None,
            Err(_) => return,
        };
        if !self.ledger.may_name(&repository, &tag, since, found) {
            self.trace.fail(format!("tags are registers: {repository}:{tag} named {found:?}"));
        }
    }
}

/// When all is well again: every node serves every image that is promised.
pub(crate) async fn pull_everything(client: &Client) -> Result<(), String> {
    for id in client.hosts.all() {
        let Some((_, node)) = client.hosts.running(id) else { return Err(format!("{id} does not run")) };
        for image in client.ledger.images() {
            let mut is_whole = false;
            for _ in 0..TRIES {
                let pulled = pull(node.clone(), client.permit(&image.repository), image.clone()).await;
                is_whole = client.judge(&image, pulled.map_err(|refusal| Failed::Refused(Box::new(refusal))));
                if is_whole {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
            if !is_whole {
                return Err(format!("{id} does not serve {}@{}", image.repository, image.digest));
            }
        }
    }
    Ok(())
}
