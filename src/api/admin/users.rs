//! Users, access keys, policies, grants.

use axum::body::Body;
use axum::extract::{Path, Query};
use axum::http::{Response, StatusCode};
use registry_core::decide::policy;
use registry_core::decide::policy::grants::{Grant, GrantError};
use registry_core::vocabulary::{Refusal, RepositoryName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::answer;
use super::error::Failure;
use super::exchange::{Document, Exchange, Text};
use crate::auth::{CallerKind, CredentialKind, KeyInfo, NewKey, PolicyInfo, UserInfo};

type Answer = Result<Response<Body>, Failure>;

/// A user as it is shown.
#[derive(Serialize)]
struct UserDocument {
    name: String,
    root: bool,
    enabled: bool,
    created_at: String,
}

impl From<UserInfo> for UserDocument {
    fn from(user: UserInfo) -> UserDocument {
        let UserInfo { name, is_root, enabled, created_at_ms } = user;
        UserDocument { name, root: is_root, enabled, created_at: answer::time(created_at_ms) }
    }
}

/// An access key as it is shown: never with its secret (T11).
#[derive(Serialize)]
struct KeyDocument {
    key_id: String,
    enabled: bool,
    created_at: String,
    expires_at: Option<String>,
    fingerprint: String,
}

impl From<KeyInfo> for KeyDocument {
    fn from(key: KeyInfo) -> KeyDocument {
        KeyDocument {
            key_id: key.key_id,
            enabled: key.enabled,
            created_at: answer::time(key.created_at_ms),
            expires_at: key.expires_at_ms.map(answer::time),
            fingerprint: key.fingerprint,
        }
    }
}

/// An access key just made: the one answer with a secret.
#[derive(Serialize)]
pub(super) struct NewKeyDocument<'a> {
    pub(super) key_id: &'a str,
    pub(super) secret: &'a str,
}

#[derive(Serialize)]
struct PolicyDocument {
    name: String,
    document: Box<RawValue>,
}

#[derive(Serialize)]
struct Users {
    users: Vec<UserDocument>,
}

#[derive(Serialize)]
struct Keys {
    keys: Vec<KeyDocument>,
}

#[derive(Serialize)]
struct Policies {
    policies: Vec<PolicyDocument>,
}

/// `GET /v1/users`
pub(super) async fn list(exchange: Exchange) -> Answer {
    let caller = exchange.caller().await?;
    let users = exchange.auth().users(&caller).await?.into_iter().map(UserDocument::from).collect();
    Ok(answer::json(StatusCode::OK, &Users { users }))
}

/// Body of `POST /v1/users`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateUser {
    name: String,
}

/// `POST /v1/users`
pub(super) async fn create(exchange: Exchange, Document(wish): Document<CreateUser>) -> Answer {
    let name = &wish.name;
    let revision =
        exchange.change("user.create", name, async |auth, caller| auth.create_user(caller, name).await).await?;
    let caller = exchange.caller().await?;
    let user = UserDocument::from(exchange.auth().user(&caller, name).await?);
    Ok(answer::at(answer::json(StatusCode::CREATED, &user), revision))
}

/// `GET /v1/users/{user}`
pub(super) async fn show(exchange: Exchange, Path(user): Path<String>) -> Answer {
    let caller = exchange.caller().await?;
    Ok(answer::json(StatusCode::OK, &UserDocument::from(exchange.auth().user(&caller, &user).await?)))
}

/// Body of `PATCH` on a user or a key. Kind, owner and secret cannot be set (A14).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SetEnabled {
    enabled: bool,
}

/// `PATCH /v1/users/{user}`
pub(super) async fn change(
    exchange: Exchange,
    Path(user): Path<String>,
    Document(SetEnabled { enabled }): Document<SetEnabled>,
) -> Answer {
    let action = if enabled { "user.enable" } else { "user.disable" };
    let act = exchange.change(action, &user, async |auth, caller| auth.set_user_enabled(caller, &user, enabled).await);
    Ok(answer::changed(act.await?))
}

