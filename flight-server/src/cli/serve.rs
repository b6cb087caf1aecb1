//! `trailhouse serve`: binds every listener, serves until told to stop, and finishes what is under way.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::error::FlightError;
use axum::Router;
use catalog::ids::SiloId;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tonic::service::Routes;

use crate::auth::developer::TokenRequest;
use crate::config::Config;
use crate::flight::{self, DeadlineLayer, DoorLayer};
use crate::http;
use crate::listen::{self, Bounds, Protocol, Tls, TlsError};
use crate::maintenance;
use crate::observe::{self, grpc::ObserveLayer};
use crate::service::{self, Service};

const UPKEEP: Duration = Duration::from_secs(5);
/// How often certificates are looked at.
const RENEWAL: Duration = Duration::from_secs(5);
const TOKEN_LIFETIME: Duration = Duration::from_hours(12);
/// What is left for the tables after requests took all the time there was.
const DRAIN_TIME_MIN: Duration = Duration::from_secs(2);
/// Tenants for which tokens are printed at start.
const TENANTS_SHOWN_MAX: usize = 3;

/// Why a server did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its parts.
    #[error("the server cannot be built")]
    Service(#[from] service::Error),
    /// Its logs.
    #[error("the server cannot log")]
    Observe(#[from] observe::Error),
    /// An address that is taken, or not ours.
    #[error("`{setting}`: cannot listen on {address}")]
    Bind {
        /// The setting that names the address.
        setting: String,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// What TLS is spoken with.
    #[error("TLS cannot be spoken")]
    Tls(#[from] TlsError),
    /// Signals.
    #[error("the signals of the system cannot be heard")]
    Signals(#[source] std::io::Error),
    /// The Flight service.
    #[error("the Flight service cannot be made")]
    FlightService(#[source] FlightError),
    /// A listener that ended without being told to.
    #[error("a listener ended")]
    Ended,
    /// A listener that panicked.
    #[error("a listener failed")]
    Failed(#[source] JoinError),
}

/// Runs the verb: until SIGTERM or SIGINT, then until everything under way is done.
///
/// # Errors
/// When the server does not start, or a listener breaks.
pub async fn run(config: Config) -> Result<(), Error> {
    observe::log(&config.log)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    let server = Server::bind(Service::build(config).await?).await?;
    server.announce().await;
    let told = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    server.run(told).await
}

/// A service with its listeners bound, and nothing served yet.
#[derive(Debug)]
pub struct Server {
    service: Arc<Service>,
    silos: Vec<Bound>,
    admin: TcpListener,
    tls: Option<Arc<Tls>>,
}

/// One silo's listeners.
#[derive(Debug)]
struct Bound {
    silo: SiloId,
    flight: TcpListener,
    http: TcpListener,
}

/// Where a silo is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The silo.
    pub silo: SiloId,
    /// Flight SQL.
    pub flight: SocketAddr,
    /// HTTP.
    pub http: SocketAddr,
}

impl Server {
    /// Binds every configured listener, so that clients can connect from now on.
    ///
    /// # Errors
    /// When an address cannot be listened on, or TLS cannot be spoken with the files that there are.
    pub async fn bind(service: Arc<Service>) -> Result<Self, Error> {
        let tls = service.config.tls.clone().map(Tls::open).transpose()?;
        let mut silos = Vec::new();
        for silo in &service.config.silos {
            let setting = |key: &str| format!("silos.{}.{key}", silo.id);
            silos.push(Bound {
                silo: silo.id.clone(),
                flight: listen(setting("flight"), silo.flight).await?,
                http: listen(setting("http"), silo.http).await?,
            });
        }
        let admin = listen("admin.listen".to_owned(), service.config.admin).await?;
        Ok(Self {
            service,
            silos,
            admin,
            tls: tls.map(Arc::new),
        })
    }

    /// Where each silo is served, the ports as they really are.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn addresses(&self) -> std::io::Result<Vec<Addresses>> {
        let of = |bound: &Bound| {
            Ok(Addresses {
                silo: bound.silo.clone(),
                flight: bound.flight.local_addr()?,
                http: bound.http.local_addr()?,
            })
        };
        self.silos.iter().map(of).collect()
    }

    /// Where health and metrics are served.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn admin_address(&self) -> std::io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// Serves until `told` is over, then lets requests finish, up to the configured time.
    ///
    /// # Errors
    /// When a listener breaks.
    pub async fn run(self, told: impl Future<Output = ()> + Send) -> Result<(), Error> {
        let (stop, stopped) = watch::channel(false);
        let mut listeners = JoinSet::new();
        for bound in self.silos {
            let router = http::silo(Arc::clone(&self.service), bound.silo.clone());
            let tls = || self.tls.clone();
            listeners.spawn(serve_http(bound.http, tls(), router, stopped.clone()));
            let service = Arc::clone(&self.service);
            let flight = (bound.silo, bound.flight);
            listeners.spawn(serve_flight(flight, tls(), service, stopped.clone()));
        }
        // The admin listener goes on to the end: it says that this process is stopping.
        let mut background = JoinSet::new();
        let (_admin_stop, never) = watch::channel(false);
        let admin = http::admin(Arc::clone(&self.service));
        background.spawn(serve_http(self.admin, None, admin, never));
        background.spawn(upkeep(Arc::clone(&self.service)));
        if self.service.config.maintenance.automatic {
            let kept = maintenance::run(Arc::clone(&self.service));
            background.spawn(async move {
                kept.await;
                Ok(())
            });
        }
        let made = Arc::clone(&self.service.exports).run();
        let exporting = background.spawn(async move {
            made.await;
            Ok(())
        });
        if let Some(tls) = self.tls {
            background.spawn(renew(tls));
        }
        tokio::select! {
            () = told => {}
            Some(ended) = listeners.join_next() => return Err(cause(ended)),
            Some(ended) = background.join_next() => return Err(cause(ended)),
        }
        tracing::info!("stopping: no new requests");
        self.service.stop();
        stop.send_replace(true);
        let end = Instant::now() + self.service.config.limits.shutdown_time_max;
        let finished = tokio::time::timeout_at(end, finish(&mut listeners)).await;
        if finished.is_err() {
            tracing::warn!("stopping: requests were cut off");
        }
        // What they read would be evidence after the last of it; another process, or the next start, goes on with them.
        exporting.abort();
        self.service.record_refusals(true).await;
        let rest = end.saturating_duration_since(Instant::now());
        self.service.drain(rest.max(DRAIN_TIME_MIN)).await;
        finished.unwrap_or(Ok(()))?;
        tracing::info!("stopped");
        Ok(())
    }

    /// Says on standard output where to connect, and with what in development.
    async fn announce(&self) {
        let mut lines = Vec::new();
        let (grpc, http) = match self.tls {
            Some(_) => ("grpc+tls", "https"),
            None => ("grpc", "http"),
        };
        for silo in self.addresses().unwrap_or_default() {
            lines.push(format!(
                "silo {}: Flight SQL on {grpc}://{}, HTTP on {http}://{}",
                silo.silo, silo.flight, silo.http
            ));
        }
        if let Ok(admin) = self.admin_address() {
            lines.push(format!("health and metrics on http://{admin}"));
        }
        lines.extend(self.tokens().await);
        lines.push(String::new());
        if let Err(error) = std::io::stdout().write_all(lines.join("\n").as_bytes()) {
            let kind = error.kind();
            tracing::warn!(%kind, "where this server listens cannot be written to standard output");
        }
    }

    /// Ready-to-paste tokens of the development issuer, for the first tenants there are.
    async fn tokens(&self) -> Vec<String> {
        let Some(developer) = &self.service.developer else {
            return Vec::new();
        };
        let mut lines = vec!["development issuer: its tokens are for trying things out".to_owned()];
        let tenants = self.service.registry.list().await.unwrap_or_default();
        let mut tenants: Vec<_> = tenants
            .iter()
            .filter(|tenant| !tenant.id.is_system())
            .collect();
        tenants.truncate(TENANTS_SHOWN_MAX);
        if tenants.is_empty() {
            lines.push("no tenant yet: trailhouse tenant create <name>".to_owned());
        }
        let now = self.service.clock.now();
        for tenant in tenants {
            for (act, role, scope) in [
                ("read", Some("Audit.Investigator"), "audit.read"),
                ("write", None, "audit.write"),
            ] {
                let request = TokenRequest {
                    subject: "developer".to_owned(),
                    tenant: Some(tenant.id.to_string()),
                    roles: role.map(str::to_owned).into_iter().collect(),
                    scopes: vec![scope.to_owned()],
                    ..TokenRequest::default()
                };
                let token = developer.mint(&request, TOKEN_LIFETIME, now);
                lines.push(format!("to {act} {}: {token}", tenant.id));
            }
        }
        lines
    }
}

async fn listen(setting: String, address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|source| Error::Bind {
            setting,
            address,
            source,
        })
}

async fn serve_http(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    router: Router,
    stopped: watch::Receiver<bool>,
) -> Result<(), Error> {
    let served = (router, Protocol::Http);
    listen::serve(listener, tls, served, stopped, Bounds::default()).await;
    Ok(())
}

async fn serve_flight(
    (silo, listener): (SiloId, TcpListener),
    tls: Option<Arc<Tls>>,
    service: Arc<Service>,
    stopped: watch::Receiver<bool>,
) -> Result<(), Error> {
    let router = Routes::new(flight::health_service(Arc::clone(&service)));
    let observe = ObserveLayer::new(Arc::clone(&service));
    let door = DoorLayer::new(Arc::clone(&service));
    let flight = flight::flight_service(service, silo).map_err(Error::FlightService)?;
    let router = router.add_service(flight).prepare().into_axum_router();
    let router = router.layer(door).layer(DeadlineLayer).layer(observe);
    let served = (router, Protocol::Grpc);
    listen::serve(listener, tls, served, stopped, Bounds::default()).await;
    Ok(())
}

/// Takes up new certificates. Those that cannot be used are told of once, and the old ones stay in use.
async fn renew(tls: Arc<Tls>) -> Result<(), Error> {
    let mut ticks = tokio::time::interval(RENEWAL);
    let mut told = None;
    loop {
        ticks.tick().await;
        let own = Arc::clone(&tls);
        let renewed = tokio::task::spawn_blocking(move || own.reload()).await;
        match renewed.map_err(Error::Failed)? {
            Ok(renewed) => {
                told = None;
                if renewed {
                    tracing::info!("the certificates were read again, and are in use");
                }
            }
            Err(error) => {
                let text = format!("{error}: {:?}", std::error::Error::source(&error));
                if told.as_ref() != Some(&text) {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(
                        error,
                        "new certificates cannot be used: the old ones stay in use"
                    );
                    told = Some(text);
                }
            }
        }
    }
}

async fn upkeep(service: Arc<Service>) -> Result<(), Error> {
    let mut ticks = tokio::time::interval(UPKEEP);
    loop {
        ticks.tick().await;
        service.metrics.upkeep();
        observe::queries(service.queries.usage());
        service.found().await;
        service.record_refusals(false).await;
    }
}

fn cause(ended: Result<Result<(), Error>, JoinError>) -> Error {
    match ended {
        Ok(Ok(())) => Error::Ended,
        Ok(Err(error)) => error,
        Err(error) => Error::Failed(error),
    }
}

async fn finish(listeners: &mut JoinSet<Result<(), Error>>) -> Result<(), Error> {
    while let Some(ended) = listeners.join_next().await {
        ended.map_err(Error::Failed)??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    use super::*;
    use crate::world::{World, record};

    async fn read_until(stream: &mut TcpStream, text: &str) -> String {
        let mut read = Vec::new();
        loop {
            let mut chunk = [0; 1024];
            let length = stream.read(&mut chunk).await.unwrap();
            read.extend_from_slice(&chunk[..length]);
            let shown = String::from_utf8_lossy(&read).into_owned();
            if shown.contains(text) {
                return shown;
            }
            assert_ne!(length, 0, "closed after {shown}");
        }
    }

    #[tokio::test]
    async fn a_request_under_way_is_finished_and_no_new_one_taken() {
        let world = World::new().await;
        let server = Server::bind(Arc::clone(&world.service)).await.unwrap();
        let address = server.addresses().unwrap()[0].http;
        let (tell, told) = oneshot::channel::<()>();
        let running = tokio::spawn(server.run(async move { drop(told.await) }));
        let body = record("under-way").to_string();
        let head = format!(
            "POST /v1/audit/records HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\nexpect: 100-continue\r\n\r\n",
            world.writer(),
            body.len()
        );
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        // The server asks for the body when the handler reads it: now the request is under way.
        read_until(&mut stream, "100 Continue").await;
        tell.send(()).unwrap();
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stream.write_all(body.as_bytes()).await.unwrap();
        let answer = read_until(&mut stream, "recordId").await;
        assert!(answer.contains("HTTP/1.1 200 OK"), "{answer}");
        running.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_named_with_its_setting() {
        let world = World::new().await;
        let server = Server::bind(Arc::clone(&world.service)).await.unwrap();
        let taken = server.addresses().unwrap()[0].flight;
        let error = listen("silos.eu.flight".to_owned(), taken)
            .await
            .unwrap_err();
        let named = format!("`silos.eu.flight`: cannot listen on {taken}");
        assert_eq!(error.to_string(), named);
    }

    #[tokio::test]
    async fn tokens_are_printed_for_the_tenants_there_are() {
        let world = World::new().await;
        let server = Server::bind(Arc::clone(&world.service)).await.unwrap();
        let lines = server.tokens().await;
        let line = lines
            .iter()
            .find(|line| line.starts_with("to write acme"))
            .unwrap();
        let (_, token) = line.rsplit_once(' ').unwrap();
        let authorization = format!("Bearer {token}");
        let claims = world
            .service
            .authenticator
            .authenticate(Some(&authorization))
            .await
            .unwrap();
        assert_eq!(claims.tenant().unwrap().unwrap().as_str(), "acme");
    }
}
