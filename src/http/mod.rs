//! The listeners of a node: connections, TLS, limits, request ids, the access log, and the app mounted behind them.
//!
//! Never knows a route of a surface, never who is asking, never decides what a request means. What goes through here is
//! bounded: connections (in all and per address), headers, streams of a connection, requests under way; and it moves,
//! or it is closed: time-outs are by progress, so a layer of 50 GB may take its hours and a stalled client may not.
//!
//! Start at [`serve`]; [`RequestInfo`] is what a request brings to its app, [`App`] what an app is.

mod access_log;
mod activity;
mod body;
mod connection;
mod front;
mod listener;
mod proxy;
mod request;
mod settings;
mod slots;
#[cfg(test)]
mod tests;

pub use body::RequestBody;
pub use listener::{TlsSource, serve};
pub use request::RequestInfo;
pub use settings::{Settings, host_of};

use axum::body::Body;
use axum::http::{Request, Response};

/// What answers the requests of a listener. Each carries a [`RequestInfo`] in its extensions, and an
/// [`Identity`](crate::ground::certs::Identity) when its client showed a certificate that the listener asked for.
pub trait App: Clone + Send + Sync + 'static {
    /// Answers. Errors are answers too.
    fn respond(&self, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send;
}

impl App for axum::Router {
    async fn respond(&self, request: Request<Body>) -> Response<Body> {
        match tower::Service::call(&mut self.clone(), request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}
