//! The room as its callers meet it, over the real commands on tables in memory. Named by the security cases.

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue};
use data_encoding::BASE64;
use registry_core::decide::policy;
use registry_core::decide::policy::grants::Grant;
use registry_core::decide::policy::scope::Scopes;
use registry_core::decide::tag_move::TagRights;
use registry_core::metadata::cluster::{FEATURE_LEVEL, InitCluster};
use registry_core::metadata::command::Command;
use registry_core::metadata::principal::ANONYMOUS;
use registry_core::metadata::replication_rules::PutReplicationRules;
use registry_core::metadata::repository::{CreateRepository, RepositoryKey};
use registry_core::metadata::testing::{peer, sends_all};
use registry_core::vocabulary::ids::{ClusterId, Lineage, NodeId, RegistryId, RepositoryId};
use registry_core::vocabulary::limits::{GUESS_DELAY_MS, GUESSES_FREE, LINK_LIFETIME_MS};
use registry_core::vocabulary::names::RegionName;
use registry_core::vocabulary::{Digest, Refusal, RepositoryName};

use super::state::State;
use super::state::memory::Memory;
use super::*;
use crate::ground::Secret;
use crate::ground::clock::ManualClock;

const NOW_MS: u64 = 1_800_000_000_000;
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

/// A cluster with a root key.
struct House {
    auth: Auth,
    clock: Arc<ManualClock>,
    root: HeaderMap,
}

impl House {
    async fn new() -> House {
        House::with(Settings::default()).await
    }

    async fn with(settings: Settings) -> House {
        let clock = Arc::new(ManualClock::at(NOW_MS));
        let auth = Auth::over(State::Memory(Memory::default()), clock.clone(), settings);
        let init = InitCluster {
            cluster: ClusterId(7),
            lineage: Lineage(1),
            region: "eu-1".into(),
            region_number: 1,
            token_secret: [9; 32],
            tick_ms: 1000,
            feature_level: FEATURE_LEVEL,
        };
        auth.0.state.propose("test", vec![init.into()]).await.unwrap();
        let key = auth.bootstrap(None).await.unwrap().unwrap();
        let root = basic(&key.key_id, key.secret.expose());
        House { auth, clock, root }
    }

    fn memory(&self) -> &Memory {
        match &self.auth.0.state {
            State::Memory(memory) => memory,
            State::Cluster(_) => unreachable!("tests run on memory"),
        }
    }

    async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Refused> {
        self.auth.authenticate(&evidence(headers), Freshness::Linearizable).await
    }

    async fn root(&self) -> Caller {
        self.caller(&self.root).await.unwrap()
    }

    /// A user with grants; its headers.
    async fn user(&self, name: &str, grants: &[&str]) -> HeaderMap {
        let root = self.root().await;
        self.auth.create_user(&root, name).await.unwrap();
        if !grants.is_empty() {
            self.grant(name, grants).await;
        }
        let key = self.auth.create_key(&root, name, None).await.unwrap();
        basic(&key.key_id, key.secret.expose())
    }

    async fn grant(&self, name: &str, grants: &[&str]) {
        let grants: Vec<Grant> = grants.iter().map(|grant| grant.parse().unwrap()).collect();
        self.auth.put_grants(&self.root().await, name, &grants).await.unwrap();
    }

    async fn token(&self, headers: &HeaderMap, scopes: &str) -> HeaderMap {
        let caller = self.caller(headers).await.unwrap();
        let issued = self.auth.issue(&caller, &Scopes::parse([scopes]).unwrap()).unwrap();
        bearer(&issued.token)
    }

    async fn may(&self, headers: &HeaderMap, action: Action, repository: &str) -> Result<Permit, Refused> {
        let caller = self.caller(headers).await?;
        self.auth.permit(&caller, action, RegistryId::DEFAULT, &name(repository))
    }

    /// How it ends, in a word.
    async fn told(&self, headers: &HeaderMap, action: Action, repository: &str) -> &'static str {
        match self.may(headers, action, repository).await {
            Ok(_) => "ok",
            Err(Refused::Unauthenticated(_)) => "401",
            Err(Refused::Refusal(Refusal::Denied { .. })) => "403",
            Err(Refused::Refusal(Refusal::RepositoryUnknown { .. })) => "404",
            Err(Refused::Refusal(other)) => panic!("{other}"),
        }
    }
}

