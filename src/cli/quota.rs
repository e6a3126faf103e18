//! What quotas look like as arguments, for repositories and registries alike.

use clap::Args;
use serde_json::{Value, json};

use crate::config::ByteSize;

/// A limit that is set or lifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// So much may be held.
    At(u64),
    /// There is no limit.
    None,
}

#[derive(Debug, Default, Args)]
pub(super) struct QuotaArguments {
    /// How many bytes may be held, as 500GiB; "none" lifts the limit.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    quota_bytes: Option<Limit>,
    /// How many tags may be held; "none" lifts the limit.
    #[arg(long, value_name = "COUNT", value_parser = tags)]
    quota_tags: Option<Limit>,
}

fn bytes(text: &str) -> Result<Limit, String> {
    match ByteSize::parse(text) {
        Some(size) => Ok(Limit::At(size.0)),
        None if text == "none" => Ok(Limit::None),
        None => Err("write a whole number with its unit, as 500GiB, or none".to_owned()),
    }
}

fn tags(text: &str) -> Result<Limit, String> {
    match text.parse() {
        Ok(count) => Ok(Limit::At(count)),
        Err(_) if text == "none" => Ok(Limit::None),
        Err(_) => Err("write a whole number, or none".to_owned()),
    }
}

impl QuotaArguments {
    /// Only what was given, as the node reads it.
    pub(super) fn document(&self) -> Option<Value> {
        let mut document = json!({});
        for (name, limit) in [("bytes", self.quota_bytes), ("tags", self.quota_tags)] {
            match limit {
                Some(Limit::At(limit)) => document[name] = json!(limit),
                Some(Limit::None) => document[name] = Value::Null,
                None => {}
            }
        }
        (document != json!({})).then_some(document)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Sizes have a unit, counts none; what is not given is not sent, and lifting is.
    #[test]
    fn limits() {
        assert_eq!(bytes("2KiB"), Ok(Limit::At(2048)));
        assert_eq!(bytes("none"), Ok(Limit::None));
        assert_eq!(tags("0"), Ok(Limit::At(0)));
        for bad in ["", "12", "-1B", "None"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        for bad in ["", "-1", "1.5", "12B"] {
            assert!(tags(bad).is_err(), "{bad}");
        }
        assert_eq!(QuotaArguments::default().document(), None);
        let given = QuotaArguments { quota_bytes: Some(Limit::None), quota_tags: Some(Limit::At(7)) };
        assert_eq!(given.document(), Some(json!({ "bytes": null, "tags": 7 })));
    }
}
