//! A bundle's own tests: rules named `test_…`, in its module or in one beside it.

use regorus::{Engine, Value};

use crate::policy::bundle::{Bundle, BundleRefused};

use super::{PACKAGE, apart, circles, scan, unlooped};

const TESTS_FILE: &str = "tests.rego";
const TESTS_PACKAGE: &str = "data.trailhouse_test";

/// One test and how it came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The rule's name.
    pub test: String,
    /// Nothing, or why it failed.
    pub fault: Option<String>,
}

/// Checks a bundle, whoever's it is, and runs its tests and those of another module: of the package `trailhouse`, or of
/// `trailhouse_test` with `import data.trailhouse`.
///
/// # Errors
/// Every reason against the bundle or the tests.
pub fn run(yaml: &[u8], tests: Option<&str>) -> Result<Vec<Outcome>, BundleRefused> {
    let bundle = Bundle::parse_any(yaml)?;
    let refused = |reasons: Vec<String>| BundleRefused { reasons };
    let Some(rego) = &bundle.rego else {
        return Err(refused(vec!["rego: there is no module to test".to_owned()]));
    };
    let mut engine = rego.engine();
    let tests = tests.map(str::to_owned);
    if let Some(tests) = &tests {
        let reasons = scan::reasons_against(tests, scan::For::Tests);
        if !reasons.is_empty() {
            return Err(refused(reasons));
        }
    }
    let ran = apart(move || outcomes(&mut engine, tests));
    ran.unwrap_or_else(|| Err("the tests cannot be run".to_owned()))
        .map_err(|reason| refused(vec![reason]))
}

fn outcomes(engine: &mut Engine, tests: Option<String>) -> Result<Vec<Outcome>, String> {
    if let Some(tests) = tests {
        let package = engine.add_policy(TESTS_FILE.to_owned(), tests);
        let package = package.map_err(scan::short)?;
        if package != PACKAGE && package != TESTS_PACKAGE {
            return Err("tests must be of the package trailhouse or trailhouse_test".to_owned());
        }
    }
    unlooped(engine)?;
    let mut named: Vec<(String, String)> = Vec::new();
    for module in engine.get_modules() {
        let package = format!("data.{}", module.package.refr.span().text());
        let names = module.policy.iter().map(|rule| circles::name_of(rule));
        for name in names.filter(|name| name.starts_with("test_")) {
            let test = (package.clone(), name);
            if !named.contains(&test) {
                named.push(test);
            }
        }
    }
    let outcomes = named.into_iter().map(|(package, test)| {
        let fault = match engine.eval_rule(format!("{package}.{test}")) {
            Ok(value) if value == Value::from(true) => None,
            Ok(_) => Some("is not true".to_owned()),
            Err(error) => Some(scan::short(error)),
        };
        Outcome { test, fault }
    });
    Ok(outcomes.collect())
}
