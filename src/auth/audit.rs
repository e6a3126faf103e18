//! The audit: one record for each change that was made or refused, each look that was refused, and each access key that
//! did not hold. What is called how, and what is not recorded: `src/docs/audit.md`.
//!
//! A record is an event of the `audit` target with fixed fields: who, what, on what, from where, with which result,
//! under which request id. The subscriber decides where it goes (its own file, standard output). Never holds a secret:
//! the fields are names, ids and codes of ours (T10).

use std::net::IpAddr;

use registry_core::vocabulary::ids::Revision;
use registry_core::vocabulary::refusal::detail;

use super::caller::{Caller, CredentialKind};

const TARGET: &str = crate::ground::telemetry::AUDIT;

/// An act to be recorded.
#[derive(Clone, Copy, Debug)]
pub struct Act<'a> {
    /// Who acts.
    pub caller: &'a Caller,
    /// The id that the access log and the answer carry too.
    pub request_id: &'a str,
    /// What, as `<noun>.<verb>`: `manifest.put`, `user.create`.
    pub action: &'static str,
    /// On what: a repository with tag or digest, a user, a key id.
    pub resource: &'a str,
}

impl Act<'_> {
    /// It was done, and is in effect from this revision on.
    pub fn accepted(&self, revision: Revision) {
        self.record("accepted", &revision.to_string(), "");
    }

    /// It was refused, and unless the reason says so nothing was changed.
    pub fn refused(&self, reason: &str) {
        self.record("refused", "", reason);
    }

    fn record(&self, result: &'static str, revision: &str, reason: &str) {
        let caller = self.caller;
        tracing::info!(
            target: TARGET,
            principal = caller.name(),
            registry = %caller.registry(),
            key_id = caller.key_id().unwrap_or(""),
            credential = credential_name(caller.credential()),
            address = %caller.address(),
            request_id = self.request_id,
            action = self.action,
            resource = detail(self.resource),
            result,
            revision,
            reason = detail(reason),
            "audit"
        );
    }
}

/// What was done, or refused with a reason, by somebody whom this cluster can't authenticate: before there is anybody
/// (founding a cluster, joining one), or a client that another region vouched for.
pub fn before_anybody(
    by: &str,
    address: IpAddr,
    request_id: &str,
    action: &'static str,
    resource: &str,
    refused: Option<&str>,
) {
    tracing::info!(
        target: TARGET,
        principal = detail(by),
        %address,
        request_id,
        action,
        resource = detail(resource),
        result = if refused.is_some() { "refused" } else { "accepted" },
        reason = detail(refused.unwrap_or("")),
        "audit"
    );
}

/// A credential that did not hold, of an access key that exists or of none.
pub(super) fn bad_credential(key_id: Option<&str>, address: IpAddr, delay_ms: u64) {
    tracing::info!(
        target: TARGET,
        key_id = key_id.unwrap_or(""),
        credential = "access key",
        %address,
        action = "login",
        result = "refused",
        reason = "the credential does not hold",
        delay_ms,
        "audit"
    );
}

fn credential_name(kind: CredentialKind) -> &'static str {
    match kind {
        CredentialKind::None => "none",
        CredentialKind::AccessKey => "access key",
        CredentialKind::Bearer => "bearer token",
        CredentialKind::Certificate => "certificate",
    }
}
