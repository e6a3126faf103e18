//! `WWW-Authenticate`: how a client is told to come back. Source: clients.md §1, RFC 6750 §3, RFC 7617.

use axum::http::HeaderValue;
use registry_core::decide::policy::scope::Scopes;

use super::{Auth, Challenge, ChallengeError, ChallengeKind};

/// Path of the token service on the public listener.
pub const TOKEN_PATH: &str = "/v2/token";

/// The name clients hand back to the token service as `service`.
pub const SERVICE: &str = "portolan";

impl Auth {
    /// The value of `WWW-Authenticate`. `origin` is scheme and host as the client used them, after the trusted-proxy
    /// rule (`https://registry.example:5000`); a configured public URL takes its place (H8).
    pub fn challenge(&self, challenge: &Challenge, origin: &str) -> HeaderValue {
        let settings = &self.0.settings;
        let origin = settings.public_url.as_deref().unwrap_or(origin).trim_end_matches('/');
        match settings.challenge {
            ChallengeKind::Bearer if is_origin(origin) => bearer(origin, &challenge.scopes, challenge.error),
            ChallengeKind::Bearer | ChallengeKind::Basic => basic(origin),
        }
    }

    /// The challenge of the token service itself: an access key.
    pub fn challenge_for_key(&self, origin: &str) -> HeaderValue {
        basic(self.0.settings.public_url.as_deref().unwrap_or(origin))
    }
}

/// Whether this can stand between quotes and is what clients can call: nothing of a request reaches a header unchecked.
fn is_origin(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]_/".contains(&byte);
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    host.is_some_and(|host| !host.is_empty() && host.len() <= 300 && host.bytes().all(legal))
}

fn bearer(origin: &str, scopes: &Scopes, error: Option<ChallengeError>) -> HeaderValue {
    let mut text = format!("Bearer realm=\"{origin}{TOKEN_PATH}\",service=\"{SERVICE}\"");
    if !scopes.is_empty() {
        text.push_str(&format!(",scope=\"{scopes}\""));
    }
    match error {
        None => {}
        Some(ChallengeError::InvalidToken) => text.push_str(",error=\"invalid_token\""),
        Some(ChallengeError::InsufficientScope) => text.push_str(",error=\"insufficient_scope\""),
    }
    HeaderValue::try_from(text).expect("origins, scopes and codes are visible ASCII without quotes")
}

fn basic(origin: &str) -> HeaderValue {
    let realm = if is_origin(origin) { origin } else { SERVICE };
    let text = format!("Basic realm=\"{realm}\",charset=\"UTF-8\"");
    HeaderValue::try_from(text).expect("origins are visible ASCII without quotes")
}
