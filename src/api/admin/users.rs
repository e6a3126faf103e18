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
use crate::auth::{Auth, Caller, CallerKind, CredentialKind, KeyInfo, NewKey, PolicyInfo, UserInfo};

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
    let users = exchange.looked(&caller, "user.list", "", exchange.auth().users(&caller).await)?;
    let users = users.into_iter().map(UserDocument::from).collect();
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
    let name = wish.as_ref().map_or_else(|_| String::new(), |wish| wish.name.clone());
    let create = async |auth: &Auth, caller: &Caller| Ok(auth.create_user(caller, &wish?.name).await?);
    let revision = exchange.change("user.create", &name, create).await?;
    let caller = exchange.caller().await?;
    let user = UserDocument::from(exchange.auth().user(&caller, &name).await?);
    Ok(answer::at(answer::json(StatusCode::CREATED, &user), revision))
}

/// `GET /v1/users/{user}`
pub(super) async fn show(exchange: Exchange, Path(user): Path<String>) -> Answer {
    let caller = exchange.caller().await?;
    let found = exchange.looked(&caller, "user.get", &user, exchange.auth().user(&caller, &user).await)?;
    Ok(answer::json(StatusCode::OK, &UserDocument::from(found)))
}

/// Body of `PATCH` on a user or a key. Kind, owner and secret cannot be set (A14).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SetEnabled {
    enabled: bool,
}