fn evidence(headers: &HeaderMap) -> Evidence<'_> {
    Evidence { headers, address: HERE, secure: true }
}

fn headers(value: String) -> HeaderMap {
    HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::try_from(value).unwrap())])
}

fn basic(user: &str, password: &str) -> HeaderMap {
    headers(format!("Basic {}", BASE64.encode(format!("{user}:{password}").as_bytes())))
}

fn bearer(token: &str) -> HeaderMap {
    headers(format!("Bearer {token}"))
}

fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).unwrap()
}

fn is_unauthenticated<T: std::fmt::Debug>(answer: &Result<T, Refused>) -> bool {
    matches!(answer, Err(Refused::Unauthenticated(_)))
}

// T9: no default works; the first key is made once, shown once, and is the only one.
#[tokio::test]
async fn t9_first_key() {
    let house = House::new().await;
    assert!(house.root().await.is_root());
    assert!(house.auth.bootstrap(None).await.unwrap().is_none());
    for (user, password) in [("root", "root"), ("admin", "admin"), ("admin", "password"), ("root", "")] {
        assert!(is_unauthenticated(&house.caller(&basic(user, password)).await), "{user}");
    }
    // a key from a file is put in force also later, by whoever may write the node's configuration
    let brought = || RootKey {
        key_id: "BROUGHTKEY000000".into(),
        secret: Secret::new("4f9a0c1be2d35768a9b0c1d2e3f40516".into()),
    };
    assert!(house.auth.bootstrap(Some(brought())).await.unwrap().is_some());
    assert!(house.auth.bootstrap(Some(brought())).await.unwrap().is_none());
    assert!(house.caller(&basic("BROUGHTKEY000000", "4f9a0c1be2d35768a9b0c1d2e3f40516")).await.unwrap().is_root());
}

// A22: anonymous, authenticated without grant, with grant, denied: whoever has a credential never gets less than who
// has none, unless a policy takes it.
#[tokio::test]
async fn a22_anonymous_and_the_rest() {
    let house = House::new().await;
    let nobody = HeaderMap::new();
    let plain = house.user("plain", &[]).await;
    let granted = house.user("granted", &["read:team/*"]).await;
    let denied = house.user("denied", &[]).await;
    let deny = r#"{"Version":"2012-10-17","Statement":{"Effect":"Deny","Action":"ecr:*","Resource":"*"}}"#;
    house.auth.put_policy(&house.root().await, "denied", "nothing", deny).await.unwrap();
    for (repository, before) in [("public/a", "401"), ("team/a", "401")] {
        assert_eq!(house.told(&nobody, Action::Pull, repository).await, before);
    }
    house.grant(ANONYMOUS, &["read:public/*"]).await;
    for (who, repository, want) in [
        (&nobody, "public/a", "ok"),
        (&nobody, "team/a", "401"),
        (&nobody, "public", "401"),
        (&nobody, "public-2/a", "401"),
        (&plain, "public/a", "ok"),
        (&plain, "team/a", "404"),
        (&granted, "public/a", "ok"),
        (&granted, "team/a", "ok"),
        (&granted, "other/a", "404"),
        (&denied, "public/a", "404"),
        (&denied, "team/a", "404"),
        (&house.root, "other/a", "ok"),
    ] {
        assert_eq!(house.told(who, Action::Pull, repository).await, want, "{repository}");
    }
    for (who, want) in [(&nobody, "401"), (&plain, "403"), (&granted, "403"), (&denied, "404")] {
        assert_eq!(house.told(who, Action::Push, "public/a").await, want);
    }
}

