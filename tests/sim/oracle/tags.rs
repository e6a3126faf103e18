//! A visible tag reaches a whole image: its manifests, the links of what they name, records with a good copy.

use portolan::blob::store::BlobKey;
use registry_core::metadata::blob;
use registry_core::metadata::check;
use registry_core::vocabulary::Digest;

use super::{Copy, Facts, Invariant, Step};

pub(super) struct Tags;

impl Tags {
    fn is_lost(facts: &Facts, digest: &Digest) -> bool {
        let Some(row) = blob::read(&facts.rows, digest) else { return true };
        let key = BlobKey::new(*digest, row.generation);
        !row.stores.iter().any(|store| facts.copy(*store, &key) == Some(Copy::Good))
    }
}

impl Invariant for Tags {
    fn name(&self) -> &'static str {
        "visible tags reach whole images"
    }

    fn entry(&mut self, step: &Step<'_>) -> Result<(), String> {
        if step.writes.len() <= 2 {
            return Ok(());
        }
        let report = check::tags::tags(&step.facts.rows, |digest| Tags::is_lost(step.facts, digest), 1);
        match report.examples.first() {
            None => Ok(()),
            Some(broken) => Err(format!("{}:{}: {}", broken.repository, broken.tag, broken.text)),
        }
    }
}
