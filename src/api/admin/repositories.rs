//! Repositories and their settings.

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query};
use axum::http::{Response, StatusCode};
use registry_core::decide::policy;
use registry_core::decide::quota::Limits;
use registry_core::decide::tag_move::{Mutability, TagFilter, TagFilterError, TagFilters};
use registry_core::metadata::repository::Settings;
use registry_core::metadata::settings::{Home, HomeWish};
use registry_core::vocabulary::limits::{PAGE_ENTRIES_DEFAULT, PAGE_ENTRIES_MAX};
use registry_core::vocabulary::{Reference, Refusal, RepositoryName};
use serde::{Deserialize, Serialize};

use super::answer;
use super::error::Failure;
use super::exchange::{Document, Exchange};
use super::quotas::{LimitsDocument, LimitsWish, UsageDocument};
use super::users::{Paging, paging};
use crate::auth::{Action, Caller};
use crate::registry::{At, Consistency, RepositoryInfo};

type Answer = Result<Response<Body>, Failure>;

/// Whether tags may move. Words as ECR has them, in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Mutable,
    Immutable,
    MutableWithExclusion,
    ImmutableWithExclusion,
}

/// Settings as they are shown and given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SettingsDocument {
    mutability: Mode,
    #[serde(default)]
    exclusions: Vec<String>,
    #[serde(default)]
    sparse: bool,
}

impl From<&Settings> for SettingsDocument {
    fn from(settings: &Settings) -> SettingsDocument {
        let filters = |filters: &TagFilters| filters.iter().map(|filter| filter.as_str().to_owned()).collect();
        let (mutability, exclusions) = match &settings.mutability {
            Mutability::Mutable => (Mode::Mutable, Vec::new()),
            Mutability::Immutable => (Mode::Immutable, Vec::new()),
            Mutability::MutableWithExclusion(list) => (Mode::MutableWithExclusion, filters(list)),
            Mutability::ImmutableWithExclusion(list) => (Mode::ImmutableWithExclusion, filters(list)),
        };
        SettingsDocument { mutability, exclusions, sparse: settings.sparse }
    }
}

impl SettingsDocument {
    fn parse(self) -> Result<Settings, Failure> {
        let SettingsDocument { mutability, exclusions, sparse } = self;
        let is_plain = matches!(mutability, Mode::Mutable | Mode::Immutable);
        if is_plain && !exclusions.is_empty() {
            return Err(Failure::Body("exclusions go with mutable_with_exclusion or immutable_with_exclusion".into()));
        }
        let filters = || -> Result<TagFilters, TagFilterError> {
            let filters: Result<Vec<TagFilter>, TagFilterError> =
                exclusions.iter().map(|filter| TagFilter::parse(filter)).collect();
            TagFilters::new(filters?)
        };
        let filters = || filters().map_err(|error| Failure::Body(error.to_string()));
        let mutability = match mutability {
            Mode::Mutable => Mutability::Mutable,
            Mode::Immutable => Mutability::Immutable,
            Mode::MutableWithExclusion => Mutability::MutableWithExclusion(filters()?),
            Mode::ImmutableWithExclusion => Mutability::ImmutableWithExclusion(filters()?),
        };
        Ok(Settings { mutability, sparse })
    }
}

/// The region that alone takes pushes and deletes.
#[derive(Serialize)]
struct HomeDocument {
    region: String,
    epoch: u32,
    frozen: bool,
}

impl HomeDocument {
    fn of(Home { region, epoch, is_frozen }: &Home) -> Option<HomeDocument> {
        region.as_ref().map(|region| HomeDocument { region: region.to_string(), epoch: *epoch, frozen: *is_frozen })
    }
}

/// What is to become of a repository's home.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum HomeWishDocument {
    Take,
    Freeze,
    Leave,
}

#[derive(Serialize)]
struct RepositoryDocument {
    registry: String,
    name: String,
    id: String,
    created_at: String,
    created_by: String,
    settings: SettingsDocument,
    home: Option<HomeDocument>,
    usage: UsageDocument,
    quota: LimitsDocument,
}

impl From<&RepositoryInfo> for RepositoryDocument {
    fn from(found: &RepositoryInfo) -> RepositoryDocument {
        RepositoryDocument {
            registry: found.key.registry.to_string(),
            name: found.key.name.to_string(),
            id: found.key.id.to_string(),
            created_at: answer::time(found.created_at_ms),
            created_by: found.created_by.clone(),
            settings: SettingsDocument::from(&found.settings),
            home: HomeDocument::of(&found.home),
            usage: found.quota.used.into(),
            quota: found.quota.limits.into(),
        }
    }
}

