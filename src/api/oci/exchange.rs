//! One request on its way through the surface: what it brings, who sends it, what it may do.

use axum::http::request::Parts;
use registry_core::decide::permit::Permit;
use registry_core::vocabulary::ids::{RegistryId, Revision};
use registry_core::vocabulary::{Digest, Refusal, RepositoryName};

use super::Inner;
use super::answer::{CONSISTENCY, REVISION};
use super::error::Failure;
use super::query::Query;
use crate::auth::audit::Act;
use crate::auth::{Action, Auth, Caller, Evidence, Freshness, Refused};
use crate::http::RequestInfo;
use crate::registry::{At, Consistency, Registry};

/// A request and what it needs.
pub(super) struct Exchange<'a> {
    oci: &'a Inner,
    /// Its head.
    pub(super) parts: &'a Parts,
    /// Where it came from.
    pub(super) info: &'a RequestInfo,
}

impl<'a> Exchange<'a> {
    pub(super) fn new(oci: &'a Inner, parts: &'a Parts, info: &'a RequestInfo) -> Exchange<'a> {
        Exchange { oci, parts, info }
    }

    pub(super) fn registry(&self) -> &'a Registry {
        &self.oci.registry
    }

    pub(super) fn auth(&self) -> &'a Auth {
        &self.oci.auth
    }

    pub(super) fn registry_id(&self) -> RegistryId {
        self.oci.registry_id
    }

    pub(super) fn query(&self) -> Query<'a> {
        Query::new(self.parts.uri.query())
    }

    pub(super) fn evidence(&self) -> Evidence<'a> {
        Evidence { headers: &self.parts.headers, address: self.info.client(), secure: self.info.is_secure() }
    }

    /// Who asks.
    pub(super) async fn caller(&self, freshness: Freshness) -> Result<Caller, Failure> {
        let caller = self.auth().authenticate(&self.evidence(), freshness).await?;
        self.info.note_principal(caller.name());
        Ok(caller)
    }

    /// The name of a repository. Only a caller who could ask at all is told what is wrong with it.
    async fn name(&self, text: &str) -> Result<RepositoryName, Failure> {
        match RepositoryName::parse(text) {
            Ok(name) => Ok(name),
            Err(error) => {
                let refusal = Refusal::NameInvalid { detail: error.to_string() };
                Err(self.after_login(refusal.into()).await)
            }
        }
    }

    /// Who asks, with the permit for what is looked at in a repository. The audit is told when it may not.
    pub(super) async fn permit(
        &self,
        freshness: Freshness,
        action: Action,
        act: &'static str,
        name: &str,
    ) -> Result<(Caller, Permit), Failure> {
        let (name, registry) = (self.name(name).await?, self.registry_id());
        let (caller, decided) = self.auth().authorize(&self.evidence(), freshness, action, registry, &name).await?;
        self.info.note_principal(caller.name());
        match decided {
            Ok(permit) => Ok((caller, permit)),
            Err(refused) => Err(self.refused(&caller, act, name.as_str(), refused)),
        }
    }

    /// The permit for a change, which the audit is told of however it ends. `resource` says on what, behind the name.
    pub(super) async fn change(
        &self,
        action: Action,
        act: &'static str,
        name: &str,
        resource: String,
    ) -> Result<Change<'a>, Failure> {
        let caller = self.caller(Freshness::Linearizable).await?;
        let repository = match RepositoryName::parse(name) {
            Ok(repository) => repository,
            Err(error) => {
                self.auth().permit_base(&caller)?;
                let refusal = Refusal::NameInvalid { detail: error.to_string() };
                return Err(self.refused(&caller, act, name, refusal.into()));
            }
        };
        let resource = format!("{repository}{resource}");
        match self.auth().permit(&caller, action, self.registry_id(), &repository) {
            Ok(permit) => Ok(Change { permit, caller, request_id: self.info.id(), act, resource }),
            Err(refused) => Err(self.refused(&caller, act, &resource, refused)),
        }
    }

    /// Tells the audit of a no. A challenge is none: the client comes back with more.
    pub(super) fn refused(&self, caller: &Caller, action: &'static str, resource: &str, refused: Refused) -> Failure {
        if let Refused::Refusal(refusal) = &refused {
            Act { caller, request_id: self.info.id(), action, resource }.refused(&refusal.to_string());
        }
        refused.into()
    }

    /// The failure, or the challenge that comes before it: without a credential every path answers 401.
    pub(super) async fn after_login(&self, failure: Failure) -> Failure {
        let caller = match self.caller(Freshness::Fresh).await {
            Ok(caller) => caller,
            Err(earlier) => return earlier,
        };
        match self.auth().permit_base(&caller) {
            Ok(()) => failure,
            Err(refused) => refused.into(),
        }
    }

    /// How fresh a read must be: by tag and of lists linearizable, unless the client takes less; by digest fresh.
    pub(super) fn freshness(&self, is_by_digest: bool) -> Result<Freshness, Refusal> {
        let asked = self.parts.headers.get(CONSISTENCY).map(|value| value.as_bytes());
        match asked {
            None if is_by_digest => Ok(Freshness::Fresh),
            None | Some(b"linearizable") => Ok(Freshness::Linearizable),
            Some(b"stale-ok") => Ok(Freshness::Fresh),
            Some(_) => Err(Refusal::ParameterInvalid {
                parameter: CONSISTENCY.as_str().to_owned(),
                detail: "it is 'linearizable' or 'stale-ok'".to_owned(),
            }),
        }
    }

    /// Reads on where the caller's rights were read, so that both share one round through consensus; later if the
    /// client has seen a later revision.
    pub(super) fn consistency(&self, caller: &Caller) -> Result<Consistency, Refusal> {
        let here = caller.revision();
        let Some(value) = self.parts.headers.get(REVISION) else { return Ok(Consistency::AtLeast(here)) };
        let seen = value.to_str().ok().and_then(Revision::parse).ok_or_else(|| Refusal::ParameterInvalid {
            parameter: REVISION.as_str().to_owned(),
            detail: "it is what an earlier answer said in this header".to_owned(),
        })?;
        let is_later = seen.lineage == here.lineage && seen.index > here.index;
        Ok(Consistency::AtLeast(if is_later { seen } else { here }))
    }
}

