//! Settings as a file: those in use, and all there are with their explanations.

use std::fmt::Write;

use super::load::{Loaded, known};
use super::section::Section;
use super::{Origin, Settings};
use crate::ground::secret::MASK;

type Entries = Vec<(&'static str, Option<String>)>;

impl Loaded {
    /// Every setting in use as TOML, with where it came from; secrets are shown as stars.
    pub fn effective(&self) -> String {
        let mut out = String::new();
        for (section, entries) in sections(&self.settings) {
            line(&mut out, format_args!("[{section}]"));
            for (key, value) in entries {
                let origin = self.origins.get(&(section, key)).unwrap_or(&Origin::Default);
                let value = if is_secret(section, key) { value.map(|_| format!("\"{MASK}\"")) } else { value };
                match value {
                    Some(value) => line(&mut out, format_args!("{key} = {value} # {origin}")),
                    None => line(&mut out, format_args!("# {key} is left out")),
                }
            }
            out.push('\n');
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
        out
    }
}

/// All settings with their explanations and defaults, as a file to start from.
pub fn reference() -> String {
    let known = known();
    let mut out = String::from("# Every setting with its default. Change what you need, leave out the rest.\n");
    for section in &known.0 {
        out.push('\n');
        explain(&mut out, section.docs);
        line(&mut out, format_args!("[{}]", section.name));
        for field in section.fields {
            out.push('\n');
            explain(&mut out, field.docs);
            match (field.default)() {
                _ if field.is_secret => {
                    let variable = format!("PORTOLAN_{}_{}", section.name, field.key).to_uppercase();
                    line(&mut out, format_args!("# from the environment: {variable}"));
                }
                Some(default) => line(&mut out, format_args!("{} = {default}", field.key)),
                None => line(&mut out, format_args!("# {} =", field.key)),
            }
        }
    }
    out
}

fn explain(out: &mut String, lines: &[&str]) {
    lines.iter().for_each(|text| line(out, format_args!("# {}", text.trim())));
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("writing to a string does not fail");
}

fn is_secret(section: &str, key: &str) -> bool {
    known().fields(section).iter().any(|field| field.key == key && field.is_secret)
}

fn sections(settings: &Settings) -> Vec<(&'static str, Entries)> {
    fn of<S: Section>(section: &S) -> (&'static str, Entries) {
        (S::NAME, section.entries())
    }
    let Settings { node, listen, tls, cluster, raft, blobs, s3, auth, http, gc, repair, log, trace } = settings;
    vec![
        of(node),
        of(listen),
        of(tls),
        of(cluster),
        of(raft),
        of(blobs),
        of(s3),
        of(auth),
        of(http),
        of(gc),
        of(repair),
        of(log),
        of(trace),
    ]
}
