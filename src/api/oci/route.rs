//! Paths: which endpoint, of which repository. Read from the right, because names may contain the words of the API.
//!
//! Source: OCI distribution specification 1.1, "Endpoints". A path is percent-decoded once and as a whole, so that the
//! name which policies judge and the name that is stored are the same bytes (A24).

use std::borrow::Cow;

use axum::http::Method;

/// What all paths of this surface begin with.
const PREFIX: &str = "/v2";

/// The path of the token service behind it: no repository has it, for endpoints of repositories have two elements more.
const TOKEN: &str = "/token";

/// An endpoint with its parts as text: not checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    /// `/v2/`: is this the API, and does my credential hold?
    Base,
    /// `/v2/token`: the token service.
    Token,
    /// `/v2/_catalog`: which repositories are there?
    Catalog,
    /// `/v2/<name>/tags/list`
    Tags {
        /// The repository.
        name: &'a str,
    },
    /// `/v2/<name>/manifests/<reference>`
    Manifest {
        /// The repository.
        name: &'a str,
        /// Tag or digest.
        reference: &'a str,
    },
    /// `/v2/<name>/referrers/<digest>`
    Referrers {
        /// The repository.
        name: &'a str,
        /// The subject.
        digest: &'a str,
    },
    /// `/v2/<name>/blobs/<digest>`
    Blob {
        /// The repository.
        name: &'a str,
        /// Which blob.
        digest: &'a str,
    },
    /// `/v2/<name>/blobs/uploads/`
    Uploads {
        /// The repository.
        name: &'a str,
    },
    /// `/v2/<name>/blobs/uploads/<token>`
    Upload {
        /// The repository.
        name: &'a str,
        /// The upload's token.
        token: &'a str,
    },
}

/// Decodes the percent-encoding of a path, once; `None` if it is no text then.
pub(super) fn decode(path: &str) -> Option<Cow<'_, str>> {
    if path.contains('%') {
        percent_encoding::percent_decode_str(path).decode_utf8().ok()
    } else {
        Some(Cow::Borrowed(path))
    }
}

/// Whether a path belongs to no endpoint here and to no repository either.
pub(super) fn is_outside(path: &str) -> bool {
    path.strip_prefix(PREFIX).is_none_or(|rest| !rest.is_empty() && !rest.starts_with('/'))
}

