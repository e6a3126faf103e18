//! The language as a whole: decisions over documents, named by the security cases.

use proptest::prelude::*;

use super::grants::{Grant, GrantError, Right, compile};
use super::*;
use crate::decide::tag_move::TagRights;
use crate::vocabulary::ids::RegistryId;
use crate::vocabulary::limits::{DETAIL_BYTES_MAX, POLICY_BYTES_MAX};
use crate::vocabulary::names::{RegionName, UserName};
use crate::vocabulary::{Refusal, RepositoryName, Timestamp};

const OTHER: &str = "000000000077";

fn user(name: &str) -> Principal {
    Principal::User { registry: RegistryId::DEFAULT, name: UserName::parse(name).unwrap() }
}

fn repository(name: &str) -> Resource {
    let region = RegionName::parse("eu-1").unwrap();
    Resource::Repository { region, registry: RegistryId::DEFAULT, name: RepositoryName::parse(name).unwrap() }
}

fn identity(text: &str) -> Policy {
    Policy::parse(text, PolicyKind::Identity).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn statement(text: &str) -> String {
    format!(r#"{{"Version":"2012-10-17","Statement":{{{text}}}}}"#)
}

/// A policy of the repository with one statement.
fn on_repository(text: &str) -> Policy {
    Policy::parse(&statement(text), PolicyKind::Repository).unwrap_or_else(|error| panic!("{error}: {text}"))
}

struct Case<'c> {
    principal: Principal,
    action: Action,
    resource: Resource,
    context: Context,
    policies: Policies<'c>,
}

impl<'c> Case<'c> {
    fn new(principal: Principal, action: Action, name: &str) -> Case<'c> {
        Case { principal, action, resource: repository(name), context: Context::new(), policies: Policies::default() }
    }

    fn identity(mut self, policy: &'c Policy) -> Case<'c> {
        self.policies.identity.push(Attached { name: "p", policy });
        self
    }

    fn anonymous(mut self, policy: &'c Policy) -> Case<'c> {
        self.policies.anonymous.push(Attached { name: "open", policy });
        self
    }

    fn repository(mut self, policy: &'c Policy) -> Case<'c> {
        self.policies.repository = Some(policy);
        self
    }

    fn bound(mut self, is_session: bool, policy: &'c Policy) -> Case<'c> {
        let bound = Some(Attached { name: "b", policy });
        *(if is_session { &mut self.policies.session } else { &mut self.policies.boundary }) = bound;
        self
    }

    fn context(mut self, key: ConditionKey, value: &str) -> Case<'c> {
        self.context.set(key, value);
        self
    }

    fn request(&self) -> Request<'_> {
        Request {
            principal: &self.principal,
            action: self.action,
            resource: &self.resource,
            at: Timestamp::parse("2026-06-01T00:00:00Z").unwrap(),
            context: &self.context,
        }
    }

    fn decide(&self) -> Decision {
        decide(&self.request(), &self.policies)
    }

    fn is_allowed(&self) -> bool {
        self.decide().is_allowed()
    }
}

// A23: deny wins over allow, wherever it stands; silence is a no; the reason names the statement.
#[test]
fn a23_deny_wins() {
    let policy = identity(
        r#"{"Statement":[{"Sid":"all","Effect":"Allow","Action":"ecr:*","Resource":"*"},
            {"Sid":"no","Effect":"Deny","Action":"ecr:PutImage","Resource":"arn:aws:ecr:*:*:repository/prod/*"}]}"#,
    );
    let allowed = Case::new(user("ann"), Action::PutImage, "test/a").identity(&policy);
    assert_eq!(allowed.decide().to_string(), "allowed by identity-based policy 'p', statement 0 'all'");
    let denied = Case::new(user("ann"), Action::PutImage, "prod/a").identity(&policy);
    assert_eq!(denied.decide().to_string(), "denied by identity-based policy 'p', statement 1 'no'");
    let silent = Case::new(user("ann"), Action::PutImage, "prod/a");
    assert_eq!(silent.decide().to_string(), "not allowed: no identity-based policy allows it");
    let deny = on_repository(r#""Effect":"Deny","Principal":"*","Action":"ecr:BatchGetImage""#);
    assert!(!Case::new(user("ann"), Action::BatchGetImage, "a").identity(&policy).repository(&deny).is_allowed());
    let root = Principal::Root { registry: RegistryId::DEFAULT };
    assert!(!Case::new(root.clone(), Action::BatchGetImage, "a").repository(&deny).is_allowed(), "root as well");
    assert_eq!(Case::new(root, Action::PutImage, "a").repository(&deny).decide(), Decision::AllowedToRoot);
}

// A23: NotAction, NotResource and the wildcards mean what they say.
#[test]
fn a23_elements() {
    for (policy, action, name, want) in [
        (r#""NotAction":"ecr:Batch*","Resource":"*""#, Action::PutImage, "a", true),
        (r#""NotAction":"ecr:Batch*","Resource":"*""#, Action::BatchGetImage, "a", false),
        (r#""Action":"*","NotResource":"arn:aws:ecr:*:*:repository/prod/*""#, Action::PutImage, "test", true),
        (r#""Action":"*","NotResource":"arn:aws:ecr:*:*:repository/prod/*""#, Action::PutImage, "prod/a", false),
        (r#""Action":["ecr:putimage"],"Resource":["arn:aws:ecr:*:*:repository/a"]"#, Action::PutImage, "a", true),
        (r#""Action":"ecr:*","Resource":"arn:aws:ecr:*:*:repository/t**""#, Action::PutImage, "t/x/y", true),
        (r#""Action":"ecr:*","Resource":"arn:aws:ecr:*:*:repository/?""#, Action::PutImage, "ab", false),
        (r#""Action":"portolan:*","Resource":"*""#, Action::PutImage, "a", false),
        (r#""Action":"*","Resource":"arn:aws:ecr:*:*:repository/${aws:username}/*""#, Action::PutImage, "ann/x", true),
        (r#""Action":"*","Resource":"arn:aws:ecr:*:*:repository/${aws:username}/*""#, Action::PutImage, "bob/x", false),
    ] {
        let policy = identity(&statement(&format!(r#""Effect":"Allow",{policy}"#)));
        assert_eq!(
            Case::new(user("ann"), action, name).identity(&policy).is_allowed(),
            want,
            "{policy:?} {action} {name}"
        );
    }
}

// A23: whatever is not understood makes the policy invalid when it is written, and the message names it.
#[test]
fn a23_invalid_policies() {
    let good = r#""Effect":"Allow","Action":"ecr:PutImage","Resource":"*""#;
    let invalid = |text: &str, kind| match Policy::parse(text, kind) {
        Ok(policy) => panic!("accepted: {text} as {policy:?}"),
        Err(error) => error.to_string(),
    };
    for (text, named) in [
        (r#""Effect":"allow","Action":"ecr:PutImage","Resource":"*""#.to_owned(), "Statement[0].Effect"),
        (r#""Action":"ecr:PutImage","Resource":"*""#.to_owned(), "Statement[0].Effect: missing"),
        (r#""Effect":"Allow","Resource":"*""#.to_owned(), "Action: missing"),
        (r#""Effect":"Allow","Action":"ecr:PutImage""#.to_owned(), "Resource: missing"),
        (r#""Effect":"Allow","Action":[],"Resource":"*""#.to_owned(), "Action"),
        (r#""Effect":"Allow","Action":"","Resource":"*""#.to_owned(), "unknown action ''"),
        (r#""Effect":"Allow","Action":"ecr:PutImages","Resource":"*""#.to_owned(), "ecr:PutImages"),
        (r#""Effect":"Allow","Action":1,"Resource":"*""#.to_owned(), "a number"),
        (r#""Effect":"Allow","Action":"*","Resource":"team/*""#.to_owned(), "team/*"),
        (format!(r#"{good},"NotAction":"ecr:*""#), "exclude each other"),
        (format!(r#"{good},"NotResource":"*""#), "exclude each other"),
        (format!(r#"{good},"Principal":"*""#), "Principal"),
        (format!(r#"{good},"action":"*""#), "unknown element 'action'"),
        (format!(r#"{good},"Effect":"Deny""#), "duplicate key"),
        (format!(r#"{good},"Condition":{{"StringEqual":{{"aws:username":"a"}}}}"#), "StringEqual"),
        (format!(r#"{good},"Condition":{{"StringEquals":{{"aws:nosuch":"a"}}}}"#), "aws:nosuch"),
        (format!(r#"{good},"Condition":{{"StringEquals":{{"aws:username":[]}}}}"#), "Condition"),
        (format!(r#"{good},"Condition":{{"StringEquals":"a"}}"#), "Condition.StringEquals"),
        (format!(r#"{good},"Condition":[]"#), "Condition"),
        (format!(r#"{good},"Sid":1"#), "Sid"),
    ] {
        let error = invalid(&statement(&text), PolicyKind::Identity);
        assert!(error.contains(named), "{text}: {error}");
    }
    for (text, named) in [
        ("", "the policy"),
        ("[]", "the policy"),
        ("{}", "Statement: missing"),
        (r#"{"Statement":[]}"#, "Statement"),
        (r#"{"Statement":"x"}"#, "Statement[0]"),
        (r#"{"Version":"2020-01-01","Statement":[]}"#, "2020-01-01"),
        (r#"{"Statements":[]}"#, "'Statements'"),
    ] {
        let error = invalid(text, PolicyKind::Identity);
        assert!(error.contains(named), "{text}: {error}");
    }
    for (principal, named) in [
        (r#""Principal":{}"#, "Principal"),
        (r#""Principal":"""#, "Principal"),
        (r#""Principal":[]"#, "Principal"),
        (r#""Principal":{"AWS":[]}"#, "Principal"),
        (r#""Principal":{"AWS":""}"#, "Principal"),
        (r#""Principal":{"AWS":"arn:aws:iam::000000000000:user/*"}"#, "user/*"),
        (r#""Principal":{"aws":"*"}"#, "'aws'"),
        (r#""Principal":{"Federated":"x"}"#, "Federated"),
        (r#""NotPrincipal":{"AWS":"000000000000"}"#, "only supported with Deny"),
        (r#""Resource":"*""#, "Principal: missing"),
    ] {
        let text = statement(&format!(r#""Effect":"Allow","Action":"*",{principal}"#));
        let error = invalid(&text, PolicyKind::Repository);
        assert!(error.contains(named), "{principal}: {error}");
    }
    let large = format!("{}{}", " ".repeat(POLICY_BYTES_MAX), statement(good));
    let error = Policy::parse(&large, PolicyKind::Identity).unwrap_err();
    let Refusal::PolicyInvalid { detail } = Refusal::from(error) else { panic!() };
    assert!(detail.contains("longer than") && detail.len() <= DETAIL_BYTES_MAX);
}

// A22: anonymous only by explicit policy; a credential never gives less than none; a deny for one binds only that one.
#[test]
fn a22_anonymous() {
    let open = identity(&compile(&["read:public/*".parse().unwrap()]));
    let everyone = on_repository(r#""Effect":"Allow","Principal":"*","Action":"ecr:BatchGetImage""#);
    let by_name =
        on_repository(r#""Effect":"Allow","Principal":{"Portolan":"anonymous"},"Action":"ecr:BatchGetImage""#);
    let pull = |principal, name| Case::new(principal, Action::BatchGetImage, name);
    // (case, allowed): anonymous, authenticated without a grant, with a grant, denied.
    assert!(!pull(Principal::Anonymous, "a").is_allowed());
    assert!(pull(Principal::Anonymous, "public/a").anonymous(&open).is_allowed());
    assert!(!pull(Principal::Anonymous, "private/a").anonymous(&open).is_allowed());
    assert!(!Case::new(Principal::Anonymous, Action::PutImage, "public/a").anonymous(&open).is_allowed());
    assert!(pull(user("ann"), "public/a").anonymous(&open).is_allowed(), "without a grant: as much as anonymous");
    assert!(!pull(user("ann"), "private/a").anonymous(&open).is_allowed());
    let grant = identity(&compile(&["read:private/*".parse().unwrap()]));
    assert!(pull(user("ann"), "private/a").identity(&grant).anonymous(&open).is_allowed());
    let deny = identity(&statement(r#""Effect":"Deny","Action":"*","Resource":"*""#));
    assert!(!pull(user("ann"), "public/a").identity(&deny).anonymous(&open).is_allowed(), "an explicit deny holds");
    let closed = identity(
        r#"{"Statement":[{"Effect":"Allow","Action":"*","Resource":"*"},
            {"Effect":"Deny","Action":"*","Resource":"arn:aws:ecr:*:*:repository/private/*"}]}"#,
    );
    assert!(!pull(Principal::Anonymous, "private/a").anonymous(&closed).is_allowed());
    assert!(
        pull(user("ann"), "private/a").identity(&grant).anonymous(&closed).is_allowed(),
        "its denies bind only itself"
    );
    // A repository policy for everybody means everybody with a credential; anonymous must be named.
    assert!(pull(user("ann"), "a").repository(&everyone).is_allowed());
    assert!(!pull(Principal::Anonymous, "a").repository(&everyone).is_allowed());
    assert!(pull(Principal::Anonymous, "a").repository(&by_name).is_allowed());
    assert!(pull(user("ann"), "a").repository(&by_name).is_allowed());
}

// A24: look-alike names meet no rule but their own.
#[test]
fn a24_look_alikes() {
    let team = identity(&compile(&["read:team/*".parse().unwrap()]));
    for (name, want) in [("team/a", true), ("team/a/b", true), ("team", false), ("team-2/a", false), ("teams/a", false)]
    {
        assert_eq!(Case::new(user("ann"), Action::BatchGetImage, name).identity(&team).is_allowed(), want, "{name}");
    }
    let elements = ["read:/team", "read:team/", "read:a//b", "read:a/../b", "read:./a", "read:.."];
    let forms = ["read:Team/*", "read:team/%2a", "read:", "read:a b", "read", "fly:a", ":a", "read,:a", "read:a:b"];
    for bad in elements.iter().chain(&forms) {
        assert!(bad.parse::<Grant>().is_err(), "{bad}");
    }
}

// A8, A9: append sets new tags and moves none, whatever its name; write does both; no other right does either.
#[test]
fn a8_append_and_write() {
    for (rights, create, update) in [
        ("append", true, false),
        ("write", true, true),
        ("append,write", true, true),
        ("read", false, false),
        ("delete", false, false),
        ("create", false, false),
    ] {
        let policy = identity(&compile(&[format!("{rights}:a").parse().unwrap()]));
        let case = Case::new(user("ann"), Action::PutImage, "a").identity(&policy);
        assert_eq!(tag_rights(&case.request(), &case.policies), TagRights { create, update }, "{rights}");
        // What the request brings along under this key does not count.
        let case = case.context(ConditionKey::TAG_EXISTS, "false");
        assert_eq!(tag_rights(&case.request(), &case.policies), TagRights { create, update }, "{rights}");
    }
    let append = identity(&compile(&["append:a".parse().unwrap()]));
    assert!(!Case::new(user("ann"), Action::PutImage, "a").identity(&append).is_allowed(), "nothing said is a no");
    assert!(Case::new(user("ann"), Action::UploadLayerPart, "a").identity(&append).is_allowed());
    let ecr = identity(&statement(r#""Effect":"Allow","Action":"ecr:PutImage","Resource":"*""#));
    let case = Case::new(user("ann"), Action::PutImage, "a").identity(&ecr);
    assert_eq!(tag_rights(&case.request(), &case.policies), TagRights::FULL, "as in ECR, PutImage alone is both");
}

// Each right gives its actions and no other; grants read back what they print.
#[test]
fn grants_table() {
    for right in Right::ALL {
        let policy = identity(&compile(&[Grant::new([right], "a").unwrap()]));
        for action in Action::ALL {
            let case = Case::new(user("ann"), *action, "a").identity(&policy);
            let case = case.context(ConditionKey::TAG_EXISTS, "false");
            assert_eq!(case.is_allowed(), right.actions().contains(action), "{right:?} {action}");
        }
    }
    let grant: Grant = "write,read,read:team/*".parse().unwrap();
    assert_eq!(grant.to_string(), "read,write:team/*");
    assert_eq!("fly:a".parse::<Grant>(), Err(GrantError::Right("fly".into())));
    let decision = Case::new(user("ann"), Action::PutImage, "team/x").identity(&identity(&compile(&[grant]))).decide();
    assert_eq!(decision.to_string(), "allowed by identity-based policy 'p', statement 1 'write:team/*'");
}

// A25: across registries both sides must allow; naming the whole registry delegates, at home it gives nothing by
// itself.
#[test]
fn a25_across_registries() {
    let stranger =
        Principal::User { registry: RegistryId::parse(OTHER).unwrap(), name: UserName::parse("eve").unwrap() };
    let all = identity(&statement(r#""Effect":"Allow","Action":"*","Resource":"*""#));
    let for_registry = |registry: &str| {
        on_repository(&format!(r#""Effect":"Allow","Principal":{{"AWS":"{registry}"}},"Action":"ecr:BatchGetImage""#))
    };
    let (theirs, ours) = (for_registry(OTHER), for_registry("000000000000"));
    let pull = |principal: &Principal| Case::new(principal.clone(), Action::BatchGetImage, "a");
    assert_eq!(pull(&stranger).identity(&all).decide().to_string(), "not allowed: no resource-based policy allows it");
    assert_eq!(
        pull(&stranger).repository(&theirs).decide().to_string(),
        "not allowed: no identity-based policy allows it"
    );
    assert!(pull(&stranger).identity(&all).repository(&theirs).is_allowed());
    assert!(!pull(&stranger).identity(&all).repository(&ours).is_allowed());
    assert!(!pull(&user("ann")).repository(&ours).is_allowed(), "at home the registry only delegates");
    let take = on_repository(r#""Effect":"Deny","Principal":{"AWS":"000000000000"},"Action":"ecr:BatchGetImage""#);
    assert!(
        !pull(&user("ann")).identity(&all).repository(&take).is_allowed(),
        "what it takes, it takes from everybody"
    );
    let root = Principal::Root { registry: RegistryId::parse(OTHER).unwrap() };
    assert!(!pull(&root).is_allowed(), "root of another registry is nobody here");
    assert!(pull(&root).repository(&theirs).is_allowed());
    let named = on_repository(
        r#""Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000000:user/ann"},"Action":"ecr:BatchGetImage""#,
    );
    assert!(pull(&user("ann")).repository(&named).is_allowed() && !pull(&user("bob")).repository(&named).is_allowed());
    let all_but =
        on_repository(r#""Effect":"Deny","NotPrincipal":{"AWS":"arn:aws:iam::000000000000:user/ann"},"Action":"*""#);
    assert!(pull(&user("ann")).identity(&all).repository(&all_but).is_allowed());
    assert!(!pull(&user("bob")).identity(&all).repository(&all_but).is_allowed());
    assert!(!pull(&Principal::Anonymous).anonymous(&all).repository(&all_but).is_allowed());
}

// A boundary and a session policy are the most there is: they give nothing, and nothing goes past them.
#[test]
fn boundary_and_session() {
    let all = identity(&statement(r#""Effect":"Allow","Action":"*","Resource":"*""#));
    let read = identity(&statement(r#""Effect":"Allow","Action":"ecr:BatchGetImage","Resource":"*""#));
    for action in [Action::BatchGetImage, Action::PutImage] {
        let is_read = action == Action::BatchGetImage;
        for is_session in [false, true] {
            assert_eq!(
                Case::new(user("ann"), action, "a").identity(&all).bound(is_session, &read).is_allowed(),
                is_read
            );
            let alone = Case::new(user("ann"), action, "a").bound(is_session, &read);
            assert!(!alone.is_allowed(), "it gives nothing");
            let open = Case::new(user("ann"), Action::PutImage, "a").anonymous(&all).bound(is_session, &read);
            assert!(!open.is_allowed(), "nor does anonymous past it");
            let open = Case::new(user("ann"), Action::BatchGetImage, "a").anonymous(&all).bound(is_session, &read);
            assert!(open.is_allowed(), "within it, what anonymous may is given");
        }
    }
}

// Keys of principal, resource and time come from the request itself; the context cannot pretend others.
#[test]
fn derived_keys() {
    for (condition, want) in [
        (r#""StringEquals":{"aws:username":"ann"}"#, true),
        (r#""StringEquals":{"aws:PrincipalAccount":"000000000000","aws:ResourceAccount":"000000000000"}"#, true),
        (r#""StringEquals":{"aws:PrincipalType":"User","aws:RequestedRegion":"eu-1"}"#, true),
        (r#""ArnLike":{"aws:PrincipalArn":"arn:aws:iam::*:user/a*"}"#, true),
        (r#""DateLessThan":{"aws:CurrentTime":"2026-06-01T00:00:01Z"}"#, true),
        (r#""DateGreaterThan":{"aws:CurrentTime":"2026-06-01T00:00:00Z"}"#, false),
        (r#""NumericEquals":{"aws:EpochTime":1780272000}"#, true),
        (r#""StringEquals":{"aws:username":"ann"},"Bool":{"aws:SecureTransport":true}"#, false),
    ] {
        let policy = statement(&format!(r#""Effect":"Allow","Action":"*","Resource":"*","Condition":{{{condition}}}"#));
        let policy = identity(&policy);
        let case = Case::new(user("ann"), Action::PutImage, "a").identity(&policy);
        let case = case.context(ConditionKey::parse("aws:username").unwrap(), "root");
        assert_eq!(case.is_allowed(), want, "{condition}");
    }
}

// A list needs all names, the registry needs `*`; the refusal speaks ECR's words.
#[test]
fn lists_and_words() {
    let team = identity(&compile(&["read:team/*".parse().unwrap()]));
    let all = identity(&compile(&["read:*".parse().unwrap()]));
    let region = RegionName::parse("eu-1").unwrap();
    let list = |policy| {
        let mut case = Case::new(user("ann"), Action::DescribeRepositories, "a").identity(policy);
        case.resource = Resource::AllRepositories { region: region.clone(), registry: RegistryId::DEFAULT };
        case.is_allowed()
    };
    assert!(list(&all) && !list(&team));
    let case = Case::new(user("ann"), Action::PutImage, "a");
    assert_eq!(
        case.decide().into_result(&case.request()).unwrap_err().to_string(),
        "User: arn:aws:iam::000000000000:user/ann is not authorized to perform: ecr:PutImage on resource: \
         arn:aws:ecr:eu-1:000000000000:repository/a because no identity-based policy allows the ecr:PutImage action"
    );
}

// Whether an answer may hang on a key is told of conditions, of what they compare with, and of variables in resources.
#[test]
fn keys_that_count() {
    let names = |more: &str| {
        let text = statement(&format!(r#""Effect":"Allow","Action":"*",{more}"#));
        Policy::parse(&text, PolicyKind::Identity).unwrap().names(&ConditionKey::SOURCE_IP)
    };
    for more in [
        r#""Resource":"*","Condition":{"IpAddress":{"aws:SourceIp":"10.0.0.0/8"}}"#,
        r#""Resource":"*","Condition":{"NotIpAddressIfExists":{"AWS:SourceIP":"10.0.0.0/8"}}"#,
        r#""Resource":"*","Condition":{"StringEquals":{"aws:username":"${aws:SourceIp}"}}"#,
        r#""Resource":"*","Condition":{"ArnLike":{"aws:PrincipalArn":"arn:aws:iam::*:user/${aws:SourceIp}"}}"#,
        r#""NotResource":"arn:aws:ecr:*:*:repository/${aws:SourceIp, 'x'}/*""#,
    ] {
        assert!(names(more), "{more}");
    }
    for more in [
        r#""Resource":"*""#,
        r#""Resource":"arn:aws:ecr:*:*:repository/${aws:username}/*""#,
        r#""Resource":"*","Condition":{"Bool":{"portolan:TagExists":"false"}}"#,
        r#""Resource":"*","Condition":{"StringEquals":{"aws:username":"aws:SourceIp"}}"#,
        r#""Resource":"*","Condition":{"DateLessThan":{"aws:CurrentTime":"2026-06-01T00:00:01Z"}}"#,
    ] {
        assert!(!names(more), "{more}");
    }
}

proptest! {
    // No text makes the parser panic, and a policy that parses decides without a panic.
    #[test]
    fn total(at in 0usize..400, cut in 0usize..30, insert in "[\\[\\]{}:,\"a-zA-Z0-9*?$/ ]{0,10}") {
        let mut text = r#"{"Version":"2012-10-17","Statement":[{"Sid":"x","Effect":"Allow","Action":["ecr:Put*"],
            "NotResource":"arn:aws:ecr:*:*:repository/${aws:username}/*",
            "Condition":{"StringLike":{"aws:UserAgent":["a*","b"]},"IpAddress":{"aws:SourceIp":"10.0.0.0/8"},
            "ForAnyValue:StringEquals":{"aws:TagKeys":"k"}}}]}"#.to_owned();
        let at = at.min(text.len());
        let end = (at + cut).min(text.len());
        text.replace_range(at..end, &insert);
        for kind in [PolicyKind::Identity, PolicyKind::Repository, PolicyKind::Registry] {
            if let Ok(policy) = Policy::parse(&text, kind) {
                drop(Case::new(user("ann"), Action::PutImage, "a").identity(&policy).decide());
            }
        }
    }

    // Adding a deny never allows more, adding an allow never allows less without a deny: the language is monotone.
    #[test]
    fn monotone(first in 0usize..5, second in 0usize..5, deny in 0usize..5, action in 0usize..67) {
        let rights = [Right::Read, Right::Append, Right::Write, Right::Delete, Right::Create];
        let action = Action::ALL[action];
        let grant = |at: usize| Grant::new([rights[at]], "a").unwrap();
        let one = identity(&compile(&[grant(first)]));
        let two = identity(&compile(&[grant(first), grant(second)]));
        let take = identity(&compile(&[grant(deny)]).replace("Allow", "Deny"));
        let allowed = |policies: &[&Policy]| {
            let case = Case::new(user("ann"), action, "a").context(ConditionKey::TAG_EXISTS, "false");
            policies.iter().fold(case, |case, policy| case.identity(policy)).is_allowed()
        };
        prop_assert!(!allowed(&[&one]) || allowed(&[&two]));
        prop_assert!(!allowed(&[&two, &take]) || allowed(&[&two]));
        prop_assert!(!(allowed(&[&two, &take]) && rights[deny].actions().contains(&action)));
    }
}
