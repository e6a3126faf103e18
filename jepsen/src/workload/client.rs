//! A registry client with the habits of the stock ones: looks before it pushes, repeats what failed for a while at most
//! three times with growing pauses, and never repeats what was refused for good.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue, LOCATION, RANGE, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Url};

use super::image::{Blob, Image, sha256};
use crate::fault::{Fault, told};
use crate::history::Certainty;

/// Repeats of one step after the first try.
pub(crate) const REPEATS_MAX: u32 = 3;
/// Pause before the first repeat; each further one is three times as long, as crane does it.
const PAUSE: Duration = Duration::from_secs(1);
/// How long one request may take.
pub(crate) const REQUEST_MAX: Duration = Duration::from_secs(30);
/// How long one request of a client that talks to nodes directly may take: a node that hangs is left for another one.
pub(crate) const DIRECT_MAX: Duration = Duration::from_secs(10);
/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Log index an answer was read or committed at, behind the lineage.
const REVISION: HeaderName = HeaderName::from_static("portolan-revision");
const CONSISTENCY: HeaderName = HeaderName::from_static("x-consistency");
/// What an image manifest is.
pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// A client without redirects, proxies and authorities: everything is on loopback.
pub(crate) fn http(timeout: Duration) -> Result<reqwest::Client, Fault> {
    // the library wants one also where nothing is encrypted
    let _is_first = rustls::crypto::ring::default_provider().install_default().is_ok();
    let builder = reqwest::Client::builder().timeout(timeout).connect_timeout(timeout);
    let builder = builder.redirect(reqwest::redirect::Policy::none()).no_proxy().http1_only().tcp_nodelay(true);
    builder.tls_certs_only([]).build().map_err(told("no HTTP client"))
}

/// Asks for the newest state also where a digest is read.
pub(crate) fn newest() -> (HeaderName, String) {
    (CONSISTENCY, "linearizable".to_owned())
}

/// An access key.
#[derive(Clone)]
pub(crate) struct Credential {
    id: String,
    secret: String,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Credential({})", self.id)
    }
}

impl Credential {
    /// From `ID:SECRET`.
    pub(crate) fn parse(key: &str) -> Result<Credential, Fault> {
        let (id, secret) = key.split_once(':').ok_or_else(|| Fault::new("an access key is ID:SECRET"))?;
        Ok(Credential { id: id.to_owned(), secret: secret.to_owned() })
    }

    /// A request in its name.
    pub(crate) fn sign(&self, request: RequestBuilder) -> RequestBuilder {
        request.basic_auth(&self.id, Some(&self.secret))
    }
}

/// What a server answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: HeaderMap,
    pub(crate) body: Bytes,
    url: Url,
}

impl Answer {
    /// Log index it was read or committed at.
    pub(crate) fn rev(&self) -> Option<u64> {
        self.headers.get(REVISION)?.to_str().ok()?.rsplit_once('.')?.1.parse().ok()
    }

    /// A header, if it is there and text.
    pub(crate) fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Where an upload goes on.
    pub(crate) fn location(&self) -> Result<Url, Trouble> {
        let location = self.headers.get(LOCATION).and_then(|value| value.to_str().ok());
        let url = location.and_then(|location| self.url.join(location).ok());
        url.ok_or_else(|| Trouble::broken(self, "no usable Location"))
    }

    /// How many bytes of an upload the registry has; it says the same for none and for one.
    pub(crate) fn received(&self) -> Result<u64, Trouble> {
        let range = self.headers.get(RANGE).and_then(|value| value.to_str().ok());
        let last: Option<u64> = range.and_then(|range| range.strip_prefix("0-")?.parse().ok());
        let last = last.ok_or_else(|| Trouble::broken(self, "no usable Range"))?;
        Ok(if last == 0 { 0 } else { last + 1 })
    }
}

