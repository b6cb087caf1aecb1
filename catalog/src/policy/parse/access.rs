//! The parts of a bundle that say who sees what beyond their role's masks: purposes, row policies and Rego.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::context::{ATTRIBUTE_CHARS_MAX, Role};
use crate::policy::bundle::FieldRule;
use crate::policy::column::{self, ColumnKind};
use crate::policy::rego::Rego;
use crate::policy::row::{self, Predicate, ROW_POLICIES_MAX, RowPolicy};

use super::reader::{Node, Reader, join};

/// Names of profiles and row policies that authors give.
const NAME: &str = "a name: a-z first, then a-z 0-9 _ -, at most 63";

impl Reader {
    /// `purpose: { role: profile }`.
    pub(super) fn purposes(&mut self, node: &Node<'_>) -> BTreeMap<String, BTreeMap<Role, String>> {
        let mut purposes = BTreeMap::new();
        for (purpose, value) in self.entries(node).into_iter().flatten() {
            let place = join(&node.place, purpose);
            let length = purpose.chars().count();
            if !(1..=ATTRIBUTE_CHARS_MAX).contains(&length) || purpose.chars().any(char::is_control)
            {
                self.refuse(&place, "no token can have this purpose");
            }
            let node = Node { value, place };
            let mut profiles = BTreeMap::new();
            for (role, profile) in self.entries(&node).into_iter().flatten() {
                let place = join(&node.place, role);
                let named = self.word(
                    &Node {
                        value: profile,
                        place: place.clone(),
                    },
                    "the name of a masking profile",
                    profile_name,
                );
                let Some(role) = Role::parse_profile(role) else {
                    self.refuse(&place, "is not a role");
                    continue;
                };
                if let Some(named) = named
                    && profiles.insert(role, named).is_some()
                {
                    self.refuse(&place, "names a role twice");
                }
            }
            purposes.insert(purpose.clone(), profiles);
        }
        purposes
    }

    /// `name: { roles: […], mandatory: …, where: … }`. The fields say which promoted columns there are.
    pub(super) fn row_policies(
        &mut self,
        node: &Node<'_>,
        fields: &[FieldRule],
    ) -> BTreeMap<String, RowPolicy> {
        let mut policies = BTreeMap::new();
        let entries = self.entries(node);
        if entries.is_some_and(|entries| entries.len() > ROW_POLICIES_MAX) {
            self.refuse(
                &node.place,
                format_args!("has more than {ROW_POLICIES_MAX} policies"),
            );
            return policies;
        }
        for (name, value) in entries.into_iter().flatten() {
            let place = join(&node.place, name);
            if !is_own_name(name) {
                self.refuse(&place, format_args!("must be {NAME}"));
            }
            let node = Node { value, place };
            let section = self.section(&node, &["roles", "mandatory", "where"]);
            let roles = section
                .get("roles")
                .map(|node| self.words(&node, "a role", Role::parse_profile));
            let mandatory = section.get("mandatory").and_then(|node| self.flag(&node));
            let predicate = self
                .required(&section, "where")
                .and_then(|node| self.predicate(&node, fields));
            let policy = RowPolicy {
                name: name.clone(),
                roles: roles.unwrap_or_default(),
                mandatory: mandatory.unwrap_or(false),
                // One without a predicate was refused above.
                predicate: predicate.unwrap_or_else(Predicate::nothing),
            };
            policies.insert(name.clone(), policy);
        }
        policies
    }

    /// `{ module: …, mayWiden: … }`.
    pub(super) fn rego(&mut self, node: &Node<'_>) -> Option<Arc<Rego>> {
        let section = self.section(node, &["module", "mayWiden"]);
        let may_widen = section.get("mayWiden").and_then(|node| self.flag(&node));
        let module = self.required(&section, "module")?;
        let text = self.text(&module)?;
        match Rego::parse(text, may_widen.unwrap_or(false)) {
            Ok(rego) => Some(Arc::new(rego)),
            Err(reasons) => {
                for reason in reasons {
                    self.refuse(&module.place, reason);
                }
                None
            }
        }
    }

    fn predicate(&mut self, node: &Node<'_>, fields: &[FieldRule]) -> Option<Predicate<row::Test>> {
        let text = self.text(node)?;
        let promoted: BTreeSet<&str> = fields
            .iter()
            .filter_map(|rule| Some(rule.promote.as_ref()?.as_str()))
            .collect();
        let kind_of = |name: &str| match column::find(name) {
            // It is the caller's in every row: a policy that asks for it means something else.
            Some(_) if name == "tenant_id" => None,
            Some(column) => Some(column.kind),
            None => promoted.contains(name).then_some(ColumnKind::Text),
        };
        let parsed = row::parse(text, &kind_of);
        parsed
            .map_err(|reasons| {
                for reason in reasons {
                    self.refuse(&node.place, reason);
                }
            })
            .ok()
    }
}

/// A role's short name, or a name of the author's.
pub(super) fn profile_name(text: &str) -> Option<String> {
    match Role::parse_profile(text) {
        Some(role) => Some(role.profile_name().to_owned()),
        None => is_own_name(text).then(|| text.to_owned()),
    }
}

fn is_own_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= 63
        && bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte))
}
