//! Requests to a node: bounded in time and size, no redirects, no proxies, credentials to this one node only.

use std::path::Path;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;

use super::connection::{ConnectionArguments, Credential, Endpoint};
use super::error::CliError;
use super::output::safe;

/// How long a node may take for an answer.
const TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Kept as they are in a path; the slash as well, for names of repositories.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// A name as part of a path.
pub(super) fn path(name: &str) -> String {
    utf8_percent_encode(name, PATH).to_string()
}

/// A name as one part of a path, or a value of a query.
pub(super) fn part(name: &str) -> String {
    path(name).replace('/', "%2F")
}

/// Talks to one listener of a node.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    credential: Option<Credential>,
    /// The flag that names another node.
    flag: &'static str,
    /// For answers that take longer than [`TIMEOUT`].
    patience: Option<Duration>,
}

/// What a node answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Client {
    /// To the admin listener, with the credential given.
    pub(super) fn admin(arguments: &ConnectionArguments) -> Result<Client, CliError> {
        Client::new(&arguments.admin()?, arguments.credential()?)
    }

    /// To the public listener given or configured, with the credential given.
    pub(super) fn registry(arguments: &ConnectionArguments, given: Option<&str>) -> Result<Client, CliError> {
        let client = Client::new(&arguments.registry(given)?, arguments.credential()?)?;
        Ok(Client { flag: "--registry", ..client })
    }

    pub(super) fn new(endpoint: &Endpoint, credential: Option<Credential>) -> Result<Client, CliError> {
        let mut builder = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        let is_tls = endpoint.base.starts_with("https://");
        if let Some(ca) = endpoint.ca.as_deref().filter(|_| is_tls) {
            builder = builder.tls_certs_only(certificates(ca)?);
        } else if !is_tls {
            // The system's authorities are not needed, and a minimal container has none.
            builder = builder.tls_certs_only([]);
        } else if let Some(ca) = endpoint.also_ca.as_deref() {
            builder = builder.tls_certs_merge(certificates(ca)?);
        }
        if let Some((cert, key)) = &endpoint.client {
            builder = builder.identity(identity(cert, key)?);
        }
        if let (Some(at), Ok(url)) = (endpoint.at, reqwest::Url::parse(&endpoint.base)) {
            builder = builder.resolve(url.host_str().unwrap_or_default(), at);
        }
        let http = builder.build().map_err(|error| CliError::failed(causes(&error)))?;
        Ok(Client { http, base: endpoint.base.clone(), credential, flag: "--admin", patience: None })
    }

    /// The same, waiting longer for each answer.
    pub(super) fn patient(self, patience: Duration) -> Client {
        Client { patience: Some(patience), ..self }
    }

    /// Sends a request; any status is an answer.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Option<&Value>,
    ) -> Result<Answer, CliError> {
        let request = self.request(method, path, headers);
        self.answer(if let Some(body) = body { request.json(body) } else { request }).await
    }

    /// The same, with a body that is not ours to write anew.
    pub(super) async fn send_bytes(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Vec<u8>,
    ) -> Result<Answer, CliError> {
        self.answer(self.request(method, path, headers).body(body)).await
    }

    fn request(&self, method: Method, path: &str, headers: HeaderMap) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base)).headers(headers);
        match &self.credential {
            Some(Credential { key_id, secret }) => request.basic_auth(key_id, Some(secret.expose())),
            None => request,
        }
    }

    async fn answer(&self, mut request: RequestBuilder) -> Result<Answer, CliError> {
        if let Some(patience) = self.patience {
            request = request.timeout(patience);
        }
        let mut response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_BYTES_MAX {
                return Err(CliError::failed(format!("{} answers with too much", self.base)));
            }
        }
        Ok(Answer { status, headers, body })
    }

    /// Asks for a document; `Null` for an empty answer.
    ///
    /// Errors carry the node's own words.
    pub(super) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, CliError> {
        let answer = self.send(method, path, HeaderMap::new(), body).await?;
        if !answer.status.is_success() {
            return Err(self.refused(&answer));
        }
        if answer.body.is_empty() {
            return Ok(Value::Null);
        }
        let parsed = serde_json::from_slice(&answer.body);
        parsed
            .map_err(|error| CliError::failed(format!("{} answers with something else than JSON: {error}", self.base)))
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, CliError> {
        self.call(Method::GET, path, None).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, CliError> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// The sentence for a refusal.
    pub(super) fn refused(&self, answer: &Answer) -> CliError {
        let status = answer.status;
        let text = message(&answer.body).unwrap_or_else(|| format!("{} answers {status}", self.base));
        let hint = match (status, &self.credential) {
            (StatusCode::UNAUTHORIZED, None) => {
                "; give an access key with --credentials-file, or --access-key-id and --password-stdin".to_owned()
            }
            (StatusCode::UNAUTHORIZED, Some(_)) => {
                "; the access key given is not accepted: check id and secret".to_owned()
            }
            (StatusCode::SERVICE_UNAVAILABLE, _) => format!("; try again, or ask another node with {}", self.flag),
            (_, _) => String::new(),
        };
        CliError::failed(format!("{text}{hint}"))
    }

    fn unreachable(&self, error: &reqwest::Error) -> CliError {
        let (base, flag) = (&self.base, self.flag);
        if error.is_timeout() {
            return CliError::failed(format!("{base} does not answer; try again, or ask another node with {flag}"));
        }
        let cause = causes(error);
        let hint = hint(base, &cause, flag);
        CliError::failed(format!("{base} can't be reached ({cause}); {hint}"))
    }
}

/// The words of a refusal: `{"error":{"message"}}` of the admin API, `{"errors":[{"message"}]}` of the registry.
fn message(body: &[u8]) -> Option<String> {
    let document: Value = serde_json::from_slice(body).ok()?;
    let error = document.get("error").or_else(|| document.get("errors")?.get(0))?;
    let text = error.get("message")?.as_str().filter(|text| !text.is_empty());
    text.or_else(|| error.get("code")?.as_str()).map(safe)
}

/// What to do about a connection that did not come about, or spoke of something else.
fn hint(base: &str, cause: &str, flag: &str) -> String {
    let is_secure = base.starts_with("https://");
    if is_secure && cause.contains("invalid peer certificate") {
        return "name the authority of its certificate with --ca, and the node as its certificate does".to_owned();
    }
    // A TLS client that gets plain words, or a plain one that gets a TLS alert, sees nonsense.
    let is_nonsense = ["corrupt message", "invalid HTTP", "unexpected message", "connection closed before message"];
    if is_nonsense.iter().any(|words| cause.contains(words)) {
        let other = if is_secure { "http://" } else { "https://" };
        return format!("is this a listener of that kind? try {other} in front of it, or another port with {flag}");
    }
    format!("is the node running, and is this its address? name another with {flag}")
}

/// The innermost causes say what happened; the outer ones only where.
fn causes(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn certificates(path: &Path) -> Result<Vec<reqwest::Certificate>, CliError> {
    let told = |problem: String| CliError::usage(format!("{}: {problem}", path.display()));
    let pem = std::fs::read(path).map_err(|error| told(error.to_string()))?;
    reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| told(causes(&error)))
}

fn identity(cert: &Path, key: &Path) -> Result<reqwest::Identity, CliError> {
    let read =
        |path: &Path| std::fs::read(path).map_err(|error| CliError::usage(format!("{}: {error}", path.display())));
    let mut pem = read(cert)?;
    pem.push(b'\n');
    pem.extend(read(key)?);
    let told = |error| CliError::usage(format!("{} and its key can't be used: {}", cert.display(), causes(&error)));
    reqwest::Identity::from_pem(&pem).map_err(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    // A name goes into a path without leaving it.
    #[test]
    fn paths() {
        assert_eq!(path("team/app"), "team/app");
        assert_eq!(path("a?b#c d\u{e9}%"), "a%3Fb%23c%20d%C3%A9%25");
        assert_eq!(part("team/../x"), "team%2F..%2Fx");
    }

    // The node's own words are told, whichever API speaks, made harmless.
    #[test]
    fn words() {
        let table = [
            (r#"{"error":{"code":"denied","message":"no \u001b[2J"}}"#, Some("no \\u{1b}[2J")),
            (r#"{"errors":[{"code":"NAME_UNKNOWN","message":""}]}"#, Some("NAME_UNKNOWN")),
            (r#"{"errors":[]}"#, None),
            ("<html>", None),
        ];
        for (body, expected) in table {
            assert_eq!(message(body.as_bytes()).as_deref(), expected, "{body}");
        }
    }

    // A node that is not there is told with what to do.
    #[tokio::test]
    async fn nobody_there() {
        crate::ground::tls::install_provider();
        let endpoint = Endpoint { base: "http://127.0.0.1:1".into(), at: None, ca: None, also_ca: None, client: None };
        let told = Client::new(&endpoint, None).unwrap().get("/livez").await.unwrap_err().to_string();
        assert!(told.starts_with("http://127.0.0.1:1 can't be reached") && told.contains("--admin"), "{told}");
    }
}