// T15, A26: a link holds for pulls of its repository, for a minute, and only for who may pull at that moment.
#[tokio::test]
async fn a26_links() {
    let house = House::new().await;
    let ann = house.user("ann", &["read:team/app"]).await;
    let (caller, nothing) = (house.caller(&ann).await.unwrap(), HeaderMap::new());
    let (repository, digest, node, back) =
        (RepositoryId(1), Digest::sha256(b"x"), NodeId(2), "https://here".to_owned());
    let link = Link { repository, digest, node, client: HERE, back, guest: None };
    let text = house.auth.link(&caller, &name("team/app"), link.clone()).unwrap();
    let follow = async |text: &str| match house.auth.follow(text, &evidence(&nothing)).await {
        Ok((Follower::Caller(by), link)) => Ok((by, link)),
        Ok((Follower::Guest(region), _)) => panic!("no guest of {region}"),
        Err(no) => Err(no),
    };
    let may = |caller: &Caller, action: Action, of: &str| {
        house.auth.permit(caller, action, RegistryId::DEFAULT, &name(of)).is_ok()
    };
    let (by, found) = follow(&text).await.unwrap();
    assert_eq!(found, link);
    assert!(may(&by, Action::Pull, "team/app"));
    assert!(!may(&by, Action::Pull, "other") && !may(&by, Action::Push, "team/app"));
    assert!(house.caller(&bearer(&text)).await.is_err(), "it is no token");
    assert_eq!(follow(&format!("{text}A")).await.err(), Some(NoLink::Foreign));
    house.grant("ann", &["read:other"]).await;
    assert!(!may(&follow(&text).await.unwrap().0, Action::Pull, "team/app"));
    house.auth.set_user_enabled(&house.root().await, "ann", false).await.unwrap();
    assert_eq!(follow(&text).await.err(), Some(NoLink::Foreign));
    // without a quorum that is not known; what was made here tells the way back all the same
    house.memory().quorum(false);
    assert_eq!(follow(&text).await.err(), Some(NoLink::Unavailable(Some(link.clone()))));
    assert_eq!(follow(&format!("{text}A")).await.err(), Some(NoLink::Unavailable(None)));
    house.memory().quorum(true);
    house.clock.advance(LINK_LIFETIME_MS);
    assert_eq!(follow(&text).await.err(), Some(NoLink::Expired(link)));
    let operator = house.auth.operator("ann", &evidence(&nothing)).await.unwrap();
    assert_eq!(house.auth.link(&operator, &name("team/app"), found), None);
}

// T4, T14, T15, A26, A27: a link for a client of another region names nobody here: it holds for a minute, in the
// cluster that made it, and for as long as that region may have the blob, in the repository that it was made for.
#[tokio::test]
async fn a26_links_of_guests() {
    let house = House::new().await;
    let change = async |command: Command| house.auth.0.state.propose("test", vec![command]).await.unwrap();
    let (eu, name) = (RegionName::parse("eu").unwrap(), name("team/app"));
    let key = RepositoryKey { registry: RegistryId::DEFAULT, name: name.clone(), id: RepositoryId(7) };
    change(peer(2, "eu").into()).await;
    change(CreateRepository { key: key.clone(), settings: Default::default(), must_be_new: true }.into()).await;
    change(sends_all("eu").into()).await;

    let guest = Guest { region: eu.clone(), repository: name.clone(), right: "their-link".to_owned() };
    let (digest, back) = (Digest::sha256(b"x"), "https://there".to_owned());
    let link = Link { repository: key.id, digest, node: NodeId(2), client: HERE, back, guest: Some(guest) };
    let text = house.auth.guest_link(&name, link.clone()).unwrap();
    let nothing = HeaderMap::new();
    let follow = async |text: &str| house.auth.follow(text, &evidence(&nothing)).await;
    let (follower, found) = follow(&text).await.unwrap();
    assert!(matches!(&follower, Follower::Guest(region) if *region == eu));
    assert_eq!((follower.name(), &found), ("region/eu".to_owned(), &link));
    assert!(house.caller(&bearer(&text)).await.is_err(), "it is no token");
    assert_eq!(follow(&format!("{text}A")).await.err(), Some(NoLink::Foreign));

    let may = async |link: &Link| house.auth.permit_guest(&eu, &name, link).await;
    let permit = may(&link).await.unwrap();
    let tags = TagRights { create: false, update: false };
    assert_eq!((permit.principal.as_str(), permit.create_repository, permit.tags), ("region/eu", false, tags));
    let is_denied = |answer: Result<Permit, Refusal>| matches!(answer, Err(Refusal::Denied { .. }));
    let made_anew = Link { repository: RepositoryId(8), ..link.clone() };
    assert!(is_denied(may(&made_anew).await), "A27");
    let elsewhere = house.auth.permit_guest(&RegionName::parse("us").unwrap(), &name, &link).await;
    assert!(is_denied(elsewhere), "of a region that is not known");
    // a no is of the state of now; and nothing is said while there can't be any
    house.memory().lag();
    change(PutReplicationRules { registry: RegistryId::DEFAULT, rules: vec![] }.into()).await;
    assert!(may(&link).await.is_ok(), "within the bound of fresh reads");
    drop(house.root().await);
    assert!(is_denied(may(&link).await));
    house.memory().quorum(false);
    assert!(matches!(may(&link).await, Err(Refusal::Unavailable { .. })));
    house.memory().quorum(true);

    house.clock.advance(LINK_LIFETIME_MS);
    assert_eq!(follow(&text).await.err(), Some(NoLink::Expired(link)));
}

