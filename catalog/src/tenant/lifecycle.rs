//! A tenant's life as two total tables: which event leads where, and what each state allows.
//!
//! ```text
//! Provisioning ──▶ Active ◀──▶ Suspended
//!                    │             │
//!                    └──▶ PendingDeletion ◀──┘ ──▶ Deleted
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::guard::OperationKind;

/// Where a tenant is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TenantState {
    /// Being made: keys and policy are not all there yet.
    Provisioning,
    /// In use.
    Active,
    /// Takes no records; what is there can be read.
    Suspended,
    /// Takes no records and waits for its end; what is there can be read.
    PendingDeletion,
    /// Gone for good.
    Deleted,
}

/// What moves a tenant on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// Keys and policy are there.
    Complete,
    /// An operator stops it.
    Suspend,
    /// An operator lets it go on.
    Reinstate,
    /// Its end was decided.
    Offboard,
    /// The window has passed and nothing holds it back.
    FinalizeDelete,
}

/// An event that the state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a tenant that is {state} cannot {event}")]
pub struct IllegalTransition {
    /// Where it is.
    pub state: TenantState,
    /// What was to happen.
    pub event: Event,
}

/// The state after the event.
///
/// # Errors
/// For every pair that is not in the picture above.
pub fn transition(state: TenantState, event: Event) -> Result<TenantState, IllegalTransition> {
    match (state, event) {
        (TenantState::Provisioning, Event::Complete)
        | (TenantState::Suspended, Event::Reinstate) => Ok(TenantState::Active),
        (TenantState::Active, Event::Suspend) => Ok(TenantState::Suspended),
        (TenantState::Active | TenantState::Suspended, Event::Offboard) => {
            Ok(TenantState::PendingDeletion)
        }
        (TenantState::PendingDeletion, Event::FinalizeDelete) => Ok(TenantState::Deleted),
        (
            TenantState::Provisioning
            | TenantState::Active
            | TenantState::Suspended
            | TenantState::PendingDeletion
            | TenantState::Deleted,
            Event::Complete
            | Event::Suspend
            | Event::Reinstate
            | Event::Offboard
            | Event::FinalizeDelete,
        ) => Err(IllegalTransition { state, event }),
    }
}

impl TenantState {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Provisioning,
        Self::Active,
        Self::Suspended,
        Self::PendingDeletion,
        Self::Deleted,
    ];

    /// What the tenant's own callers may do.
    #[must_use]
    pub const fn allows(self, operation: OperationKind) -> bool {
        match (self, operation) {
            (Self::Active, _)
            | (
                Self::Suspended | Self::PendingDeletion,
                OperationKind::Read
                | OperationKind::PolicyRead
                | OperationKind::QuarantineRead
                | OperationKind::SchemaRead,
            ) => true,
            (
                Self::Suspended | Self::PendingDeletion,
                OperationKind::Write
                | OperationKind::TenantAdmin
                | OperationKind::PolicyWrite
                | OperationKind::QuarantineDecide
                | OperationKind::SchemaWrite
                | OperationKind::JobToken
                | OperationKind::Export,
            )
            | (Self::Provisioning | Self::Deleted, _) => false,
        }
    }

    /// What operators, who act from the system tenant, may do to a tenant. Where it may go is [`transition`]'s to say.
    #[must_use]
    pub const fn allows_operator(self, operation: OperationKind) -> bool {
        match (self, operation) {
            (_, OperationKind::TenantAdmin) => true,
            (
                Self::Deleted,
                OperationKind::PolicyRead
                | OperationKind::PolicyWrite
                | OperationKind::SchemaRead
                | OperationKind::SchemaWrite,
            ) => false,
            (
                _,
                OperationKind::PolicyRead
                | OperationKind::PolicyWrite
                | OperationKind::SchemaRead
                | OperationKind::SchemaWrite,
            ) => true,
            // A tenant's records are for its own callers only.
            (
                _,
                OperationKind::Read
                | OperationKind::Write
                | OperationKind::QuarantineRead
                | OperationKind::QuarantineDecide
                | OperationKind::JobToken
                | OperationKind::Export,
            ) => false,
        }
    }

    /// The word in the registry and in evidence.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "Provisioning",
            Self::Active => "Active",
            Self::Suspended => "Suspended",
            Self::PendingDeletion => "PendingDeletion",
            Self::Deleted => "Deleted",
        }
    }
}

impl fmt::Display for TenantState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Complete,
        Self::Suspend,
        Self::Reinstate,
        Self::Offboard,
        Self::FinalizeDelete,
    ];

    /// The word of the operators' interface.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Suspend => "suspend",
            Self::Reinstate => "reinstate",
            Self::Offboard => "offboard",
            Self::FinalizeDelete => "finalize-delete",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.as_str() == text)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row a state, a column an event, in the order of `ALL`.
    const TRANSITIONS: &str = "
        state           complete  suspend    reinstate  offboard         finalize-delete
        Provisioning    Active    -          -          -                -
        Active          -         Suspended  -          PendingDeletion  -
        Suspended       -         -          Active     PendingDeletion  -
        PendingDeletion -         -          -          -                Deleted
        Deleted         -         -          -          -                -";

    /// A row a state: what its own callers may do, then what operators may.
    const ALLOWED: &str = "
        state           Write Read TenantAdmin PolicyRead PolicyWrite QuarantineRead QuarantineDecide SchemaRead SchemaWrite JobToken Export
        Provisioning    --    --   -o          -o         -o          --             --               -o         -o          --       --
        Active          c-    c-   co          co         co          c-             c-               co         co          c-       c-
        Suspended       --    c-   -o          co         -o          c-             --               co         -o          --       --
        PendingDeletion --    c-   -o          co         -o          c-             --               co         -o          --       --
        Deleted         --    --   -o          --         --          --             --               --         --          --       --";

    fn table(
        first: impl IntoIterator<Item = &'static str>,
        cell: impl Fn(TenantState, usize) -> String,
    ) -> Vec<String> {
        let head: Vec<_> = std::iter::once("state").chain(first).collect();
        let row = |state: TenantState| {
            let cells: Vec<_> = (0..head.len() - 1)
                .map(|column| cell(state, column))
                .collect();
            format!("{state} {}", cells.join(" "))
        };
        std::iter::once(head.join(" "))
            .chain(TenantState::ALL.map(row))
            .collect()
    }

    fn rows(text: &str) -> Vec<String> {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        text.lines()
            .map(words)
            .filter(|line| !line.is_empty())
            .collect()
    }

    #[test]
    fn transitions_are_these_and_no_others() {
        let found = table(Event::ALL.map(Event::as_str), |state, column| {
            transition(state, Event::ALL[column]).map_or("-".to_owned(), |next| next.to_string())
        });
        assert_eq!(found, rows(TRANSITIONS));
    }

    #[test]
    fn operations_are_allowed_as_listed() {
        let found = table(
            OperationKind::ALL.map(OperationKind::as_str),
            |state, column| {
                let operation = OperationKind::ALL[column];
                let own = if state.allows(operation) { 'c' } else { '-' };
                let operator = if state.allows_operator(operation) {
                    'o'
                } else {
                    '-'
                };
                format!("{own}{operator}")
            },
        );
        assert_eq!(found, rows(ALLOWED));
    }

    #[test]
    fn nothing_leaves_deleted_and_words_are_read_back() {
        for event in Event::ALL {
            assert!(transition(TenantState::Deleted, event).is_err());
            assert_eq!(Event::parse(event.as_str()), Some(event));
        }
    }
}
