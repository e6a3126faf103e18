//! From JSON text to a policy. Strict: whatever is not understood makes the whole policy invalid, with a message that
//! names the element, so that no rule is ever weaker than its author believes (A23).

use super::action::ActionSet;
use super::arn::ResourcePattern;
use super::condition::Condition;
use super::document::{Effect, Except, Policy, PolicyKind, Statement};
use super::principal::PrincipalPattern;
use crate::vocabulary::Refusal;
use crate::vocabulary::json::{Json, Object};
use crate::vocabulary::limits::{PATTERN_BYTES_MAX, POLICY_BYTES_MAX, POLICY_STATEMENTS_MAX, POLICY_VALUES_MAX};
use crate::vocabulary::refusal;

/// Why a text is not a policy: the element, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct PolicyError {
    /// Where, for example `Statement[1].Action`.
    pub place: String,
    /// What is wrong.
    pub problem: String,
}

impl PolicyError {
    fn new(place: &str, problem: impl ToString) -> PolicyError {
        PolicyError { place: place.to_owned(), problem: problem.to_string() }
    }
}

impl From<PolicyError> for Refusal {
    fn from(error: PolicyError) -> Refusal {
        Refusal::PolicyInvalid { detail: refusal::detail(error) }
    }
}

type Result<T> = std::result::Result<T, PolicyError>;

impl Policy {
    /// Parses a policy document of a kind.
    pub fn parse(text: &str, kind: PolicyKind) -> Result<Policy> {
        if text.len() > POLICY_BYTES_MAX {
            return Err(PolicyError::new("the policy", format_args!("longer than {POLICY_BYTES_MAX} bytes")));
        }
        let json = Json::parse(text.as_bytes()).map_err(|error| PolicyError::new("the policy", error))?;
        let document = object(&json, "the policy")?;
        only(document, "the policy", &["Version", "Id", "Statement"])?;
        let variables = match document.get("Version").map(|value| string(value, "Version")).transpose()? {
            Some("2012-10-17") => true,
            None | Some("2008-10-17") => false,
            Some(other) => {
                return Err(PolicyError::new("Version", format_args!("'{other}' is not 2012-10-17 or 2008-10-17")));
            }
        };
        document.get("Id").map(|value| string(value, "Id")).transpose()?;
        let value = document.get("Statement").ok_or_else(|| PolicyError::new("Statement", "missing"))?;
        let list = match value {
            Json::Array(list) => list.as_slice(),
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Object(_) => {
                std::slice::from_ref(value)
            }
        };
        if list.is_empty() || list.len() > POLICY_STATEMENTS_MAX {
            return Err(PolicyError::new(
                "Statement",
                format_args!("must hold 1 to {POLICY_STATEMENTS_MAX} statements"),
            ));
        }
        let parse = |(at, value)| Parser { place: format!("Statement[{at}]"), kind, variables }.statement(value);
        let statements: Result<Vec<Statement>> = list.iter().enumerate().map(parse).collect();
        Ok(Policy { kind, statements: statements? })
    }
}

struct Parser {
    place: String,
    kind: PolicyKind,
    variables: bool,
}

const STATEMENT_KEYS: &[&str] =
    &["Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition"];

impl Parser {
    fn error(&self, element: &str, problem: impl ToString) -> PolicyError {
        PolicyError { place: format!("{}.{element}", self.place), problem: problem.to_string() }
    }

    fn statement(&self, value: &Json<'_>) -> Result<Statement> {
        let statement = object(value, &self.place)?;
        only(statement, &self.place, STATEMENT_KEYS)?;
        let sid = statement.get("Sid").map(|value| string(value, &format!("{}.Sid", self.place))).transpose()?;
        let effect = match statement.get("Effect") {
            Some(Json::String(text)) if text == "Allow" => Effect::Allow,
            Some(Json::String(text)) if text == "Deny" => Effect::Deny,
            Some(_) => return Err(self.error("Effect", "must be Allow or Deny")),
            None => return Err(self.error("Effect", "missing")),
        };
        Ok(Statement {
            sid: sid.map(str::to_owned),
            effect,
            principals: self.principals(statement, effect)?,
            actions: self.actions(statement)?,
            resources: self.resources(statement)?,
            conditions: self.conditions(statement)?,
        })
    }

    /// The one of two elements that is there.
    fn either<'o, 'a>(&self, statement: &'o Object<'a>, name: &str, not: &str) -> Result<Option<Except<&'o Json<'a>>>> {
        match (statement.get(name), statement.get(not)) {
            (Some(_), Some(_)) => Err(self.error(name, format_args!("and {not} exclude each other"))),
            (Some(value), None) => Ok(Some(Except::Only(value))),
            (None, Some(value)) => Ok(Some(Except::AllBut(value))),
            (None, None) => Ok(None),
        }
    }

    fn principals(&self, statement: &Object<'_>, effect: Effect) -> Result<Option<Except<Vec<PrincipalPattern>>>> {
        let element = self.either(statement, "Principal", "NotPrincipal")?;
        match (self.kind, element) {
            (PolicyKind::Identity, None) => Ok(None),
            (PolicyKind::Identity, Some(_)) => {
                Err(self.error("Principal", "does not belong into a policy of a user: it is the user"))
            }
            (PolicyKind::Repository | PolicyKind::Registry, None) => Err(self.error("Principal", "missing")),
            (_, Some(Except::Only(value))) => Ok(Some(Except::Only(self.principal_list(value, "Principal")?))),
            (_, Some(Except::AllBut(_))) if effect == Effect::Allow => {
                Err(self
                    .error("NotPrincipal", "is only supported with Deny: with Allow it would give to everybody else"))
            }
            (_, Some(Except::AllBut(value))) => Ok(Some(Except::AllBut(self.principal_list(value, "NotPrincipal")?))),
        }
    }

