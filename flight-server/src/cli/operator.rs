//! The operator at the command line: a principal of the system tenant, who passes the same gate as everybody else.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use catalog::context::{IngressHeaders, Role, TenantContext};
use catalog::guard::{Denial, Operation, Permit, Request};
use catalog::ids::{IdError, TenantId};
use catalog::keys::KeyError;
use catalog::node::NodeError;
use catalog::{policy, schema, tenant};
use engine::ingest::dedupe;
use engine::wal;

use crate::auth::developer::{self, TokenRequest};
use crate::config::Config;
use crate::service::{self, Service};

use super::token;

const TOKEN_LIFETIME: Duration = Duration::from_secs(600);

/// Why an administrative act was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The parts of the product.
    #[error("the data or the keys cannot be opened")]
    Service(#[from] service::Error),
    /// Operators come from the development issuer, and it is off.
    #[error(
        "the development issuer is off (`auth.developer`): there is nobody to act as; \
         `auth.operator_token` names a file with a token of yours"
    )]
    NoDeveloper,
    /// The token to act by.
    #[error("`auth.operator_token`: `{}` cannot be read", .0.display())]
    TokenFile(PathBuf, #[source] std::io::Error),
    /// The development issuer.
    #[error("no token can be made")]
    Developer(#[source] developer::Error),
    /// The gate says no.
    #[error("not allowed: {}", .0.detail())]
    Denied(Denial),
    /// A name that is none.
    #[error("that is no name")]
    Name(#[from] IdError),
    /// A word that is not known.
    #[error("no such {what}; known: {known}")]
    Word {
        /// Role, scope, ….
        what: &'static str,
        /// All there are.
        known: String,
    },
    /// Onboarding.
    #[error("the tenant cannot be made")]
    Onboard(#[from] tenant::OnboardError),
    /// The registry.
    #[error("the registry says no")]
    Registry(#[from] tenant::Error),
    /// The key service.
    #[error("the key service says no")]
    Keys(#[source] KeyError),
    /// A node's registration.
    #[error("the node's registration says no")]
    Node(#[from] NodeError),
    /// The index of idempotency keys, while a server works with it.
    #[error("a server has the index of idempotency keys open: stop it first")]
    Running,
    /// The index of idempotency keys.
    #[error("the index of idempotency keys was not built")]
    Index(#[source] dedupe::Error),
    /// A table.
    #[error("a table cannot be read or put in order")]
    Table(#[from] engine::table::Error),
    /// The log.
    #[error("the log cannot be read")]
    Wal(#[from] wal::Error),
    /// A bundle, with every reason against it.
    #[error("the bundle is refused:\n  {}", .0.join("\n  "))]
    Refused(Vec<String>),
    /// A policy.
    #[error("the policy says no")]
    Policy(#[from] policy::Error),
    /// A schema, with every reason against it.
    #[error("the schema is refused:\n  {}", .0.join("\n  "))]
    SchemaRefused(Vec<String>),
    /// The schemas.
    #[error("the schemas say no")]
    Schema(#[from] schema::Error),
    /// A file that holds no upcaster.
    #[error("that is no upcaster")]
    Upcaster(#[source] serde_json::Error),
}

/// Why something is done, for those who ask later.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Why {
    /// Why, for those who ask later
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// The ticket that asks for it
    #[arg(long, value_name = "ID")]
    ticket: Option<String>,
}

impl Why {
    pub(super) fn because(reason: &str) -> Self {
        Self {
            reason: Some(reason.to_owned()),
            ticket: None,
        }
    }

    fn basis(&self) -> impl Iterator<Item = String> {
        let said = |what: &str, text: &Option<String>| Some(format!("{what}.{}", text.as_ref()?));
        [said("Reason", &self.reason), said("Ticket", &self.ticket)]
            .into_iter()
            .flatten()
    }
}

/// A token request for an operator.
pub(super) fn request() -> TokenRequest {
    TokenRequest {
        subject: "operator".to_owned(),
        tenant: Some(TenantId::system().to_string()),
        roles: vec![
            Role::SreAdmin.as_str().to_owned(),
            Role::SecurityAdmin.as_str().to_owned(),
        ],
        ..TokenRequest::default()
    }
}

/// The operator, with everything an act needs.
#[derive(Debug)]
pub(super) struct Operator {
    pub(super) service: Arc<Service>,
    context: TenantContext,
}

impl Operator {
    /// Opens data and keys, and signs in as an operator of the system tenant.
    pub(super) async fn open(config: Config) -> Result<Self, Error> {
        let token = match &config.auth.operator_token {
            Some(path) => {
                let text = std::fs::read_to_string(path);
                text.map_err(|source| Error::TokenFile(path.clone(), source))?
            }
            None => token::mint(&config, &request(), TOKEN_LIFETIME)?,
        };
        let service = Service::beside(config).await?;
        Self::sign_in(service, token.trim()).await
    }

    /// Sees to it that what was decided here has its evidence. For an operator who was [opened](Self::open).
    pub(super) async fn close(self) {
        let time_max = self.service.config.limits.shutdown_time_max;
        self.service.drain(time_max).await;
    }

    /// Signs in to a service that is there already.
    pub(super) async fn sign_in(service: Arc<Service>, token: &str) -> Result<Self, Error> {
        let bearer = format!("Bearer {token}");
        let claims = service
            .authenticator
            .authenticate(Some(&bearer))
            .await
            .map_err(Error::Denied)?;
        let headers = IngressHeaders::from_pairs(std::iter::empty(), &*service.random);
        let context = service
            .gate
            .identify(&claims, &headers)
            .await
            .map_err(Error::Denied)?;
        Ok(Self { service, context })
    }

    /// A permit for an act about `target`, whose evidence is durable.
    pub(super) async fn permit<Op: Operation>(
        &self,
        target: &TenantId,
    ) -> Result<Permit<Op>, Error> {
        let system = self.service.registry.get(&TenantId::system()).await?;
        let home = system
            .ok_or(Error::Denied(Denial::Unavailable))?
            .silo
            .clone();
        let request = Request::at(home).with_target(target.clone());
        let permit = self
            .service
            .gate
            .authorize::<Op>(&self.context, request)
            .await
            .map_err(Error::Denied)?;
        permit.evidence_durable().await.map_err(Error::Denied)?;
        Ok(permit)
    }

    /// Records what came of a permit, and why.
    pub(super) async fn note<Op: Operation>(
        &self,
        permit: &Permit<Op>,
        act: &'static str,
        (what, why): (String, &Why),
    ) -> Result<(), Error> {
        let basis = std::iter::once(what).chain(why.basis()).collect();
        let noted = self.service.gate.note(permit, act, basis).await;
        noted.map(drop).map_err(Error::Denied)
    }
}
