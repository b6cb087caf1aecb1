//! Taking the fields out of a JSON object one by one, noting everything that is wrong with them.

use serde_json::{Map, Value};

use super::json::{VIOLATIONS_MAX, Violation, push_key};

/// What is wrong so far.
#[derive(Default)]
pub(crate) struct Faults(pub(crate) Vec<Violation>);

impl Faults {
    /// Notes a fault; beyond the bound it is forgotten.
    pub(crate) fn add(&mut self, pointer: impl Into<String>, message: impl Into<String>) {
        if self.0.len() < VIOLATIONS_MAX {
            self.0.push(Violation::new(pointer, message));
        }
    }
}

/// An object whose fields are taken out one by one; what is left at the end was not asked for.
pub(crate) struct Object {
    pub(crate) members: Map<String, Value>,
    pub(crate) pointer: String,
}

impl Object {
    /// Takes a text: `None` after a fault, `Some(None)` if it is absent.
    pub(crate) fn text(&mut self, key: &str, faults: &mut Faults) -> Option<Option<String>> {
        match self.members.remove(key) {
            None | Some(Value::Null) => Some(None),
            Some(Value::String(text)) => Some(Some(text)),
            Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                faults.add(self.pointer_to(key), "must be text");
                None
            }
        }
    }

    /// Takes a text that must be there and not be empty.
    pub(crate) fn required_text(
        &mut self,
        key: &str,
        max: usize,
        faults: &mut Faults,
    ) -> Option<String> {
        let Some(text) = self.text(key, faults)? else {
            faults.add(self.pointer_to(key), "is required");
            return None;
        };
        if text.is_empty() {
            faults.add(self.pointer_to(key), "must not be empty");
        }
        self.bounded(key, text, max, faults)
    }

    /// Takes a text that may be absent.
    pub(crate) fn optional_text(
        &mut self,
        key: &str,
        max: usize,
        faults: &mut Faults,
    ) -> Option<String> {
        let text = self.text(key, faults)??;
        self.bounded(key, text, max, faults)
    }

    fn bounded(&self, key: &str, text: String, max: usize, faults: &mut Faults) -> Option<String> {
        if is_longer(&text, max) {
            faults.add(
                self.pointer_to(key),
                format!("has more than {max} characters"),
            );
            return None;
        }
        Some(text)
    }

    /// Takes an object that may be absent.
    pub(crate) fn object(&mut self, key: &str, faults: &mut Faults) -> Option<Self> {
        match self.members.remove(key) {
            None | Some(Value::Null) => None,
            Some(Value::Object(members)) => Some(Self {
                members,
                pointer: self.pointer_to(key),
            }),
            Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::String(_)) => {
                faults.add(self.pointer_to(key), "must be an object");
                None
            }
        }
    }

    /// Takes an object that must be there.
    pub(crate) fn required_object(&mut self, key: &str, faults: &mut Faults) -> Option<Self> {
        if matches!(self.members.get(key), None | Some(Value::Null)) {
            self.members.remove(key);
            faults.add(self.pointer_to(key), "is required");
            return None;
        }
        self.object(key, faults)
    }

    /// Puts what nobody asked for into `extras`, under the object's name.
    pub(crate) fn keep_rest(self, name: &str, extras: &mut Map<String, Value>) {
        if !self.members.is_empty() {
            extras.insert(name.to_owned(), Value::Object(self.members));
        }
    }

    fn pointer_to(&self, key: &str) -> String {
        let mut pointer = self.pointer.clone();
        push_key(&mut pointer, key);
        pointer
    }
}

/// Whether a text has more characters than that.
pub(crate) fn is_longer(text: &str, characters: usize) -> bool {
    text.len() > characters && text.chars().nth(characters).is_some()
}
