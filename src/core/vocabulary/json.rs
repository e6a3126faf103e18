//! Strict JSON: one reading only, so that no two parsers can see two documents in the same bytes (M5).
//!
//! On top of RFC 8259: no byte order mark, no trailing bytes, no lone surrogates, no duplicate keys at any depth,
//! bounded depth and number of values. Keys that another parser would take for a known one (Go folds case) are found
//! by [`Object::refuse_look_alikes`]. The tokenizer is `serde_json`'s; this file only forbids.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

use super::limits::{JSON_DEPTH_MAX, JSON_VALUES_MAX};

/// A JSON value; strings borrow from the document where it has no escapes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json<'a> {
    Null,
    Bool(bool),
    Number(Number),
    String(Cow<'a, str>),
    Array(Vec<Json<'a>>),
    Object(Object<'a>),
}

/// A JSON object in document order, its keys distinct.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Object<'a>(Vec<(Cow<'a, str>, Json<'a>)>);

/// What is wrong with the text, and at which line and column.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct JsonError(String);

impl<'a> Json<'a> {
    /// Parses a whole document.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Json<'a>, JsonError> {
        let values = Cell::new(0);
        let mut deserializer = serde_json::Deserializer::from_slice(bytes);
        let value = Strict { depth: 0, values: &values }.deserialize(&mut deserializer);
        let value = value.and_then(|value| deserializer.end().map(|()| value));
        value.map_err(|error| JsonError(error.to_string()))
    }

    /// The kind of value, in words for an error.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "a boolean",
            Json::Number(_) => "a number",
            Json::String(_) => "a string",
            Json::Array(_) => "an array",
            Json::Object(_) => "an object",
        }
    }
}

impl<'a> Object<'a> {
    /// The value of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&Json<'a>> {
        self.0.iter().find(|(own, _)| own == key).map(|(_, value)| value)
    }

    /// The value of a key; a `null` counts as absent, as it does for every client that fills a struct.
    pub(crate) fn get_set(&self, key: &str) -> Option<&Json<'a>> {
        self.get(key).filter(|value| **value != Json::Null)
    }

    /// Keys and values in document order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Json<'a>)> {
        self.0.iter().map(|(key, value)| (key.as_ref(), value))
    }

    /// How many keys.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The first key that is not one of `known` but that Go's decoder would take for one: it folds case, 'ſ' and 'K'
    /// as well.
    pub(crate) fn refuse_look_alikes(&self, known: &[&str]) -> Result<(), String> {
        for (key, _) in &self.0 {
            if let Some(known) = known.iter().find(|known| **known != key && folds_to(key, known)) {
                return Err(format!("the key {key:?} looks like \"{known}\""));
            }
        }
        Ok(())
    }
}

fn folds_to(key: &str, known: &str) -> bool {
    let fold = |character: char| match character {
        'ſ' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    // Folding keeps the number of characters; the two special ones take more bytes than what they fold to.
    key.len() >= known.len() && key.chars().map(fold).eq(known.chars().map(fold))
}

/// Reads one value at a depth, counting all of them.
#[derive(Clone, Copy)]
struct Strict<'s> {
    depth: usize,
    values: &'s Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json<'de>, D::Error> {
        let values = self.values.get() + 1;
        self.values.set(values);
        if values > JSON_VALUES_MAX {
            return Err(D::Error::custom(format_args!("more than {JSON_VALUES_MAX} values")));
        }
        deserializer.deserialize_any(self)
    }
}