/// Why a request came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Worth a repeat: no connection, a broken one, 408, 429, 5xx.
    Passing {
        /// For people.
        text: String,
        /// Whether the server may have acted.
        certainty: Certainty,
        /// How long the server asks to wait.
        after: Option<Duration>,
    },
    /// Refused for good, or an answer that makes no sense.
    Final {
        /// For people.
        text: String,
        /// Whether the server may have acted.
        certainty: Certainty,
    },
}

impl Trouble {
    fn of_error(error: &reqwest::Error) -> Trouble {
        // only a connection that was never made proves that nothing was done
        let certainty = if error.is_connect() { Certainty::Never } else { Certainty::Unknown };
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(inner) = cause {
            text = format!("{text}: {inner}");
            cause = inner.source();
        }
        Trouble::Passing { text, certainty, after: None }
    }

    /// An answer that was not hoped for.
    pub(crate) fn of_answer(answer: &Answer) -> Trouble {
        let body = String::from_utf8_lossy(&answer.body[..answer.body.len().min(300)]).into_owned();
        let text = format!("{} {} {body}", answer.status, answer.url.path().get(..60).unwrap_or(answer.url.path()));
        match answer.status {
            408 | 429 | 500..=599 => {
                let after = answer.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
                Trouble::Passing { text, certainty: Certainty::Unknown, after: after.map(Duration::from_secs) }
            }
            400..=499 => Trouble::Final { text, certainty: Certainty::Never },
            _ => Trouble::Final { text, certainty: Certainty::Unknown },
        }
    }

    fn broken(answer: &Answer, what: &str) -> Trouble {
        Trouble::Final { text: format!("{} with {what}", answer.status), certainty: Certainty::Unknown }
    }

    /// Bytes that are not what they should be.
    pub(crate) fn wrong(text: String) -> Trouble {
        Trouble::Final { text, certainty: Certainty::Unknown }
    }

    /// For the history: the text and whether it may have happened.
    pub(crate) fn into_error(self) -> (String, Certainty) {
        match self {
            Trouble::Passing { text, certainty, .. } | Trouble::Final { text, certainty } => (text, certainty),
        }
    }
}

/// A step after its repeats.
#[derive(Debug)]
pub(crate) struct Tried<T> {
    /// What came of it.
    pub(crate) result: Result<T, Trouble>,
    /// Tries, the first included.
    pub(crate) tries: u32,
    /// What was wrong with the tries that were repeated.
    pub(crate) troubles: Vec<String>,
}

/// Runs a step, and repeats it as the stock clients do.
pub(crate) async fn repeated<T, F>(mut step: impl FnMut() -> F) -> Tried<T>
where
    F: Future<Output = Result<T, Trouble>>,
{
    let (mut tries, mut pause, mut troubles) = (1, PAUSE, Vec::new());
    // once a try may have acted, a later certain refusal says nothing about that one
    let mut may_have_acted = false;
    loop {
        let trouble = match step().await {
            Ok(value) => return Tried { result: Ok(value), tries, troubles },
            Err(trouble) => trouble,
        };
        let (text, certainty) = trouble.clone().into_error();
        may_have_acted |= certainty == Certainty::Unknown;
        let after = match &trouble {
            Trouble::Passing { after, .. } if tries <= REPEATS_MAX => *after,
            Trouble::Passing { .. } | Trouble::Final { .. } => {
                let certainty = if may_have_acted { Certainty::Unknown } else { Certainty::Never };
                return Tried { result: Err(Trouble::Final { text, certainty }), tries, troubles };
            }
        };
        troubles.push(text);
        tokio::time::sleep(pause.max(after.unwrap_or_default())).await;
        (tries, pause) = (tries + 1, pause * 3);
    }
}

/// Talks to one address.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    credential: Credential,
}

impl Client {
    /// To `base` (`host:port`), with connections of its own.
    pub(crate) fn new(base: std::net::SocketAddr, credential: &Credential) -> Result<Client, Fault> {
        Ok(Client { http: http(REQUEST_MAX)?, base: Client::base(base)?, credential: credential.clone() })
    }