// §6.6: whose rights hang on its address is known, for another region can't judge that.
#[tokio::test]
async fn rights_bound_to_an_address() {
    let house = House::new().await;
    let bound = async |headers: &HeaderMap| {
        let caller = house.caller(headers).await.unwrap();
        house.auth.is_bound_to_address(&caller)
    };
    let (ann, bob) = (house.user("ann", &["read:team/*"]).await, house.user("bob", &["read:team/*"]).await);
    assert!(!bound(&house.root).await && !bound(&ann).await && !bound(&HeaderMap::new()).await);
    let near = r#"{"Version":"2012-10-17","Statement":{"Effect":"Deny","Action":"*","Resource":"*",
        "Condition":{"NotIpAddress":{"aws:SourceIp":"10.0.0.0/8"}}}}"#;
    house.auth.put_policy(&house.root().await, "ann", "near", near).await.unwrap();
    assert!(bound(&ann).await && !bound(&bob).await && !bound(&house.root).await);
    house.auth.put_policy(&house.root().await, ANONYMOUS, "near", near).await.unwrap();
    assert!(bound(&bob).await && bound(&HeaderMap::new()).await, "what anybody may is part of it");
}

// A22: switched off, requests without a credential get nothing, whatever policies say, and no token either way.
#[tokio::test]
async fn a22_anonymous_switched_off() {
    let house = House::with(Settings { anonymous: false, ..Settings::default() }).await;
    house.grant(ANONYMOUS, &["read:public/*"]).await;
    let plain = house.user("plain", &[]).await;
    let nobody = HeaderMap::new();
    let token = house.token(&nobody, "repository:public/a:pull").await;
    for (who, want) in [(&nobody, "401"), (&token, "401"), (&plain, "ok")] {
        assert_eq!(house.told(who, Action::Pull, "public/a").await, want);
    }
}

// A8, A9: who may create tags may not move them; the permit carries the difference to every door.
#[tokio::test]
async fn a8_tag_rights() {
    let house = House::new().await;
    for (number, (grants, want)) in [
        (&["read,write:a"][..], Some((TagRights::FULL, false))),
        (&["append:a"], Some((TagRights { create: true, update: false }, false))),
        (&["write,create:a"], Some((TagRights::FULL, true))),
        (&["read:a"], None),
        (&["delete:a"], None),
        (&["create:a"], None),
    ]
    .into_iter()
    .enumerate()
    {
        let who = house.user(&format!("user{number}"), grants).await;
        let permit = house.may(&who, Action::Push, "a").await.ok();
        assert_eq!(permit.map(|permit| (permit.tags, permit.create_repository)), want, "{grants:?}");
        if let Ok(permit) = house.may(&who, Action::Pull, "a").await {
            assert_eq!((permit.tags.create, permit.tags.update, permit.create_repository), (false, false, false));
        }
    }
}

// A19: the answer for what the caller may not see does not depend on anything but the name it gave.
#[tokio::test]
async fn a19_invisible_is_missing() {
    let house = House::new().await;
    let who = house.user("ann", &["read:mine/*"]).await;
    let caller = house.caller(&who).await.unwrap();
    for action in [Action::Pull, Action::List, Action::Push, Action::Delete, Action::Configure, Action::Remove] {
        let refused = house.auth.permit(&caller, action, RegistryId::DEFAULT, &name("theirs/a")).unwrap_err();
        let missing = Refusal::RepositoryUnknown { name: name("theirs/a"), registry: RegistryId::DEFAULT };
        assert_eq!(refused, Refused::Refusal(missing), "{action:?}");
    }
    let sees = |repository| house.auth.may_see(&caller, RegistryId::DEFAULT, &name(repository));
    assert!(sees("mine/a") && !sees("theirs/a") && !sees("mine"));
    let other = RegistryId::from_number(12).unwrap();
    assert!(!house.auth.may_see(&caller, other, &name("mine/a")), "A25: another registry gives nothing by itself");
    assert!(house.auth.permit(&house.root().await, Action::Pull, other, &name("a")).is_err());
}