/// `DELETE /v1/users/{user}`
pub(super) async fn remove(exchange: Exchange, Path(user): Path<String>) -> Answer {
    let act = exchange.change("user.delete", &user, async |auth, caller| auth.delete_user(caller, &user).await);
    Ok(answer::changed(act.await?))
}

/// `GET /v1/users/{user}/keys`
pub(super) async fn keys(exchange: Exchange, Path(user): Path<String>) -> Answer {
    let caller = exchange.caller().await?;
    let keys = exchange.auth().keys(&caller, &user).await?.into_iter().map(KeyDocument::from).collect();
    Ok(answer::json(StatusCode::OK, &Keys { keys }))
}

/// Body of `POST /v1/users/{user}/keys`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateKey {
    /// Seconds until the key ends by itself; left out: never.
    #[serde(default)]
    lifetime_s: Option<u64>,
}

/// `POST /v1/users/{user}/keys`: the secret is in this answer and in no other.
pub(super) async fn create_key(
    exchange: Exchange,
    Path(user): Path<String>,
    Document(CreateKey { lifetime_s }): Document<CreateKey>,
) -> Answer {
    if lifetime_s == Some(0) {
        return Err(Failure::Body("lifetime_s must be 1 or more".into()));
    }
    let caller = exchange.caller_of("key.create", &user).await?;
    let lifetime_ms = lifetime_s.map(|seconds| seconds.saturating_mul(1000));
    let ended = exchange.auth().create_key(&caller, &user, lifetime_ms).await;
    let key: NewKey = exchange.audited(&caller, "key.create", &user, |key: &NewKey| key.revision, ended)?;
    let document = NewKeyDocument { key_id: &key.key_id, secret: key.secret.expose() };
    Ok(answer::at(answer::json(StatusCode::CREATED, &document), key.revision))
}

/// `PATCH /v1/users/{user}/keys/{key}`
pub(super) async fn change_key(
    exchange: Exchange,
    Path((user, key)): Path<(String, String)>,
    Document(SetEnabled { enabled }): Document<SetEnabled>,
) -> Answer {
    let action = if enabled { "key.enable" } else { "key.disable" };
    let set = async |auth: &crate::auth::Auth, caller: &crate::auth::Caller| {
        auth.set_key_enabled(caller, &user, &key, enabled).await
    };
    Ok(answer::changed(exchange.change(action, &format!("{user}/{key}"), set).await?))
}

/// `DELETE /v1/users/{user}/keys/{key}`
pub(super) async fn remove_key(exchange: Exchange, Path((user, key)): Path<(String, String)>) -> Answer {
    let resource = format!("{user}/{key}");
    let act = exchange.change("key.delete", &resource, async |auth, caller| auth.delete_key(caller, &user, &key).await);
    Ok(answer::changed(act.await?))
}

/// `GET /v1/users/{user}/policies`
pub(super) async fn policies(exchange: Exchange, Path(user): Path<String>) -> Answer {
    let caller = exchange.caller().await?;
    let shown = |policy: PolicyInfo| {
        let document = RawValue::from_string(policy.document).ok()?;
        Some(PolicyDocument { name: policy.name, document })
    };
    let policies = exchange.auth().policies(&caller, &user).await?.into_iter().filter_map(shown).collect();
    Ok(answer::json(StatusCode::OK, &Policies { policies }))
}

/// `PUT /v1/users/{user}/policies/{policy}`: the body is the policy.
pub(super) async fn put_policy(
    exchange: Exchange,
    Path((user, policy)): Path<(String, String)>,
    Text(document): Text,
) -> Answer {
    let put = async |auth: &crate::auth::Auth, caller: &crate::auth::Caller| {
        auth.put_policy(caller, &user, &policy, &document).await
    };
    Ok(answer::changed(exchange.change("policy.put", &format!("{user}/{policy}"), put).await?))
}

