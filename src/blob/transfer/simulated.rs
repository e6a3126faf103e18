//! Calls between the nodes of the simulator: the same messages and the same service, without sockets between them.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::{BoxFuture, FutureExt as _};
use registry_core::vocabulary::ids::NodeId;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tower::Service as Callee;

use super::peers::Peers;
use super::service::{self, Service};
use super::wire::proto::blob_server::BlobServer;
use super::{Config, EpochSource, Observer, Transfer};
use crate::blob::store::BlobStore;

/// What carries calls from node to node; it may delay, lose and break off.
pub trait Wire: Send + Sync + 'static {
    /// Carries a call; an error is what a broken connection says.
    fn call(
        &self,
        from: NodeId,
        to: NodeId,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, Status>>;
}

/// One direction of a wire.
#[derive(Clone)]
pub(super) struct Direction {
    pub(super) wire: Arc<dyn Wire>,
    pub(super) from: NodeId,
    pub(super) to: NodeId,
}

/// A connection to another node.
#[derive(Clone)]
pub(super) enum Link {
    /// A real one.
    Channel(Channel),
    /// One inside the simulator.
    Simulated(Direction),
}

impl Callee<Request<Body>> for Link {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        match self {
            Link::Channel(channel) => channel.poll_ready(context).map_err(|error| Status::from_error(Box::new(error))),
            Link::Simulated(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self {
            Link::Channel(channel) => {
                let called = channel.call(request);
                async { called.await.map_err(|error| Status::from_error(Box::new(error))) }.boxed()
            }
            Link::Simulated(Direction { wire, from, to }) => wire.call(*from, *to, request),
        }
    }
}

impl Transfer {
    /// The transfer of a simulated node: it calls over `wire`, and whoever carries calls hands those to this node to
    /// [`Transfer::answer`].
    pub fn simulated(
        config: Config,
        stores: Vec<Arc<dyn BlobStore>>,
        epochs: Arc<dyn EpochSource>,
        observer: Arc<dyn Observer>,
        wire: Arc<dyn Wire>,
    ) -> Transfer {
        Transfer::assemble(&config, Peers::new(&config).over(wire), stores, epochs, observer, config.listen)
    }

    /// Answers a call of another node.
    pub async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let holder = Arc::clone(&self.inner.holder);
        let served = BlobServer::new(Service::new(self.clone()));
        let mut service = InterceptedService::new(served, move |request| service::check_route(&holder, false, request));
        let answered: Result<_, Infallible> = service.call(request).await;
        match answered {
            Ok(response) => response.map(Body::new),
            Err(never) => match never {},
        }
    }
}
