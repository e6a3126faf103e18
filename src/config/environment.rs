//! The process's environment as a value, so that a test brings its own.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Every setting's variable begins with this.
pub(super) const PREFIX: &str = "PORTOLAN_";

/// Variables, by name.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// This process's variables; names and values that are not UTF-8 are no settings and are left out.
    pub fn of_process() -> Environment {
        let text = |text: std::ffi::OsString| text.into_string().ok();
        Environment(std::env::vars_os().filter_map(|(name, value)| Some((text(name)?, text(value)?))).collect())
    }

    /// These variables.
    pub fn of<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Environment {
        Environment(variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// One variable; an empty one counts as absent, as shells and compose files leave them.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// All that begin with [`PREFIX`] and are not empty, without it.
    pub fn ours(&self) -> impl Iterator<Item = (&str, &str)> {
        let ours = |(name, value)| Some((str::strip_prefix(name, PREFIX)?, value));
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter_map(ours)
            .filter(|(_, v)| !v.is_empty())
    }

    /// Where data is kept when nothing is configured: `$XDG_STATE_HOME/portolan`, else `~/.local/state/portolan`.
    ///
    /// Not the working directory: a restart from another one would come up as an empty registry.
    pub fn state_dir(&self) -> Option<PathBuf> {
        let absolute = |name: &str| self.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
        Some(state.join("portolan"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The data directory never depends on where the process was started.
    #[test]
    fn state_dir() {
        let table = [
            ("/x", "/h", Some("/x/portolan")),
            ("relative", "/h", Some("/h/.local/state/portolan")),
            ("", "/h", Some("/h/.local/state/portolan")),
            ("", "", None),
        ];
        for (state, home, expected) in table {
            let environment = Environment::of([("XDG_STATE_HOME", state), ("HOME", home)]);
            assert_eq!(environment.state_dir(), expected.map(PathBuf::from), "{state:?} {home:?}");
        }
    }
}
