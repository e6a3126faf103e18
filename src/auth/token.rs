//! Bearer tokens: made by the token service, accepted by every node of the cluster. Opaque to clients; sealed, not JWT
//! (decision 0021).
//!
//! A token only narrows. Each time it is shown, its access key and its owner must still be there and enabled, and what
//! it allows is cut with what the owner may do *now*: a withdrawn right is gone everywhere within the 60 s bound of
//! reads, whatever the token's life (A16, A21).

use bincode::{Decode, Encode};
use registry_core::decide::seal::{Purpose, Sealer};
use registry_core::metadata::cluster::ClusterRow;
use registry_core::metadata::principal::AuthVersion;
use registry_core::vocabulary::ids::{ClusterId, Lineage, RegistryId};
use registry_core::vocabulary::limits::TOKEN_SKEW_MS;

use super::scope::Granted;

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Claims {
    /// The only cluster that accepts it (T3, T4).
    pub cluster: ClusterId,
    /// The life of the cluster it was made in: a restored cluster accepts none of before (T4).
    pub lineage: Lineage,
    /// The registry of its owner.
    pub registry: RegistryId,
    /// The access key that was shown for it; `None` for a token given without a credential.
    pub key_id: Option<String>,
    /// Exactly what was granted.
    pub granted: Granted,
    /// Not accepted before, milliseconds since 1970.
    pub not_before_ms: u64,
    /// Not accepted from here on, milliseconds since 1970.
    pub expires_at_ms: u64,
    /// The version of users, keys and policies that the maker had seen: a node that is behind it catches up first.
    pub version: AuthVersion,
}

/// A token that does not hold. Callers answer all of them alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenError {
    /// It was not made here.
    #[error("not a token of this cluster")]
    Foreign,
    /// Its time has not come.
    #[error("not valid yet: compare the clocks of the nodes")]
    Early,
    /// Its time is over.
    #[error("expired")]
    Expired,
}

/// Makes and reads tokens of one cluster.
#[derive(Clone, Debug)]
pub(super) struct Tokens {
    sealer: Sealer,
    cluster: ClusterId,
    lineage: Lineage,
}

impl Tokens {
    /// With the secrets of a cluster.
    pub(super) fn of(cluster: &ClusterRow) -> Tokens {
        Tokens { sealer: Sealer::of(cluster, Purpose::Bearer), cluster: cluster.cluster, lineage: cluster.lineage }
    }

    /// Makes a token that holds from now on, and for a slow clock a little before.
    pub(super) fn issue(
        &self,
        registry: RegistryId,
        key_id: Option<String>,
        granted: Granted,
        version: AuthVersion,
        now_ms: u64,
        lifetime_ms: u64,
    ) -> String {
        let Tokens { cluster, lineage, .. } = *self;
        let not_before_ms = now_ms.saturating_sub(TOKEN_SKEW_MS);
        let expires_at_ms = now_ms + lifetime_ms;
        self.sealer.seal(&Claims { cluster, lineage, registry, key_id, granted, not_before_ms, expires_at_ms, version })
    }

    /// The cluster whose tokens these are.
    pub(super) fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Whether claims hold here and now.
    pub(super) fn check(&self, claims: &Claims, now_ms: u64) -> Result<(), TokenError> {
        if claims.cluster != self.cluster || claims.lineage != self.lineage {
            return Err(TokenError::Foreign);
        }
        if now_ms < claims.not_before_ms {
            return Err(TokenError::Early);
        }
        if now_ms >= claims.expires_at_ms {
            return Err(TokenError::Expired);
        }
        Ok(())
    }

    /// Reads a token and checks where and when it holds. Whether its owner is still there is for the caller to see.
    pub(super) fn read(&self, token: &str, now_ms: u64) -> Result<Claims, TokenError> {
        let claims: Claims = self.sealer.open(token).map_err(|_| TokenError::Foreign)?;
        self.check(&claims, now_ms)?;
        Ok(claims)
    }
}

#[cfg(test)]
mod tests {
    use registry_core::decide::policy::scope::Scopes;

    use super::super::secret::tests::cluster;
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn granted() -> Granted {
        Granted::of(&Scopes::parse(["repository:team/app:pull"]).unwrap())
    }

    fn issue(tokens: &Tokens) -> String {
        tokens.issue(RegistryId::DEFAULT, Some("PTLNKEY".into()), granted(), AuthVersion(3), NOW, 300_000)
    }

    // T3: a token holds from a little before its making until its end, and not a millisecond longer.
    #[test]
    fn times() {
        let tokens = Tokens::of(&cluster(1, None));
        let token = issue(&tokens);
        for (at_ms, want) in [
            (NOW, Ok(())),
            (NOW - TOKEN_SKEW_MS, Ok(())),
            (NOW - TOKEN_SKEW_MS - 1, Err(TokenError::Early)),
            (NOW + 299_999, Ok(())),
            (NOW + 300_000, Err(TokenError::Expired)),
            (u64::MAX, Err(TokenError::Expired)),
            (0, Err(TokenError::Early)),
        ] {
            assert_eq!(tokens.read(&token, at_ms).map(|_| ()), want, "{at_ms}");
        }
        let claims = tokens.read(&token, NOW).unwrap();
        assert_eq!((claims.key_id.as_deref(), claims.granted), (Some("PTLNKEY"), granted()));
    }

    // T3, T4: other clusters, restored ones and those with another secret refuse it; one change of the secret is
    // survived.
    #[test]
    fn belongs_to_one_cluster() {
        let token = issue(&Tokens::of(&cluster(1, None)));
        let mut clone = cluster(1, None);
        clone.cluster = ClusterId(8);
        let mut restored = cluster(1, None);
        restored.lineage = Lineage(2);
        for (row, holds) in [
            (cluster(1, None), true),
            (cluster(2, Some(1)), true),
            (cluster(2, None), false),
            (cluster(3, Some(2)), false),
            (clone, false),
            (restored, false),
        ] {
            assert_eq!(Tokens::of(&row).read(&token, NOW).is_ok(), holds, "{row:?}");
        }
    }

    // T1, T2: what makes JWT verifiers trip is not even parsed: there are no headers, no algorithms, no keys in a
    // token.
    #[test]
    fn json_web_tokens_are_foreign() {
        let tokens = Tokens::of(&cluster(1, None));
        let encode = |text: &str| data_encoding::BASE64URL_NOPAD.encode(text.as_bytes());
        for header in
            [r#"{"alg":"none"}"#, r#"{"alg":"HS256","kid":"1"}"#, r#"{"alg":"RS256","jwk":{"kty":"oct","k":""}}"#]
        {
            let body = encode(r#"{"sub":"root","aud":"portolan","exp":4102444800}"#);
            for token in [format!("{}.{body}.", encode(header)), format!("{}.{body}.{}", encode(header), encode("x"))] {
                assert_eq!(tokens.read(&token, NOW), Err(TokenError::Foreign), "{token}");
            }
        }
    }
}
