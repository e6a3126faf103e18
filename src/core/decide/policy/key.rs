//! Condition keys: what a statement may ask about a request.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// A known condition key in its canonical spelling, for example `aws:SourceIp` or `aws:ResourceTag/team`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConditionKey(Cow<'static, str>);

/// Keys with one value. Known to the language even where this service never supplies them (then they are absent).
const SINGLE: &[&str] = &[
    "aws:CurrentTime",
    "aws:EpochTime",
    "aws:FederatedProvider",
    "aws:MultiFactorAuthAge",
    "aws:MultiFactorAuthPresent",
    "aws:PrincipalAccount",
    "aws:PrincipalArn",
    "aws:PrincipalOrgID",
    "aws:PrincipalType",
    "aws:Referer",
    "aws:RequestedRegion",
    "aws:ResourceAccount",
    "aws:SecureTransport",
    "aws:SourceAccount",
    "aws:SourceArn",
    "aws:SourceIp",
    "aws:SourceVpc",
    "aws:SourceVpce",
    "aws:TokenIssueTime",
    "aws:UserAgent",
    "aws:ViaAWSService",
    "aws:userid",
    "aws:username",
    "ecr:AccountSetting",
    "portolan:TagExists",
];

/// Keys with any number of values: a condition on them needs `ForAllValues:` or `ForAnyValue:`.
const MULTIPLE: &[&str] = &["aws:CalledVia", "aws:PrincipalOrgPaths", "aws:TagKeys"];

/// Keys with a name of their own behind the slash.
const TAGGED: &[&str] = &["aws:PrincipalTag", "aws:RequestTag", "aws:ResourceTag", "ecr:ResourceTag"];

impl ConditionKey {
    /// Address of the client.
    pub const SOURCE_IP: ConditionKey = ConditionKey(Cow::Borrowed("aws:SourceIp"));
    /// Whether the request came through TLS.
    pub const SECURE_TRANSPORT: ConditionKey = ConditionKey(Cow::Borrowed("aws:SecureTransport"));
    /// The client's own name for itself.
    pub const USER_AGENT: ConditionKey = ConditionKey(Cow::Borrowed("aws:UserAgent"));
    /// When the token in use was made.
    pub const TOKEN_ISSUE_TIME: ConditionKey = ConditionKey(Cow::Borrowed("aws:TokenIssueTime"));
    /// Names of the resource tags in the request.
    pub const TAG_KEYS: ConditionKey = ConditionKey(Cow::Borrowed("aws:TagKeys"));
    /// Ours: whether the tag that a push sets exists and points elsewhere; set by [`tag_rights`](super::tag_rights)
    /// only. A policy that asks for "false" allows to create tags and not to move them (A8).
    pub const TAG_EXISTS: ConditionKey = ConditionKey(Cow::Borrowed("portolan:TagExists"));

    /// Parses a key; its case does not matter, but for the part behind a slash.
    pub fn parse(text: &str) -> Option<ConditionKey> {
        let is_same = |known: &&&'static str| known.eq_ignore_ascii_case(text);
        if let Some(known) = SINGLE.iter().chain(MULTIPLE).find(is_same) {
            return Some(ConditionKey(Cow::Borrowed(known)));
        }
        let (kind, name) = text.split_once('/')?;
        let kind = TAGGED.iter().find(|known| known.eq_ignore_ascii_case(kind))?;
        let is_legal = !name.is_empty() && name.chars().count() <= 128 && !name.chars().any(char::is_control);
        is_legal.then(|| ConditionKey(Cow::Owned(format!("{kind}/{name}"))))
    }

    /// The canonical spelling.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn is_multivalued(&self) -> bool {
        MULTIPLE.contains(&self.as_str())
    }
}

impl fmt::Debug for ConditionKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Display for ConditionKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// What is known about a request beyond principal, action and resource. Those give their own keys by themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context(BTreeMap<ConditionKey, Vec<String>>);

impl Context {
    /// Nothing known.
    pub fn new() -> Context {
        Context::default()
    }

    /// Adds one value of a key.
    pub fn set(&mut self, key: ConditionKey, value: impl Into<String>) {
        self.0.entry(key).or_default().push(value.into());
    }

    /// Makes this the only value of a key.
    pub fn replace(&mut self, key: ConditionKey, value: impl Into<String>) {
        self.0.insert(key, vec![value.into()]);
    }

    /// The same context and one value more.
    #[must_use]
    pub fn with(mut self, key: ConditionKey, value: impl Into<String>) -> Context {
        self.set(key, value);
        self
    }

    pub(super) fn get(&self, key: &ConditionKey) -> Option<&[String]> {
        self.0.get(key).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A23: known keys in any case, tags with a name; anything else is unknown.
    #[test]
    fn parse_table() {
        for (text, canonical) in [
            ("aws:SourceIp", "aws:SourceIp"),
            ("AWS:SOURCEIP", "aws:SourceIp"),
            ("aws:resourcetag/Team", "aws:ResourceTag/Team"),
            ("ecr:ResourceTag/a/b", "ecr:ResourceTag/a/b"),
            ("aws:tagkeys", "aws:TagKeys"),
        ] {
            assert_eq!(ConditionKey::parse(text).unwrap().as_str(), canonical);
        }
        for bad in
            ["", "aws:", "aws:Nosuch", "SourceIp", "aws:ResourceTag", "aws:ResourceTag/", "s3:prefix", "aws:SourceIp "]
        {
            assert_eq!(ConditionKey::parse(bad), None, "{bad}");
        }
        assert!(ConditionKey::TAG_KEYS.is_multivalued() && !ConditionKey::SOURCE_IP.is_multivalued());
        for key in [
            ConditionKey::SOURCE_IP,
            ConditionKey::SECURE_TRANSPORT,
            ConditionKey::USER_AGENT,
            ConditionKey::TOKEN_ISSUE_TIME,
            ConditionKey::TAG_EXISTS,
        ] {
            assert_eq!(ConditionKey::parse(key.as_str()), Some(key));
        }
    }
}
