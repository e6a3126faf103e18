//! Where clients and nodes are, and what follows from it for a client and an image.

use std::net::IpAddr;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query};
use axum::http::{Response, StatusCode};
use registry_core::decide::nearest::{Candidate, Choice, Declined};
use registry_core::decide::permit::Permit;
use registry_core::decide::policy;
use registry_core::metadata::places::{AddressRow, PlaceRow, PlacesRow};
use registry_core::vocabulary::ids::NodeId;
use registry_core::vocabulary::manifest::{ContentKind, Referenced};
use registry_core::vocabulary::{ParsedManifest, Refusal};
use serde::{Deserialize, Serialize};

use super::answer;
use super::error::Failure;
use super::exchange::{Document, Exchange};
use super::repositories::{parse_name, parse_reference};
use crate::auth::Action;
use crate::registry::{BlobContent, Consistency, Located, Nearest, Registry, Visit};

type Answer = Result<Response<Body>, Failure>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientDocument {
    network: String,
    region: String,
    #[serde(default)]
    zone: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AddressDocument {
    node: String,
    network: String,
    url: String,
}

/// Everything that is said about places.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlacesDocument {
    clients: Vec<ClientDocument>,
    #[serde(default)]
    addresses: Vec<AddressDocument>,
    #[serde(default)]
    redirect_bytes_min: Option<u64>,
}

impl From<PlacesRow> for PlacesDocument {
    fn from(row: PlacesRow) -> PlacesDocument {
        let client = |PlaceRow { network, region, zone }| ClientDocument { network, region, zone };
        let address = |AddressRow { node, network, url }| AddressDocument { node: node.to_string(), network, url };
        PlacesDocument {
            clients: row.clients.into_iter().map(client).collect(),
            addresses: row.addresses.into_iter().map(address).collect(),
            redirect_bytes_min: row.redirect_bytes_min,
        }
    }
}

impl TryFrom<PlacesDocument> for PlacesRow {
    type Error = Failure;

    fn try_from(document: PlacesDocument) -> Result<PlacesRow, Failure> {
        let client = |ClientDocument { network, region, zone }| PlaceRow { network, region, zone };
        let address = |AddressDocument { node, network, url }| {
            let invalid = || Refusal::ParameterInvalid {
                parameter: "node".to_owned(),
                detail: format!("'{node}' is no node's id, as `portolan cluster status` shows it"),
            };
            let node = NodeId::parse(&node).ok_or_else(invalid)?;
            Ok::<_, Failure>(AddressRow { node, network, url })
        };
        Ok(PlacesRow {
            clients: document.clients.into_iter().map(client).collect(),
            addresses: document.addresses.into_iter().map(address).collect::<Result<_, _>>()?,
            redirect_bytes_min: document.redirect_bytes_min,
        })
    }
}

/// `GET /v1/places`
pub(super) async fn show(exchange: Exchange) -> Answer {
    exchange.administrator(policy::Action::ReadCluster, "places.get").await?;
    Ok(answer::json(StatusCode::OK, &PlacesDocument::from(exchange.admin().cluster.places())))
}

/// `PUT /v1/places`: all of it, in place of what was said before.
pub(super) async fn set(exchange: Exchange, Document(wish): Document<PlacesDocument>) -> Answer {
    let revision = exchange.change("places.set", "", async |auth, caller| {
        auth.permit_admin(caller, policy::Action::ManageCluster)?;
        Ok(exchange.admin().cluster.set_places(caller.name(), wish?.try_into()?).await?)
    });
    Ok(answer::changed(revision.await?))
}

/// Which client, and which image.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    client: IpAddr,
    reference: String,
}

#[derive(Serialize)]
struct CandidateDocument {
    node: String,
    zone: String,
    copy: bool,
    fit: bool,
    on_time: bool,
    full: bool,
    rtt_us: u64,
}

impl From<&Candidate> for CandidateDocument {
    fn from(candidate: &Candidate) -> CandidateDocument {
        CandidateDocument {
            node: candidate.node.to_string(),
            zone: candidate.zone.to_string(),
            copy: candidate.has_copy,
            fit: candidate.is_fit,
            on_time: candidate.is_on_time,
            full: candidate.is_full,
            rtt_us: candidate.rtt_us,
        }
    }
}

