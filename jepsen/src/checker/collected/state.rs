//! What must be there at the end, from what each image's one client was told. Every image and every tag belongs to one
//! client that does one thing at a time, so the order of its answers is the order of what happened.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::super::{Pair, at, key, pairs};
use crate::history::{Act, Event, Kind};

/// What may be found of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    There,
    Absent,
    Either,
}

/// Three-valued: nobody knows what an unknown answer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    Yes,
    No,
    Maybe,
}

impl Is {
    /// What is said of something that a late request may still undo.
    fn unless(self, is_unsure: bool) -> Is {
        if is_unsure { Is::Maybe } else { self }
    }
}

#[derive(Debug)]
struct Image<'a> {
    is_there: Is,
    is_tagged: Is,
    /// A put of it may still take effect.
    is_unsure: bool,
    blobs: Vec<&'a str>,
}

#[derive(Debug, Default)]
struct Tag {
    /// The image that it names; none, or nobody knows.
    image: Option<String>,
    is_unknown: bool,
    /// Everything that was ever pushed under it.
    pushed: BTreeSet<String>,
}

/// All images and tags of a history.
#[derive(Debug, Default)]
pub(super) struct State<'a> {
    images: BTreeMap<String, Image<'a>>,
    tags: BTreeMap<&'a str, Tag>,
    untagged_go: bool,
    /// What did not hold while the load was on.
    pub(super) problems: Vec<String>,
}

fn digest(value: &Value) -> &str {
    value["digest"].as_str().unwrap_or("no digest")
}

impl<'a> State<'a> {
    /// From the answers of all clients.
    pub(super) fn of(events: &'a [Event], untagged_go: bool) -> State<'a> {
        let mut state = State { untagged_go, ..State::default() };
        let mut changes = pairs(events, &[Act::PushImage, Act::Untag, Act::DeleteImage]);
        changes.sort_by_key(|change| change.end.map_or(u64::MAX, |end| end.index));
        for change in &changes {
            let f = change.invoke.f;
            if f == Act::PushImage {
                state.push(change);
            } else if f == Act::Untag {
                state.untag(change);
            } else {
                state.delete(change);
            }
        }
        state
    }

    fn push(&mut self, push: &Pair<'a>) {
        let kind = push.end.map_or(Kind::Info, |end| end.kind);
        if kind == Kind::Fail {
            return;
        }
        let (name, value) = (key(push.invoke), &push.invoke.value);
        let repository = name.split(':').next().unwrap_or_default();
        let image = format!("{repository}@{}", digest(value));
        let is_unsure = kind == Kind::Info || push.end.is_some_and(|end| end.value["unsure"] == true);
        let tag = self.tags.entry(name).or_default();
        tag.pushed.insert(digest(value).to_owned());
        let before = tag.image.replace(image.clone());
        let mut was_unsure = tag.is_unknown;
        if let Some(before) = before.as_ref().and_then(|before| self.images.get_mut(before)) {
            was_unsure |= before.is_unsure;
            before.is_tagged = Is::No.unless(before.is_unsure || kind == Kind::Info);
        }
        tag.is_unknown = was_unsure || kind == Kind::Info;
        let is_tagged = Is::Yes.unless(tag.is_unknown);
        let is_there = Is::Yes.unless(kind == Kind::Info);
        let blobs = value["blobs"].as_array().map_or(&[][..], Vec::as_slice).iter().filter_map(Value::as_str).collect();
        self.images.insert(image, Image { is_there, is_tagged, is_unsure, blobs });
    }

    fn untag(&mut self, untag: &Pair<'a>) {
        let name = key(untag.invoke);
        let tag = self.tags.entry(name).or_default();
        let Some(image) = tag.image.as_ref().and_then(|image| self.images.get_mut(image)) else { return };
        let (is_ok, is_absent) = (untag.is_ok(), is_absent(untag));
        if is_absent && !tag.is_unknown && !image.is_unsure {
            self.problems.push(format!("{name}: LOST: to be dropped at {}, and absent", at(untag.invoke)));
        }
        if is_ok || is_absent || is_unknown(untag) {
            image.is_tagged = Is::No.unless(is_unknown(untag) || image.is_unsure);
            tag.is_unknown = is_unknown(untag) || image.is_unsure;
            tag.image = None;
        }
    }

    fn delete(&mut self, delete: &Pair<'a>) {
        let name = key(delete.invoke);
        let expected = self.expected(name);
        let Some(image) = self.images.get_mut(name) else { return };
        let (is_ok, is_absent) = (delete.is_ok(), is_absent(delete));
        if is_absent && expected == Expected::There && !image.is_unsure {
            self.problems.push(format!("{name}: LOST: to be deleted at {}, and absent", at(delete.invoke)));
        }
        if is_ok || is_absent || is_unknown(delete) {
            let is_unknown = is_unknown(delete) || image.is_unsure;
            image.is_there = Is::No.unless(is_unknown);
            for tag in self.tags.values_mut().filter(|tag| tag.image.as_deref() == Some(name)) {
                tag.is_unknown |= is_unknown;
                tag.image = None;
            }
        }
    }

    /// What may be found of an image, `repository@digest`.
    pub(super) fn expected(&self, image: &str) -> Expected {
        match self.images.get(image).map(|image| (image.is_there, image.is_tagged)) {
            None | Some((Is::No, _)) => Expected::Absent,
            Some((Is::Maybe, _)) => Expected::Either,
            Some((Is::Yes, _)) if !self.untagged_go => Expected::There,
            Some((Is::Yes, Is::Yes)) => Expected::There,
            Some((Is::Yes, Is::No)) => Expected::Absent,
            Some((Is::Yes, Is::Maybe)) => Expected::Either,
        }
    }

    /// What may be found of a tag, and the digest it must name if it must.
    pub(super) fn expected_tag(&self, name: &str) -> (Expected, Option<&str>) {
        match self.tags.get(name) {
            Some(Tag { is_unknown: true, .. }) => (Expected::Either, None),
            Some(Tag { image: Some(image), .. }) => (Expected::There, image.split_once('@').map(|(_, digest)| digest)),
            None | Some(Tag { image: None, .. }) => (Expected::Absent, None),
        }
    }

    /// Whether something was ever pushed under a tag.
    pub(super) fn was_pushed(&self, tag: &str, digest: &str) -> bool {
        self.tags.get(tag).is_some_and(|tag| tag.pushed.contains(digest))
    }

    /// Everything that has to be read at the end from every node.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.images.keys().map(String::as_str).chain(self.tags.keys().copied())
    }

    /// Blobs of images of which each is expected like this.
    pub(super) fn blobs(&self, wanted: &[Expected]) -> BTreeSet<&'a str> {
        let images = self.images.iter().filter(|(name, _)| wanted.contains(&self.expected(name)));
        images.flat_map(|(_, image)| image.blobs.iter().copied()).collect()
    }

    /// How many images are expected like this.
    pub(super) fn count(&self, wanted: Expected) -> usize {
        self.images.keys().filter(|name| self.expected(name) == wanted).count()
    }
}

/// Refused because there was nothing.
fn is_absent(change: &Pair<'_>) -> bool {
    change.end.is_some_and(|end| end.kind == Kind::Fail && end.value["status"] == 404)
}

fn is_unknown(change: &Pair<'_>) -> bool {
    change.end.is_none_or(|end| end.kind == Kind::Info)
}
