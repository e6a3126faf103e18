//! One request on its way through the API: who sends it, what it carries, what is written down about it.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap};
use registry_core::decide::policy;
use registry_core::vocabulary::Refusal;
use registry_core::vocabulary::ids::Revision;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Admin;
use super::error::Failure;
use crate::auth::{Auth, Caller, Evidence, Freshness, audit};
use crate::ground::certs::{Identity, Role};
use crate::http::RequestInfo;

/// Where a request came from.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    /// In its logs, in its audit records, in its answer.
    pub(super) request_id: String,
    /// Who connected.
    pub(super) peer: IpAddr,
    /// The client, after the trusted-proxy rule.
    pub(super) client: IpAddr,
    /// Whether the client used TLS, after the trusted-proxy rule.
    pub(super) secure: bool,
    /// The name in a verified operator's certificate.
    pub(super) operator: Option<String>,
}

impl Origin {
    fn of(extensions: &Extensions) -> Option<Origin> {
        // what a test put there itself, or what the listener found out
        if let Some(origin) = extensions.get::<Origin>() {
            return Some(origin.clone());
        }
        let info = RequestInfo::of(extensions)?;
        let operator = extensions.get::<Identity>().and_then(|identity| match &identity.role {
            Role::Operator(name) => Some(name.clone()),
            Role::Authority | Role::Node(_) | Role::Region(_) => None,
        });
        Some(Origin {
            request_id: info.id().to_owned(),
            peer: info.peer().ip(),
            client: info.client(),
            secure: info.is_secure(),
            operator,
        })
    }

    /// A process on this machine, with no proxy between.
    fn is_local(&self) -> bool {
        self.peer.is_loopback() && self.client.is_loopback()
    }
}

/// A request without its body.
pub(super) struct Exchange {
    admin: Arc<Admin>,
    headers: HeaderMap,
    origin: Origin,
    /// Where to note who asks; tests have none.
    info: Option<RequestInfo>,
}

impl FromRequestParts<Arc<Admin>> for Exchange {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, admin: &Arc<Admin>) -> Result<Exchange, Failure> {
        let origin = Origin::of(&parts.extensions).ok_or(Failure::NotFound)?;
        let info = RequestInfo::of(&parts.extensions).cloned();
        if let Some(info) = &info {
            info.note_route("admin");
        }
        Ok(Exchange { admin: Arc::clone(admin), headers: parts.headers.clone(), origin, info })
    }
}

impl Exchange {
    pub(super) fn admin(&self) -> &Admin {
        &self.admin
    }

    pub(super) fn auth(&self) -> &Auth {
        &self.admin.auth
    }

