//! The harness could not do its work: a third thing beside a good and a bad verdict.

/// What the harness could not do.
#[derive(Debug)]
pub(crate) struct Fault(String);

impl Fault {
    pub(crate) fn new(text: impl Into<String>) -> Fault {
        Fault(text.into())
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

/// Turns an error into a fault that says what was tried.
pub(crate) fn told<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> Fault {
    let what = what.to_owned();
    move |error| Fault(format!("{what}: {error}"))
}
