//! The token service: who shows an access key, or nothing, gets a token for part of what it may do.

use registry_core::decide::policy::scope::Scopes;
use registry_core::vocabulary::Refusal;
use registry_core::vocabulary::Timestamp;
use registry_core::vocabulary::limits::RETRY_AFTER_MS;

use super::caller::{Caller, CredentialKind};
use super::scope::Granted;
use super::{Auth, Challenge, ChallengeError, Refused, decide};

/// A token just made.
#[derive(Clone)]
pub struct IssuedToken {
    /// The token itself.
    pub token: String,
    /// How long it holds, seconds.
    pub expires_in_s: u64,
    /// From when on.
    pub issued_at: Timestamp,
    /// What it was given, which may be less than was asked for.
    pub granted: Scopes,
}

impl std::fmt::Debug for IssuedToken {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "IssuedToken({}, ***)", self.granted)
    }
}

impl Auth {
    /// Makes a token for what the caller asks for *and* may do (A18); for nothing, if it may do nothing of it.
    ///
    /// A caller who shows a token gets none: a token never makes another, so none outlives its key or grows.
    pub fn issue(&self, caller: &Caller, asked: &Scopes) -> Result<IssuedToken, Refused> {
        match caller.credential() {
            CredentialKind::None | CredentialKind::AccessKey => {}
            CredentialKind::Bearer | CredentialKind::Certificate => {
                let error = Some(ChallengeError::InvalidToken);
                return Err(Refused::Unauthenticated(Challenge { error, ..Challenge::default() }));
            }
        }
        let granted = decide::grantable(caller, asked);
        let lineage = caller.revision().lineage;
        let identities = self.0.state.peek(|tables, _| self.0.latest.at(&tables, lineage));
        let identities = identities.ok_or(Refusal::Unavailable { retry_after_ms: RETRY_AFTER_MS })?;
        let expires_in_s = self.0.settings.token_lifetime_s;
        let now_ms = self.0.clock.wall_ms();
        let token = identities.tokens.issue(
            caller.registry(),
            caller.key_id().map(str::to_owned),
            Granted::of(&granted),
            caller.version(),
            now_ms,
            expires_in_s * 1000,
        );
        metrics::counter!("portolan_auth_tokens_issued_total").increment(1);
        Ok(IssuedToken { token, expires_in_s, issued_at: Timestamp::from_ms(now_ms), granted })
    }
}
