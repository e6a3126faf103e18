//! What is shown: tables for people, JSON for machines, and nothing that commands the terminal.

use std::io::{self, Write};

use clap::ValueEnum;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::Value;

use super::error::CliError;

/// How results are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Table,
    /// As the node answers, for machines.
    Json,
}

/// A column of a table: its heading, and the field of an entry that it shows.
pub(super) type Column = (&'static str, &'static str);

/// Shows results.
#[derive(Clone, Copy, Debug)]
pub(super) struct Printer {
    format: Format,
}

impl Printer {
    pub(super) fn new(format: Format) -> Printer {
        Printer { format }
    }

    pub(super) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// A document with a list: the whole as JSON, or the entries of `list` as a table.
    pub(super) fn list(self, document: &Value, list: &str, columns: &[Column]) -> Result<(), CliError> {
        match self.format {
            Format::Json => self.json(document),
            Format::Table => {
                let entries = document.get(list).and_then(Value::as_array);
                show(&table(entries.map_or(&[], Vec::as_slice), columns))
            }
        }
    }

    /// One thing: as JSON, or its fields below each other.
    pub(super) fn one(self, document: &Value, columns: &[Column]) -> Result<(), CliError> {
        match self.format {
            Format::Json => self.json(document),
            Format::Table => {
                let width = columns.iter().map(|(heading, _)| heading.len()).max().unwrap_or(0);
                let line = |(heading, path): &Column| format!("{heading:width$}  {}\n", cell(document, path));
                show(columns.iter().map(line).collect::<String>().trim_end())
            }
        }
    }

    /// A sentence for people; machines read the exit status.
    pub(super) fn done(self, sentence: &str) -> Result<(), CliError> {
        match self.format {
            Format::Json => Ok(()),
            Format::Table => show(&lines_safe(sentence)),
        }
    }

    /// A document as it is.
    pub(super) fn json(self, document: &Value) -> Result<(), CliError> {
        let text = serde_json::to_string_pretty(document).map_err(|error| CliError::failed(error.to_string()))?;
        show(&json_safe(&text))
    }
}

/// Writes a text and a line end. A reader that has gone (`| head`) is no error.
pub(super) fn show(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::failed(format!("standard output can't be written: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn table(entries: &[Value], columns: &[Column]) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table.set_header(columns.iter().map(|(heading, _)| *heading));
    for entry in entries {
        table.add_row(columns.iter().map(|(_, path)| cell(entry, path)));
    }
    let trimmed = |line: &str| line.trim_end().trim_start_matches(' ').to_owned();
    table.to_string().lines().map(trimmed).collect::<Vec<_>>().join("\n")
}

/// The field at a dotted path as one harmless line; the empty path is the entry itself.
fn cell(entry: &Value, path: &str) -> String {
    let found = path.split('.').filter(|step| !step.is_empty()).try_fold(entry, |value, step| value.get(step));
    match found.unwrap_or(&Value::Null) {
        Value::Null => "-".to_owned(),
        Value::Bool(truth) => if *truth { "yes" } else { "no" }.to_owned(),
        Value::String(text) => safe(text),
        Value::Array(items) => items.iter().map(|item| cell(item, "")).collect::<Vec<_>>().join(", "),
        other @ (Value::Number(_) | Value::Object(_)) => safe(&other.to_string()),
    }
}

/// Text without anything that moves a cursor, changes colours, hides or turns around what is shown (U4).
pub(super) fn safe(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmful(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out
}

/// The same, keeping line ends.
pub(super) fn lines_safe(text: &str) -> String {
    text.split('\n').map(safe).collect::<Vec<_>>().join("\n")
}

/// JSON with harmful characters written as `\uXXXX`: the same document, for any parser. Line ends stand between tokens.
pub(super) fn json_safe(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmful(c) && c != '\n' {
            let mut units = [0; 2];
            c.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        } else {
            out.push(c);
        }
    }
    out
}

fn is_harmful(c: char) -> bool {
    // Controls of ASCII and of ISO 8859-1; characters that are invisible, turn the direction of text or break lines.
    let hides = matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}');
    c.is_control()
        || hides
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    // U4: nothing of a name reaches the terminal as a command, in tables, JSON and errors.
    #[test]
    fn harmless() {
        let evil = "a\u{1b}[2Jb\u{9b}31mc\u{202e}d\r\ne\u{200b}f\u{7f}";
        let shown = safe(evil);
        assert_eq!(shown, "a\\u{1b}[2Jb\\u{9b}31mc\\u{202e}d\\u{d}\\u{a}e\\u{200b}f\\u{7f}");
        let rows = table(&[json!({"name": evil})], &[("NAME", "name")]);
        assert_eq!(rows, format!("NAME\n{shown}"));
        let text = json_safe(&serde_json::to_string_pretty(&json!({"name": evil})).unwrap());
        assert!(!text.chars().any(|c| is_harmful(c) && c != '\n'));
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["name"], evil);
        assert_eq!(lines_safe("a\nb\tc"), "a\nb\\u{9}c");
        assert_eq!(safe("größe-日本"), "größe-日本");
    }

    // A table shows what a path finds; what is missing is a dash.
    #[test]
    fn tables() {
        let entries = [json!({"a": {"b": 1}, "c": true}), json!({"c": ["x", "y"]})];
        assert_eq!(table(&entries, &[("B", "a.b"), ("C", "c")]), "B  C\n1  yes\n-  x, y");
        assert_eq!(table(&[], &[("B", "a.b")]), "B");
    }
}
