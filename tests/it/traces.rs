//! Traces of a real cluster, as a collector receives them by OTLP.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use data_encoding::HEXLOWER;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::support::{self, Cluster, http, image};

/// How long spans may take to arrive: they are sent every two seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// A collector that keeps what it is sent, with the node that sent it.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(String, Span)>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_node in request.into_inner().resource_spans {
            let attributes = of_node.resource.unwrap_or_default().attributes;
            let instance = attributes.iter().find(|attribute| attribute.key == "service.instance.id");
            let node = match instance.and_then(|found| found.value.clone()?.value) {
                Some(Value::StringValue(node)) => node,
                _ => String::new(),
            };
            let spans = of_node.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.0.lock().unwrap().extend(spans.map(|span| (node.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Runs at an address until the process ends.
    fn start(address: SocketAddr) -> Collector {
        let collector = Collector::default();
        let service = TraceServiceServer::new(collector.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(Server::builder().add_service(service).serve(address)).unwrap();
        });
        collector
    }

    fn spans(&self) -> Vec<(String, Span)> {
        self.0.lock().unwrap().clone()
    }
}

fn text(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    let value = found.value.clone()?.value?;
    if let Value::IntValue(number) = &value {
        return Some(number.to_string());
    }
    if let Value::StringValue(text) = value { Some(text) } else { None }
}

// One trace shows a push whole: the request at the node the client talked to, the proposal in it, and the copy at
// another node. The answer's request id is on it; a stranger's `traceparent` is not taken up; nothing of it is logged.
#[test]
fn a_push_is_one_trace_over_its_nodes() {
    let region = 66;
    let address: SocketAddr = format!("127.{region}.9.1:4317").parse().unwrap();
    let collector = Collector::start(address);
    let endpoint = format!("trace.endpoint=http://{address}");
    let cluster = Cluster::start_with(region, &[&endpoint, "trace.percent=100"]);
    image::push(&cluster, 1, "it/traces", "v1", b"traced");
    let forged = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let url = format!("{}/v2/it/traces/manifests/v1", cluster.node(2));
    let pulled = http::request("GET", &url).key(&cluster.key()).header("traceparent", forged).send();
    let id = pulled.header("x-request-id").to_owned();
    let is_pull = |span: &Span| text(span, "request.id").as_deref() == Some(&id);
    // each node sends its own, when it likes
    support::wait("the spans of a push and a pull", PATIENCE, || {
        let spans = collector.spans();
        let begun = |named: &dyn Fn(&Span) -> bool| {
            let mut found = spans.iter().filter(|(_, span)| named(span));
            let is_whole = |of: &Span| {
                spans.iter().any(|(_, span)| span.trace_id == of.trace_id && span.parent_span_id.is_empty())
            };
            found.any(|(_, span)| is_whole(span))
        };
        begun(&is_pull)
            && ["PUT manifest", "propose", "blob PutSmall"]
                .iter()
                .all(|name| begun(&|span| span.name.starts_with(name)))
    });
    let spans = collector.spans();
    let by_trace = spans.iter().fold(BTreeMap::<&[u8], Vec<&(String, Span)>>::new(), |mut all, found| {
        all.entry(&found.1.trace_id).or_default().push(found);
        all
    });
    let (_, pull) = spans.iter().find(|(_, span)| is_pull(span)).unwrap();
    assert_eq!(text(pull, "http.response.status_code").as_deref(), Some("200"));
    assert!(pull.parent_span_id.is_empty() && HEXLOWER.encode(&pull.trace_id) != forged[3..35], "{pull:?}");
    let named = |name: &'static str| {
        by_trace.values().find(move |trace| {
            let root = trace.iter().find(|(_, span)| span.parent_span_id.is_empty());
            root.is_some_and(|(_, span)| span.name == name)
        })
    };
    let manifest = named("PUT manifest").expect("a trace of the manifest");
    assert!(manifest.iter().any(|(_, span)| span.name == "propose"), "{manifest:?}");
    let has_copy = |trace: &&Vec<&(String, Span)>| {
        trace.iter().any(|(_, span)| span.name.starts_with("blob PutSmall"))
            && trace.iter().any(|(_, span)| span.parent_span_id.is_empty())
    };
    let blob = by_trace.values().find(has_copy);
    let blob = blob.expect("a trace with a copy at another node");
    let (asked, root) = blob.iter().find(|(_, span)| span.parent_span_id.is_empty()).expect("its root");
    let (held, copy) = blob.iter().find(|(_, span)| span.name.starts_with("blob PutSmall")).unwrap();
    assert!(root.name.starts_with("POST upload") && held != asked, "{root:?} {copy:?}");
    assert!(!cluster.node_log(1).contains("portolan.commands"), "spans are not for the log");
}
