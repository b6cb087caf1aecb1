//! The harness of the integration tests: real servers on free ports, real tokens, real files.
#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a harness that cannot set up its world must stop the test"
)]

mod around;
pub mod emulators;
pub mod fault_store;
pub mod ledger;
pub mod outage;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow_flight::sql::client::FlightSqlServiceClient;
use catalog::context::{IngressHeaders, TenantContext};
use catalog::guard::{Operation, Permit, PolicyWrite, Request, TenantAdmin};
use catalog::ids::{SiloId, TenantId};
use catalog::tenant::{Event, NewTenant, onboard};
use flight_server::auth::developer::TokenRequest;
use flight_server::cli::serve::{Addresses, Server};
use flight_server::config::{self, Config};
use flight_server::service::{self, Service};
use futures::TryStreamExt;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

pub use around::Around;

/// How long the tasks of a server that was killed may go on: those that are in the middle of a system call.
const LIFE_AFTER_MAX: Duration = Duration::from_secs(20);

/// How often a server is started before it is said not to start.
const STARTS_MAX: usize = 100;

/// The silos of every world.
pub const SILOS: [&str; 2] = ["eu", "us"];

/// How a world's server is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// The node's name; each has a log of its own.
    pub node: &'static str,
    /// The settings in `[wal]` beside folder and node.
    pub wal: &'static str,
    /// Settings beside the usual ones. A silo that is described here is not described otherwise.
    pub more: &'static str,
}

impl Default for Setup {
    /// A server whose records are in their table when it answers, so that a test can read at once.
    fn default() -> Self {
        Self {
            node: "one",
            wal: "ack = \"commit\"",
            more: "",
        }
    }
}

/// One server over a folder of its own, with two silos.
#[derive(Debug)]
pub struct World {
    /// The parts of the server.
    pub service: Arc<Service>,
    setup: Setup,
    around: Around,
    path: PathBuf,
    folder: Option<tempfile::TempDir>,
    addresses: Vec<Addresses>,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
    /// What the server runs on: it dies with that, as a process does.
    machine: Option<Runtime>,
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(machine) = self.machine.take() {
            machine.shutdown_background();
        }
    }
}

impl World {
    /// Starts a server in a new folder.
    pub async fn start() -> Self {
        Self::start_as(Setup::default()).await
    }

    /// Starts a server in a new folder, with these settings beside the usual ones.
    pub async fn start_with(more: &'static str) -> Self {
        Self::start_as(Setup {
            more,
            ..Setup::default()
        })
        .await
    }

    /// Starts a server in a new folder, set up so.
    pub async fn start_as(setup: Setup) -> Self {
        Self::restart(tempfile::tempdir().unwrap(), setup).await
    }

    /// Starts a server in a folder that has been used before.
    pub async fn start_in(folder: tempfile::TempDir) -> Self {
        Self::restart(folder, Setup::default()).await
    }

    /// The same, set up so.
    pub async fn restart(folder: tempfile::TempDir, setup: Setup) -> Self {
        let path = folder.path().to_owned();
        let mut world = Self::serve(path, setup).await.unwrap();
        world.folder = Some(folder);
        world
    }

