//! Every route of both listeners. The tables are compared with the sources, so that a walk over them misses none.

use std::path::Path;

/// Endpoints of the public listener: their label in `src/api/oci/route.rs`, their path, their methods.
pub(crate) const PUBLIC: [(&str, &str, &[&str]); 10] = [
    ("base", "/v2/", &["GET", "HEAD"]),
    ("token", "/v2/token", &["GET"]),
    ("catalog", "/v2/_catalog", &["GET", "HEAD"]),
    ("tags", "/v2/{name}/tags/list", &["GET", "HEAD"]),
    ("manifest", "/v2/{name}/manifests/{tag}", &["GET", "HEAD", "PUT", "DELETE"]),
    ("manifest", "/v2/{name}/manifests/{digest}", &["GET", "HEAD", "PUT", "DELETE"]),
    ("referrers", "/v2/{name}/referrers/{digest}", &["GET", "HEAD"]),
    ("blob", "/v2/{name}/blobs/{blob}", &["GET", "HEAD", "DELETE"]),
    ("uploads", "/v2/{name}/blobs/uploads/", &["POST"]),
    ("upload", "/v2/{name}/blobs/uploads/{upload}", &["GET", "PATCH", "PUT", "DELETE"]),
];

/// Paths of the admin listener that answer without a credential.
pub(crate) const OPEN: [&str; 3] = ["/livez", "/readyz", "/startupz"];

/// What stands for the parts of a path.
pub(crate) struct Parts<'a> {
    pub(crate) name: &'a str,
    pub(crate) tag: &'a str,
    pub(crate) digest: &'a str,
    pub(crate) blob: &'a str,
    pub(crate) upload: &'a str,
}

impl Parts<'_> {
    /// A path with its parts put in.
    pub(crate) fn fill(&self, template: &str) -> String {
        let path = template.replace("{name}", self.name).replace("{tag}", self.tag);
        path.replace("{digest}", self.digest).replace("{blob}", self.blob).replace("{upload}", self.upload)
    }
}

/// Every method and path of the public listener, with the label of its endpoint.
pub(crate) fn public() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    PUBLIC.iter().flat_map(|(label, path, methods)| methods.iter().map(move |method| (*label, *method, *path)))
}

fn source(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The body of a method of a source.
fn body<'t>(text: &'t str, signature: &str) -> &'t str {
    let (_, rest) = text.split_once(signature).unwrap_or_else(|| panic!("there is no {signature}"));
    rest.split("\n    }\n").next().unwrap()
}

/// Every method and path of the admin listener, as its router lists them.
pub(crate) fn admin() -> Vec<(String, String)> {
    let text = source("src/api/admin/mod.rs");
    let router = body(&text, "pub fn router(self)");
    let mut routes = Vec::new();
    for route in router.split(".route(").skip(1) {
        let path = route.split('"').nth(1).unwrap();
        for method in ["get", "post", "put", "patch", "delete"] {
            if route.contains(&format!("{method}(")) {
                routes.push((method.to_uppercase(), path.to_owned()));
            }
        }
    }
    assert!(routes.len() >= 25, "the router is written in another way: {routes:?}");
    routes
}

/// Whether a path, with or without a query, leads to a route of the admin listener.
pub(crate) fn leads(path: &str, route: &str) -> bool {
    let mut parts = path.split('?').next().unwrap().split('/');
    for wanted in route.split('/') {
        match parts.next() {
            Some(_) if wanted.starts_with("{*") => return true,
            Some(part) if wanted.starts_with('{') || part == wanted => {}
            Some(_) | None => return false,
        }
    }
    parts.next().is_none()
}

// The table of the public listener names every endpoint and every method that the router knows.
#[test]
fn the_table_is_whole() {
    let text = source("src/api/oci/route.rs");
    let mut known: Vec<(String, String)> = Vec::new();
    for line in body(&text, "pub(super) fn allow(&self)").lines().filter(|line| line.contains("=>")) {
        let (variants, methods) = line.split_once("=>").unwrap();
        for variant in variants.split('|') {
            let variant = variant.trim().trim_start_matches("Route::").split(' ').next().unwrap().to_lowercase();
            let methods = methods.split('"').nth(1).unwrap().split(", ");
            known.extend(methods.map(|method| (variant.clone(), method.to_owned())));
        }
    }
    let mut listed: Vec<_> = public().map(|(label, method, _)| (label.to_owned(), method.to_owned())).collect();
    for list in [&mut known, &mut listed] {
        list.sort();
        list.dedup();
    }
    assert_eq!(known, listed);
}