    fn principal_list(&self, value: &Json<'_>, element: &str) -> Result<Vec<PrincipalPattern>> {
        let map = match value {
            Json::String(text) if text == "*" => return Ok(vec![PrincipalPattern::Everyone]),
            Json::Object(map) if map.len() > 0 => map,
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Array(_) | Json::Object(_) => {
                return Err(self.error(element, "must be \"*\" or an object such as {\"AWS\": \"000000000000\"}"));
            }
        };
        let mut out = Vec::new();
        for (kind, value) in map.iter() {
            let parse = match kind {
                "AWS" => PrincipalPattern::parse_aws,
                "Service" => PrincipalPattern::parse_service,
                "Portolan" => PrincipalPattern::parse_own,
                other => return Err(self.error(element, format_args!("unknown kind of principal '{other}'"))),
            };
            for text in self.list(value, element)? {
                out.push(
                    parse(&text).ok_or_else(|| self.error(element, format_args!("'{text}' is no {kind} principal")))?,
                );
            }
        }
        Ok(out)
    }

    fn actions(&self, statement: &Object<'_>) -> Result<Except<ActionSet>> {
        let parse = |value, element| {
            let mut set = ActionSet::default();
            for name in self.list(value, element)? {
                let found = ActionSet::matching(&name);
                set = set.union(found.ok_or_else(|| self.error(element, format_args!("unknown action '{name}'")))?);
            }
            Ok(set)
        };
        match self.either(statement, "Action", "NotAction")? {
            Some(Except::Only(value)) => parse(value, "Action").map(Except::Only),
            Some(Except::AllBut(value)) => parse(value, "NotAction").map(Except::AllBut),
            None => Err(self.error("Action", "missing")),
        }
    }

    fn resources(&self, statement: &Object<'_>) -> Result<Option<Except<Vec<ResourcePattern>>>> {
        let parse = |value, element| {
            let parse = |text: &String| {
                ResourcePattern::parse(text, self.variables).map_err(|problem| self.error(element, problem))
            };
            self.list(value, element)?.iter().map(parse).collect::<Result<Vec<_>>>()
        };
        match self.either(statement, "Resource", "NotResource")? {
            Some(Except::Only(value)) => parse(value, "Resource").map(|list| Some(Except::Only(list))),
            Some(Except::AllBut(value)) => parse(value, "NotResource").map(|list| Some(Except::AllBut(list))),
            None if self.kind == PolicyKind::Repository => Ok(None),
            None => Err(self.error("Resource", "missing")),
        }
    }

    fn conditions(&self, statement: &Object<'_>) -> Result<Vec<Condition>> {
        let Some(value) = statement.get("Condition") else { return Ok(Vec::new()) };
        let mut out = Vec::new();
        for (operator, keys) in object(value, &format!("{}.Condition", self.place))?.iter() {
            let element = format!("Condition.{operator}");
            for (key, values) in object(keys, &format!("{}.{element}", self.place))?.iter() {
                let values = self.list(values, &element)?;
                let condition = Condition::parse(operator, key, &values, self.variables);
                out.push(condition.map_err(|problem| self.error("Condition", problem))?);
            }
        }
        Ok(out)
    }

    /// A value or an array of values, each as text; never empty.
    fn list(&self, value: &Json<'_>, element: &str) -> Result<Vec<String>> {
        let items = match value {
            Json::Array(items) => items.as_slice(),
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Object(_) => {
                std::slice::from_ref(value)
            }
        };
        if items.is_empty() || items.len() > POLICY_VALUES_MAX {
            return Err(self.error(element, format_args!("must hold 1 to {POLICY_VALUES_MAX} values")));
        }
        items.iter().map(|item| self.scalar(item, element)).collect()
    }

    /// Only conditions have use for numbers and booleans; a pattern that reads as one matches nothing anywhere else.
    fn scalar(&self, value: &Json<'_>, element: &str) -> Result<String> {
        let text = match value {
            Json::String(text) => text.to_string(),
            Json::Number(number) if element.starts_with("Condition") => number.to_string(),
            Json::Bool(value) if element.starts_with("Condition") => value.to_string(),
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::Array(_) | Json::Object(_) => {
                return Err(self.error(element, format_args!("{} where a string belongs", value.kind())));
            }
        };
        if text.len() > PATTERN_BYTES_MAX {
            return Err(self.error(element, format_args!("a value is longer than {PATTERN_BYTES_MAX} bytes")));
        }
        Ok(text)
    }
}

fn object<'v, 'a>(value: &'v Json<'a>, place: &str) -> Result<&'v Object<'a>> {
    match value {
        Json::Object(object) => Ok(object),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Array(_) => {
            Err(PolicyError::new(place, format_args!("{} where an object belongs", value.kind())))
        }
    }
}

fn string<'v>(value: &'v Json<'_>, place: &str) -> Result<&'v str> {
    match value {
        Json::String(text) => Ok(text),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Array(_) | Json::Object(_) => {
            Err(PolicyError::new(place, format_args!("{} where a string belongs", value.kind())))
        }
    }
}

fn only(object: &Object<'_>, place: &str, known: &[&str]) -> Result<()> {
    match object.iter().find(|(key, _)| !known.contains(key)) {
        Some((key, _)) => Err(PolicyError::new(place, format_args!("unknown element '{key}'"))),
        None => Ok(()),
    }
}
