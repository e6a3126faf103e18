//! Who may do what: the policy language of IAM as ECR uses it, parsed strictly and decided in one place.
//!
//! An explicit deny wins, silence is a no, and every decision names the statement that made it. What is unknown (an
//! element, an action, an operator, a condition key) makes a policy invalid when it is written, never "ignored" when
//! it is used (A23). Nothing here knows a header, a token or a row: callers bring principal, action, resource and
//! context. Start at [`Policy::parse`] and [`decide`]; [`grants`] is the simple layer that most people use; [`scope`]
//! is the grammar of token scopes.
//!
//! Source: ecr-api §8 (language and evaluation), §9 (actions, resources, condition keys).

mod action;
mod arn;
mod condition;
mod document;
mod evaluate;
pub mod grants;
mod key;
mod parse;
mod pattern;
mod principal;
pub mod scope;

pub use action::{Action, ActionSet, Level};
pub use arn::Resource;
pub use document::{Effect, Policy, PolicyKind};
pub use evaluate::{Attached, Decision, Grounds, Policies, Request, decide, tag_rights};
pub use key::{ConditionKey, Context};
pub use parse::PolicyError;
pub use principal::Principal;

#[cfg(test)]
mod tests;