// A17, A18, T6: a token does what it was given and its owner may, on no other repository, by no other action, nowhere
// else; and no token makes another.
#[tokio::test]
async fn a17_a18_tokens_only_narrow() {
    let house = House::new().await;
    let who = house.user("ann", &["read,write:a", "read:b"]).await;
    let token = house.token(&who, "repository:a:pull repository:b:pull,push repository:c:pull").await;
    for (action, repository, want) in [
        (Action::Pull, "a", "ok"),
        (Action::List, "a", "ok"),
        (Action::Push, "a", "401"),   // she may, the token may not: come back with a wider one
        (Action::Delete, "a", "403"), // she may not
        (Action::Pull, "b", "ok"),
        (Action::Push, "b", "403"), // asked for, never granted
        (Action::Pull, "c", "404"),
    ] {
        assert_eq!(house.told(&token, action, repository).await, want, "{action:?} {repository}");
    }
    let root_token = house.token(&house.root, "repository:a:*").await;
    for action in [Action::Configure, Action::Create, Action::Remove] {
        assert_eq!(house.told(&root_token, action, "a").await, "401", "{action:?}");
    }
    let caller = house.caller(&root_token).await.unwrap();
    assert!(is_unauthenticated(&house.auth.permit_admin(&caller, policy::Action::ManageIdentities)));
    assert!(is_unauthenticated(&house.auth.permit_catalog(&caller)));
    assert!(is_unauthenticated(&house.auth.issue(&caller, &Scopes::parse(["repository:a:pull"]).unwrap())));
    assert!(is_unauthenticated(&house.auth.users(&caller).await));
}

// clients §1: 401 with the scope to ask for, also when a token reaches less far than its owner.
#[tokio::test]
async fn challenges() {
    let house = House::new().await;
    let origin = "http://127.0.0.1:7400";
    let text = |refused: Refused| match refused {
        Refused::Unauthenticated(challenge) => house.auth.challenge(&challenge, origin).to_str().unwrap().to_owned(),
        Refused::Refusal(refusal) => panic!("{refusal}"),
    };
    let realm = "Bearer realm=\"http://127.0.0.1:7400/v2/token\",service=\"portolan\"";
    let nobody = HeaderMap::new();
    let refused = house.may(&nobody, Action::Push, "a/b").await.unwrap_err();
    assert_eq!(text(refused), format!("{realm},scope=\"repository:a/b:pull,push\""));
    let token = house.token(&house.root, "repository:a/b:pull").await;
    let refused = house.may(&token, Action::Push, "a/b").await.unwrap_err();
    let want = format!("{realm},scope=\"repository:a/b:pull,push\",error=\"insufficient_scope\"");
    assert_eq!(text(refused), want);
    let base = house.auth.permit_base(&house.caller(&nobody).await.unwrap()).unwrap_err();
    assert_eq!(text(base), realm);
    assert!(house.auth.permit_base(&house.caller(&house.token(&nobody, "").await).await.unwrap()).is_ok());
    let catalog = house.auth.permit_catalog(&house.caller(&nobody).await.unwrap()).unwrap_err();
    assert_eq!(text(catalog), format!("{realm},scope=\"registry:catalog:pull\""));
    let bad = house.caller(&bearer("abc")).await.unwrap_err();
    assert_eq!(text(bad), format!("{realm},error=\"invalid_token\""));
    // H8: nothing of a strange Host gets into the header, and a configured address is used whatever the request says
    for strange in ["http://a\"b", "http://a b", "evil", "http://", "http://a\r\nx: y"] {
        let told = house.auth.challenge(&Challenge::default(), strange);
        assert_eq!(told, "Basic realm=\"portolan\",charset=\"UTF-8\"", "{strange:?}");
    }
    let public_url = Some("https://registry.example/".to_owned());
    let house = House::with(Settings { public_url, ..Settings::default() }).await;
    let told = house.auth.challenge(&Challenge::default(), "http://evil.example");
    assert_eq!(told, "Bearer realm=\"https://registry.example/v2/token\",service=\"portolan\"");
    let house = House::with(Settings { challenge: ChallengeKind::Basic, ..Settings::default() }).await;
    assert_eq!(
        house.auth.challenge(&Challenge::default(), origin),
        "Basic realm=\"http://127.0.0.1:7400\",charset=\"UTF-8\""
    );
}