    /// To `base`, with connections of its own and little patience.
    pub(crate) fn direct(base: std::net::SocketAddr, credential: &Credential) -> Result<Client, Fault> {
        Ok(Client { http: http(DIRECT_MAX)?, base: Client::base(base)?, credential: credential.clone() })
    }

    /// The same client, its connections included, towards another address.
    pub(crate) fn towards(&self, base: std::net::SocketAddr) -> Result<Client, Fault> {
        Ok(Client { base: Client::base(base)?, ..self.clone() })
    }

    fn base(address: std::net::SocketAddr) -> Result<Url, Fault> {
        Url::parse(&format!("http://{address}")).map_err(told("an address"))
    }

    /// A path of this address.
    pub(crate) fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(path);
        url
    }

    /// Sends one request; any status is an answer.
    pub(crate) async fn send(
        &self,
        method: Method,
        url: Url,
        headers: &[(HeaderName, String)],
        body: Bytes,
    ) -> Result<Answer, Trouble> {
        let mut request = self.credential.sign(self.http.request(method, url));
        for (name, value) in headers {
            let value = HeaderValue::try_from(value).map_err(|error| Trouble::wrong(error.to_string()))?;
            request = request.header(name, value);
        }
        let mut response = request.body(body).send().await.map_err(|error| Trouble::of_error(&error))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let url = response.url().clone();
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|error| Trouble::of_error(&error))? {
            body.extend_from_slice(&part);
            if body.len() > ANSWER_BYTES_MAX {
                return Err(Trouble::wrong("the answer has no end".to_owned()));
            }
        }
        Ok(Answer { status, headers, body: body.into(), url })
    }

    /// Sends a request whose only good answer is `wanted`.
    pub(crate) async fn expect(
        &self,
        wanted: u16,
        method: Method,
        url: Url,
        headers: &[(HeaderName, String)],
        body: Bytes,
    ) -> Result<Answer, Trouble> {
        let answer = self.send(method, url, headers, body).await?;
        if answer.status == wanted { Ok(answer) } else { Err(Trouble::of_answer(&answer)) }
    }

    /// Pushes a blob unless it is there: one try.
    pub(crate) async fn put_blob(&self, repository: &str, blob: &Blob) -> Result<Option<u64>, Trouble> {
        match self.find_blob(repository, &blob.digest).await? {
            Some(found) => Ok(found.rev()),
            None => self.send_blob(repository, blob).await,
        }
    }

    /// Whether a blob is there, and the answer that says so.
    pub(crate) async fn find_blob(&self, repository: &str, digest: &str) -> Result<Option<Answer>, Trouble> {
        let there = self.url(&format!("/v2/{repository}/blobs/{digest}"));
        let looked = self.send(Method::HEAD, there, &[], Bytes::new()).await?;
        match looked.status {
            200 => Ok(Some(looked)),
            404 => Ok(None),
            _ => Err(Trouble::of_answer(&looked)),
        }
    }

    /// Pushes a blob that is not there: one try.
    pub(crate) async fn send_blob(&self, repository: &str, blob: &Blob) -> Result<Option<u64>, Trouble> {
        let mut begin = self.url(&format!("/v2/{repository}/blobs/uploads/"));
        let octets = [(reqwest::header::CONTENT_TYPE, "application/octet-stream".to_owned())];
        let done = match blob.way {
            Way::Whole => {
                begin.query_pairs_mut().append_pair("digest", &blob.digest);
                self.expect(201, Method::POST, begin, &octets, blob.bytes.clone()).await?
            }
            Way::BeginAndPut => {
                let begun = self.expect(202, Method::POST, begin, &[], Bytes::new()).await?;
                self.finish(begun.location()?, blob, blob.bytes.clone()).await?
            }
            Way::Stream => {
                let begun = self.expect(202, Method::POST, begin, &[], Bytes::new()).await?;
                let appended = self.expect(202, Method::PATCH, begun.location()?, &octets, blob.bytes.clone()).await?;
                self.finish(appended.location()?, blob, Bytes::new()).await?
            }
        };
        Ok(done.rev())
    }

    /// Sends `body` as the end of an upload, and closes it as `blob`.
    pub(crate) async fn finish(&self, mut location: Url, blob: &Blob, body: Bytes) -> Result<Answer, Trouble> {
        location.query_pairs_mut().append_pair("digest", &blob.digest);
        self.expect(201, Method::PUT, location, &[], body).await
    }

    /// Pushes a manifest under its tag: one try.
    pub(crate) async fn put_manifest(&self, image: &Image) -> Result<Option<u64>, Trouble> {
        let url = self.url(&format!("/v2/{}/manifests/{}", image.repository, image.tag));
        let kind = [(reqwest::header::CONTENT_TYPE, MANIFEST_TYPE.to_owned())];
        let done = self.expect(201, Method::PUT, url, &kind, image.manifest.clone()).await?;
        Ok(done.rev())
    }

    /// Reads a manifest by tag or digest: its bytes, or `None` where there is none.
    pub(crate) async fn manifest(&self, repository: &str, reference: &str) -> Result<Option<Answer>, Trouble> {
        let url = self.url(&format!("/v2/{repository}/manifests/{reference}"));
        let kind = [(reqwest::header::ACCEPT, MANIFEST_TYPE.to_owned())];
        let answer = self.send(Method::GET, url, &kind, Bytes::new()).await?;
        match answer.status {
            200 => Ok(Some(answer)),
            404 => Ok(None),
            _ => Err(Trouble::of_answer(&answer)),
        }
    }

    /// Reads a blob and compares what came with its digest.
    pub(crate) async fn blob(&self, repository: &str, digest: &str) -> Result<(), Trouble> {
        let url = self.url(&format!("/v2/{repository}/blobs/{digest}"));
        let answer = self.expect(200, Method::GET, url, &[], Bytes::new()).await?;
        let got = sha256(&answer.body);
        if got == digest { Ok(()) } else { Err(Trouble::wrong(format!("WRONG BYTES: {got} instead of {digest}"))) }
    }
}