pub(super) fn parse_name(text: &str) -> Result<RepositoryName, Failure> {
    RepositoryName::parse(text).map_err(|error| Refusal::NameInvalid { detail: error.to_string() }.into())
}

pub(super) fn parse_reference(text: &str) -> Result<Reference, Failure> {
    Reference::parse(text).map_err(|_| Failure::Body("reference: a tag or a digest".to_owned()))
}

fn shown(status: StatusCode, found: &At<RepositoryInfo>) -> Response<Body> {
    answer::at(answer::json(status, &RepositoryDocument::from(&found.value)), found.revision)
}

#[derive(Serialize)]
struct Repositories {
    repositories: Vec<String>,
    more: bool,
}

/// `GET /v1/repositories`: the names the caller may see, in byte order; hidden ones do not show in the pages (A19).
pub(super) async fn list(exchange: Exchange, query: Result<Query<Paging>, QueryRejection>) -> Answer {
    let caller = exchange.caller().await?;
    let Paging { after, n } = paging(query)?;
    let limit = n.unwrap_or(PAGE_ENTRIES_DEFAULT).min(PAGE_ENTRIES_MAX);
    if limit == 0 {
        return Err(Refusal::PageInvalid.into());
    }
    let registry = caller.registry();
    let visible = |name: &RepositoryName| exchange.auth().may_see(&caller, registry, name);
    let consistency = Consistency::AtLeast(caller.revision());
    let page =
        exchange.admin().registry.list_repositories(registry, after.as_deref(), limit, &visible, consistency).await?;
    let repositories = page.value.items.iter().map(ToString::to_string).collect();
    let document = Repositories { repositories, more: page.value.more };
    Ok(answer::at(answer::json(StatusCode::OK, &document), page.revision))
}

/// Body of `POST /v1/repositories`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateRepository {
    name: String,
    #[serde(default)]
    settings: Option<SettingsDocument>,
    #[serde(default)]
    quota: Option<LimitsWish>,
}

/// `POST /v1/repositories`
pub(super) async fn create(exchange: Exchange, Document(wish): Document<CreateRepository>) -> Answer {
    let name = wish.as_ref().map_or_else(|_| String::new(), |wish| wish.name.clone());
    let caller = exchange.caller_of("repository.create", &name).await?;
    let ended = create_as(&exchange, &caller, wish).await;
    let made = exchange.audited(&caller, "repository.create", &name, |made: &At<_>| made.revision, ended)?;
    Ok(shown(StatusCode::CREATED, &made))
}

async fn create_as(
    exchange: &Exchange,
    caller: &Caller,
    wish: Result<CreateRepository, Failure>,
) -> Result<At<RepositoryInfo>, Failure> {
    let CreateRepository { name, settings, quota } = wish?;
    let name = parse_name(&name)?;
    let settings = settings.map_or(Ok(Settings::default()), SettingsDocument::parse)?;
    let permit = exchange.auth().permit(caller, Action::Create, caller.registry(), &name)?;
    let limits = quota.map(|wish| limits_as(exchange, caller, wish, Limits::NONE)).transpose()?;
    Ok(exchange.admin().registry.create_repository(&permit, settings, limits.unwrap_or_default()).await?)
}

/// New limits. They are the operator's: an owner who could raise them would have none (A13).
fn limits_as(exchange: &Exchange, caller: &Caller, wish: LimitsWish, present: Limits) -> Result<Limits, Failure> {
    exchange.auth().permit_admin(caller, policy::Action::ManageCluster)?;
    Ok(wish.over(present))
}

/// `GET /v1/repositories/{name}`
pub(super) async fn show(exchange: Exchange, Path(name): Path<String>) -> Answer {
    let caller = exchange.caller().await?;
    let name = parse_name(&name)?;
    let registry = caller.registry();
    let permitted = exchange.auth().permit(&caller, Action::Describe, registry, &name);
    exchange.looked(&caller, "repository.get", name.as_str(), permitted)?;
    let consistency = Consistency::AtLeast(caller.revision());
    Ok(shown(StatusCode::OK, &exchange.admin().registry.repository(registry, &name, consistency).await?))
}

/// Body of `PATCH /v1/repositories/{name}`: what is left out stays.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeRepository {
    #[serde(default)]
    mutability: Option<Mode>,
    #[serde(default)]
    exclusions: Option<Vec<String>>,
    #[serde(default)]
    sparse: Option<bool>,
    #[serde(default)]
    quota: Option<LimitsWish>,
    #[serde(default)]
    home: Option<HomeWishDocument>,
    /// Of taking a home from a region that has not frozen it: it is lost. Or of one that is frozen here: nobody else
    /// has taken it.
    #[serde(default)]
    accept_loss: bool,
}