// A16, A21: a withdrawn key, user or right is gone at the next linearizable request, for keys and for tokens given
// before.
#[tokio::test]
async fn a16_a21_withdrawal() {
    let house = House::new().await;
    let root = house.root().await;
    let who = house.user("ann", &["read:a"]).await;
    let token = house.token(&who, "repository:a:pull").await;
    let both = [&who, &token];
    for each in both {
        assert_eq!(house.told(each, Action::Pull, "a").await, "ok");
    }
    house.grant("ann", &["read:b"]).await;
    for each in both {
        assert_eq!(house.told(each, Action::Pull, "a").await, "404");
    }
    house.grant("ann", &["read:a"]).await;
    house.auth.set_user_enabled(&root, "ann", false).await.unwrap();
    for each in both {
        assert_eq!(house.told(each, Action::Pull, "a").await, "401");
    }
    house.auth.set_user_enabled(&root, "ann", true).await.unwrap();
    let key_id = house.caller(&who).await.unwrap().key_id().unwrap().to_owned();
    house.auth.set_key_enabled(&root, "ann", &key_id, false).await.unwrap();
    for each in both {
        assert_eq!(house.told(each, Action::Pull, "a").await, "401");
    }
    house.auth.set_key_enabled(&root, "ann", &key_id, true).await.unwrap();
    assert_eq!(house.told(&token, Action::Pull, "a").await, "ok");
    // A27: made again under the same name, she is somebody else
    house.auth.delete_user(&root, "ann").await.unwrap();
    let again = house.user("ann", &["read:a"]).await;
    for each in both {
        assert_eq!(house.told(each, Action::Pull, "a").await, "401");
    }
    assert_eq!(house.told(&again, Action::Pull, "a").await, "ok");
}

// T3, T23: keys and tokens end by themselves.
#[tokio::test]
async fn t3_expiry() {
    let house = House::new().await;
    let root = house.root().await;
    house.auth.create_user(&root, "ann").await.unwrap();
    let key = house.auth.create_key(&root, "ann", Some(1000)).await.unwrap();
    let who = basic(&key.key_id, key.secret.expose());
    let token = house.token(&house.root, "repository:a:pull").await;
    assert!(house.caller(&who).await.is_ok());
    house.clock.advance(1000);
    assert!(is_unauthenticated(&house.caller(&who).await));
    assert!(house.caller(&token).await.is_ok());
    house.clock.advance(900_000);
    assert!(is_unauthenticated(&house.caller(&token).await));
}

// The 60 s bound: a merely fresh state may lag for what was withdrawn; what was just given works at once, on every
// node; and without a quorum known credentials still pull, while a no is never guessed.
#[tokio::test]
async fn fresh_reads() {
    let house = House::new().await;
    let old = house.user("old", &["read:a"]).await;
    house.memory().lag();
    let fresh = |headers: HeaderMap| {
        let auth = house.auth.clone();
        async move {
            let a = name("a");
            let evidence = evidence(&headers);
            let answer = auth.authorize(&evidence, Freshness::Fresh, Action::Pull, RegistryId::DEFAULT, &a);
            answer.await.and_then(|(_, decided)| decided.map(|_| ()))
        }
    };
    assert_eq!(fresh(old.clone()).await, Ok(()));
    let new = house.user("new", &["read:a"]).await;
    house.memory().lag();
    let token = house.token(&new, "repository:a:pull").await;
    for headers in [&new, &token] {
        assert_eq!(fresh(headers.clone()).await, Ok(()));
    }
    house.memory().quorum(false);
    assert_eq!(fresh(old.clone()).await, Ok(()));
    let unavailable = Err(Refused::Refusal(Refusal::Unavailable { retry_after_ms: 1000 }));
    assert_eq!(fresh(basic("PTLNNOSUCHKEY0000000", "x")).await, unavailable);
    assert_eq!(house.caller(&old).await.map(|_| ()), unavailable);
    house.memory().quorum(true);
    assert_eq!(house.caller(&old).await.map(|_| ()), Ok(()));
}