impl<'a> Route<'a> {
    /// Reads a decoded path.
    pub(super) fn parse(path: &'a str) -> Option<Route<'a>> {
        let rest = path.strip_prefix(PREFIX)?;
        match rest {
            "" | "/" => return Some(Route::Base),
            TOKEN => return Some(Route::Token),
            "/_catalog" | "/_catalog/" => return Some(Route::Catalog),
            _ => {}
        }
        let rest = rest.strip_prefix('/')?;
        let (front, last) = rest.rsplit_once('/')?;
        let (before, word) = front.rsplit_once('/').unwrap_or(("", front));
        match (word, last) {
            ("manifests", reference) => named(before, |name| Route::Manifest { name, reference }),
            ("referrers", digest) => named(before, |name| Route::Referrers { name, digest }),
            ("tags", "list") => named(before, |name| Route::Tags { name }),
            ("blobs", "uploads") => named(before, |name| Route::Uploads { name }),
            ("blobs", digest) => named(before, |name| Route::Blob { name, digest }),
            ("uploads", token) => {
                let (before, word) = before.rsplit_once('/').unwrap_or(("", before));
                match (word, token) {
                    ("blobs", "") => named(before, |name| Route::Uploads { name }),
                    ("blobs", token) => named(before, |name| Route::Upload { name, token }),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// The label in metrics and logs.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Route::Base => "base",
            Route::Token => "token",
            Route::Catalog => "catalog",
            Route::Tags { .. } => "tags",
            Route::Manifest { .. } => "manifest",
            Route::Referrers { .. } => "referrers",
            Route::Blob { .. } => "blob",
            Route::Uploads { .. } => "uploads",
            Route::Upload { .. } => "upload",
        }
    }

    /// The methods of the endpoint, as `Allow` lists them.
    pub(super) fn allow(&self) -> &'static str {
        match self {
            // A client that tries POST first goes on with GET after a 405 (clients §1).
            Route::Token => "GET",
            Route::Base | Route::Catalog | Route::Tags { .. } | Route::Referrers { .. } => "GET, HEAD",
            Route::Manifest { .. } => "GET, HEAD, PUT, DELETE",
            Route::Blob { .. } => "GET, HEAD, DELETE",
            Route::Uploads { .. } => "POST",
            Route::Upload { .. } => "GET, PATCH, PUT, DELETE",
        }
    }

    /// Whether the endpoint knows the method. All others are 405, whatever a header says to override them (H9).
    pub(super) fn allows(&self, method: &Method) -> bool {
        self.allow().split(", ").any(|allowed| allowed == method.as_str())
    }
}

fn named<'a>(name: &'a str, route: impl FnOnce(&'a str) -> Route<'a>) -> Option<Route<'a>> {
    if name.is_empty() { None } else { Some(route(name)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::TOKEN_PATH;

    // Challenges name the path that is routed here.
    #[test]
    fn token_path_is_routed() {
        assert_eq!(Route::parse(TOKEN_PATH), Some(Route::Token));
    }

    // clients §2: names may contain the words of the API, so a path is read from the right.
    #[test]
    fn parse_table() {
        let digest = "sha256:aa";
        for (path, route) in [
            ("/v2", Route::Base),
            ("/v2/", Route::Base),
            ("/v2/_catalog", Route::Catalog),
            ("/v2/token", Route::Token),
            ("/v2/token/tags/list", Route::Tags { name: "token" }),
            ("/v2/a/tags/list", Route::Tags { name: "a" }),
            ("/v2/tags/list/tags/list", Route::Tags { name: "tags/list" }),
            ("/v2/a/manifests/latest", Route::Manifest { name: "a", reference: "latest" }),
            ("/v2/x/manifests/y/manifests/z", Route::Manifest { name: "x/manifests/y", reference: "z" }),
            ("/v2/a/blobs/uploads/b/manifests/y", Route::Manifest { name: "a/blobs/uploads/b", reference: "y" }),
            ("/v2/a/blobs/uploads/manifests/y", Route::Manifest { name: "a/blobs/uploads", reference: "y" }),
            ("/v2/manifests/manifests/manifests", Route::Manifest { name: "manifests", reference: "manifests" }),
            ("/v2/a/manifests/", Route::Manifest { name: "a", reference: "" }),
            ("/v2/a/blobs/sha256:aa", Route::Blob { name: "a", digest }),
            ("/v2/a/blobs/uploads/b/blobs/sha256:aa", Route::Blob { name: "a/blobs/uploads/b", digest }),
            ("/v2/a/blobs/uploads", Route::Uploads { name: "a" }),
            ("/v2/a/blobs/uploads/", Route::Uploads { name: "a" }),
            ("/v2/blobs/uploads/blobs/uploads/", Route::Uploads { name: "blobs/uploads" }),
            ("/v2/a/blobs/uploads/t-0k_en", Route::Upload { name: "a", token: "t-0k_en" }),
            ("/v2/a/manifests/blobs/uploads/x", Route::Upload { name: "a/manifests", token: "x" }),
            ("/v2/a/b/c/referrers/sha256:aa", Route::Referrers { name: "a/b/c", digest }),
            // Not a name, but that is for the grammar of names to say.
            ("/v2/A//../b/tags/list", Route::Tags { name: "A//../b" }),
        ] {
            assert_eq!(Route::parse(path), Some(route), "{path}");
            assert!(!is_outside(path));
        }
        for path in [
            "",
            "/",
            "/v1/",
            "/v2x/a/tags/list",
            "/v2/a",
            "/v2/a/",
            "/v2/tags/list",
            "/v2/manifests/latest",
            "/v2/a/tags/lists",
            "/v2/a/uploads/x",
            "/v2/a/blobs/uploads/x/y",
            "/v2/blobs/uploads/x",
            "//v2/",
            "/extensions/v2/a/signatures/sha256:aa",
        ] {
            assert_eq!(Route::parse(path), None, "{path}");
        }
        assert!(is_outside("/v2x/a/tags/list") && is_outside("/") && !is_outside("/v2/a"));
    }

    // A24: one decoding, not two; what is no text then has no endpoint.
    #[test]
    fn decode_table() {
        for (path, decoded) in [
            ("/v2/a/blobs/sha256:aa", Some("/v2/a/blobs/sha256:aa")),
            ("/v2/a/blobs/sha256%3Aaa", Some("/v2/a/blobs/sha256:aa")),
            ("/v2/a%2Fb/tags/list", Some("/v2/a/b/tags/list")),
            ("/v2/%2e%2e/tags/list", Some("/v2/../tags/list")),
            ("/v2/%252e/tags/list", Some("/v2/%2e/tags/list")),
            ("/v2/a/manifests/%00", Some("/v2/a/manifests/\0")),
            ("/v2/a/manifests/%zz", Some("/v2/a/manifests/%zz")),
            ("/v2/%ff/tags/list", None),
        ] {
            assert_eq!(decode(path).as_deref(), decoded, "{path}");
        }
    }

    /// The name of the repository in a path that has one.
    fn named<'a>(route: Route<'a>) -> Option<&'a str> {
        match route {
            Route::Manifest { name, .. } | Route::Blob { name, .. } | Route::Tags { name } => Some(name),
            Route::Referrers { name, .. } | Route::Uploads { name } | Route::Upload { name, .. } => Some(name),
            Route::Base | Route::Token | Route::Catalog => None,
        }
    }

    proptest::proptest! {
        // A24, B13: a path that is routed holds the name as it stands between the words of the API, and nothing else.
        #[test]
        fn paths_of_noise(text in "/v2(/(a|b-c|manifests|blobs|uploads|tags|list|referrers|_catalog|\\.\\.|%2[eEfF]|[ -~]{0,6})){0,8}/?") {
            if let Some(path) = decode(&text)
                && let Some(name) = Route::parse(&path).and_then(named)
            {
                let after = format!("/v2/{name}/");
                proptest::prop_assert!(!name.is_empty() && path.starts_with(&after), "{} in {}", name, text);
            }
        }
    }

    // H9: what an endpoint does not list it does not do.
    #[test]
    fn method_table() {
        for (route, allowed) in [
            (Route::Base, &["GET", "HEAD"][..]),
            (Route::Token, &["GET"]),
            (Route::Tags { name: "a" }, &["GET", "HEAD"]),
            (Route::Manifest { name: "a", reference: "b" }, &["GET", "HEAD", "PUT", "DELETE"]),
            (Route::Blob { name: "a", digest: "b" }, &["GET", "HEAD", "DELETE"]),
            (Route::Uploads { name: "a" }, &["POST"]),
            (Route::Upload { name: "a", token: "b" }, &["GET", "PATCH", "PUT", "DELETE"]),
        ] {
            for method in ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "GE"] {
                let parsed = Method::from_bytes(method.as_bytes()).unwrap();
                assert_eq!(route.allows(&parsed), allowed.contains(&method), "{method} {route:?}");
            }
        }
    }
}
