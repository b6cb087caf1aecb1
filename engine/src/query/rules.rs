//! The rules of a profile as places, and what becomes of them when a schema moves a field.
//!
//! A rule is about a field, and a field keeps its rule wherever an upcaster puts it: a rule on the old place holds at the
//! new one, and a rule on the new place holds for values that still stand at the old one. Both are known before a row is
//! read, so masks are applied once, to the record in its new shape, and nothing of a row decides which ones.

use std::collections::HashSet;

use catalog::policy::{FieldPath, MaskRule, Step as PathStep};
use catalog::schema::{Part, Pointer, Step};

/// Rules of one caller. Beyond that everything open is masked.
const RULES_MAX: usize = 2_048;

/// What a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// A column with one value.
    Column(String),
    /// Any object key or label of this name; letter case does not matter in ASCII.
    AnyKey(String),
    /// A place in an open part of the record; no step is all of it.
    In(Part, Vec<PathStep>),
}

/// One rule of a caller.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Rule {
    pub(super) place: Place,
    pub(super) rule: MaskRule,
    /// Separates the hashes of one field from those of another: the field as the policy names it.
    pub(super) scope: String,
}

impl Place {
    /// The place of a field path.
    pub(super) fn of(path: &FieldPath) -> Self {
        let whole = |name: &str| Part::ALL.into_iter().find(|part| part.as_str() == name);
        match path {
            FieldPath::Column(name) => match whole(name) {
                Some(part) => Self::In(part, Vec::new()),
                None => Self::Column(name.clone()),
            },
            FieldPath::AnyKey(key) => Self::AnyKey(key.clone()),
            FieldPath::Label(key) => Self::In(Part::Labels, vec![PathStep::Key(key.clone())]),
            FieldPath::Context(steps) => Self::In(Part::Context, steps.clone()),
        }
    }

    /// Whether one of two places lies in the other, as far as keys say.
    pub(super) fn overlaps(&self, pointer: &Pointer) -> bool {
        let Self::In(part, steps) = self else {
            return false;
        };
        let pairs = steps.iter().zip(pointer.keys());
        *part == pointer.part() && pairs.into_iter().all(|(step, key)| is_key(step, key))
    }
}

impl Rule {
    pub(super) fn of(path: &FieldPath, rule: MaskRule) -> Self {
        Self {
            place: Place::of(path),
            rule,
            scope: path.to_string(),
        }
    }

    /// Whether it masks what stands at the end of these keys, whole.
    pub(super) fn covers(&self, part: Part, keys: &[String]) -> bool {
        match &self.place {
            Place::Column(_) => false,
            Place::AnyKey(name) => keys.iter().any(|key| key.eq_ignore_ascii_case(name)),
            Place::In(own, steps) => {
                let mut pairs = steps.iter().zip(keys);
                *own == part
                    && steps.len() <= keys.len()
                    && pairs.all(|(step, key)| is_key(step, key))
            }
        }
    }

    /// Whether it masks something in what stands there, but not all of it; a rule on any key may.
    pub(super) fn reaches_into(&self, part: Part, keys: &[String]) -> bool {
        match &self.place {
            Place::Column(_) => false,
            Place::AnyKey(_) => true,
            Place::In(own, steps) => {
                let mut pairs = steps.iter().zip(keys);
                *own == part
                    && steps.len() > keys.len()
                    && pairs.all(|(step, key)| is_key(step, key))
            }
        }
    }

    fn covers_at(&self, at: &Pointer) -> bool {
        self.covers(at.part(), at.keys())
    }

    /// Whether it hides an object that the place lies in, and with it whether anything is there.
    fn hides(&self, at: &Pointer) -> bool {
        let above = at.keys().split_last().map_or(&[][..], |(_, above)| above);
        self.covers(at.part(), above)
    }

    /// The rule for a value that went from one place to another.
    fn follows(&self, from: &Pointer, to: &Pointer) -> Option<Self> {
        let keys = |pointer: &Pointer| -> Vec<PathStep> {
            let keys = pointer.keys().iter();
            keys.map(|key| PathStep::Key(key.clone())).collect()
        };
        let steps = if self.covers_at(from) {
            keys(to)
        } else if let Place::In(part, steps) = &self.place
            && self.reaches_into(from.part(), from.keys())
            && *part == from.part()
        {
            let below = steps.get(from.keys().len()..)?;
            keys(to).into_iter().chain(below.iter().cloned()).collect()
        } else {
            return None;
        };
        Some(Self {
            place: Place::In(to.part(), steps),
            rule: self.rule,
            scope: self.scope.clone(),
        })
    }