impl SetEnabled {
    /// What it is called in the audit: to enable, to disable, or a change that could not be read.
    fn act(wish: &Result<SetEnabled, Failure>, [enable, disable, unread]: [&'static str; 3]) -> &'static str {
        match wish {
            Ok(SetEnabled { enabled: true }) => enable,
            Ok(SetEnabled { enabled: false }) => disable,
            Err(_) => unread,
        }
    }
}

/// `PATCH /v1/users/{user}`
pub(super) async fn change(
    exchange: Exchange,
    Path(user): Path<String>,
    Document(wish): Document<SetEnabled>,
) -> Answer {
    let action = SetEnabled::act(&wish, ["user.enable", "user.disable", "user.change"]);
    let set = async |auth: &Auth, caller: &Caller| Ok(auth.set_user_enabled(caller, &user, wish?.enabled).await?);
    Ok(answer::changed(exchange.change(action, &user, set).await?))
}

/// `DELETE /v1/users/{user}`
pub(super) async fn remove(exchange: Exchange, Path(user): Path<String>) -> Answer {
    let act = exchange.change("user.delete", &user, async |auth, caller| Ok(auth.delete_user(caller, &user).await?));
    Ok(answer::changed(act.await?))
}

/// `GET /v1/users/{user}/keys`
pub(super) async fn keys(exchange: Exchange, Path(user): Path<String>) -> Answer {
    let caller = exchange.caller().await?;
    let keys = exchange.looked(&caller, "key.list", &user, exchange.auth().keys(&caller, &user).await)?;
    let keys = keys.into_iter().map(KeyDocument::from).collect();
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

impl CreateKey {
    fn lifetime_ms(self) -> Result<Option<u64>, Failure> {
        match self.lifetime_s {
            Some(0) => Err(Failure::Body("lifetime_s must be 1 or more".into())),
            lifetime_s => Ok(lifetime_s.map(|seconds| seconds.saturating_mul(1000))),
        }
    }
}

/// `POST /v1/users/{user}/keys`: the secret is in this answer and in no other.
pub(super) async fn create_key(
    exchange: Exchange,
    Path(user): Path<String>,
    Document(wish): Document<CreateKey>,
) -> Answer {
    let caller = exchange.caller_of("key.create", &user).await?;
    let ended = match wish.and_then(CreateKey::lifetime_ms) {
        Ok(lifetime_ms) => exchange.auth().create_key(&caller, &user, lifetime_ms).await.map_err(Failure::from),
        Err(failure) => Err(failure),
    };
    let key: NewKey = exchange.audited(&caller, "key.create", &user, |key: &NewKey| key.revision, ended)?;
    let document = NewKeyDocument { key_id: &key.key_id, secret: key.secret.expose() };
    Ok(answer::at(answer::json(StatusCode::CREATED, &document), key.revision))
}

/// `PATCH /v1/users/{user}/keys/{key}`
pub(super) async fn change_key(
    exchange: Exchange,
    Path((user, key)): Path<(String, String)>,
    Document(wish): Document<SetEnabled>,
) -> Answer {
    let action = SetEnabled::act(&wish, ["key.enable", "key.disable", "key.change"]);
    let set = async |auth: &Auth, caller: &Caller| Ok(auth.set_key_enabled(caller, &user, &key, wish?.enabled).await?);
    Ok(answer::changed(exchange.change(action, &format!("{user}/{key}"), set).await?))
}

/// `DELETE /v1/users/{user}/keys/{key}`
pub(super) async fn remove_key(exchange: Exchange, Path((user, key)): Path<(String, String)>) -> Answer {
    let resource = format!("{user}/{key}");
    let delete = async |auth: &Auth, caller: &Caller| Ok(auth.delete_key(caller, &user, &key).await?);
    Ok(answer::changed(exchange.change("key.delete", &resource, delete).await?))
}

/// `GET /v1/users/{user}/policies`
pub(super) async fn policies(exchange: Exchange, Path(user): Path<String>) -> Answer {
    let caller = exchange.caller().await?;
    let shown = |policy: PolicyInfo| {
        let document = RawValue::from_string(policy.document).ok()?;
        Some(PolicyDocument { name: policy.name, document })
    };
    let policies = exchange.looked(&caller, "policy.list", &user, exchange.auth().policies(&caller, &user).await)?;
    let policies = policies.into_iter().filter_map(shown).collect();
    Ok(answer::json(StatusCode::OK, &Policies { policies }))
}

/// `PUT /v1/users/{user}/policies/{policy}`: the body is the policy.
pub(super) async fn put_policy(
    exchange: Exchange,
    Path((user, policy)): Path<(String, String)>,
    Text(document): Text,
) -> Answer {
    let put = async |auth: &Auth, caller: &Caller| Ok(auth.put_policy(caller, &user, &policy, &document?).await?);
    Ok(answer::changed(exchange.change("policy.put", &format!("{user}/{policy}"), put).await?))
}

/// `DELETE /v1/users/{user}/policies/{policy}`
pub(super) async fn remove_policy(exchange: Exchange, Path((user, policy)): Path<(String, String)>) -> Answer {
    let resource = format!("{user}/{policy}");
    let delete = async |auth: &Auth, caller: &Caller| Ok(auth.delete_policy(caller, &user, &policy).await?);
    Ok(answer::changed(exchange.change("policy.delete", &resource, delete).await?))
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
    let put = async |auth: &Auth, caller: &Caller| {
        let grants: Result<Vec<Grant>, GrantError> = wish?.grants.iter().map(|grant| grant.parse()).collect();
        let grants = grants.map_err(|error| Failure::Body(error.to_string()))?;
        Ok(auth.put_grants(caller, &user, &grants).await?)
    };
    Ok(answer::changed(exchange.change("grants.put", &user, put).await?))
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
    let wish = wish?;
    let action = policy::Action::parse(&wish.action)
        .ok_or_else(|| Failure::Body(format!("'{}' is no action: write for example ecr:PutImage", wish.action)))?;
    let name = wish.repository.as_deref().map(RepositoryName::parse).transpose();
    let name = name.map_err(|error| Refusal::NameInvalid { detail: error.to_string() })?;
    let found = exchange.auth().explain(&caller, &wish.principal, action, name.as_ref(), wish.tag_exists).await;
    let found = exchange.looked(&caller, "policy.explain", &wish.principal, found)?;
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
