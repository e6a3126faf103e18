//! What was given, before anyone knows what it should be: values with their origins, from three sources.

use std::collections::BTreeMap;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::environment::{Environment, PREFIX};
use super::mistake::{Mistake, Origin, nearest};
use super::section::Known;

/// Variables that are read elsewhere: by the command line, or by the Makefile.
const FOREIGN: &[&str] =
    &["CONFIG", "ADMIN", "REGISTRY", "CREDENTIALS_FILE", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "CACHE"];

/// A value as it was written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Given {
    /// From the environment or a flag: it is for the setting's type to read.
    Word(String),
    /// A string of the file.
    Text(String),
    /// A whole number of the file.
    Number(i64),
    /// `true` or `false` of the file.
    Truth(bool),
    /// An array of the file.
    List(Vec<Given>),
    /// Anything else of the file, by its name.
    Other(&'static str),
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Raw {
    /// The value.
    pub given: Given,
    /// Where it stands.
    pub origin: Origin,
}

/// Values by section and key; a later source replaces an earlier one.
#[derive(Debug, Default)]
pub(super) struct RawSettings {
    /// What was given.
    pub values: BTreeMap<(&'static str, &'static str), Raw>,
    /// What could not be understood.
    pub mistakes: Vec<Mistake>,
    /// What is odd and allowed.
    pub warnings: Vec<String>,
}

impl RawSettings {
    fn refuse(&mut self, origin: Origin, text: String) {
        self.mistakes.push(Mistake { origin, text });
    }

    /// Takes in a configuration file's text.
    pub(super) fn add_file(&mut self, known: &Known, path: &Path, text: &str) {
        let line_of =
            |offset: usize| 1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|b| **b == b'\n').count();
        let at = |offset: usize| Origin::File { path: path.to_owned(), line: line_of(offset) };
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let offset = error.span().map_or(0, |span| span.start);
            self.refuse(at(offset), format!("not TOML: {}", error.message().trim_end_matches('.')));
        }
        for (name, body) in document.get_ref() {
            let origin = at(name.span().start);
            let name = name.get_ref().as_ref();
            let (Some(section), Some(table)) = (known.section(name), body.get_ref().as_table()) else {
                let text = known.unknown_section(name, body.get_ref().is_table());
                self.refuse(origin, text);
                continue;
            };
            for (key, value) in table {
                let origin = at(key.span().start);
                match known.key(section, key.get_ref()) {
                    Some(key) => {
                        drop(self.values.insert((section, key), Raw { given: given(value.get_ref()), origin }))
                    }
                    None => self.refuse(origin, known.unknown_key(section, key.get_ref())),
                }
            }
        }
    }

    /// Takes in the environment.
    pub(super) fn add_environment(&mut self, known: &Known, environment: &Environment) {
        for (name, value) in environment.ours() {
            let origin = Origin::Environment(format!("{PREFIX}{name}"));
            let lower = name.to_lowercase();
            let (section, key) = lower.split_once('_').unwrap_or((&lower, ""));
            if let Some((section, key)) = known.section(section).and_then(|s| Some((s, known.key(s, key)?))) {
                self.values.insert((section, key), Raw { given: Given::Word(value.to_owned()), origin });
            } else if known.section(section).is_some() || nearest(section, known.sections()).is_some() {
                let variables = known.variables();
                let near = nearest(&lower, variables.iter().map(String::as_str)).filter(|_| !key.is_empty());
                let near = near.map(|near| format!("; did you mean {PREFIX}{}?", near.to_uppercase()));
                let hint = near.unwrap_or_else(|| "; see `portolan config reference` for all settings".to_owned());
                self.refuse(origin, format!("no such setting{hint}"));
            } else if !FOREIGN.contains(&name) {
                // An orchestrator makes such names for a service called "portolan": refusing them would refuse to
                // start.
                self.warnings.push(format!("{origin} is no setting and is ignored"));
            }
        }
    }

    /// Takes in flags: their names as typed, the `section.key` they set, and the value.
    pub(super) fn add_flags(&mut self, known: &Known, flags: &[(String, String, String)]) {
        for (flag, path, value) in flags {
            let origin = Origin::Flag(flag.clone());
            let Some((section, key)) = path.split_once('.') else {
                self.refuse(origin, format!("{path:?} is no setting; write section.key=value, as node.zone=a"));
                continue;
            };
            match known.section(section).map(|section| (section, known.key(section, key))) {
                Some((section, Some(key))) => {
                    self.values.insert((section, key), Raw { given: Given::Word(value.clone()), origin });
                }
                Some((section, None)) => self.refuse(origin, known.unknown_key(section, key)),
                None => self.refuse(origin, known.unknown_section(section, true)),
            }
        }
    }
}

fn given(value: &DeValue<'_>) -> Given {
    match value {
        DeValue::String(text) => Given::Text(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(&number.as_str().replace('_', ""), number.radix()) {
            Ok(number) => Given::Number(number),
            Err(_) => Given::Other("a number beyond 64 bits"),
        },
        DeValue::Boolean(truth) => Given::Truth(*truth),
        DeValue::Array(items) => Given::List(items.iter().map(|item| given(item.get_ref())).collect()),
        DeValue::Float(_) => Given::Other("a number with a fraction"),
        DeValue::Datetime(_) => Given::Other("a date"),
        DeValue::Table(_) => Given::Other("a table"),
    }
}
