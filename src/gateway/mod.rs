//! The oVirt REST API: routes, and what each of them asks of CloudStack and of the engine.
//!
//! Handlers check and translate; the words come from `map`, the work is done in `transfer`. Must not
//! know databases, NBD or hosts.

mod answer;
mod api;
mod ask;
mod backups;
mod body;
mod checkpoints;
mod devices;
mod disks;
mod enrolment;
mod events;
mod fault;
mod infrastructure;
mod inventory;
mod jobs;
mod negotiate;
mod networks;
mod normalize;
mod pki_resource;
mod power;
mod query;
mod restore;
mod snapshots;
mod sso;
mod tags;
mod transfers;
mod vms;
mod warm;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Request, StatusCode};
use axum::middleware;
use axum::routing::{get, post};
use tower::Service;
use tower_http::catch_panic::CatchPanicLayer;

use crate::auth::{Caller, Role, Sessions};
use crate::cloudstack;
use crate::transfer::Engine;

use ask::Ask;
pub use enrolment::Enrolment;
use fault::Fault;
pub use fault::status_of;
pub use pki_resource::Certificates;
use tracing::Instrument;

/// What the API works with; made by the role that serves it.
pub struct Parts {
    pub sessions: Arc<Sessions>,
    pub engine: Arc<Engine>,
    /// The service account: what only an administrator may see is read with it, after the caller
    /// was shown to own the object.
    pub service: Option<cloudstack::Service>,
    pub certificates: Certificates,
    pub enrolment: Enrolment,
    /// How long infrastructure counts as just read.
    pub fresh: Duration,
    /// Identifies this manager for ever; two managers with one id are one manager to Veeam.
    pub instance_id: String,
    /// Where clients reach the image proxy, if there is one.
    pub proxy_port: Option<u16>,
}

/// The parts, shared by all requests.
#[derive(Clone)]
pub struct Gateway(Arc<Parts>, Arc<warm::Warm>);

impl Gateway {
    fn sessions(&self) -> &Sessions {
        &self.0.sessions
    }

    fn proxy_port(&self) -> Option<u16> {
        self.0.proxy_port
    }

    fn engine(&self) -> &Arc<Engine> {
        &self.0.engine
    }

    fn service(&self) -> Option<&cloudstack::Service> {
        self.0.service.as_ref()
    }

    /// Who shows this caller what only administrators see: himself, if he is one.
    fn service_for(&self, caller: &Caller) -> Option<cloudstack::Service> {
        match caller.user.role {
            Role::RootAdmin => Some(cloudstack::Service::new(caller.client.clone())),
            _ => self.service().cloned(),
        }
    }

    fn warm(&self) -> &warm::Warm {
        &self.1
    }

    fn certificates(&self) -> &Certificates {
        &self.0.certificates
    }

    fn enrolment(&self) -> &Enrolment {
        &self.0.enrolment
    }

    fn instance_id(&self) -> &str {
        &self.0.instance_id
    }
}

/// The whole surface under `/ovirt-engine`, as a service for one connection after the other.
pub fn service(
    parts: Parts,
) -> impl Service<
    Request<axum::body::Body>,
    Response = axum::response::Response,
    Error = std::convert::Infallible,
    Future: Send,
> + Clone
+ Send
+ 'static {
    let warm = warm::Warm::new(parts.fresh);
    let routes = Router::new()
        .nest("/ovirt-engine/api", api_routes())
        .route("/ovirt-engine/sso/oauth/token", post(sso::token))
        .route("/ovirt-engine/sso/oauth/revoke", post(sso::logout))
        .route("/ovirt-engine/services/sso-logout", post(sso::logout))
        .route("/ovirt-engine/services/pki-resource", get(pki_resource::resource))
        .route(
            "/ovirt-engine/services/host-enrolment",
            post(enrolment::enrol).layer(DefaultBodyLimit::max(64 << 10)),
        )
        .fallback(|| async { StatusCode::NOT_FOUND })
        .layer(CatchPanicLayer::new())
        .layer(middleware::from_fn(answer::finish))
        // the body is bounded in `body`, which also takes in what is too long
        .layer(DefaultBodyLimit::disable())
        .with_state(Gateway(Arc::new(parts), Arc::new(warm)));
    // rewriting must come before routing, so it wraps the router instead of being one of its layers
    tower::util::MapRequest::new(routes, |mut request: Request<axum::body::Body>| {
        if let Some(uri) = normalize::normalize(request.uri()) {
            *request.uri_mut() = uri;
        }
        request
    })
}