#[derive(Serialize)]
struct BlobDocument {
    digest: String,
    bytes: u64,
    served_by: String,
    reason: &'static str,
    address: Option<String>,
    candidates: Vec<CandidateDocument>,
}

#[derive(Serialize)]
struct NearestDocument {
    client: IpAddr,
    /// The client's, if it is another one.
    region: Option<String>,
    zone: Option<String>,
    asked: String,
    blobs: Vec<BlobDocument>,
}

/// `GET /v1/nearest/{name}?client=&reference=`: where a client would get each blob of an image from, and why.
pub(super) async fn explain(
    exchange: Exchange,
    Path(name): Path<String>,
    query: Result<Query<Wish>, QueryRejection>,
) -> Answer {
    let caller = exchange.administrator(policy::Action::ReadCluster, "nearest.explain").await?;
    let name = parse_name(&name)?;
    let permitted = exchange.auth().permit(&caller, Action::Pull, caller.registry(), &name);
    let permit = exchange.looked(&caller, "nearest.explain", name.as_str(), permitted)?;
    let Query(Wish { client, reference }) = query.map_err(|error| Failure::Body(error.body_text()))?;
    let parsed = parse_reference(&reference)?;
    let registry = &exchange.admin().registry;
    let found = registry.manifest(&permit, &parsed, Consistency::Linearizable).await?;
    let parsed = ParsedManifest::parse(&found.value.bytes, Some(&found.value.info.media_type));
    let manifest = parsed.map_err(Refusal::from)?;
    let (mut region, mut zone, mut blobs) = (None, None, Vec::new());
    for blob in manifest.references().iter().filter(|one| one.kind == ContentKind::Blob) {
        let content = registry.open_blob(&permit, &blob.digest).await?.value;
        let nearest = registry.nearest(client, &content).await;
        region = nearest.region.as_ref().map(ToString::to_string);
        zone = nearest.zone.as_ref().map(ToString::to_string);
        blobs.push(told(registry, &permit, client, (blob, &content), &nearest).await);
    }
    if blobs.is_empty() {
        return Err(Failure::Body("reference: it names no blobs; give a platform's manifest, not an index".to_owned()));
    }
    let document = NearestDocument { client, region, zone, asked: registry.node().to_string(), blobs };
    Ok(answer::at(answer::json(StatusCode::OK, &document), found.revision))
}

async fn told(
    registry: &Registry,
    permit: &Permit,
    client: IpAddr,
    (blob, content): (&Referenced, &BlobContent),
    nearest: &Nearest,
) -> BlobDocument {
    let (digest, own) = (blob.digest, registry.node().to_string());
    let (served_by, reason, address) = match nearest.choice {
        Choice::Here(why) => (own, why.as_str(), None),
        Choice::There(node) => {
            let address = registry.address_of(node, client);
            let served_by = if address.is_some() { node.to_string() } else { own };
            (served_by, nearest.choice.reason(address.is_some()), address)
        }
        Choice::Region => match located(registry, permit, client, content, nearest).await {
            Ok((region, address)) => (region, nearest.choice.reason(true), Some(address)),
            Err(declined) => (own, declined.as_str(), None),
        },
    };
    let candidates = nearest.candidates.iter().map(Into::into).collect();
    BlobDocument { digest: digest.to_string(), bytes: blob.size_bytes, served_by, reason, address, candidates }
}

/// The client's region, and the address where that one serves it. What hangs on who asks is not known here.
async fn located(
    registry: &Registry,
    permit: &Permit,
    client: IpAddr,
    content: &BlobContent,
    nearest: &Nearest,
) -> Result<(String, String), Declined> {
    let region = nearest.region.as_ref().ok_or(Declined::Unknown)?;
    let back = registry.own_address(client).ok_or(Declined::NoAddress)?;
    let (repository, digest) = (permit.repository.clone(), content.info.digest);
    let visit = Visit { repository, digest, client, back, right: String::new() };
    // the link is the client's, and nobody is told of it
    let Located { address, .. } = registry.locate(permit, region, visit, content).await?;
    Ok((region.to_string(), address))
}
