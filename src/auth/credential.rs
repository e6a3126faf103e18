//! What stands in `Authorization`: parsed by grammar, bounded, one credential at most.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use data_encoding::BASE64;
use registry_core::vocabulary::limits::AUTHORIZATION_BYTES_MAX;

/// A credential as it was sent. Holds secrets: has no `Debug`.
pub(super) enum Credential {
    /// No `Authorization` at all.
    None,
    /// `Basic` with user and password.
    Basic {
        /// The part before the first colon.
        user: String,
        /// The rest.
        password: String,
    },
    /// `Bearer`.
    Bearer(String),
    /// Something that holds no credential of ours.
    Unusable,
}

/// Reads the credential of a request. Several `Authorization` lines are no credential: which one would count? (T12)
pub(super) fn parse(headers: &HeaderMap) -> Credential {
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let Some(line) = lines.next() else { return Credential::None };
    if lines.next().is_some() || line.len() > AUTHORIZATION_BYTES_MAX {
        return Credential::Unusable;
    }
    line.to_str().ok().and_then(parse_line).unwrap_or(Credential::Unusable)
}

/// `None` for what is no credential of ours.
fn parse_line(line: &str) -> Option<Credential> {
    let (scheme, value) = line.split_once(' ')?;
    let value = value.trim();
    if scheme.eq_ignore_ascii_case("Bearer") {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        return (!value.is_empty() && value.bytes().all(is_token)).then(|| Credential::Bearer(value.to_owned()));
    }
    if scheme.eq_ignore_ascii_case("Basic") {
        let text = String::from_utf8(BASE64.decode(value.as_bytes()).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        // nobody and nothing is what podman, skopeo and buildah send without a login when they are asked for Basic
        if user.is_empty() && password.is_empty() {
            return Some(Credential::None);
        }
        // an empty password is refused before anything looks at it (T18)
        let is_whole = !user.is_empty() && !password.is_empty();
        return is_whole.then(|| Credential::Basic { user: user.to_owned(), password: password.to_owned() });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(AUTHORIZATION, line.parse().unwrap());
        }
        match parse(&headers) {
            Credential::None => "none".into(),
            Credential::Basic { user, password } => format!("{user}/{password}"),
            Credential::Bearer(token) => token,
            Credential::Unusable => "unusable".into(),
        }
    }

    // T5, T12, T18: one credential, of a known scheme, whole and of bounded length; everything else is none of ours.
    #[test]
    fn table() {
        let basic = |text: &str| format!("Basic {}", BASE64.encode(text.as_bytes()));
        let long = format!("Bearer {}", "a".repeat(AUTHORIZATION_BYTES_MAX));
        for (lines, want) in [
            (&[][..], "none"),
            (&[basic("user:pass").as_str()], "user/pass"),
            (&[basic("user:pass:word").as_str()], "user/pass:word"),
            (&["basic dXNlcjpwYXNz"], "user/pass"),
            (&["BEARER abc"], "abc"),
            (&["Bearer  abc "], "abc"),
            (&[basic("user:").as_str()], "unusable"),
            (&[basic(":pass").as_str()], "unusable"),
            (&[basic(":").as_str()], "none"),
            (&[basic(":").as_str(), "Bearer abc"], "unusable"),
            (&[basic("user").as_str()], "unusable"),
            (&["Basic ***"], "unusable"),
            (&["Basic"], "unusable"),
            (&["Bearer "], "unusable"),
            (&["Bearer a b"], "unusable"),
            (&["Negotiate abc"], "unusable"),
            (&["Bearer abc", "Basic dXNlcjpwYXNz"], "unusable"),
            (&["Bearer abc", "Bearer abc"], "unusable"),
            (&[long.as_str()], "unusable"),
        ] {
            assert_eq!(told(lines), want, "{lines:?}");
        }
    }
}