fn api_routes() -> Router<Gateway> {
    Router::new()
        .route("/", get(api::root))
        .route("/datacenters", get(infrastructure::data_centers))
        .route("/datacenters/{id}", get(infrastructure::data_center))
        .route("/datacenters/{id}/clusters", get(infrastructure::clusters_of))
        .route("/datacenters/{id}/networks", get(networks::networks_of))
        .route("/datacenters/{id}/storagedomains", get(infrastructure::storage_domains_of))
        .route("/clusters", get(infrastructure::clusters))
        .route("/clusters/{id}", get(infrastructure::cluster))
        .route("/clusters/{id}/networks", get(networks::networks_of_cluster))
        .route("/hosts", get(infrastructure::hosts))
        .route("/hosts/{id}", get(infrastructure::host))
        .route("/storagedomains", get(infrastructure::storage_domains))
        .route("/storagedomains/{id}", get(infrastructure::storage_domain))
        .route("/networks", get(networks::networks))
        .route("/networks/{id}", get(networks::network))
        .route("/networks/{id}/vnicprofiles", get(networks::profiles_of))
        .route("/vnicprofiles", get(networks::profiles))
        .route("/vnicprofiles/{id}", get(networks::profile))
        .route("/templates", get(infrastructure::templates))
        .route("/templates/{id}", get(infrastructure::template))
        .route("/vms", get(vms::list).post(restore::create_vm))
        .route("/vms/{vm}", get(vms::one).put(vms::update).delete(restore::delete_vm))
        .route("/vms/{vm}/start", post(power::start))
        .route("/vms/{vm}/reboot", post(power::reboot))
        .route("/vms/{vm}/stop", post(power::stop))
        .route("/vms/{vm}/shutdown", post(power::shutdown))
        .route("/vms/{vm}/diskattachments", get(devices::attachments).post(restore::attach))
        .route(
            "/vms/{vm}/diskattachments/{disk}",
            get(devices::attachment).put(disks::update_attached).delete(restore::detach),
        )
        .route("/vms/{vm}/nics", get(devices::nics).post(devices::add_nic))
        .route("/vms/{vm}/nics/{nic}", get(devices::nic).delete(devices::remove_nic))
        .route("/vms/{vm}/nics/{nic}/reporteddevices", get(devices::devices_of_nic))
        .route("/vms/{vm}/reporteddevices", get(devices::devices))
        .route("/vms/{vm}/reporteddevices/{device}", get(devices::device))
        .route("/vms/{vm}/snapshots", get(snapshots::list).post(snapshots::create))
        .route("/vms/{vm}/snapshots/{snapshot}", get(snapshots::one).delete(snapshots::delete))
        .route("/vms/{vm}/snapshots/{snapshot}/restore", post(snapshots::restore))
        .route("/vms/{vm}/tags", get(tags::of_vm).post(tags::assign))
        .route("/vms/{vm}/tags/{tag}", get(tags::one_of_vm).delete(tags::unassign))
        .route("/vms/{vm}/backups", get(backups::list).post(backups::start))
        .route("/vms/{vm}/backups/{backup}", get(backups::one))
        .route("/vms/{vm}/backups/{backup}/disks", get(backups::disks))
        .route("/vms/{vm}/backups/{backup}/disks/{disk}", get(backups::one_disk))
        .route("/vms/{vm}/backups/{backup}/finalize", post(backups::finalize))
        .route("/vms/{vm}/checkpoints", get(checkpoints::list))
        .route("/vms/{vm}/checkpoints/{checkpoint}", get(checkpoints::one).delete(checkpoints::delete))
        .route("/vms/{vm}/checkpoints/{checkpoint}/disks", get(checkpoints::disks))
        .route("/vms/{vm}/checkpoints/{checkpoint}/disks/{disk}", get(checkpoints::one_disk))
        .route("/disks", get(disks::list).post(restore::create_disk))
        .route("/disks/{disk}", get(disks::one).put(disks::update).delete(restore::delete_disk))
        .route("/imagetransfers", get(transfers::list).post(transfers::start))
        .route("/imagetransfers/{transfer}", get(transfers::one))
        .route("/imagetransfers/{transfer}/finalize", post(transfers::finalize))
        .route("/imagetransfers/{transfer}/pause", post(transfers::pause))
        .route("/imagetransfers/{transfer}/resume", post(transfers::resume))
        .route("/imagetransfers/{transfer}/cancel", post(transfers::cancel))
        .route("/users/{id}", get(api::user))
        .route("/tags", get(tags::list))
        .route("/tags/{tag}", get(tags::one))
        .route("/events", get(events::list))
        .route("/events/{event}", get(events::one))
        .route("/jobs", get(jobs::list))
        .route("/jobs/{job}", get(jobs::one))
        .fallback(|_: Ask| async { Fault::new(StatusCode::NOT_FOUND, "This gateway has no such resource") })
}

/// Runs a mutation to its end even if the client hangs up meanwhile.
async fn detached<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T, Fault> {
    tokio::spawn(work.in_current_span()).await.map_err(|error| {
        tracing::error!(%error, "a task failed");
        Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "the gateway failed to do this")
    })
}
