//! Readable traces: `tests/scripts/metadata/*.txt`, each with what came of its lines.

use crate::files::{compare, folder, names};
use crate::script;

const FOLDER: &str = "scripts/metadata";

// Every script answers as it did when somebody last read it.
#[test]
fn scripts() {
    let names = names(FOLDER, "txt");
    assert!(names.len() >= 10, "the scripts are gone: {names:?}");
    let mut problems = Vec::new();
    for name in names {
        let file = format!("{name}.txt");
        let text = std::fs::read_to_string(folder(FOLDER).join(&file)).unwrap();
        problems.extend(compare(FOLDER, &file, &script::run(&text), Some("UPDATE_TRACES")).err());
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}
