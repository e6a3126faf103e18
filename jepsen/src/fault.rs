//! What ends a run early: the harness could not do its work (a third thing beside a good and a bad verdict), or the
//! product did what no run can go on after (then the verdict is bad).

/// Why a run ends early.
#[derive(Debug)]
pub(crate) struct Fault {
    text: String,
    is_of_product: bool,
}

impl Fault {
    /// What the harness could not do.
    pub(crate) fn new(text: impl Into<String>) -> Fault {
        Fault { text: text.into(), is_of_product: false }
    }

    /// What the product did, or did not do: a node that ends by itself, that never gets ready, a leader that never
    /// comes.
    pub(crate) fn of_product(text: impl Into<String>) -> Fault {
        Fault { text: text.into(), is_of_product: true }
    }

    /// Whether the product is to blame: then the run has a verdict.
    pub(crate) fn is_of_product(&self) -> bool {
        self.is_of_product
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.text)
    }
}

impl std::error::Error for Fault {}

/// Turns an error into a fault that says what was tried.
pub(crate) fn told<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> Fault {
    let what = what.to_owned();
    move |error| Fault::new(format!("{what}: {error}"))
}
