//! Conditions: `{"<operator>": {"<key>": value or [values]}}`. All operators and keys must hold; the values of one
//! key are alternatives, of which none may hold for a negated operator.
//!
//! Source: ecr-api §8.2. Values are checked when the policy is written: a number that is none never becomes a condition
//! that silently fails.

use std::net::IpAddr;

use super::key::ConditionKey;
use super::pattern::{Pattern, Syntax};
use crate::vocabulary::Timestamp;

/// One key under one operator.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Condition {
    operator: Operator,
    key: ConditionKey,
    values: Vec<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Operator {
    test: Test,
    is_negated: bool,
    if_exists: bool,
    quantifier: Quantifier,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quantifier {
    Single,
    All,
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    Text { ignore_case: bool, wildcards: bool },
    Number(Order),
    Date(Order),
    Bool,
    Address,
    Arn,
    Null,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Text(Pattern),
    Arn(Vec<Pattern>),
    Number(f64),
    Date(Timestamp),
    Bool(bool),
    Network { address: IpAddr, prefix_bits: u32 },
}

impl Operator {
    fn parse(name: &str) -> Option<Operator> {
        let (quantifier, rest) = match name.split_once(':') {
            None => (Quantifier::Single, name),
            Some(("ForAllValues", rest)) => (Quantifier::All, rest),
            Some(("ForAnyValue", rest)) => (Quantifier::Any, rest),
            Some(_) => return None,
        };
        let (rest, if_exists) = rest.strip_suffix("IfExists").map_or((rest, false), |rest| (rest, true));
        let text = |ignore_case, wildcards| Test::Text { ignore_case, wildcards };
        let (test, is_negated) = match rest {
            "StringEquals" => (text(false, false), false),
            "StringNotEquals" => (text(false, false), true),
            "StringEqualsIgnoreCase" => (text(true, false), false),
            "StringNotEqualsIgnoreCase" => (text(true, false), true),
            "StringLike" => (text(false, true), false),
            "StringNotLike" => (text(false, true), true),
            "NumericEquals" => (Test::Number(Order::Equal), false),
            "NumericNotEquals" => (Test::Number(Order::Equal), true),
            "NumericLessThan" => (Test::Number(Order::Less), false),
            "NumericLessThanEquals" => (Test::Number(Order::LessOrEqual), false),
            "NumericGreaterThan" => (Test::Number(Order::Greater), false),
            "NumericGreaterThanEquals" => (Test::Number(Order::GreaterOrEqual), false),
            "DateEquals" => (Test::Date(Order::Equal), false),
            "DateNotEquals" => (Test::Date(Order::Equal), true),
            "DateLessThan" => (Test::Date(Order::Less), false),
            "DateLessThanEquals" => (Test::Date(Order::LessOrEqual), false),
            "DateGreaterThan" => (Test::Date(Order::Greater), false),
            "DateGreaterThanEquals" => (Test::Date(Order::GreaterOrEqual), false),
            "Bool" => (Test::Bool, false),
            "IpAddress" => (Test::Address, false),
            "NotIpAddress" => (Test::Address, true),
            "ArnEquals" | "ArnLike" => (Test::Arn, false),
            "ArnNotEquals" | "ArnNotLike" => (Test::Arn, true),
            "Null" if !if_exists && quantifier == Quantifier::Single => (Test::Null, false),
            _ => return None,
        };
        Some(Operator { test, is_negated, if_exists, quantifier })
    }
}

impl Condition {
    /// Parses one operator, key and list of values; a mistake is told in words.
    pub(super) fn parse(operator: &str, key: &str, values: &[String], variables: bool) -> Result<Condition, String> {
        let parsed = Operator::parse(operator).ok_or_else(|| format!("unknown condition operator '{operator}'"))?;
        let key = ConditionKey::parse(key).ok_or_else(|| format!("unknown condition key '{key}'"))?;
        if parsed.test != Test::Null && key.is_multivalued() && parsed.quantifier == Quantifier::Single {
            return Err(format!("'{key}' has many values: write ForAllValues:{operator} or ForAnyValue:{operator}"));
        }
        if values.is_empty() {
            return Err(format!("'{operator}' on '{key}' has no value"));
        }
        let values: Result<Vec<Value>, String> =
            values.iter().map(|value| Value::parse(value, parsed.test, variables)).collect();
        Ok(Condition { operator: parsed, key, values: values? })
    }

    /// Whether it asks for nothing but this key, and for fixed truth values of it.
    pub(super) fn is_only_on(&self, key: &ConditionKey) -> bool {
        self.key == *key && self.values.iter().all(|value| matches!(value, Value::Bool(_)))
    }

    /// Whether it asks for this key, or compares with it.
    pub(super) fn names(&self, key: &ConditionKey) -> bool {
        let is_in = |value: &Value| match value {
            Value::Text(pattern) => pattern.names(key),
            Value::Arn(parts) => parts.iter().any(|part| part.names(key)),
            Value::Number(_) | Value::Date(_) | Value::Bool(_) | Value::Network { .. } => false,
        };
        self.key == *key || self.values.iter().any(is_in)
    }

    /// Whether the condition holds for a request whose keys `lookup` answers (`None`: the key is absent).
    pub(super) fn holds(&self, lookup: &dyn Fn(&ConditionKey) -> Option<Vec<String>>) -> bool {
        let request = lookup(&self.key).filter(|values| !values.is_empty());
        let Operator { test, is_negated, if_exists, quantifier } = self.operator;
        if test == Test::Null {
            return self.values.contains(&Value::Bool(request.is_none()));
        }
        let Some(request) = request else {
            return if_exists
                || match quantifier {
                    Quantifier::Single => is_negated,
                    Quantifier::All => true,
                    Quantifier::Any => false,
                };
        };
        // A variable has a value only where its key has exactly one.
        let value_of =
            |key: &ConditionKey| lookup(key).and_then(|values| <[String; 1]>::try_from(values).ok()).map(|[one]| one);
        let is_match = |own: &String| self.values.iter().any(|value| value.matches(own, test, &value_of)) != is_negated;
        match quantifier {
            Quantifier::Single => request.len() == 1 && is_match(&request[0]),
            Quantifier::All => request.iter().all(is_match),
            Quantifier::Any => request.iter().any(is_match),
        }
    }
}

impl Value {
    fn parse(text: &str, test: Test, variables: bool) -> Result<Value, String> {
        let wrong = |what: &str| format!("'{text}' is not {what}");
        match test {
            Test::Text { ignore_case, wildcards } => {
                // Variables are not folded: the text is folded only where it stands for itself.
                let folded = if ignore_case { text.to_lowercase() } else { text.to_owned() };
                let text = if ignore_case && text.contains("${") { text } else { &folded };
                Pattern::parse(text, Syntax { wildcards, variables }).map(Value::Text)
            }
            Test::Arn => {
                let pattern = Pattern::parse(text, Syntax { wildcards: true, variables })?;
                if pattern.is_any() {
                    return Ok(Value::Arn(vec![pattern]));
                }
                pattern.split_at_colons(6).map(Value::Arn).ok_or_else(|| wrong("an ARN of six parts"))
            }
            Test::Number(_) => number(text).map(Value::Number).ok_or_else(|| wrong("a number")),
            Test::Date(_) => {
                date(text).map(Value::Date).ok_or_else(|| wrong("a date (ISO 8601, or seconds since 1970)"))
            }
            Test::Bool | Test::Null => boolean(text).map(Value::Bool).ok_or_else(|| wrong("true or false")),
            Test::Address => network(text).ok_or_else(|| wrong("an IP address or network")),
        }
    }

    /// Whether a value of the request matches this one. A value that does not read as the operator's type matches
    /// nothing.
    fn matches(&self, request: &str, test: Test, value_of: &dyn Fn(&ConditionKey) -> Option<String>) -> bool {
        match (self, test) {
            (Value::Text(pattern), Test::Text { ignore_case: true, .. }) => {
                let fold = |key: &ConditionKey| value_of(key).map(|value| value.to_lowercase());
                pattern.matches_with(&request.to_lowercase(), &fold)
            }
            (Value::Text(pattern), _) => pattern.matches_with(request, value_of),
            (Value::Arn(parts), _) => arn_matches(parts, request, value_of),
            (Value::Number(own), Test::Number(order)) => number(request).is_some_and(|value| order.holds(&value, own)),
            (Value::Date(own), Test::Date(order)) => date(request).is_some_and(|value| order.holds(&value, own)),
            (Value::Bool(own), _) => boolean(request) == Some(*own),
            (Value::Network { address, prefix_bits }, _) => {
                request.parse().is_ok_and(|request: IpAddr| contains(*address, *prefix_bits, request.to_canonical()))
            }
            (Value::Number(_) | Value::Date(_), _) => false,
        }
    }
}

impl Order {
    fn holds<T: PartialOrd>(self, value: &T, own: &T) -> bool {
        match self {
            Order::Equal => value == own,
            Order::Less => value < own,
            Order::LessOrEqual => value <= own,
            Order::Greater => value > own,
            Order::GreaterOrEqual => value >= own,
        }
    }
}

fn arn_matches(parts: &[Pattern], request: &str, value_of: &dyn Fn(&ConditionKey) -> Option<String>) -> bool {
    if let [any] = parts {
        return any.matches(request);
    }
    let request: Vec<&str> = request.splitn(parts.len(), ':').collect();
    request.len() == parts.len() && parts.iter().zip(request).all(|(part, own)| part.matches_with(own, value_of))
}

fn number(text: &str) -> Option<f64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    text.parse().ok().filter(|number: &f64| is_plain && number.is_finite())
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

fn date(text: &str) -> Option<Timestamp> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok().and_then(|seconds: u64| seconds.checked_mul(1000)).map(Timestamp::from_ms);
    }
    Timestamp::parse(text)
}

