//! Rules that depend on themselves.
//!
//! The library notices a circle of rules when it is in it, and of functions not at all: it goes on until the stack ends, and
//! the process with it. So modules with a circle are refused, and with anything that could be one: every name of a rule
//! that stands in another rule counts, whatever it means there.

use std::collections::{BTreeMap, BTreeSet};

use regorus::unstable::{Module, Ref, Rule, RuleHead, TokenKind};

use super::scan::{self, Token};

/// Which rules a rule could depend on, by name.
type Dependencies = BTreeMap<String, BTreeSet<String>>;

/// A rule that could depend on itself, if there is one.
pub(super) fn circle_in(modules: &[Ref<Module>]) -> Result<Option<String>, String> {
    let mut dependencies = Dependencies::new();
    for rule in modules.iter().flat_map(|module| &module.policy) {
        dependencies.entry(name_of(rule)).or_default();
    }
    for module in modules {
        note(module, &mut dependencies)?;
    }
    let mut known: Dependencies = dependencies.clone();
    // Everything that can be reached, in as many rounds as the longest way has steps.
    for _ in 0..dependencies.len() {
        let mut reached = known.clone();
        for further in reached.values_mut() {
            for near in further.clone() {
                further.extend(known.get(&near).into_iter().flatten().cloned());
            }
        }
        if reached == known {
            break;
        }
        known = reached;
    }
    let circle = known.into_iter().find(|(name, far)| far.contains(name));
    Ok(circle.map(|(name, _)| name))
}

/// The first part of the name of a rule.
pub(super) fn name_of(rule: &Rule) -> String {
    let refr = match rule {
        Rule::Spec {
            head:
                RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. },
            ..
        }
        | Rule::Default { refr, .. } => refr,
    };
    let text = refr.span().text();
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    text.split_at(end.unwrap_or(text.len())).0.to_owned()
}

/// Each name belongs to the rule that began last before it.
fn note(module: &Module, dependencies: &mut Dependencies) -> Result<(), String> {
    let mut starts: Vec<(u32, String)> = module
        .policy
        .iter()
        .map(|rule| (rule.span().start, name_of(rule)))
        .collect();
    starts.sort();
    let mut rules = starts.into_iter().peekable();
    let mut own: Option<String> = None;
    // The head names its own rule once.
    let mut in_head = false;
    let mut path: Vec<String> = Vec::new();
    for token in scan::tokens(module.package.span.source.contents())? {
        while let Some((_, name)) = rules.next_if(|(start, _)| *start <= token.start) {
            own = Some(name);
            in_head = true;
        }
        let Some(own) = &own else { continue };
        if !continues(&mut path, &token) {
            continue;
        }
        let named = match path.as_slice() {
            [name] => name,
            [package, name] if package == "trailhouse" => name,
            [data, package, name] if data == "data" && package.starts_with("trailhouse") => name,
            _ => continue,
        };
        if in_head && named == own {
            in_head = false;
        } else if dependencies.contains_key(named) {
            let named = named.clone();
            dependencies.entry(own.clone()).or_default().insert(named);
        }
    }
    Ok(())
}

/// Keeps the names with dots between them that end in a token; says whether the token is one.
fn continues(path: &mut Vec<String>, token: &Token) -> bool {
    match token.kind {
        TokenKind::Ident => {
            if path.last().is_some_and(|last| last == ".") {
                path.pop();
            } else {
                path.clear();
            }
            path.push(token.text.clone());
            true
        }
        TokenKind::Symbol if token.text == "." => {
            path.push(".".to_owned());
            false
        }
        _ => {
            path.clear();
            false
        }
    }
}
