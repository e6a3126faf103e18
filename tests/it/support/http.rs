//! Requests as a client sends them, one blocking call each.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use reqwest::header::HeaderMap;
use reqwest::{Client, ClientBuilder, Method};

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// A header's text; empty when it is absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The body as text, for messages of failed tests.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The code of the first error of an OCI error body; empty when there is none.
    pub(crate) fn code(&self) -> String {
        let document: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        document.pointer("/errors/0/code").and_then(|code| code.as_str()).unwrap_or_default().to_owned()
    }
}

/// A request under construction.
#[derive(Clone)]
pub(crate) struct Request {
    method: Method,
    url: String,
    key: Option<(String, String)>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// Begins a request: `http::request("PUT", &url).key(&key).header("Content-Type", "…").body(bytes).send()`.
pub(crate) fn request(method: &str, url: &str) -> Request {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    Request { method, url: url.to_owned(), key: None, headers: Vec::new(), body: Vec::new() }
}

impl Request {
    /// Basic credentials, as `ID:SECRET`.
    pub(crate) fn key(mut self, key: &str) -> Request {
        let (id, secret) = key.split_once(':').unwrap();
        self.key = Some((id.to_owned(), secret.to_owned()));
        self
    }

    /// A header; may be called again for the same name.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The body.
    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Request {
        self.body = body.into();
        self
    }

    /// Sends it; redirects are not followed. An error of the connection is `Err`.
    pub(crate) fn try_send(self) -> Result<Answer, reqwest::Error> {
        self.try_send_by(client())
    }

    /// The same by another client than the shared one.
    pub(crate) fn try_send_by(self, client: &Client) -> Result<Answer, reqwest::Error> {
        let mut request = client.request(self.method, self.url).body(self.body);
        if let Some((id, secret)) = self.key {
            request = request.basic_auth(id, Some(secret));
        }
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        block_on(async {
            let answer = request.send().await?;
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            Ok(Answer { status, headers, body: answer.bytes().await?.to_vec() })
        })
    }

    /// Sends it until the answer is another one than 503: as clients do on a machine so busy that leaders change.
    pub(crate) fn settled(self) -> Answer {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let answer = self.clone().send();
            if answer.status != 503 || Instant::now() > until {
                return answer;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Sends it and expects an answer.
    pub(crate) fn send(self) -> Answer {
        let what = format!("{} {}", self.method, self.url);
        self.try_send().unwrap_or_else(|error| panic!("{what}: {error:?}"))
    }
}

/// Runs a future to its end.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    runtime().block_on(future)
}

/// A client whose connections come from this address.
pub(crate) fn client_at(address: IpAddr) -> Client {
    builder().local_address(address).build().unwrap()
}

/// A GET without a credential, where the connection may fail.
pub(crate) fn get(url: &str) -> Result<Answer, reqwest::Error> {
    request("GET", url).try_send()
}

fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap())
}

fn client() -> &'static Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    CLIENT.get_or_init(|| builder().build().unwrap())
}

fn builder() -> ClientBuilder {
    portolan::ground::tls::install_provider();
    Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(Duration::from_secs(60)).no_proxy()
}