fn network(text: &str) -> Option<Value> {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let prefix_bits = match bits {
        None => most,
        Some(bits) if bits.len() <= 3 && bits.bytes().all(|byte| byte.is_ascii_digit()) => bits.parse().ok()?,
        Some(_) => return None,
    };
    (prefix_bits <= most).then_some(Value::Network { address, prefix_bits })
}

fn contains(network: IpAddr, prefix_bits: u32, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            (network.to_bits() ^ address.to_bits()).leading_zeros() >= prefix_bits
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            (network.to_bits() ^ address.to_bits()).leading_zeros() >= prefix_bits
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(operator: &str, key: &str, values: &[&str], request: &[(&str, &[&str])]) -> Result<bool, String> {
        let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
        let condition = Condition::parse(operator, key, &values, true)?;
        let lookup = |key: &ConditionKey| {
            let found = request.iter().find(|(own, _)| *own == key.as_str());
            found.map(|(_, values)| values.iter().map(|value| (*value).to_owned()).collect())
        };
        Ok(condition.holds(&lookup))
    }

    // Each operator on one value: what holds and what does not.
    #[test]
    fn operators() {
        let agent = "aws:UserAgent";
        for (operator, value, request, want) in [
            ("StringEquals", "a*", "a*", true),
            ("StringEquals", "a*", "ab", false),
            ("StringNotEquals", "a", "b", true),
            ("StringNotEquals", "a", "a", false),
            ("StringEqualsIgnoreCase", "Ann", "aNN", true),
            ("StringNotEqualsIgnoreCase", "Ann", "aNN", false),
            ("StringLike", "a*c?", "abcd", true),
            ("StringLike", "a*c?", "abc", false),
            ("StringNotLike", "a*", "abc", false),
            ("NumericEquals", "10", "1e1", true),
            ("NumericNotEquals", "10", "11", true),
            ("NumericLessThan", "10", "9.5", true),
            ("NumericLessThan", "10", "10", false),
            ("NumericLessThanEquals", "10", "10", true),
            ("NumericGreaterThan", "10", "10", false),
            ("NumericGreaterThanEquals", "10", "10", true),
            ("NumericGreaterThan", "1", "x", false),
            ("DateLessThan", "2030-01-01T00:00:00Z", "2029-12-31", true),
            ("DateGreaterThan", "1700000000", "2023-11-14T22:13:21Z", true),
            ("DateEquals", "2023-11-14T22:13:20Z", "1700000000", true),
            ("DateNotEquals", "2023-11-14", "2023-11-15", true),
            ("Bool", "true", "true", true),
            ("Bool", "true", "false", false),
            ("IpAddress", "10.0.0.0/8", "10.255.1.1", true),
            ("IpAddress", "10.0.0.0/8", "11.0.0.1", false),
            ("IpAddress", "10.0.0.0/8", "::ffff:10.1.1.1", true),
            ("IpAddress", "10.0.0.1", "10.0.0.1", true),
            ("IpAddress", "0.0.0.0/0", "192.0.2.1", true),
            ("IpAddress", "0.0.0.0/0", "2001:db8::1", false),
            ("IpAddress", "2001:db8::/32", "2001:db8:1::1", true),
            ("IpAddress", "::/0", "10.0.0.1", false),
            ("IpAddress", "10.0.0.0/8", "ten", false),
            ("NotIpAddress", "10.0.0.0/8", "11.0.0.1", true),
            ("ArnLike", "arn:aws:iam::*:user/*", "arn:aws:iam::000000000001:user/a", true),
            ("ArnEquals", "arn:*:*:*:*:user/*", "arn:aws:iam::000000000001:user/a", true),
            ("ArnLike", "arn:aws:iam:*:user/*:x", "arn:aws:iam::000000000001:user/a", false),
            ("ArnNotLike", "arn:aws:iam::*:role/*", "arn:aws:iam::000000000001:user/a", true),
        ] {
            assert_eq!(
                holds(operator, agent, &[value], &[(agent, &[request])]),
                Ok(want),
                "{operator} {value} {request}"
            );
        }
    }

    // An absent key: positive operators fail, negated ones hold, IfExists holds, Null asks for it.
    #[test]
    fn absent_keys() {
        let key = "aws:SourceIp";
        for (operator, value, want) in [
            ("IpAddress", "0.0.0.0/0", false),
            ("NotIpAddress", "0.0.0.0/0", true),
            ("IpAddressIfExists", "10.0.0.0/8", true),
            ("StringLike", "*", false),
            ("StringNotLike", "*", true),
            ("Bool", "false", false),
            ("Null", "true", true),
            ("Null", "false", false),
            ("ForAllValues:StringEquals", "a", true),
            ("ForAnyValue:StringEquals", "a", false),
            ("ForAnyValue:StringNotEquals", "a", false),
            ("ForAnyValue:StringEqualsIfExists", "a", true),
        ] {
            assert_eq!(holds(operator, key, &[value], &[]), Ok(want), "{operator}");
        }
        assert_eq!(holds("Null", key, &["true"], &[(key, &["10.0.0.1"])]), Ok(false));
        assert_eq!(holds("IpAddressIfExists", key, &["10.0.0.0/8"], &[(key, &["11.0.0.1"])]), Ok(false));
    }

    // Values are alternatives; for a negated operator none may hold. Quantifiers look at every value of the request.
    #[test]
    fn many_values() {
        let keys = "aws:TagKeys";
        for (operator, values, request, want) in [
            ("ForAllValues:StringEquals", &["a", "b"][..], &["a", "b"][..], true),
            ("ForAllValues:StringEquals", &["a", "b"], &["a", "c"], false),
            ("ForAnyValue:StringEquals", &["a"], &["c", "a"], true),
            ("ForAnyValue:StringEquals", &["a"], &["c"], false),
            ("ForAllValues:StringNotEquals", &["a"], &["b", "c"], true),
            ("ForAllValues:StringNotEquals", &["a"], &["b", "a"], false),
            ("ForAnyValue:StringNotEquals", &["a"], &["a", "b"], true),
        ] {
            assert_eq!(
                holds(operator, keys, values, &[(keys, request)]),
                Ok(want),
                "{operator} {values:?} {request:?}"
            );
        }
        let agent = "aws:UserAgent";
        assert_eq!(holds("StringEquals", agent, &["a", "b"], &[(agent, &["b"])]), Ok(true));
        assert_eq!(holds("StringNotEquals", agent, &["a", "b"], &[(agent, &["b"])]), Ok(false));
        assert_eq!(
            holds("StringEquals", agent, &["a"], &[(agent, &["a", "b"])]),
            Ok(false),
            "two values need a quantifier"
        );
    }

    // Variables are filled in from the request, as plain text.
    #[test]
    fn variables() {
        let request: &[(&str, &[&str])] = &[("aws:username", &["ann"]), ("aws:ResourceTag/owner", &["ann"])];
        assert_eq!(holds("StringEquals", "aws:ResourceTag/owner", &["${aws:username}"], request), Ok(true));
        assert_eq!(holds("StringEqualsIgnoreCase", "aws:ResourceTag/owner", &["${aws:username}"], request), Ok(true));
        let starred: &[(&str, &[&str])] = &[("aws:username", &["*"]), ("aws:ResourceTag/owner", &["ann"])];
        assert_eq!(holds("StringLike", "aws:ResourceTag/owner", &["${aws:username}"], starred), Ok(false));
    }

    // A23: an unknown operator or key, or a value of the wrong type, is told by name and never becomes a condition.
    #[test]
    fn refused() {
        for (operator, key, value, named) in [
            ("StringEqual", "aws:username", "a", "StringEqual"),
            ("stringequals", "aws:username", "a", "stringequals"),
            ("ForEach:StringEquals", "aws:TagKeys", "a", "ForEach"),
            ("NullIfExists", "aws:username", "true", "NullIfExists"),
            ("ForAllValues:Null", "aws:TagKeys", "true", "ForAllValues:Null"),
            ("StringEquals", "aws:nosuch", "a", "aws:nosuch"),
            ("StringEquals", "aws:TagKeys", "a", "ForAllValues"),
            ("NumericEquals", "aws:MultiFactorAuthAge", "ten", "ten"),
            ("NumericEquals", "aws:MultiFactorAuthAge", "NaN", "NaN"),
            ("NumericEquals", "aws:MultiFactorAuthAge", "1e999", "1e999"),
            ("DateLessThan", "aws:CurrentTime", "tomorrow", "tomorrow"),
            ("Bool", "aws:SecureTransport", "yes", "yes"),
            ("Null", "aws:SourceIp", "1", "'1'"),
            ("IpAddress", "aws:SourceIp", "10.0.0.0/33", "10.0.0.0/33"),
            ("IpAddress", "aws:SourceIp", "10.0.0.0/+8", "10.0.0.0/+8"),
            ("IpAddress", "aws:SourceIp", "10.0.0", "10.0.0"),
            ("ArnLike", "aws:SourceArn", "user/a", "user/a"),
            ("StringEquals", "aws:UserAgent", "${aws:nosuch}", "aws:nosuch"),
        ] {
            let error = holds(operator, key, &[value], &[]).unwrap_err();
            assert!(error.contains(named), "{operator}: {error}");
        }
        assert!(holds("StringEquals", "aws:username", &[], &[]).is_err());
    }
}
