//! How a rule is spelled: `HASH`, or `{kind: HASH, params: {…}}`.

use crate::policy::rule::{Generalize, MASK_SHOWN_DEFAULT, MaskRule, WriteRule};

use super::reader::{Node, Reader};

/// Characters that MASK may leave at either end.
const SHOWN_MAX: u64 = 64;

/// A rule as it is spelled, before it is known whether it is for writing or reading.
struct Spelled<'a> {
    kind: &'a str,
    shown: (usize, usize),
    generalize: Option<Generalize>,
    place: String,
}

impl Reader {
    pub(super) fn write_rule(&mut self, node: &Node<'_>) -> Option<WriteRule> {
        let spelled = self.spelled(node)?;
        match spelled.kind {
            "KEEP" => Some(WriteRule::Keep),
            "DROP" => Some(WriteRule::Drop),
            "ENCRYPT" => {
                self.refuse(&spelled.place, "ENCRYPT is not available in this version");
                None
            }
            _ => self
                .either(
                    &spelled,
                    "KEEP, HASH, TOKEN, MASK, REDACT, DROP, NULLIFY or GENERALIZE",
                )
                .map(Into::into),
        }
    }

    pub(super) fn mask_rule(&mut self, node: &Node<'_>) -> Option<MaskRule> {
        let spelled = self.spelled(node)?;
        match spelled.kind {
            "CLEAR" => Some(MaskRule::Clear),
            _ => self.either(
                &spelled,
                "CLEAR, HASH, TOKEN, MASK, REDACT, NULLIFY or GENERALIZE",
            ),
        }
    }

    /// The kinds that both sides have.
    fn either(&mut self, spelled: &Spelled<'_>, wanted: &str) -> Option<MaskRule> {
        let (show_first, show_last) = spelled.shown;
        match spelled.kind {
            "HASH" => Some(MaskRule::Hash),
            "TOKEN" => Some(MaskRule::Token),
            "MASK" => Some(MaskRule::Mask {
                show_first,
                show_last,
            }),
            "REDACT" => Some(MaskRule::Redact),
            "NULLIFY" => Some(MaskRule::Nullify),
            "GENERALIZE" => {
                if spelled.generalize.is_none() {
                    self.refuse(
                        &spelled.place,
                        "GENERALIZE needs params: { to: ip | day | month }",
                    );
                }
                spelled.generalize.map(MaskRule::Generalize)
            }
            _ => {
                self.refuse(&spelled.place, format_args!("must be {wanted}"));
                None
            }
        }
    }

    /// `HASH`, or `{kind: HASH, params: {…}}`.
    fn spelled<'a>(&mut self, node: &Node<'a>) -> Option<Spelled<'a>> {
        let place = node.place.clone();
        if let Some(kind) = node.value.as_str() {
            return Some(Spelled {
                kind,
                shown: MASK_SHOWN_DEFAULT,
                generalize: None,
                place,
            });
        }
        let section = self.section(node, &["kind", "params"]);
        let kind = self
            .required(&section, "kind")
            .and_then(|node| self.text(&node))?;
        let mut spelled = Spelled {
            kind,
            shown: MASK_SHOWN_DEFAULT,
            generalize: None,
            place,
        };
        if let Some(params) = section.get("params") {
            self.params(&mut spelled, &params);
        }
        Some(spelled)
    }

    fn params(&mut self, spelled: &mut Spelled<'_>, node: &Node<'_>) {
        let known: &[&str] = match spelled.kind {
            "MASK" => &["showFirst", "showLast"],
            "GENERALIZE" => &["to"],
            "HASH" | "TOKEN" => &["algo", "saltRef"],
            _ => &[],
        };
        let section = self.section(node, known);
        if spelled.kind == "MASK" && section.entries.is_some_and(|entries| !entries.is_empty()) {
            let mut shown = |key| {
                let number = section
                    .get(key)
                    .and_then(|node| self.number(&node, 0, SHOWN_MAX));
                number
                    .and_then(|number| usize::try_from(number).ok())
                    .unwrap_or(0)
            };
            spelled.shown = (shown("showFirst"), shown("showLast"));
        }
        spelled.generalize = section.get("to").and_then(|node| {
            self.word(&node, "ip, day or month", |text| match text {
                "ip" => Some(Generalize::IpPrefix),
                "day" => Some(Generalize::Day),
                "month" => Some(Generalize::Month),
                _ => None,
            })
        });
        // There is one algorithm and one key: a bundle may name them, and must not believe in others.
        for (key, only) in [("algo", "SHA256"), ("saltRef", "tenant-salt")] {
            if let Some(node) = section.get(key) {
                self.word(&node, only, |text| (text == only).then_some(()));
            }
        }
    }
}