    /// The same with this around it. It is started again and again until it starts.
    pub async fn restart_around(folder: tempfile::TempDir, setup: Setup, around: Around) -> Self {
        let path = folder.path().to_owned();
        let mut refused = None;
        for _ in 0..STARTS_MAX {
            match Self::serve_around(path.clone(), setup, around.clone()).await {
                Ok(mut world) => {
                    world.folder = Some(folder);
                    return world;
                }
                Err(error) => refused = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        unreachable!("the server does not start: {refused:?}")
    }

    /// Stops the server as a kill does, and starts it again as it was.
    pub async fn crash_and_restart(self) -> Self {
        let (setup, around) = (self.setup, self.around.clone());
        Self::restart_around(self.crash().await, setup, around).await
    }

    /// Another server over the same folder, as another node would be.
    pub async fn twin(&self, node: &'static str) -> Self {
        let setup = Setup { node, ..self.setup };
        Self::serve(self.path.clone(), setup).await.unwrap()
    }

    /// Starts a server in a folder, or says why it does not start.
    ///
    /// # Errors
    /// Those of the service.
    pub async fn serve(path: PathBuf, setup: Setup) -> Result<Self, service::Error> {
        Self::serve_around(path, setup, Around::default()).await
    }

    async fn serve_around(
        path: PathBuf,
        setup: Setup,
        around: Around,
    ) -> Result<Self, service::Error> {
        let config = settings(&path, setup);
        let machine = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (stop, stopped) = oneshot::channel();
        let around_it = around.clone();
        let started = machine.spawn(async move {
            let service = Box::pin(around_it.build(config)).await?;
            let server = Server::bind(Arc::clone(&service)).await.unwrap();
            Ok((service, server))
        });
        let (service, server) = match started.await.unwrap() {
            Ok(started) => started,
            Err(error) => {
                machine.shutdown_background();
                return Err(error);
            }
        };
        let addresses = server.addresses().unwrap();
        let serving = machine.spawn(async move {
            let told = async move { drop(stopped.await) };
            Box::pin(server.run(told)).await.unwrap();
        });
        Ok(Self {
            service,
            setup,
            around,
            path,
            folder: None,
            addresses,
            stop: Some(stop),
            serving: Some(serving),
            machine: Some(machine),
        })
    }

    /// Stops the server as SIGTERM does, and hands its folder on.
    pub async fn stop(mut self) -> tempfile::TempDir {
        drop(self.stop.take());
        self.serving.take().unwrap().await.unwrap();
        self.folder.take().unwrap()
    }

    /// Stops the server as SIGTERM does; for one whose folder is another's.
    pub async fn leave(mut self) {
        drop(self.stop.take());
        self.serving.take().unwrap().await.unwrap();
    }

    /// Stops the server as a kill does: nothing under way is finished. Hands its folder on.
    pub async fn crash(mut self) -> tempfile::TempDir {
        let machine = self.machine.take().unwrap();
        let dead = tokio::task::spawn_blocking(move || machine.shutdown_timeout(LIFE_AFTER_MAX));
        dead.await.unwrap();
        self.folder.take().unwrap()
    }

    /// Where everything lies.
    pub fn folder(&self) -> &Path {
        &self.path
    }

    /// A token of the development issuer.
    pub fn token(&self, tenant: &str, roles: &[&str], scopes: &[&str]) -> String {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        self.mint(&TokenRequest {
            subject: "tester".to_owned(),
            tenant: Some(tenant.to_owned()),
            roles: owned(roles),
            scopes: owned(scopes),
            ..TokenRequest::default()
        })
    }

    /// A token that says just this.
    pub fn mint(&self, request: &TokenRequest) -> String {
        let developer = self.service.developer.as_ref().unwrap();
        developer.mint(
            request,
            Duration::from_secs(3_600),
            self.service.clock.now(),
        )
    }

    /// Who a token's bearer is.
    pub async fn context(&self, token: &str) -> TenantContext {
        let claims = self
            .service
            .authenticator
            .authenticate(Some(&format!("Bearer {token}")))
            .await
            .unwrap();
        let headers = IngressHeaders::from_pairs(std::iter::empty(), &*self.service.random);
        self.service.gate.identify(&claims, &headers).await.unwrap()
    }

    /// An operator's permit for an act about a tenant.
    pub async fn operator<Op: Operation>(&self, target: &str) -> Permit<Op> {
        let context = self
            .context(&self.token("_system", &["SRE.Admin", "Security.Admin"], &[]))
            .await;
        let home = self
            .service
            .registry
            .get(&TenantId::system())
            .await
            .unwrap()
            .unwrap()
            .silo
            .clone();
        let request = Request::at(home).with_target(TenantId::from_stored(target).unwrap());
        self.service
            .gate
            .authorize::<Op>(&context, request)
            .await
            .unwrap()
    }

    /// Makes a tenant in a silo.
    pub async fn tenant(&self, id: &str, silo: &str) {
        let permit = self.operator::<TenantAdmin>(id).await;
        let new = NewTenant::new(TenantId::parse(id).unwrap(), SiloId::parse(silo).unwrap());
        onboard(&self.service.registry, &self.service.policies, &permit, new)
            .await
            .unwrap();
    }

    /// Moves a tenant through its life.
    pub async fn advance(&self, id: &str, event: Event) {
        let permit = self.operator::<TenantAdmin>(id).await;
        let id = TenantId::parse(id).unwrap();
        self.service
            .registry
            .transition(&permit, &id, event)
            .await
            .unwrap();
    }

    /// Applies a policy bundle.
    pub async fn policy(&self, id: &str, yaml: &str) {
        let permit = self.operator::<PolicyWrite>(id).await;
        self.service
            .policies
            .apply(&permit, yaml.as_bytes())
            .await
            .unwrap();
    }

    fn addresses(&self, silo: &str) -> &Addresses {
        self.addresses
            .iter()
            .find(|address| address.silo.as_str() == silo)
            .unwrap()
    }

    /// The base address of a silo's HTTP listener.
    pub fn http(&self, silo: &str) -> String {
        format!("http://{}", self.addresses(silo).http)
    }

    /// Posts records to a silo; gives status and answer.
    pub async fn post(&self, silo: &str, token: &str, path: &str, body: String) -> (u16, Value) {
        let kind = if path.ends_with(":batch") {
            "application/x-ndjson"
        } else {
            "application/json"
        };
        let request = reqwest::Client::new()
            .post(self.http(silo) + path)
            .header("content-type", kind);
        let response = request.bearer_auth(token).body(body).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// What a silo's listener says of its readiness.
    pub async fn ready(&self, silo: &str) -> (u16, Value) {
        let asked = reqwest::get(self.http(silo) + "/readyz").await.unwrap();
        (asked.status().as_u16(), asked.json().await.unwrap())
    }

    /// Sends records as a batch and expects each to be accepted.
    pub async fn ingest(&self, tenant: &str, silo: &str, records: &[Value]) {
        let token = self.token(tenant, &[], &["audit.write"]);
        let lines: Vec<_> = records.iter().map(Value::to_string).collect();
        let (status, answer) = self
            .post(silo, &token, "/v1/audit/records:batch", lines.join("\n"))
            .await;
        assert_eq!(status, 200, "{answer}");
        let results = answer["results"].as_array().unwrap();
        assert_eq!(results.len(), records.len());
        assert!(
            results.iter().all(|result| result["status"] == 200),
            "{answer}"
        );
    }

    /// A Flight SQL client that sends this token.
    pub async fn client(&self, silo: &str, token: &str) -> FlightSqlServiceClient<Channel> {
        let uri = format!("http://{}", self.addresses(silo).flight);
        let channel = Endpoint::from_shared(uri).unwrap().connect().await.unwrap();
        let mut client = FlightSqlServiceClient::new(channel);
        client.set_token(token.to_owned());
        client
    }

    /// Runs a statement in a role; the error is all the text a client can see of it.
    pub async fn query(
        &self,
        tenant: &str,
        silo: &str,
        role: &str,
        sql: &str,
    ) -> Result<Vec<RecordBatch>, String> {
        let mut client = self.client(silo, &self.token(tenant, &[role], &[])).await;
        run(&mut client, sql).await
    }
}

fn settings(path: &Path, setup: Setup) -> Config {
    let at = |name: &str| path.join(name).display().to_string();
    let mut settings = format!(
        "[control]\nroot = {:?}\n[keys]\nfolder = {:?}\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [wal]\nfolder = {:?}\nnode = {:?}\n{}\n",
        at("control"),
        at("keys"),
        at(&format!("wal-{}", setup.node)),
        // Behind a plus sign: which of several copies of the node's folder.
        setup.node.split('+').next().unwrap_or_default(),
        setup.wal,
    );
    let queries = format!("[queries]\nspill_folder = {:?}\n", at("spill"));
    if setup.more.contains("[queries]\n") {
        settings.push_str(&setup.more.replace("[queries]\n", &queries));
    } else {
        settings.push_str(setup.more);
        settings.push_str(&format!("\n{queries}"));
    }
    for silo in SILOS {
        let listeners = "flight = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n";
        if setup.more.contains(&format!("[silos.{silo}]")) {
            continue;
        }
        settings.push_str(&format!(
            "[silos.{silo}]\nroot = {:?}\n{listeners}",
            at(silo)
        ));
    }
    config::from_text(&settings, std::iter::empty()).unwrap()
}

/// Runs a statement; the error is all the text a client can see of it.
pub async fn run(
    client: &mut FlightSqlServiceClient<Channel>,
    sql: &str,
) -> Result<Vec<RecordBatch>, String> {
    let shown = |error: &dyn std::fmt::Debug| format!("{error:?}");
    let info = client
        .execute(sql.to_owned(), None)
        .await
        .map_err(|error| shown(&error))?;
    let mut batches = Vec::new();
    for endpoint in info.endpoint {
        let stream = client
            .do_get(endpoint.ticket.unwrap())
            .await
            .map_err(|error| shown(&error))?;
        batches.extend(
            stream
                .try_collect::<Vec<_>>()
                .await
                .map_err(|error| shown(&error))?,
        );
    }
    Ok(batches)
}

/// Rows as text, for looking at.
pub fn text(batches: &[RecordBatch]) -> String {
    arrow::util::pretty::pretty_format_batches(batches)
        .unwrap()
        .to_string()
}

/// A record with this key, and these members over the usual ones.
pub fn record(tenant: &str, key: &str, over: Value) -> Value {
    let mut record = serde_json::json!({
        "tenantId": tenant, "idempotencyKey": key, "createdAt": "2026-01-02T03:04:05.678Z", "action": "Order.Placed",
        "resource": { "type": "Order", "id": "17" }, "actor": { "type": "User", "id": "ann" },
        "correlation": { "traceId": "4bf92f3577b34da6a3ce929d0e0e4736" },
    });
    if let Value::Object(over) = over {
        record.as_object_mut().unwrap().extend(over);
    }
    record
}

/// Every file below a folder.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path))
        } else {
            found.push(path)
        }
    }
    found.sort();
    found
}