// T7: an unknown key, a wrong secret, a disabled user and a malformed credential get the same answer.
#[tokio::test]
async fn t7_one_answer() {
    let house = House::new().await;
    let who = house.user("ann", &[]).await;
    let key_id = house.caller(&who).await.unwrap().key_id().unwrap().to_owned();
    let disabled = house.user("bob", &[]).await;
    house.auth.set_user_enabled(&house.root().await, "bob", false).await.unwrap();
    let want = house.caller(&basic(&key_id, "wrong")).await.unwrap_err();
    for bad in
        [basic("PTLNNOSUCHKEY0000000", "wrong"), basic("ann", "wrong"), disabled, bearer("x"), headers("Basic".into())]
    {
        assert_eq!(house.caller(&bad).await.unwrap_err(), want);
    }
}

// T7: unknown key ids cost what known ones cost, within noise.
#[tokio::test]
async fn t7_one_price() {
    let house = House::new().await;
    let who = house.user("ann", &[]).await;
    let key_id = house.caller(&who).await.unwrap().key_id().unwrap().to_owned();
    let identities = house.auth.0.state.peek(|tables, _| house.auth.0.latest.at(&tables, Lineage(1))).unwrap();
    let time = |key_id: &str| {
        house.auth.0.state.peek(|tables, _| {
            let begun = std::time::Instant::now();
            for _ in 0..200 {
                assert!(
                    identities.verify_key(&tables, key_id, "wrong-secret-wrong-secret-wrong-secret", NOW_MS).is_err()
                );
            }
            begun.elapsed()
        })
    };
    let fastest = |key_id: &str| (0..50).map(|_| time(key_id)).min().unwrap();
    let (known, unknown) = (fastest(&key_id), fastest("PTLNNOSUCHKEY0000000"));
    let ratio = known.as_secs_f64() / unknown.as_secs_f64();
    assert!((0.5..2.0).contains(&ratio), "known {known:?}, unknown {unknown:?}");
}

// T8: guessing slows the guesser down, not the owner, and nobody is locked out.
#[tokio::test]
async fn t8_guessing() {
    let house = House::new().await;
    let who = house.user("ann", &[]).await;
    let key_id = house.caller(&who).await.unwrap().key_id().unwrap().to_owned();
    let stranger: IpAddr = "192.0.2.1".parse().unwrap();
    let wrong = basic(&key_id, "wrong");
    let from_stranger = async |headers: &HeaderMap| {
        let evidence = Evidence { headers, address: stranger, secure: true };
        house.auth.authenticate(&evidence, Freshness::Linearizable).await
    };
    let begun = std::time::Instant::now();
    for _ in 0..GUESSES_FREE + 3 {
        assert!(is_unauthenticated(&from_stranger(&wrong).await));
    }
    assert!(begun.elapsed().as_millis() >= u128::from(GUESS_DELAY_MS) * 3, "{:?}", begun.elapsed());
    let delay_ms = |address| house.auth.0.guesses.delay_ms(&key_id, address, house.clock.monotonic_ms());
    assert_eq!(delay_ms(HERE), 0);
    assert!(delay_ms(stranger) > 0);
    assert!(house.caller(&who).await.is_ok());
    // the right secret works from the guesser's address too: late, but it works, and from then on without delay
    assert!(from_stranger(&who).await.is_ok());
    assert_eq!(delay_ms(stranger), 0);
    // an owner who mistypes is trusted again with the next success, also within the same minute
    assert!(is_unauthenticated(&from_stranger(&wrong).await));
    assert!(delay_ms(stranger) > 0);
    assert!(from_stranger(&who).await.is_ok());
    assert_eq!(delay_ms(stranger), 0);
}