    /// The rule for a part of its value, or for a value that it is a part of: what shows an end of the one would show more
    /// of the other.
    fn redacting(self) -> Self {
        Self {
            rule: self.rule.stricter(MaskRule::Redact),
            ..self
        }
    }
}

fn is_key(step: &PathStep, key: &str) -> bool {
    matches!(step, PathStep::Key(own) if own == key)
}

/// The rules, with those that follow from them along the upcasters of each stream.
pub(super) fn followed<'s>(
    rules: &[Rule],
    chains: impl Iterator<Item = Vec<&'s Step>>,
) -> Vec<Rule> {
    let mut all = rules.to_vec();
    let mut known: HashSet<Rule> = rules.iter().cloned().collect();
    for chain in chains {
        // Back to the places of the oldest records first, and from those on: a value that a step left where it stood, since
        // its new place was taken, may go somewhere else with a later one, and must not lose the rule of where it belongs.
        let back = along(rules, chain.iter().copied().rev(), |from, to| (to, from));
        let onward = along(&back, chain.iter().copied(), |from, to| (from, to));
        let new = onward.into_iter().filter(|rule| known.insert(rule.clone()));
        all.extend(new);
        if all.len() > RULES_MAX {
            // More than anybody wrote down on purpose: nothing open is shown.
            all.truncate(RULES_MAX);
            all.extend(Part::ALL.map(|part| Rule {
                place: Place::In(part, Vec::new()),
                rule: MaskRule::Redact,
                scope: String::new(),
            }));
            return all;
        }
    }
    all
}

/// What follows from the rules, step by step, the way that `turned` gives.
fn along<'s>(
    rules: &[Rule],
    steps: impl Iterator<Item = &'s Step>,
    turned: impl for<'p> Fn(&'p Pointer, &'p Pointer) -> (&'p Pointer, &'p Pointer),
) -> Vec<Rule> {
    let mut all = rules.to_vec();
    let mut known: HashSet<Rule> = rules.iter().cloned().collect();
    for step in steps {
        let Some(source) = step.source() else {
            continue;
        };
        let splits = matches!(step, Step::Split { .. });
        for target in step.targets().iter().filter(|target| *target != source) {
            let (from, to) = turned(source, target);
            let derived = all.iter().filter_map(|rule| rule.follows(from, to));
            let derived: Vec<Rule> = if splits {
                derived.map(Rule::redacting).collect()
            } else {
                derived.collect()
            };
            all.extend(
                derived
                    .into_iter()
                    .filter(|rule| known.insert(rule.clone())),
            );
        }
        if all.len() > RULES_MAX {
            return all;
        }
    }
    all
}

/// Whether a step may be done for a caller under these rules (those that follow included). Not if what the step does would
/// tell something of a value that the caller does not see: what it is made of, of which type it is, or that it is there.
pub(super) fn tells_nothing(step: &Step, rules: &[Rule]) -> bool {
    let is_masked = |at: &Pointer| {
        rules.iter().any(|rule| {
            let inside =
                matches!(rule.place, Place::In(..)) && rule.reaches_into(at.part(), at.keys());
            rule.covers_at(at) || inside
        })
    };
    let is_hidden = |at: &Pointer| rules.iter().any(|rule| rule.hides(at));
    let targets = step.targets();
    let mut places = step.source().into_iter().chain(&targets);
    match step {
        // Whether it is done hangs on nothing but whether something is there.
        Step::Default { .. } => true,
        Step::Split { .. } | Step::Cast { .. } => !places.any(is_masked),
        Step::Rename { .. } | Step::Move { .. } => {
            let typed = targets.iter().any(|to| to.part() == Part::Labels)
                && step
                    .source()
                    .is_some_and(|from| from.part() != Part::Labels);
            !places.any(|at| is_hidden(at) || (typed && is_masked(at)))
        }
    }
}
