//! The OCI distribution API 1.1, with what docker's registry API adds and clients rely on.
//!
//! Parses paths, queries and headers to typed values, gets a permit, calls one method of the registry, and renders its
//! answer. Never decides what a request may do or what is stored. Start at [`Oci`]; [`route`] says which path is what,
//! [`error`] how each refusal is told, and the other files are one noun each.

mod answer;
mod base;
mod blobs;
mod catalog;
mod conditions;
mod error;
mod exchange;
mod manifests;
mod nearest;
mod page;
mod query;
mod range;
mod referrers;
mod route;
mod tags;
mod token;
mod uploads;

use std::sync::Arc;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Method, Request, Response};
use registry_core::vocabulary::ids::RegistryId;

use crate::auth::Auth;
use crate::http::{App, RequestInfo};
use crate::registry::Registry;

use self::error::Failure;
use self::exchange::Exchange;
use self::route::Route;

/// The surface; cheap to clone.
#[derive(Clone, Debug)]
pub struct Oci(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    auth: Auth,
    registry_id: RegistryId,
}

impl Oci {
    /// Over the registry, for the repositories of `registry_id`.
    pub fn new(registry: Registry, auth: Auth, registry_id: RegistryId) -> Oci {
        Oci(Arc::new(Inner { registry, auth, registry_id }))
    }
}

impl App for Oci {
    async fn respond(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let mut response = match RequestInfo::of(&parts.extensions) {
            Some(info) => {
                let exchange = Exchange::new(&self.0, &parts, info);
                match route(&exchange, &parts, body).await {
                    Ok(response) => response,
                    Err(failure) => failure.into_response(&self.0.auth, info),
                }
            }
            None => unreachable!("a listener tells every request where it came from"),
        };
        answer::mark_api_version(&mut response);
        response
    }
}

/// Finds out what is asked for and hands it to the file of its noun.
async fn route(exchange: &Exchange<'_>, parts: &Parts, body: Body) -> Result<Response<Body>, Failure> {
    let Some(path) = route::decode(parts.uri.path()) else {
        return Err(exchange.after_login(Failure::NoSuchEndpoint).await);
    };
    let Some(route) = Route::parse(&path) else {
        if route::is_outside(&path) {
            return Err(Failure::NoSuchEndpoint);
        }
        return Err(exchange.after_login(Failure::NoSuchEndpoint).await);
    };
    exchange.info.note_route(route.label());
    let method = &parts.method;
    if !route.allows(method) {
        return Err(Failure::MethodNotAllowed { allow: route.allow() });
    }
    let is_head = method == Method::HEAD;
    match route {
        Route::Base => base::check(exchange).await,
        Route::Token => token::issue(exchange).await,
        Route::Catalog => catalog::list(exchange).await,
        Route::Tags { name } => tags::list(exchange, name).await,
        Route::Referrers { name, digest } => referrers::list(exchange, name, digest).await,
        Route::Manifest { name, reference } => match *method {
            Method::PUT => Box::pin(manifests::put(exchange, name, reference, body)).await,
            Method::DELETE => Box::pin(manifests::delete(exchange, name, reference)).await,
            _ if is_head => manifests::head(exchange, name, reference).await,
            _ => manifests::get(exchange, name, reference).await,
        },
        Route::Blob { name, digest } => match *method {
            Method::DELETE => Box::pin(blobs::delete(exchange, name, digest)).await,
            _ if is_head => blobs::head(exchange, name, digest).await,
            _ => Box::pin(blobs::get(exchange, name, digest)).await,
        },
        Route::Uploads { name } => Box::pin(uploads::begin(exchange, name, body)).await,
        Route::Upload { name, token } => match *method {
            Method::PATCH => Box::pin(uploads::append(exchange, name, token, body)).await,
            Method::PUT => Box::pin(uploads::finish(exchange, name, token, body)).await,
            Method::DELETE => Box::pin(uploads::cancel(exchange, name, token)).await,
            _ => uploads::progress(exchange, name, token).await,
        },
    }
}