// A14, A23, T11: what administrators may do, what nobody may, and what no answer shows.
#[tokio::test]
async fn administration() {
    let house = House::new().await;
    let root = house.root().await;
    let ann = house.caller(&house.user("ann", &["read,append,write,delete,create:*"]).await).await.unwrap();
    let denied = |refused: Refused| matches!(refused, Refused::Refusal(Refusal::Denied { .. }));
    assert!(denied(house.auth.users(&ann).await.unwrap_err()));
    assert!(denied(house.auth.create_user(&ann, "eve").await.unwrap_err()));
    assert!(denied(house.auth.create_key(&ann, "root", None).await.unwrap_err()));
    assert!(denied(house.auth.put_grants(&ann, "ann", &[]).await.unwrap_err()));
    let refusal = |refused: Refused| match refused {
        Refused::Refusal(refusal) => refusal,
        Refused::Unauthenticated(challenge) => panic!("{challenge:?}"),
    };
    let last = Refusal::LastAdministrator;
    assert_eq!(refusal(house.auth.delete_user(&root, "root").await.unwrap_err()), last);
    assert_eq!(refusal(house.auth.set_user_enabled(&root, "root", false).await.unwrap_err()), last);
    let own = root.key_id().unwrap();
    for answer in
        [house.auth.delete_key(&root, "root", own).await, house.auth.set_key_enabled(&root, "root", own, false).await]
    {
        assert!(matches!(refusal(answer.unwrap_err()), Refusal::ParameterInvalid { .. }));
    }
    let bad = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"ecr:Fly","Resource":"*"}}"#;
    let answer = house.auth.put_policy(&root, "ann", "p", bad).await.unwrap_err();
    assert!(matches!(refusal(answer), Refusal::PolicyInvalid { .. }));
    let missing = house.auth.set_user_enabled(&root, "nobody", true).await.unwrap_err();
    assert!(matches!(refusal(missing), Refusal::PrincipalUnknown { .. }));
    let key = house.auth.create_key(&root, "ann", None).await.unwrap();
    let listed = house.auth.keys(&root, "ann").await.unwrap();
    assert_eq!(listed.len(), 2);
    assert!(!format!("{listed:?} {key:?}").contains(key.secret.expose().as_str()));
    // a deleted key is not made anew by a late "enable"
    house.auth.delete_key(&root, "ann", &key.key_id).await.unwrap();
    assert!(house.auth.set_key_enabled(&root, "ann", &key.key_id, true).await.is_err());
}

// "explain" names the statement that decides.
#[tokio::test]
async fn explains() {
    let house = House::new().await;
    let root = house.root().await;
    let ann = house.user("ann", &["read:team/*"]).await;
    let explain = async |who: &str, action, repository: &str| {
        let answer = house.auth.explain(&root, who, action, Some(&name(repository)), None).await.unwrap();
        (answer.allowed, answer.reason)
    };
    let (allowed, reason) = explain("ann", policy::Action::BatchGetImage, "team/a").await;
    assert!(allowed && reason.contains("read:team/*") && reason.contains("grants"), "{reason}");
    let (allowed, reason) = explain("ann", policy::Action::PutImage, "team/a").await;
    assert!(!allowed && reason.contains("no identity-based policy"), "{reason}");
    assert!(explain("root", policy::Action::DeleteRepository, "x").await.0);
    let ann = house.caller(&ann).await.unwrap();
    assert!(house.auth.explain(&ann, "root", policy::Action::PutImage, None, None).await.is_err());
}

// A23: conditions on the request are judged at each request and never answered from what was kept for another one.
#[tokio::test]
async fn conditions_are_not_kept() {
    let house = House::new().await;
    let who = house.user("ann", &[]).await;
    let inside = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"ecr:*","Resource":"*",
        "Condition":{"IpAddress":{"aws:SourceIp":"10.0.0.0/8"},"Bool":{"aws:SecureTransport":"true"}}}}"#;
    house.auth.put_policy(&house.root().await, "ann", "inside", inside).await.unwrap();
    for (address, secure, want) in
        [("10.1.1.1", true, true), ("192.0.2.1", true, false), ("10.1.1.1", false, false), ("10.1.1.1", true, true)]
    {
        let evidence = Evidence { headers: &who, address: address.parse().unwrap(), secure };
        let caller = house.auth.authenticate(&evidence, Freshness::Linearizable).await.unwrap();
        let answer = house.auth.permit(&caller, Action::Pull, RegistryId::DEFAULT, &name("a"));
        assert_eq!(answer.is_ok(), want, "{address} {secure}");
    }
}

// Before `cluster init` nobody is anybody.
#[tokio::test]
async fn before_init() {
    let clock = Arc::new(ManualClock::at(NOW_MS));
    let auth = Auth::over(State::Memory(Memory::default()), clock, Settings::default());
    for headers in [HeaderMap::new(), basic("a", "b"), bearer("c")] {
        let answer = auth.authenticate(&evidence(&headers), Freshness::Fresh).await;
        assert!(matches!(answer, Err(Refused::Refusal(Refusal::Unavailable { .. }))), "{answer:?}");
    }
    assert!(auth.bootstrap(None).await.is_err());
}