impl Strict<'_> {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth >= JSON_DEPTH_MAX {
            return Err(E::custom(format_args!("nested more than {JSON_DEPTH_MAX} deep")));
        }
        Ok(Strict { depth: self.depth + 1, ..self })
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Json<'de>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Json<'de>, E> {
        Number::from_f64(value).map(Json::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json<'de>, E> {
        Ok(Json::String(Cow::Owned(value.to_owned())))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::String(Cow::Borrowed(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json<'de>, A::Error> {
        let seed = self.deeper()?;
        let mut out = Vec::new();
        while let Some(item) = items.next_element_seed(seed)? {
            out.push(item);
        }
        Ok(Json::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json<'de>, A::Error> {
        let seed = self.deeper()?;
        let mut out = Vec::new();
        while let Some(key) = entries.next_key_seed(Key)? {
            out.push((key, entries.next_value_seed(seed)?));
        }
        match duplicate(&out) {
            Some(key) => Err(A::Error::custom(format_args!("duplicate key {key:?}"))),
            None => Ok(Json::Object(Object(out))),
        }
    }
}

/// A key that occurs twice. Few keys are compared pairwise; many are sorted, so that no document costs a square.
fn duplicate<'o>(entries: &'o [(Cow<'_, str>, Json<'_>)]) -> Option<&'o str> {
    if entries.len() <= 8 {
        let later = |(at, (key, _)): (usize, &'o (Cow<'_, str>, Json<'_>))| {
            entries[at + 1..].iter().any(|(other, _)| other == key).then_some(key.as_ref())
        };
        return entries.iter().enumerate().find_map(later);
    }
    let mut keys: Vec<&str> = entries.iter().map(|(key, _)| key.as_ref()).collect();
    keys.sort_unstable();
    keys.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

/// Reads a key without copying it where it has no escapes.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a key")
    }

    fn visit_str<E>(self, value: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(value.to_owned()))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(depth: usize) -> String {
        format!("{}{}", "[".repeat(depth), "]".repeat(depth))
    }

    // M5: what has two readings, or is no JSON, is refused; the rest is read.
    #[test]
    fn strictness_table() {
        for good in [
            "{}",
            " [1, -2, 3.5e2, \"\\ud83d\\ude00\", null, true] \n",
            "\"\"",
            "{\"a\":1,\"A\":2}",
            &nested(JSON_DEPTH_MAX),
        ] {
            assert!(Json::parse(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in [
            "",
            " ",
            "\u{feff}{}",
            "{} {}",
            "{}x",
            "{}\0",
            "{\"a\":1,\"a\":2}",
            "{\"a\":1,\"\\u0061\":2}",
            "[{\"b\":{\"x\":1,\"x\":1}}]",
            "{\"1\":0,\"2\":0,\"3\":0,\"4\":0,\"5\":0,\"6\":0,\"7\":0,\"8\":0,\"9\":0,\"1\":0}",
            "NaN",
            "Infinity",
            "-",
            "01",
            "+1",
            "1e999",
            "{\"a\":1,}",
            "[1,]",
            "// x\n{}",
            "{/**/}",
            "'a'",
            "{a:1}",
            "\"\\ud800\"",
            "\"\\udc00\"",
            "\"\\ud800\\u0041\"",
            "\"\u{1}\"",
            &nested(JSON_DEPTH_MAX + 1),
            &nested(100_000),
            &"[".repeat(100_000),
        ] {
            assert!(Json::parse(bad.as_bytes()).is_err(), "{:?}", &bad[..bad.len().min(40)]);
        }
        assert!(Json::parse(b"\"\xff\"").is_err() && Json::parse(b"\"\xed\xa0\x80\"").is_err());
        let many = format!("[{}0]", "0,".repeat(JSON_VALUES_MAX));
        assert!(Json::parse(many.as_bytes()).is_err());
    }

    // Keys that a case-folding parser takes for a known one are found, other unknown keys are not.
    #[test]
    fn look_alikes() {
        let known = ["layers", "mediaType"];
        for (text, is_fine) in [
            ("{\"layers\":1,\"mediaType\":2,\"org.x\":3}", true),
            ("{\"layer\":1,\"layersx\":1}", true),
            ("{\"Layers\":1}", false),
            ("{\"layers\":1,\"LAYERS\":1}", false),
            ("{\"mediatype\":1}", false),
            ("{\"layerſ\":1}", false),
        ] {
            let Ok(Json::Object(object)) = Json::parse(text.as_bytes()) else { panic!("{text}") };
            assert_eq!(object.refuse_look_alikes(&known).is_ok(), is_fine, "{text}");
        }
        assert!(folds_to("to\u{212a}en", "token"));
    }

    proptest::proptest! {
        // It never panics, and whatever it takes, serde_json reads to the same value.
        #[test]
        fn agrees_with_serde(text in "[\\[\\]{}:,\"a1\\\\u0 .eE-]{0,40}") {
            if let Ok(json) = Json::parse(text.as_bytes()) {
                let other: serde_json::Value = serde_json::from_str(&text).unwrap();
                proptest::prop_assert_eq!(plain(&json), other);
            }
        }

        #[test]
        fn total(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            drop(Json::parse(&bytes));
        }
    }

    fn plain(json: &Json<'_>) -> serde_json::Value {
        match json {
            Json::Null => serde_json::Value::Null,
            Json::Bool(value) => (*value).into(),
            Json::Number(value) => value.clone().into(),
            Json::String(value) => value.as_ref().into(),
            Json::Array(items) => items.iter().map(plain).collect(),
            Json::Object(object) => object.iter().map(|(key, value)| (key.to_owned(), plain(value))).collect(),
        }
    }
}
