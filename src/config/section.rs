//! What a section is: a struct whose fields know their names, defaults, bounds and explanations.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::mistake::{Mistake, Origin, nearest};
use super::raw::{Given, Raw, RawSettings};
use super::value::Value;

/// One setting, for lists of all settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    /// Its key inside the section.
    pub key: &'static str,
    /// Lines of its explanation.
    pub docs: &'static [&'static str],
    /// Whether it may only come from the environment.
    pub is_secret: bool,
    /// Its default as TOML; `None` when it is left out by default.
    pub default: fn() -> Option<String>,
}

/// A section of the configuration.
pub(super) trait Section: Sized {
    /// Its name.
    const NAME: &'static str;
    /// Lines of its explanation.
    const DOCS: &'static [&'static str];
    /// Its settings, in the order they are explained.
    const FIELDS: &'static [Field];

    /// Takes its values out of what was given.
    fn read(reader: &mut Reader) -> Self;
    /// Its values as TOML, by key; `None` for what is left out.
    fn entries(&self) -> Vec<(&'static str, Option<String>)>;
}

/// Makes a struct a [`Section`]: `field: Type = default;` or `field: Type = default => least..=most;`.
macro_rules! section {
    (
        $(#[doc = $section_doc:literal])*
        $name:ident $section:literal
        $( $(#[doc = $doc:literal])* $field:ident: $type:ty = $default:expr $(=> $range:expr)?; )*
    ) => {
        $(#[doc = $section_doc])*
        #[derive(Clone, Debug)]
        pub struct $name { $( $(#[doc = $doc])* pub $field: $type, )* }

        impl Default for $name {
            fn default() -> $name {
                $name { $( $field: $default, )* }
            }
        }

        impl $crate::config::section::Section for $name {
            const NAME: &'static str = $section;
            const DOCS: &'static [&'static str] = &[$($section_doc),*];
            const FIELDS: &'static [$crate::config::section::Field] = &[$(
                $crate::config::section::Field {
                    key: stringify!($field),
                    docs: &[$($doc),*],
                    is_secret: <$type as $crate::config::value::Value>::IS_SECRET,
                    default: || {
                        let default: $type = $default;
                        $crate::config::value::Value::to_toml(&default)
                    },
                },
            )*];

            fn read(reader: &mut $crate::config::section::Reader) -> $name {
                $name { $( $field: {
                    #[allow(unused_mut, unused_assignments, reason = "only some settings have bounds")]
                    let mut range: Option<std::ops::RangeInclusive<$type>> = None;
                    $( range = Some($range); )?
                    reader.take($section, stringify!($field), $default, range)
                }, )* }
            }

            fn entries(&self) -> Vec<(&'static str, Option<String>)> {
                vec![$( (stringify!($field), $crate::config::value::Value::to_toml(&self.$field)), )*]
            }
        }
    };
}

pub(super) use section;

/// Hands out what was given, typed, and gathers mistakes on the way.
#[derive(Debug)]
pub(super) struct Reader {
    values: BTreeMap<(&'static str, &'static str), Raw>,
    /// Where each setting that was given stands.
    pub origins: BTreeMap<(&'static str, &'static str), Origin>,
    /// What is wrong so far.
    pub mistakes: Vec<Mistake>,
}

impl Reader {
    /// Over what was given.
    pub(super) fn new(raw: RawSettings) -> Reader {
        let origins = raw.values.iter().map(|(name, raw)| (*name, raw.origin.clone())).collect();
        Reader { values: raw.values, origins, mistakes: raw.mistakes }
    }

    /// The value of a setting; its default when it was not given or is wrong.
    pub(super) fn take<T: Value + PartialOrd>(
        &mut self,
        section: &'static str,
        key: &'static str,
        default: T,
        range: Option<RangeInclusive<T>>,
    ) -> T {
        let Some(raw) = self.values.remove(&(section, key)) else { return default };
        match typed(&raw, range).map_err(|problem| problem.sentence(section, key, &raw)) {
            Ok(value) => value,
            Err(text) => {
                self.mistakes.push(Mistake { origin: raw.origin, text });
                default
            }
        }
    }
}

/// Why a value is not taken.
enum Problem {
    /// Not what the setting is; what it should be.
    Wrong(String),
    /// A secret in a place that others read.
    Exposed,
}

impl Problem {
    fn sentence(&self, section: &str, key: &str, raw: &Raw) -> String {
        match self {
            Problem::Wrong(problem) => format!("{section}.{key} = {} {problem}", shown(&raw.given)),
            Problem::Exposed => format!(
                "{section}.{key} is a secret and may not stand here; put it into a file and name that in \
                 {section}.{key}_file, or into PORTOLAN_{}_{}",
                section.to_uppercase(),
                key.to_uppercase()
            ),
        }
    }
}

fn typed<T: Value + PartialOrd>(raw: &Raw, range: Option<RangeInclusive<T>>) -> Result<T, Problem> {
    if T::IS_SECRET && !matches!(raw.origin, Origin::Environment(_)) {
        return Err(Problem::Exposed);
    }
    let value = T::read(&raw.given).map_err(Problem::Wrong)?;
    let Some(range) = range else { return Ok(value) };
    let text = |bound: &T| bound.to_toml().unwrap_or_default();
    if value < *range.start() {
        return Err(Problem::Wrong(format!("is too small; the least is {}", text(range.start()))));
    }
    if value > *range.end() {
        return Err(Problem::Wrong(format!("is too large; the most is {}", text(range.end()))));
    }
    Ok(value)
}

fn shown(given: &Given) -> String {
    match given {
        Given::Word(text) | Given::Text(text) => format!("{text:?}"),
        Given::Number(number) => number.to_string(),
        Given::Truth(truth) => truth.to_string(),
        Given::List(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", ")),
        Given::Other(name) => format!("({name})"),
    }
}

/// A section without its values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listing {
    /// Its name.
    pub name: &'static str,
    /// Lines of its explanation.
    pub docs: &'static [&'static str],
    /// Its settings.
    pub fields: &'static [Field],
}

impl Listing {
    /// Of a section.
    pub(super) fn of<S: Section>() -> Listing {
        Listing { name: S::NAME, docs: S::DOCS, fields: S::FIELDS }
    }
}

/// Every section with its fields: to find names in, and to propose one.
#[derive(Debug)]
pub(super) struct Known(pub Vec<Listing>);

impl Known {
    /// The section of this name.
    pub(super) fn section(&self, name: &str) -> Option<&'static str> {
        self.0.iter().map(|section| section.name).find(|section| *section == name)
    }

    /// Names of all sections.
    pub(super) fn sections(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|section| section.name)
    }

    /// The settings of a section; none when there is no such section.
    pub(super) fn fields(&self, section: &str) -> &'static [Field] {
        self.0.iter().find(|listed| listed.name == section).map_or(&[], |listed| listed.fields)
    }

    /// The key of this name in a section.
    pub(super) fn key(&self, section: &str, name: &str) -> Option<&'static str> {
        self.keys(section).find(|key| *key == name)
    }

    fn keys(&self, section: &str) -> impl Iterator<Item = &'static str> {
        self.fields(section).iter().map(|field| field.key)
    }

    /// `section_key` of every setting.
    pub(super) fn variables(&self) -> Vec<String> {
        let of = |listed: &Listing| {
            let name = listed.name;
            listed.fields.iter().map(move |field| format!("{name}_{}", field.key))
        };
        self.0.iter().flat_map(of).collect()
    }

    /// The sentence for a section that does not exist, or that was written as a single value.
    pub(super) fn unknown_section(&self, name: &str, is_table: bool) -> String {
        if let Some(section) = self.section(name) {
            return format!("{section} is a section; write [{section}] and its settings below");
        }
        if let (false, Some(section)) = (is_table, self.sections().find(|section| self.key(section, name).is_some())) {
            return format!("{name} stands outside a section; write it below [{section}]");
        }
        match nearest(name, self.sections()) {
            Some(near) => format!("no section [{name}]; did you mean [{near}]?"),
            None => format!("no section [{name}]; there are {}", self.sections().collect::<Vec<_>>().join(", ")),
        }
    }

    /// The sentence for a key that does not exist.
    pub(super) fn unknown_key(&self, section: &str, key: &str) -> String {
        if let Some(near) = nearest(key, self.keys(section)) {
            return format!("no setting {key} in [{section}]; did you mean {near}?");
        }
        if let Some(other) = self.sections().find(|other| self.key(other, key).is_some()) {
            return format!("no setting {key} in [{section}]; it belongs below [{other}]");
        }
        let keys = self.keys(section).collect::<Vec<_>>().join(", ");
        format!("no setting {key} in [{section}]; there are {keys}")
    }
}
