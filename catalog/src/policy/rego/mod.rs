//! Rego in a bundle: a module of the author's that is asked beside the rules of the product, and can only take away.
//!
//! ```text
//! package trailhouse
//! default allow := false                       # what is not true is a denial
//! allow if input.operation == "Read"
//! masking_profile := "no-email" if …           # optional: the name of a masking profile of the bundle
//! row_policies contains "prod" if …            # optional: names of row policies of the bundle
//! ```
//! Asked for `Write`, `Read`, `QuarantineRead`, `QuarantineDecide`, `JobToken` and `Export`, after everything else has
//! allowed them. Policies stay out of it: a module must not keep those away who could replace it.
//!
//! Trusted is nothing: a module is the text of one tenant and runs beside the requests of all. What could make much out of
//! little is refused when a bundle is loaded (`scan`), and an evaluation has a thread of its own, a time, and a number of
//! others beside it (`judge`). An error, a result that is not understood and a name that the bundle does not have are
//! denials.

mod circles;
mod judge;
mod scan;
pub mod suite;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use regorus::{Engine, Value};

pub(crate) use judge::Judge;

/// Bytes of the largest module, and of the largest module of tests.
pub const MODULE_BYTES_MAX: usize = 16 * 1024;
/// Bytes of the largest input, as JSON.
pub const INPUT_BYTES_MAX: usize = 16 * 1024;
/// Rules of one module.
pub const RULES_MAX: usize = 200;
/// Time of one evaluation, in which none gets far enough to fill the memory.
pub const TIME_MAX: Duration = Duration::from_millis(250);
/// Names in one result.
const NAMES_MAX: usize = 64;
/// Stack of an evaluation: enough for whatever is nested as deep as a module can have words. Pages that are not used cost nothing.
const STACK_BYTES: usize = 128 * 1024 * 1024;
/// Steps between two looks at the clock.
const STEPS: NonZeroU32 = NonZeroU32::new(64).unwrap();

const PACKAGE: &str = "data.trailhouse";
const FILE: &str = "policy.rego";

/// The Rego module of a bundle, ready to be asked.
pub struct Rego {
    module: String,
    /// Whether what it names stands in the place of what the role has, instead of beside it.
    pub may_widen: bool,
    engine: Mutex<Engine>,
    has_profile: bool,
    has_rows: bool,
}

/// What a module asks for beside the permission.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Obligations {
    /// A masking profile of the bundle.
    pub masking_profile: Option<String>,
    /// Row policies of the bundle.
    pub row_policies: BTreeSet<String>,
}

/// Why there is no permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The module says no, or nothing.
    Denies,
    /// It could not be evaluated, or its answer is not understood.
    Fails,
    /// Too many are being evaluated.
    Busy,
}

impl Rego {
    /// Reads a module.
    ///
    /// # Errors
    /// Every reason why it cannot be one.
    pub(super) fn parse(module: &str, may_widen: bool) -> Result<Self, Vec<String>> {
        let reasons = scan::reasons_against(module, scan::For::Decisions);
        if !reasons.is_empty() {
            return Err(reasons);
        }
        let text = module.to_owned();
        let prepared = apart(move || prepared(text));
        let (engine, has_profile, has_rows) = prepared
            .unwrap_or_else(|| Err("cannot be read".to_owned()))
            .map_err(|reason| vec![reason])?;
        Ok(Self {
            module: module.to_owned(),
            may_widen,
            engine: Mutex::new(engine),
            has_profile,
            has_rows,
        })
    }

    /// The module's text.
    #[must_use]
    pub fn module(&self) -> &str {
        &self.module
    }

