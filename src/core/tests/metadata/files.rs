//! Files of expected text at the repository's root, compared or rewritten.

use std::path::{Path, PathBuf};

/// A folder under `tests/` of the repository.
pub(crate) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests").join(name)
}

/// The names in a folder with this extension, without it, sorted.
pub(crate) fn names(name: &str, extension: &str) -> Vec<String> {
    let mut found: Vec<String> = std::fs::read_dir(folder(name))
        .unwrap_or_else(|error| panic!("tests/{name}: {error}"))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    found.sort();
    found
}

/// Compares a file with what it should hold, or rewrites it if `variable` is set; without one it is kept for ever.
/// Answers what is wrong.
pub(crate) fn compare(name: &str, file: &str, text: &str, variable: Option<&str>) -> Result<(), String> {
    let path = folder(name).join(file);
    if variable.is_some_and(is_set) {
        std::fs::create_dir_all(folder(name)).unwrap();
        std::fs::write(&path, text).unwrap();
        return Ok(());
    }
    let kept = std::fs::read_to_string(&path).map_err(|error| format!("tests/{name}/{file}: {error}"))?;
    match kept.lines().zip(text.lines()).position(|(kept, new)| kept != new) {
        None if kept == text => Ok(()),
        at => {
            let at = at.unwrap_or_else(|| kept.lines().count().min(text.lines().count()));
            let line = |text: &str| text.lines().nth(at).unwrap_or("(nothing)").to_owned();
            let (kept, new) = (line(&kept), line(text));
            let hint = variable.map_or(String::new(), |variable| format!("\n({variable}=1 rewrites it)"));
            Err(format!("tests/{name}/{file}:{}: kept\n  {kept}\nbut now\n  {new}{hint}", at + 1))
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a test may be asked to rewrite what it compares")]
pub(crate) fn is_set(variable: &str) -> bool {
    std::env::var(variable).is_ok_and(|value| value == "1")
}