/// How a blob is pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// One POST with everything.
    Whole,
    /// POST, then PUT with everything.
    BeginAndPut,
    /// POST, PATCH with everything, PUT without a body, as docker does.
    Stream,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passing(certainty: Certainty) -> Trouble {
        Trouble::Passing { text: "503".into(), certainty, after: None }
    }

    // Three repeats and no more; what was refused for good is not repeated; a refusal after an unknown try leaves it
    // unknown.
    #[tokio::test(start_paused = true)]
    async fn repeats() {
        for (script, tries, good, certainty) in [
            (vec![None], 1, true, None),
            (vec![Some(passing(Certainty::Unknown)), None], 2, true, None),
            (vec![Some(passing(Certainty::Never)); 9], 4, false, Some(Certainty::Never)),
            (vec![Some(passing(Certainty::Unknown)); 9], 4, false, Some(Certainty::Unknown)),
            (
                vec![Some(Trouble::Final { text: "400".into(), certainty: Certainty::Never })],
                1,
                false,
                Some(Certainty::Never),
            ),
            (
                vec![
                    Some(passing(Certainty::Unknown)),
                    Some(Trouble::Final { text: "404".into(), certainty: Certainty::Never }),
                ],
                2,
                false,
                Some(Certainty::Unknown),
            ),
        ] {
            let mut answers = script.into_iter();
            let tried = repeated(|| std::future::ready(answers.next().unwrap().map_or(Ok(()), Err))).await;
            assert_eq!((tried.tries, tried.result.is_ok()), (tries, good));
            assert_eq!(tried.result.err().map(|trouble| trouble.into_error().1), certainty);
        }
    }
}
