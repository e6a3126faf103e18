//! Traces: what a request waited for, over all nodes it touched, sent to a collector by OTLP over gRPC.
//!
//! Off unless an endpoint is configured. Spans are made by [`traced!`](crate::ground::traces::traced), which costs
//! one load while it is off; they never show in the log. A part of the requests is sampled, here or by a trusted
//! proxy before us; ended spans wait in a bounded queue and leave in batches from a thread of their own. What the
//! collector does not take is dropped: nothing of the node ever waits for it.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::HeaderMap;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, SpanLimits,
};
use tracing::Span;
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt};
use tracing_subscriber::Registry;

/// Target of the spans: the log leaves it out.
pub const TARGET: &str = "otel";
/// Spans that wait for the collector; further ones are dropped.
const QUEUE_SPANS_MAX: usize = 4096;
/// Spans of one message.
const BATCH_SPANS_MAX: usize = 512;
/// How often what waits is sent, if it is less than a batch.
const EVERY: Duration = Duration::from_secs(2);
/// How long the collector may take for a message.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the end of the process waits for what is left.
const FLUSH: Duration = Duration::from_secs(2);
/// Attributes of a span; ours have fewer.
const ATTRIBUTES_MAX: u32 = 32;

/// Where traces go, and how many.
#[derive(Clone, Debug)]
pub struct Tracing {
    /// The collector's address, as `http://127.0.0.1:4317`.
    pub endpoint: String,
    /// Of how many requests in a hundred.
    pub percent: f64,
    /// What stands on every span: `service.instance.id`, zone, region.
    pub labels: Vec<(&'static str, String)>,
}

/// Why traces can't be sent.
#[derive(Debug, thiserror::Error)]
#[error("trace.endpoint = {endpoint:?} can't be used: {detail}; write it as http://127.0.0.1:4317")]
pub struct TraceError {
    endpoint: String,
    detail: String,
}

static IS_ON: AtomicBool = AtomicBool::new(false);
static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// Whether spans are made at all.
pub fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// A span for traces, or none while they are off: `traced!("name", field = value, …)`.
macro_rules! traced {
    ($($words:tt)*) => {
        if $crate::ground::traces::is_on() {
            ::tracing::info_span!(target: $crate::ground::traces::TARGET, $($words)*)
        } else {
            ::tracing::Span::none()
        }
    };
}
pub(crate) use traced;

/// As [`traced!`], but only inside another span: the same work done by a node of itself is in nobody's trace.
macro_rules! traced_within {
    ($($words:tt)*) => {
        if $crate::ground::traces::is_on() && !::tracing::Span::current().is_none() {
            $crate::ground::traces::traced!($($words)*)
        } else {
            ::tracing::Span::none()
        }
    };
}
pub(crate) use traced_within;

/// Begins to send; the layer belongs into the process's subscriber. Within a runtime: the connection lives on it.
///
/// # Errors
/// When the endpoint is none. One that does not answer is no error: it may come up later.
pub(super) fn layer(tracing: &Tracing) -> Result<OpenTelemetryLayer<Registry, SdkTracer>, TraceError> {
    let told = |detail: String| TraceError { endpoint: tracing.endpoint.clone(), detail };
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(&tracing.endpoint).with_timeout(PATIENCE).build();
    let exporter = exporter.map_err(|error| told(error.to_string()))?;
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE_SPANS_MAX)
        .with_max_export_batch_size(BATCH_SPANS_MAX)
        .with_scheduled_delay(EVERY)
        .build();
    let labels = tracing.labels.iter().map(|(name, value)| KeyValue::new(*name, value.clone()));
    let resource = Resource::builder_empty()
        .with_service_name("portolan")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attributes(labels)
        .build();
    let provider = SdkTracerProvider::builder()
        .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(tracing.percent / 100.0))))
        .with_span_limits(SpanLimits { max_attributes_per_span: ATTRIBUTES_MAX, ..SpanLimits::default() })
        .with_resource(resource)
        .build();
    let tracer = provider.tracer("portolan");
    if PROVIDER.set(provider).is_err() {
        return Err(told("traces have begun already".to_owned()));
    }
    IS_ON.store(true, Ordering::Relaxed);
    Ok(tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_level(false)
        .with_target(false)
        .with_tracked_inactivity(false))
}

/// Sends what waits, and ends; from a thread that may block.
pub fn end() {
    IS_ON.store(false, Ordering::Relaxed);
    if let Some(error) = PROVIDER.get().and_then(|provider| provider.shutdown_with_timeout(FLUSH).err()) {
        tracing::debug!(%error, "the last traces were not sent");
    }
}

/// The header that names a trace (W3C Trace Context).
pub const TRACEPARENT: &str = "traceparent";

/// What the present span says to the next node; `None` while traces are off.
pub fn parent() -> Option<String> {
    if !is_on() {
        return None;
    }
    let mut said = HashMap::new();
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut said);
    said.remove(TRACEPARENT)
}

/// Gives a span that has begun its final name; by a recorded field it can't be had any more then.
pub fn rename(span: &Span, name: String) {
    span.context().span().update_name(name);
}

/// Makes `span` a part of the trace that these headers name, if they do. Their sender has to be trusted.
pub fn follow(span: &Span, headers: &HeaderMap) {
    let Some(said) = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()).filter(|_| !span.is_none()) else {
        return;
    };
    let said = HashMap::from([(TRACEPARENT.to_owned(), said.to_owned())]);
    let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &said);
    if span.set_parent(parent).is_err() {
        tracing::debug!("a span had begun before its parent was known");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // While traces are off nothing is made; an endpoint that is none says how one looks.
    #[tokio::test]
    async fn off_and_wrong() {
        assert!(!is_on() && parent().is_none());
        assert!(traced!("nothing", field = 1).is_none());
        let wrong = Tracing { endpoint: "not an address".to_owned(), percent: 1.0, labels: Vec::new() };
        let text = layer(&wrong).map(drop).unwrap_err().to_string();
        assert!(text.contains("\"not an address\"") && text.contains("http://127.0.0.1:4317"), "{text}");
        assert!(!is_on());
    }
}
