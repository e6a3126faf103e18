//! Who asks: users of the shared cluster with their keys and tokens, and what its audit says of a request.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU16, Ordering};

use reqwest::Client;
use serde_json::json;

use super::repo::Repo;
use crate::support::Cluster;
use crate::support::http::{self, Answer, Request};

/// A user of the shared cluster.
#[derive(Clone)]
pub(crate) struct Person {
    pub(crate) name: String,
    /// `ID:SECRET`
    pub(crate) key: String,
}

/// A request to the admin listener of the shared cluster's first node, by its root user.
pub(crate) fn admin(method: &str, path: &str) -> Request {
    as_admin(method, path).key(&Cluster::shared().key())
}

/// The same without a credential.
pub(crate) fn as_admin(method: &str, path: &str) -> Request {
    http::request(method, &format!("{}{path}", Cluster::shared().admin(1)))
}

/// Sends a JSON document.
pub(crate) fn json_to(request: Request, document: &serde_json::Value) -> Answer {
    request.header("Content-Type", "application/json").body(document.to_string()).send()
}

/// A change by the root user that must be made.
pub(crate) fn changed(method: &str, path: &str, document: &serde_json::Value) -> Answer {
    let answer = json_to(admin(method, path), document);
    assert!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.text());
    answer
}

impl Person {
    /// Makes a user with these grants, each as `read,write:team/*`, and a key. Names belong to one test.
    pub(crate) fn new(name: &str, grants: &[&str]) -> Person {
        changed("POST", "/v1/users", &json!({ "name": name }));
        let person = Person { name: name.to_owned(), key: String::new() };
        person.grant(grants);
        Person { key: person.another_key(&json!({})), ..person }
    }

    /// Gives exactly these grants.
    pub(crate) fn grant(&self, grants: &[&str]) {
        if grants.is_empty() {
            // There may be none to take away.
            drop(json_to(admin("PUT", &self.path("/grants")), &json!({ "grants": [] })));
        } else {
            changed("PUT", &self.path("/grants"), &json!({ "grants": grants }));
        }
    }

    /// A further key, as `ID:SECRET`.
    pub(crate) fn another_key(&self, wish: &serde_json::Value) -> String {
        let made = changed("POST", &self.path("/keys"), wish).json();
        format!("{}:{}", made["key_id"].as_str().unwrap(), made["secret"].as_str().unwrap())
    }

    /// A path below the user on the admin listener.
    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/v1/users/{}{rest}", self.name)
    }

    /// The id of its key.
    pub(crate) fn key_id(&self) -> &str {
        self.key.split_once(':').unwrap().0
    }

    /// A repository as this user reaches it.
    pub(crate) fn repo(&self, name: &str) -> Repo {
        Repo { base: Cluster::shared().node(1), key: self.key.clone(), name: name.to_owned() }
    }

    /// A token of the token service for these scopes, parted by blanks.
    pub(crate) fn token(&self, scopes: &str) -> String {
        token(&self.key, scopes)
    }
}

/// A token for a key.
pub(crate) fn token(key: &str, scopes: &str) -> String {
    let url = format!("{}/v2/token?service=portolan&scope={}", Cluster::shared().node(1), scopes.replace(' ', "%20"));
    let answer = http::request("GET", &url).key(key).send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["token"].as_str().unwrap().to_owned()
}

/// The line with which a token is sent.
pub(crate) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// An address that nobody else of this run uses: what fails from it slows nobody else down.
pub(crate) fn new_address() -> IpAddr {
    static LAST: AtomicU16 = AtomicU16::new(0);
    let [high, low] = (LAST.fetch_add(1, Ordering::Relaxed) + 1).to_be_bytes();
    IpAddr::from([127, 181, high, low])
}

/// A client at an address of its own.
pub(crate) struct Stranger {
    pub(crate) address: IpAddr,
    client: Client,
}

impl Stranger {
    pub(crate) fn new() -> Stranger {
        let address = new_address();
        Stranger { address, client: http::client_at(address) }
    }

    /// Sends a request with this `Authorization`, if any.
    pub(crate) fn get(&self, url: &str, authorization: Option<&str>) -> Answer {
        let mut request = http::request("GET", url);
        if let Some(authorization) = authorization {
            request = request.header("Authorization", authorization);
        }
        request.try_send_by(&self.client).unwrap_or_else(|error| panic!("{url}: {error:?}"))
    }

    /// Asks who it is with a key, as `docker login` does: the status.
    pub(crate) fn login(&self, user: &str, password: &str) -> u16 {
        self.log_in(user, password).status
    }

    /// The same: the whole answer.
    pub(crate) fn log_in(&self, user: &str, password: &str) -> Answer {
        let text = data_encoding::BASE64.encode(format!("{user}:{password}").as_bytes());
        self.get(&format!("{}/v2/", Cluster::shared().node(1)), Some(&format!("Basic {text}")))
    }
}

/// A record of the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) action: String,
    pub(crate) result: String,
    pub(crate) principal: String,
    pub(crate) resource: String,
}

/// What the audit of the shared cluster says of the request that was answered so.
pub(crate) fn audit_of(answer: &Answer) -> Vec<Record> {
    let id = answer.header("x-request-id");
    assert!(!id.is_empty(), "every answer carries the id of its request");
    let mark = format!(" request_id=\"{id}\"");
    let logs: Vec<String> = (1..=3).map(log_of).collect();
    let lines = logs.iter().flat_map(|log| log.lines()).filter(|line| line.contains(&mark));
    let field = |line: &str, name: &str| {
        let rest = line.split_once(&format!(" {name}=\"")).map_or("", |(_, rest)| rest);
        rest.split('"').next().unwrap_or_default().to_owned()
    };
    let record = |line: &str| Record {
        action: field(line, "action"),
        result: field(line, "result"),
        principal: field(line, "principal"),
        resource: field(line, "resource"),
    };
    lines.map(record).collect()
}

/// The log of a node of the shared cluster, where its audit goes as well.
pub(crate) fn log_of(node: u8) -> String {
    let path = Cluster::shared().node_dir(node).join("node.log");
    String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()
}
