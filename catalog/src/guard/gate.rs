//! The gate: decides every request, and sees to it that every decision leaves evidence.

use std::future::ready;
use std::sync::Arc;

use futures::FutureExt;

use crate::clock::{Clock, Timestamp};
use crate::context::{IngressHeaders, Mandate, TenantContext, VerifiedClaims};
use crate::evidence::{
    Evidence, EvidenceEntry, EvidenceReceipt, EvidenceRef, EvidenceUnavailable, Verdict,
};
use crate::ids::TenantId;
use crate::policy::rego::{Judge, Obligations};
use crate::policy::{PinnedPolicy, Policies};
use crate::tenant::{Registry, TenantRecord};

use super::admitted::{admitted, exporting, resident, streamed};
use super::decision::{self, Decision};
use super::denial::Denial;
use super::permit::{Operation, OperationKind, Permit, Read};
use super::question::{self, asks_rego};
use super::request::Request;
use super::rules::{self, Standing};
use super::visible::Sight;

/// The only source of permits.
#[derive(Debug)]
pub struct Gate {
    registry: Arc<Registry>,
    policies: Arc<Policies>,
    evidence: Arc<dyn Evidence>,
    clock: Arc<dyn Clock>,
    judge: Judge,
}

impl Gate {
    /// A gate over what is known of tenants and what their policies say.
    pub fn new(
        registry: Arc<Registry>,
        policies: Arc<Policies>,
        evidence: Arc<dyn Evidence>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            registry,
            policies,
            evidence,
            clock,
            judge: Judge::new(),
        }
    }

    /// Finds out who asks, and for which tenant.
    ///
    /// # Errors
    /// Those of [`TenantContext::resolve`], recorded with the tenant the token names and may name, or else with the system tenant.
    pub async fn identify(
        &self,
        claims: &VerifiedClaims,
        headers: &IngressHeaders,
    ) -> Result<TenantContext, Denial> {
        let denial = match TenantContext::resolve(claims, headers, &self.registry).await {
            Ok(context) => return Ok(context),
            Err(denial) => denial,
        };
        let claimed = claims
            .tenant()
            .ok()
            .flatten()
            .filter(|tenant| claims.may_name(tenant))
            .unwrap_or_else(TenantId::system);
        let entry = EvidenceEntry {
            tenant: self.witness(&claimed).await,
            operation: "Identify",
            decision: Verdict::Deny,
            slug: Some(denial.slug()),
            policy_version: None,
            masking_profile: None,
            residency: None,
            basis: Vec::new(),
            subject: claims.subject().unwrap_or_else(|_| "unknown".to_owned()),
            statement: None,
            plan_digest: None,
            exhibit: None,
            correlation: headers.correlation().clone(),
            ts: self.clock.now(),
        };
        // Recorded as well as can be: a denial stays a denial.
        drop(self.evidence.record(entry));
        Err(denial)
    }

    /// Decides, and records what was decided.
    ///
    /// # Errors
    /// Why not.
    pub async fn authorize<Op: Operation>(
        &self,
        context: &TenantContext,
        request: Request,
    ) -> Result<Permit<Op>, Denial> {
        match self.decide(context, Op::KIND, &request).await {
            Ok(decision) => {
                let entry = allowed(&decision, request.statement, None);
                let receipt = self.evidence.record(entry);
                Ok(Permit::new(Arc::new(decision), receipt))
            }
            Err(denial) => Err(self.denied(context, Op::KIND, denial, request).await),
        }
    }

    /// Decides whether a statement may be planned, or the catalog listed. One execution is one record of evidence, and
    /// drivers plan a statement twice before; so this is quiet, and [`Self::witnessed`] gives the evidence.
    ///
    /// # Errors
    /// Why not.
    pub async fn authorize_planning(
        &self,
        context: &TenantContext,
        request: Request,
    ) -> Result<Permit<Read>, Denial> {
        self.authorize_quietly(context, request).await
    }

    /// Decides, and records a denial only: for looking at the progress of what was recorded when it was asked for, and
    /// for what gives evidence of its own. The permit has none: whatever waits for it before rows leave gets an error.
    ///
    /// # Errors
    /// Why not.
    pub async fn authorize_quietly<Op: Operation>(
        &self,
        context: &TenantContext,
        request: Request,
    ) -> Result<Permit<Op>, Denial> {
        match self.decide(context, Op::KIND, &request).await {
            Ok(decision) => {
                let none: EvidenceReceipt = ready(Err(EvidenceUnavailable)).boxed().shared();
                Ok(Permit::new(Arc::new(decision), none))
            }
            Err(denial) => Err(self.denied(context, Op::KIND, denial, request).await),
        }
    }

    /// Decides anew for somebody who is not there any more, by what they were when they asked and by what is known of
    /// the tenant and its policy now. Quiet, as [`Self::authorize_quietly`] is: what is done under the permit gives
    /// evidence of its own.
    ///
    /// # Errors
    /// Why not; [`Denial::InvalidToken`] where the mandate has ended, [`Denial::ResidencyConflict`] in a silo that it was
    /// not given in.
    pub async fn resume<Op: Operation>(
        &self,
        mandate: &Mandate,
        request: Request,
    ) -> Result<Permit<Op>, Denial> {
        let context = mandate.context(self.clock.now());
        if request.listener_silo != *mandate.silo() {
            let denial = Denial::ResidencyConflict;
            return Err(self.denied(&context, Op::KIND, denial, request).await);
        }
        self.authorize_quietly(&context, request).await
    }

    /// Records that what was planned under this permit is executed, and gives the permit that this evidence belongs to.
    pub fn witnessed(
        &self,
        planned: &Permit<Read>,
        statement: Option<String>,
        plan_digest: [u8; 32],
    ) -> Permit<Read> {
        let decision = planned.decision();
        let entry = allowed(decision, statement, Some(plan_digest));
        Permit::new(Arc::clone(decision), self.evidence.record(entry))
    }

    /// Records that what was asked for under this permit is refused all the same, with the problem of this slug.
    pub fn refused<Op>(&self, permit: &Permit<Op>, slug: &'static str, statement: Option<String>) {
        let entry = EvidenceEntry {
            decision: Verdict::Deny,
            slug: Some(slug),
            ts: self.clock.now(),
            ..allowed(permit.decision(), statement, None)
        };
        // Recorded as well as can be: a refusal stays a refusal.
        drop(self.evidence.record(entry));
    }

    /// Records a denial that was found after the permit: in planning, or in the records themselves. Gives it back.
    pub async fn deny(
        &self,
        context: &TenantContext,
        operation: OperationKind,
        denial: Denial,
        statement: Option<String>,
    ) -> Denial {
        let basis = question::basis_of(&denial).map(str::to_owned);
        let basis = basis.into_iter().collect();
        drop(
            self.refuse(context, operation, denial.slug(), statement, basis)
                .await,
        );
        denial
    }

    /// Records requests of one tenant that were refused for their number alone, before anything else was decided: one
    /// entry for many, in the name of the first caller, so that a flood is not one of evidence.
    ///
    /// # Errors
    /// [`Denial::EvidenceUnavailable`]; they were refused all the same.
    pub async fn limited(
        &self,
        first: &TenantContext,
        operation: OperationKind,
        count: u64,
        since: Timestamp,
    ) -> Result<EvidenceRef, Denial> {
        let basis = vec![format!("Limited.{count}"), format!("Since.{since}")];
        let receipt = self.refuse(first, operation, "rate-limited", None, basis);
        receipt.await.await.map_err(|_| Denial::EvidenceUnavailable)
    }

    /// Records what came of a permit, `Tenant.Transition` for example, and waits until that is durable.
    ///
    /// # Errors
    /// [`Denial::EvidenceUnavailable`]; the act itself has happened.
    pub async fn note<Op>(
        &self,
        permit: &Permit<Op>,
        act: &'static str,
        basis: Vec<String>,
    ) -> Result<EvidenceRef, Denial> {
        let decision = permit.decision();
        let basis = about(decision.target.as_ref())
            .into_iter()
            .chain(basis)
            .collect();
        let entry = EvidenceEntry {
            operation: act,
            basis,
            ts: self.clock.now(),
            ..allowed(decision, None, None)
        };
        let receipt: EvidenceReceipt = self.evidence.record(entry);
        receipt.await.map_err(|_| Denial::EvidenceUnavailable)
    }

    /// Records what the gate itself denies, with whose tenant it was about. Gives it back.
    async fn denied(
        &self,
        context: &TenantContext,
        operation: OperationKind,
        denial: Denial,
        request: Request,
    ) -> Denial {
        let mut basis = about(request.target.as_ref());
        basis.extend(question::basis_of(&denial).map(str::to_owned));
        drop(
            self.refuse(context, operation, denial.slug(), request.statement, basis)
                .await,
        );
        denial
    }

    /// A denial is recorded as well as can be, and stays a denial whatever becomes of the receipt.
    async fn refuse(
        &self,
        context: &TenantContext,
        operation: OperationKind,
        slug: &'static str,
        statement: Option<String>,
        basis: Vec<String>,
    ) -> EvidenceReceipt {
        let entry = EvidenceEntry {
            tenant: self.witness(context.tenant()).await,
            operation: operation.as_str(),
            decision: Verdict::Deny,
            slug: Some(slug),
            policy_version: None,
            masking_profile: None,
            residency: context.data_silo().cloned(),
            basis,
            subject: context.subject().to_owned(),
            statement,
            plan_digest: None,
            exhibit: None,
            correlation: context.correlation().clone(),
            ts: self.clock.now(),
        };
        self.evidence.record(entry)
    }

    /// Whose evidence a denial belongs to: the tenant's own, if there is such a tenant.
    async fn witness(&self, tenant: &TenantId) -> TenantId {
        match self.registry.get(tenant).await {
            Ok(Some(record)) => record.id.clone(),
            Ok(None) | Err(_) => TenantId::system(),
        }
    }

    async fn decide(
        &self,
        context: &TenantContext,
        operation: OperationKind,
        request: &Request,
    ) -> Result<Decision, Denial> {
        let now = self.clock.now();
        if now >= context.expires_at() {
            return Err(Denial::InvalidToken);
        }
        let found = self
            .registry
            .look_up(context.tenant())
            .await
            .map_err(|error| logged(&error))?;
        let record = found
            .record
            .filter(|record| record.state.allows(operation))
            .ok_or(Denial::UnknownTenant)?;
        resident(context, &record, &request.listener_silo)?;
        let standing = if record.id.is_system() {
            Standing::System
        } else {
            Standing::Tenant
        };
        let roles = context.effective_roles();
        let grounds = rules::grounds(operation, standing, &roles, context.scopes())
            .map_err(|needs| Denial::Forbidden { needs })?;
        self.targeted(operation, standing, &record, request).await?;
        let current = self
            .policies
            .current(&record)
            .await
            .map_err(|error| logged(&error))?;
        let confirmed = found.confirmed && current.confirmed;
        let mut basis = vec![
            "RLS.Tenant".to_owned(),
            grounds,
            format!("Lifecycle.{}", record.state),
        ];
        basis.extend(about(request.target.as_ref()));
        basis.extend(admitted(operation, &record, &current, confirmed)?);
        let attributes = context.attributes();
        let bundle = &current.policy.bundle;
        exporting(operation, &bundle.export, &roles, context.scopes())?;
        let obligations = self
            .judged(context, operation, request, &current.policy, now)
            .await?;
        let sight = Sight::of(bundle, operation, &roles, attributes, obligations.as_ref())?;
        streamed(operation, &record, request, sight.may_see_evidence)?;
        basis.extend(sight.basis);
        Ok(decision::sealed(Decision {
            id: [0; 32],
            tenant: record.id.clone(),
            target: request.target.clone(),
            silo: record.silo.clone(),
            operation,
            subject: context.subject().to_owned(),
            client: context.client().map(str::to_owned),
            roles,
            scopes: context.scopes().clone(),
            profile: sight.profile,
            rows: sight.rows,
            policy: current.policy,
            stream: request.stream.clone(),
            attributes: attributes.clone(),
            basis,
            correlation: context.correlation().clone(),
            expires_at: context.expires_at(),
            made_at: now,
            may_see_quarantine: sight.may_see_quarantine,
            may_see_evidence: sight.may_see_evidence,
        }))
    }

    /// What the policy's Rego module says, where it has one that is asked.
    async fn judged(
        &self,
        context: &TenantContext,
        operation: OperationKind,
        request: &Request,
        policy: &PinnedPolicy,
        now: Timestamp,
    ) -> Result<Option<Obligations>, Denial> {
        let Some(rego) = policy.bundle.rego.as_ref().filter(|_| asks_rego(operation)) else {
            return Ok(None);
        };
        let input = question::input(context, operation, request, policy, now);
        Ok(Some(self.judge.ask(context.tenant(), rego, input).await?))
    }

    /// Only operators name another tenant, and its state must allow what they want with it.
    async fn targeted(
        &self,
        operation: OperationKind,
        standing: Standing,
        own: &TenantRecord,
        request: &Request,
    ) -> Result<(), Denial> {
        let Some(target) = request.target.as_ref().filter(|target| **target != own.id) else {
            return Ok(());
        };
        match (standing, operation) {
            (Standing::Tenant, _) => Err(Denial::Forbidden {
                needs: "an operator, who acts from the system tenant",
            }),
            (
                Standing::System,
                OperationKind::Read
                | OperationKind::Write
                | OperationKind::QuarantineRead
                | OperationKind::QuarantineDecide
                | OperationKind::JobToken
                | OperationKind::Export,
            ) => Err(Denial::Forbidden {
                needs: "a caller of the tenant itself",
            }),
            // It may be about to be made.
            (Standing::System, OperationKind::TenantAdmin) => Ok(()),
            (
                Standing::System,
                OperationKind::PolicyRead
                | OperationKind::PolicyWrite
                | OperationKind::SchemaRead
                | OperationKind::SchemaWrite,
            ) => {
                let record = self
                    .registry
                    .get(target)
                    .await
                    .map_err(|error| logged(&error))?;
                let known = record.is_some_and(|record| record.state.allows_operator(operation));
                if known {
                    Ok(())
                } else {
                    Err(Denial::UnknownTenant)
                }
            }
        }
    }
}

/// What evidence of the system tenant says about whose tenant an operator's act was about.
fn about(target: Option<&TenantId>) -> Vec<String> {
    target
        .map(|target| format!("Target.{target}"))
        .into_iter()
        .collect()
}

fn allowed(
    decision: &Decision,
    statement: Option<String>,
    plan_digest: Option<[u8; 32]>,
) -> EvidenceEntry {
    EvidenceEntry {
        statement,
        plan_digest,
        ..decision.entry(decision.operation.as_str())
    }
}

/// The cause goes to the log here, where it turns into an answer that does not tell it.
fn logged<E: std::error::Error + 'static>(error: &E) -> Denial
where
    for<'a> &'a E: Into<Denial>,
{
    tracing::warn!(
        error = error as &dyn std::error::Error,
        "a decision could not be made"
    );
    error.into()
}
