//! Taking a plain tree apart, one fault at a time, without stopping at the first.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value};

use crate::policy::bundle::BUNDLE_BYTES_MAX;

/// Levels of nesting; a bundle of ours has six.
const DEPTH_MAX: usize = 16;
/// Keys, values, lists and maps of one bundle.
const NODES_MAX: usize = 50_000;
/// Entries of any one list or map.
const ENTRIES_MAX: usize = 2_000;
/// Reasons listed before the rest is counted only.
const REASONS_MAX: usize = 100;
/// Characters of the longest reason's place.
const PLACE_MAX: usize = 160;

/// The document as a tree, within limits that hold before anything is built.
pub(super) fn tree(yaml: &[u8]) -> Result<Value, String> {
    if yaml.len() > BUNDLE_BYTES_MAX {
        return Err(format!("a bundle has at most {BUNDLE_BYTES_MAX} bytes"));
    }
    let options = serde_saphyr::options! {
        // `no` is a silo, `y` a column: only true and false are truth values.
        strict_booleans: true,
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            flow_nesting_limit: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_events: 4 * NODES_MAX,
            max_documents: 1,
            // A bundle is read by people who must see what it says where it says it.
            max_anchors: 0,
            max_aliases: 0,
            max_merge_keys: 0,
        },
    };
    serde_saphyr::from_slice_with_options(yaml, options).map_err(|fault| {
        format!(
            "not YAML that can be read: {}",
            clipped(&fault.without_snippet().to_string())
        )
    })
}

fn clipped(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(PLACE_MAX).collect()
}

/// A value and where it stands.
pub(super) struct Node<'a> {
    pub(super) value: &'a Value,
    pub(super) place: String,
}

/// A map whose keys are known beforehand.
pub(super) struct Section<'a> {
    pub(super) entries: Option<&'a Map<String, Value>>,
    pub(super) place: String,
}

#[derive(Default)]
pub(super) struct Reader {
    pub(super) reasons: Vec<String>,
}

impl<'a> Section<'a> {
    pub(super) fn get(&self, key: &str) -> Option<Node<'a>> {
        let value = self.entries?.get(key).filter(|value| !value.is_null())?;
        Some(Node {
            value,
            place: join(&self.place, key),
        })
    }
}

pub(super) fn join(place: &str, key: &str) -> String {
    if place.is_empty() {
        key.to_owned()
    } else {
        format!("{place}.{key}")
    }
}

impl Reader {
    pub(super) fn refuse(&mut self, place: &str, why: impl fmt::Display) {
        let place = if place.is_empty() {
            "the bundle"
        } else {
            place
        };
        self.reasons.push(format!("{}: {why}", clipped(place)));
    }

    pub(super) fn reasons(mut self) -> Vec<String> {
        let left = self.reasons.len().saturating_sub(REASONS_MAX);
        self.reasons.truncate(REASONS_MAX);
        if left > 0 {
            self.reasons.push(format!("and {left} more"));
        }
        self.reasons
    }

    pub(super) fn section<'a>(&mut self, node: &Node<'a>, known: &[&str]) -> Section<'a> {
        let entries = self.entries(node);
        for key in entries
            .into_iter()
            .flat_map(Map::keys)
            .filter(|key| !known.contains(&key.as_str()))
        {
            self.refuse(
                &join(&node.place, key),
                format_args!("unknown key; known are {}", known.join(", ")),
            );
        }
        Section {
            entries,
            place: node.place.clone(),
        }
    }

    pub(super) fn required<'a>(&mut self, section: &Section<'a>, key: &str) -> Option<Node<'a>> {
        let found = section.get(key);
        if found.is_none() && section.entries.is_some() {
            self.refuse(&join(&section.place, key), "missing");
        }
        found
    }

    pub(super) fn entries<'a>(&mut self, node: &Node<'a>) -> Option<&'a Map<String, Value>> {
        let entries = node.value.as_object();
        match entries {
            None => self.refuse(&node.place, "must be a map"),
            Some(entries) if entries.len() > ENTRIES_MAX => {
                self.refuse(
                    &node.place,
                    format_args!("has more than {ENTRIES_MAX} entries"),
                );
                return None;
            }
            Some(_) => {}
        }
        entries
    }

    pub(super) fn items<'a>(&mut self, node: &Node<'a>) -> Vec<Node<'a>> {
        match node.value.as_array() {
            Some(items) if items.len() <= ENTRIES_MAX => items
                .iter()
                .enumerate()
                .map(|(index, value)| Node {
                    value,
                    place: format!("{}[{index}]", node.place),
                })
                .collect(),
            Some(_) => {
                self.refuse(
                    &node.place,
                    format_args!("has more than {ENTRIES_MAX} entries"),
                );
                Vec::new()
            }
            None => {
                self.refuse(&node.place, "must be a list");
                Vec::new()
            }
        }
    }

    pub(super) fn text<'a>(&mut self, node: &Node<'a>) -> Option<&'a str> {
        let text = node.value.as_str().filter(|text| !text.is_empty());
        if text.is_none() {
            self.refuse(
                &node.place,
                "must be text (in quotes, if it looks like a number)",
            );
        }
        text
    }

    pub(super) fn number(&mut self, node: &Node<'_>, least: u64, most: u64) -> Option<u64> {
        let number = node
            .value
            .as_u64()
            .filter(|number| (least..=most).contains(number));
        if number.is_none() {
            self.refuse(
                &node.place,
                format_args!("must be a whole number from {least} to {most}"),
            );
        }
        number
    }

    pub(super) fn flag(&mut self, node: &Node<'_>) -> Option<bool> {
        let flag = node.value.as_bool();
        if flag.is_none() {
            self.refuse(&node.place, "must be true or false");
        }
        flag
    }

    /// A text that `of` understands.
    pub(super) fn word<T>(
        &mut self,
        node: &Node<'_>,
        wanted: &str,
        of: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let word = of(self.text(node)?);
        if word.is_none() {
            self.refuse(&node.place, format_args!("must be {wanted}"));
        }
        word
    }

    pub(super) fn words<T: Ord>(
        &mut self,
        node: &Node<'_>,
        wanted: &str,
        of: impl Fn(&str) -> Option<T>,
    ) -> BTreeSet<T> {
        let mut words = BTreeSet::new();
        for item in self.items(node) {
            if let Some(word) = self.word(&item, wanted, &of)
                && !words.insert(word)
            {
                self.refuse(&item.place, "listed twice");
            }
        }
        words
    }
}