/// A change that its caller may make.
pub(super) struct Change<'a> {
    pub(super) permit: Permit,
    pub(super) caller: Caller,
    request_id: &'a str,
    act: &'static str,
    resource: String,
}

impl Change<'_> {
    fn audit(&self) -> Act<'_> {
        Act { caller: &self.caller, request_id: self.request_id, action: self.act, resource: &self.resource }
    }

    /// Tells the audit that it was made.
    pub(super) fn accepted(&self, revision: Revision) {
        self.audit().accepted(revision);
    }

    /// Tells the audit that it was not made.
    pub(super) fn refused(&self, refusal: &Refusal) {
        self.audit().refused(&refusal.to_string());
    }

    /// Passes a step of the change on; a no is told to the audit.
    pub(super) fn step<T, E: Into<Failure>>(&self, result: Result<T, E>) -> Result<T, Failure> {
        result.map_err(|error| {
            let failure = error.into();
            if let Failure::Refusal(refusal) = &failure {
                self.refused(refusal);
            }
            failure
        })
    }

    /// Passes the end of the change on; either way it is told to the audit.
    pub(super) fn settle<T>(&self, result: Result<At<T>, Refusal>) -> Result<At<T>, Failure> {
        let done = self.step(result)?;
        self.accepted(done.revision);
        Ok(done)
    }

    /// The same change, which turned out to be this act.
    pub(super) fn renamed(self, act: &'static str) -> Self {
        Change { act, ..self }
    }
}

/// Reads a digest of a path. What is none is refused before anything is looked up (M8).
pub(super) fn digest(text: &str) -> Result<Digest, Refusal> {
    Digest::parse(text).map_err(|error| Refusal::DigestInvalid { detail: error.to_string() })
}