    fn evidence(&self) -> Evidence<'_> {
        Evidence { headers: &self.headers, address: self.origin.client, secure: self.origin.secure }
    }

    /// Who asks. Bearer tokens and missing credentials get no further here (A17).
    pub(super) async fn caller(&self) -> Result<Caller, Failure> {
        let caller = self.known().await?;
        if let Some(info) = &self.info {
            info.note_principal(caller.name());
        }
        Ok(caller)
    }

    async fn known(&self) -> Result<Caller, Failure> {
        if let Some(name) = &self.origin.operator {
            return Ok(self.auth().operator(name, &self.evidence()).await?);
        }
        let caller = self.auth().authenticate(&self.evidence(), Freshness::Linearizable).await?;
        self.auth().permit_base(&caller)?;
        if caller.credential() == crate::auth::CredentialKind::Bearer {
            return Err(Failure::Unauthenticated);
        }
        Ok(caller)
    }

    /// Who asks for a change. The audit is told of those whom nobody knows, too.
    pub(super) async fn caller_of(&self, action: &'static str, resource: &str) -> Result<Caller, Failure> {
        let found = self.caller().await;
        if let Err(failure) = &found {
            let (address, why) = (self.origin.client, failure_text(failure));
            audit::before_anybody("anonymous", address, &self.origin.request_id, action, resource, Some(&why));
        }
        found
    }

    /// Who asks, if it may do this to the registry or the cluster. The audit is told when it may not.
    pub(super) async fn administrator(&self, right: policy::Action, action: &'static str) -> Result<Caller, Failure> {
        let caller = self.caller().await?;
        self.looked(&caller, action, "", self.auth().permit_admin(&caller, right))?;
        Ok(caller)
    }

    /// Passes the ending of a look on. The audit is told when the caller may not look.
    pub(super) fn looked<T, E: Into<Failure>>(
        &self,
        caller: &Caller,
        action: &'static str,
        resource: &str,
        ended: Result<T, E>,
    ) -> Result<T, Failure> {
        ended.map_err(|error| {
            let failure = error.into();
            if let Failure::Refusal(Refusal::Denied { .. } | Refusal::RepositoryUnknown { .. }) = &failure {
                let act = audit::Act { caller, request_id: &self.origin.request_id, action, resource };
                act.refused(&failure_text(&failure));
            }
            failure
        })
    }

    /// Whether there is nobody yet who could be authenticated: no cluster, or one whose founding broke off before its
    /// first access key.
    pub(super) fn is_unfounded(&self) -> bool {
        !self.auth().has_root()
    }

    /// Whether this may found the cluster, or have the node join one, although nobody can be authenticated yet.
    pub(super) fn may_found(&self) -> bool {
        self.origin.is_local() || self.origin.operator.is_some()
    }

    /// Writes down how a change ended, and passes the ending on.
    pub(super) fn audited<T, E: Into<Failure>>(
        &self,
        caller: &Caller,
        action: &'static str,
        resource: &str,
        revision: impl FnOnce(&T) -> Revision,
        ended: Result<T, E>,
    ) -> Result<T, Failure> {
        let act = audit::Act { caller, request_id: &self.origin.request_id, action, resource };
        match ended {
            Ok(value) => {
                act.accepted(revision(&value));
                Ok(value)
            }
            Err(error) => {
                let failure = error.into();
                act.refused(&failure_text(&failure));
                Err(failure)
            }
        }
    }

    /// Writes down how a change ended that came before anybody could be authenticated.
    pub(super) fn audited_by_nobody<T>(&self, action: &'static str, resource: &str, ended: &Result<T, Failure>) {
        let by = self.origin.operator.as_deref().unwrap_or("local");
        let refused = ended.as_ref().err().map(failure_text);
        audit::before_anybody(by, self.origin.client, &self.origin.request_id, action, resource, refused.as_deref());
    }

    /// A change of users, keys or policies: done, and written down.
    pub(super) async fn change(
        &self,
        action: &'static str,
        resource: &str,
        act: impl AsyncFnOnce(&Auth, &Caller) -> Result<Revision, Failure>,
    ) -> Result<Revision, Failure> {
        let caller = self.caller_of(action, resource).await?;
        let ended = act(self.auth(), &caller).await;
        self.audited(&caller, action, resource, |revision| *revision, ended)
    }
}

/// Why something was refused, for the audit.
fn failure_text(failure: &Failure) -> String {
    match failure {
        Failure::Unauthenticated => Refusal::Unauthenticated.to_string(),
        Failure::Refusal(refusal) => refusal.to_string(),
        // the parser's words quote what was sent, which may be a secret in the wrong field (T10)
        Failure::Body(_) => "the body is not what this path takes".to_owned(),
        Failure::Conflict(text) => text.clone(),
        Failure::NotFound => "not found".to_owned(),
    }
}

/// The JSON body of a request: bounded, every field known (A14). What is wrong with it is told to who may ask at all,
/// so a handler looks at it after the caller.
pub(super) struct Document<T>(pub(super) Result<T, Failure>);

impl<T: DeserializeOwned> FromRequest<Arc<Admin>> for Document<T> {
    type Rejection = Infallible;

    async fn from_request(request: Request, admin: &Arc<Admin>) -> Result<Document<T>, Infallible> {
        let Text(body) = Text::from_request(request, admin).await?;
        Ok(Document(body.and_then(|text| {
            let text = if text.is_empty() { "{}" } else { &text };
            // a list would be read as well, its entries taken for the fields in their order
            if !text.trim_start().starts_with('{') {
                return Err(Failure::Body("a JSON object is wanted".into()));
            }
            serde_json::from_str(text).map_err(|error| Failure::Body(error.to_string()))
        })))
    }
}

/// Body of an act about which there is nothing to say.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// The body of a request as text: a policy is kept as it was written.
pub(super) struct Text(pub(super) Result<String, Failure>);

impl FromRequest<Arc<Admin>> for Text {
    type Rejection = Infallible;

    async fn from_request(request: Request, admin: &Arc<Admin>) -> Result<Text, Infallible> {
        Ok(Text(text(request, admin).await))
    }
}

async fn text(request: Request, admin: &Arc<Admin>) -> Result<String, Failure> {
    // a browser sends this type to another origin only after it asked: no page can act with a person's credentials
    let is_json = request.headers().get(CONTENT_TYPE).is_some_and(|value| {
        let kind = value.to_str().unwrap_or("").split(';').next().unwrap_or("").trim();
        kind.eq_ignore_ascii_case("application/json")
    });
    if !is_json {
        return Err(Failure::Body("the content type must be application/json".into()));
    }
    let bytes = Bytes::from_request(request, admin).await;
    let bytes = bytes.map_err(|_| Failure::Body("the body is too large, or broke off".into()))?;
    String::from_utf8(bytes.into()).map_err(|_| Failure::Body("the body is not UTF-8".into()))
}