/// `DELETE /v1/users/{user}/policies/{policy}`
pub(super) async fn remove_policy(exchange: Exchange, Path((user, policy)): Path<(String, String)>) -> Answer {
    let resource = format!("{user}/{policy}");
    let act = exchange
        .change("policy.delete", &resource, async |auth, caller| auth.delete_policy(caller, &user, &policy).await);
    Ok(answer::changed(act.await?))
}

/// Body of `PUT /v1/users/{user}/grants`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PutGrants {
    /// Each as `read,write:team/*`; none takes all away.
    grants: Vec<String>,
}

/// `PUT /v1/users/{user}/grants`
pub(super) async fn put_grants(
    exchange: Exchange,
    Path(user): Path<String>,
    Document(wish): Document<PutGrants>,
) -> Answer {
    let grants: Result<Vec<Grant>, GrantError> = wish.grants.iter().map(|grant| grant.parse()).collect();
    let grants = grants.map_err(|error| Failure::Body(error.to_string()))?;
    let act = exchange.change("grants.put", &user, async |auth, caller| auth.put_grants(caller, &user, &grants).await);
    Ok(answer::changed(act.await?))
}

#[derive(Serialize)]
struct WhoAmI<'a> {
    name: &'a str,
    kind: &'static str,
    credential: &'static str,
    key_id: Option<&'a str>,
    registry: String,
}

/// `GET /v1/whoami`: anybody with a credential.
pub(super) async fn whoami(exchange: Exchange) -> Answer {
    let caller = exchange.caller().await?;
    let kind = match caller.kind() {
        CallerKind::Root => "root",
        CallerKind::User => "user",
        CallerKind::Anonymous => "anonymous",
    };
    let credential = match caller.credential() {
        CredentialKind::None => "none",
        CredentialKind::AccessKey => "access_key",
        CredentialKind::Bearer => "bearer",
        CredentialKind::Certificate => "certificate",
    };
    let (name, key_id, registry) = (caller.name(), caller.key_id(), caller.registry().to_string());
    Ok(answer::json(StatusCode::OK, &WhoAmI { name, kind, credential, key_id, registry }))
}

/// Body of `POST /v1/explain`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Explain {
    /// A user, or `anonymous`.
    principal: String,
    /// As policies name it: `ecr:PutImage`.
    action: String,
    /// Left out: the registry itself.
    #[serde(default)]
    repository: Option<String>,
    /// For `ecr:PutImage`: whether the tag exists.
    #[serde(default)]
    tag_exists: Option<bool>,
}

#[derive(Serialize)]
struct Explained {
    allowed: bool,
    principal: String,
    action: &'static str,
    resource: String,
    reason: String,
}

/// `POST /v1/explain`: what would be decided, and which statement decides.
pub(super) async fn explain(exchange: Exchange, Document(wish): Document<Explain>) -> Answer {
    let caller = exchange.caller().await?;
    let action = policy::Action::parse(&wish.action)
        .ok_or_else(|| Failure::Body(format!("'{}' is no action: write for example ecr:PutImage", wish.action)))?;
    let name = wish.repository.as_deref().map(RepositoryName::parse).transpose();
    let name = name.map_err(|error| Refusal::NameInvalid { detail: error.to_string() })?;
    let found = exchange.auth().explain(&caller, &wish.principal, action, name.as_ref(), wish.tag_exists).await?;
    let document = Explained {
        allowed: found.allowed,
        principal: found.principal,
        action: found.action.name(),
        resource: found.resource,
        reason: found.reason,
    };
    Ok(answer::json(StatusCode::OK, &document))
}

/// Parameters of a list.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Paging {
    /// The last entry of the page before.
    pub(super) after: Option<String>,
    /// Entries wanted.
    pub(super) n: Option<usize>,
}

/// Query parameters, or why they are none.
pub(super) fn paging(
    query: Result<Query<Paging>, axum::extract::rejection::QueryRejection>,
) -> Result<Paging, Failure> {
    query.map(|Query(paging)| paging).map_err(|error| Failure::Body(error.body_text()))
}