    /// A copy to evaluate with.
    fn engine(&self) -> Engine {
        self.engine
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Asks the module; takes up to [`TIME_MAX`], on the stack of whoever calls.
    fn ask(&self, input: &serde_json::Value) -> Result<Obligations, Refusal> {
        let input = input.to_string();
        if input.len() > INPUT_BYTES_MAX {
            return Err(failed("an input"));
        }
        let mut engine = self.engine();
        engine
            .set_input_json(&input)
            .map_err(|_| failed("an input"))?;
        let mut rule = |name: &str| {
            let value = engine.eval_rule(format!("{PACKAGE}.{name}"));
            value.map_err(|_| failed("an evaluation"))
        };
        if rule("allow")? != Value::from(true) {
            return Err(Refusal::Denies);
        }
        let mut obligations = Obligations::default();
        if self.has_profile {
            let named = names(&rule("masking_profile")?)?;
            obligations.masking_profile = match named.len() {
                0 | 1 => named.into_iter().next(),
                _ => return Err(failed("a masking profile")),
            };
        }
        if self.has_rows {
            obligations.row_policies = names(&rule("row_policies")?)?;
        }
        Ok(obligations)
    }
}

/// What a module cannot be told of: it is the tenant's text.
fn failed(what: &'static str) -> Refusal {
    tracing::warn!(what, "a Rego module denied by failing");
    Refusal::Fails
}

/// A module that has been read and whose rules fit together.
fn prepared(module: String) -> Result<(Engine, bool, bool), String> {
    let mut engine = Engine::new();
    engine.set_strict_builtin_errors(true);
    engine.set_execution_timer_config(regorus::utils::limits::ExecutionTimerConfig {
        limit: TIME_MAX,
        check_interval: STEPS,
    });
    let package = engine
        .add_policy(FILE.to_owned(), module)
        .map_err(scan::short)?;
    if package != PACKAGE {
        return Err("must be of the package trailhouse".to_owned());
    }
    let rules: usize = engine
        .get_modules()
        .iter()
        .map(|module| module.policy.len())
        .sum();
    if rules > RULES_MAX {
        return Err(format!("has more than {RULES_MAX} rules"));
    }
    let has = |engine: &Engine, rule: &str| {
        let declared = engine.has_declared_rule_rooted_at(FILE, rule);
        declared.map_err(scan::short)
    };
    unlooped(&mut engine)?;
    let (allow, profile, rows) = (
        has(&engine, "allow")?,
        has(&engine, "masking_profile")?,
        has(&engine, "row_policies")?,
    );
    if !allow {
        return Err("has no rule `allow`".to_owned());
    }
    engine
        .compile_with_entrypoint(&format!("{PACKAGE}.allow").into())
        .map_err(scan::short)?;
    Ok((engine, profile, rows))
}

fn unlooped(engine: &mut Engine) -> Result<(), String> {
    match circles::circle_in(engine.get_modules())? {
        Some(rule) => Err(format!("the rule {rule} depends on itself")),
        None => Ok(()),
    }
}

/// The names of a result: nothing, a text, or a list or set of texts.
fn names(value: &Value) -> Result<BTreeSet<String>, Refusal> {
    let unfit = || failed("a result");
    let text = |value: &Value| {
        let text = value.as_string().map_err(|_| unfit())?;
        Ok(text.to_string())
    };
    let named: BTreeSet<String> = match value {
        Value::Undefined => BTreeSet::new(),
        Value::String(_) => BTreeSet::from([text(value)?]),
        Value::Set(_) => {
            let set = value.as_set().map_err(|_| unfit())?;
            set.iter()
                .take(NAMES_MAX + 1)
                .map(text)
                .collect::<Result<_, _>>()?
        }
        Value::Array(_) => {
            let list = value.as_array().map_err(|_| unfit())?;
            list.iter()
                .take(NAMES_MAX + 1)
                .map(text)
                .collect::<Result<_, _>>()?
        }
        _ => return Err(unfit()),
    };
    if named.len() > NAMES_MAX {
        return Err(unfit());
    }
    Ok(named)
}

/// Runs on a stack of its own; nothing comes of what panics.
fn apart<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let thread = thread().spawn(move || catch_unwind(AssertUnwindSafe(run)).ok());
    thread.ok()?.join().ok()?
}

fn thread() -> std::thread::Builder {
    std::thread::Builder::new()
        .name("rego".to_owned())
        .stack_size(STACK_BYTES)
}

impl PartialEq for Rego {
    fn eq(&self, other: &Self) -> bool {
        (&self.module, self.may_widen) == (&other.module, other.may_widen)
    }
}

impl Eq for Rego {}

impl fmt::Debug for Rego {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rego")
            .field("may_widen", &self.may_widen)
            .finish_non_exhaustive()
    }
}