/// `PATCH /v1/repositories/{name}`
pub(super) async fn change(
    exchange: Exchange,
    Path(name): Path<String>,
    Document(wish): Document<ChangeRepository>,
) -> Answer {
    let caller = exchange.caller_of("repository.change", &name).await?;
    let ended = change_settings(&exchange, &caller, &name, wish).await;
    let changed = exchange.audited(&caller, "repository.change", &name, |changed: &At<_>| changed.revision, ended)?;
    Ok(shown(StatusCode::OK, &changed))
}

async fn change_settings(
    exchange: &Exchange,
    caller: &Caller,
    name: &str,
    wish: Result<ChangeRepository, Failure>,
) -> Result<At<RepositoryInfo>, Failure> {
    let (registry, name, wish) = (&exchange.admin().registry, parse_name(name)?, wish?);
    let permit = exchange.auth().permit(caller, Action::Configure, caller.registry(), &name)?;
    let names_settings =
        wish.mutability.is_some() || wish.exclusions.is_some() || wish.sparse.is_some() || wish.quota.is_some();
    if let Some(home) = wish.home {
        if names_settings {
            return Err(Failure::Body("home: moved on its own, without settings or quota".to_owned()));
        }
        let home = match home {
            HomeWishDocument::Take => HomeWish::Take,
            HomeWishDocument::Freeze => HomeWish::Freeze,
            HomeWishDocument::Leave => HomeWish::Leave,
        };
        return Ok(registry.move_home(&permit, (home, wish.accept_loss)).await?);
    }
    // what another region has changed a moment ago must not be set again to what it was
    let present = registry.repository(caller.registry(), &name, Consistency::Linearizable).await?;
    let limits = wish.quota.map(|quota| limits_as(exchange, caller, quota, present.value.quota.limits)).transpose()?;
    let names_some = wish.mutability.is_some() || wish.exclusions.is_some() || wish.sparse.is_some();
    let mut settings = SettingsDocument::from(&present.value.settings);
    if let Some(mutability) = wish.mutability {
        settings.mutability = mutability;
        settings.exclusions.clear();
    }
    if let Some(exclusions) = wish.exclusions {
        settings.exclusions = exclusions;
    }
    settings.sparse = wish.sparse.unwrap_or(settings.sparse);
    let settings = (names_some || limits.is_none()).then(|| settings.parse()).transpose()?;
    Ok(registry.change_repository(&permit, settings, limits).await?)
}

/// Parameters of `DELETE /v1/repositories/{name}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Force {
    /// Delete it also when it holds images.
    #[serde(default)]
    force: bool,
}

/// `DELETE /v1/repositories/{name}`
pub(super) async fn remove(
    exchange: Exchange,
    Path(name): Path<String>,
    query: Result<Query<Force>, QueryRejection>,
) -> Answer {
    let caller = exchange.caller_of("repository.delete", &name).await?;
    let ended = async {
        let name = parse_name(&name)?;
        let Query(Force { force }) = query.map_err(|error| Failure::Body(error.body_text()))?;
        let permit = exchange.auth().permit(&caller, Action::Remove, caller.registry(), &name)?;
        Ok(exchange.admin().registry.delete_repository(&permit, force).await?)
    };
    let ended: Result<At<RepositoryInfo>, Failure> = ended.await;
    let gone = exchange.audited(&caller, "repository.delete", &name, |gone: &At<_>| gone.revision, ended)?;
    Ok(shown(StatusCode::OK, &gone))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Settings read back what they show; filters stand only where they mean something.
    #[test]
    fn settings_table() {
        for (text, want) in [
            (r#"{"mutability":"mutable"}"#, true),
            (r#"{"mutability":"immutable","sparse":true}"#, true),
            (r#"{"mutability":"immutable_with_exclusion","exclusions":["latest","dev-*"]}"#, true),
            (r#"{"mutability":"mutable_with_exclusion","exclusions":["v*"]}"#, true),
            (r#"{"mutability":"immutable","exclusions":["v*"]}"#, false),
            (r#"{"mutability":"mutable_with_exclusion"}"#, false),
            (r#"{"mutability":"mutable_with_exclusion","exclusions":["a b"]}"#, false),
        ] {
            let document: SettingsDocument = serde_json::from_str(text).unwrap();
            let parsed = document.clone().parse();
            assert_eq!(parsed.is_ok(), want, "{text}");
            if let Ok(settings) = parsed {
                assert_eq!(SettingsDocument::from(&settings), document, "{text}");
            }
        }
        for bad in ["{}", r#"{"mutability":"MUTABLE"}"#, r#"{"mutability":"mutable","owner":"me"}"#] {
            assert!(serde_json::from_str::<SettingsDocument>(bad).is_err(), "{bad}");
        }
    }
}
