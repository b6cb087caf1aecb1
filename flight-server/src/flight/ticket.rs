//! Statement tickets: what GetFlightInfo hands out and DoGet takes back.
//!
//! A ticket holds its whole statement, so that any process of this deployment can redeem it and a client may hand it to
//! another process of its own. It is sealed with AES-256-GCM under a key of this one purpose, and opens only for the
//! principal it was made for, on a listener of the silo it was made on, before it expires. It grants nothing: whoever
//! redeems it is authorised anew.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use catalog::clock::{Clock, Random, Timestamp};
use catalog::ids::SiloId;
use catalog::keys::SecretKey;
use prost::Message;

use crate::carried;
use crate::problem::{Problem, Slug};

use super::limits::TICKET_AGE_MAX;
use super::parameters::Bindings;
use super::statement::{Principal, Statement};

/// Part of the key's label and of the associated data: no other box of ours opens as a ticket.
const PURPOSE: &str = "trailhouse flight statement ticket";

const VERSION: u32 = 1;

#[derive(Clone, PartialEq, Message)]
struct Sealed {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, tag = "2")]
    tenant: String,
    #[prost(string, tag = "3")]
    subject: String,
    #[prost(string, tag = "4")]
    silo: String,
    #[prost(string, tag = "5")]
    sql: String,
    #[prost(bytes = "bytes", optional, tag = "6")]
    bindings: Option<Bytes>,
    #[prost(int64, tag = "8")]
    expires_at_us: i64,
}

/// Seals and opens tickets of one listener.
pub(crate) struct Tickets {
    /// The secret that their key is derived from, as soon as there is one.
    root: Box<dyn Fn() -> Option<SecretKey> + Send + Sync>,
    silo: SiloId,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets")
            .field("silo", &self.silo)
            .finish_non_exhaustive()
    }
}

impl Tickets {
    /// Tickets under a key derived from `root`, for a listener of this silo.
    pub(crate) fn new(
        root: impl Fn() -> Option<SecretKey> + Send + Sync + 'static,
        silo: SiloId,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Self {
        Self {
            root: Box::new(root),
            silo,
            clock,
            random,
        }
    }

    /// A ticket for this statement of this principal.
    pub(crate) fn seal(
        &self,
        principal: &Principal,
        statement: &Statement,
    ) -> Result<Bytes, Problem> {
        let broken = || Problem::new(Slug::Internal, "the ticket could not be made");
        let bindings = match &statement.bindings {
            Some(bindings) => Some(bindings.to_bytes().map_err(|_| broken())?),
            None => None,
        };
        let expires_at = self.clock.now().plus(TICKET_AGE_MAX);
        let plain = Sealed {
            version: VERSION,
            tenant: principal.tenant.to_string(),
            subject: principal.subject.clone(),
            silo: self.silo.to_string(),
            sql: statement.sql.to_string(),
            bindings,
            expires_at_us: expires_at.as_micros(),
        }
        .encode_to_vec();
        let ticket = carried::seal(&self.key()?, PURPOSE, &*self.random, &plain);
        Ok(ticket.ok_or_else(broken)?.into())
    }

    /// The statement of a ticket, for the principal it was made for.
    pub(crate) fn open(&self, principal: &Principal, ticket: &[u8]) -> Result<Statement, Problem> {
        // One answer for garbage, tampering and somebody else's ticket: they are not told apart.
        let invalid = || Problem::new(Slug::InvalidCursor, "the ticket is not valid");
        let plain = carried::open(&self.key()?, PURPOSE, ticket).ok_or_else(invalid)?;
        let sealed = Sealed::decode(plain.as_slice()).map_err(|_| invalid())?;
        let own = sealed.version == VERSION
            && sealed.tenant == principal.tenant.as_str()
            && sealed.subject == principal.subject
            && sealed.silo == self.silo.as_str();
        if !own {
            return Err(invalid());
        }
        if Timestamp::from_micros(sealed.expires_at_us) <= self.clock.now() {
            let detail = "the ticket has expired: ask for the FlightInfo again";
            return Err(Problem::new(Slug::InvalidCursor, detail));
        }
        let bindings = match sealed.bindings {
            Some(bytes) => Some(Bindings::from_bytes(&bytes).map_err(|_| invalid())?),
            None => None,
        };
        Ok(Statement {
            sql: sealed.sql.into(),
            bindings: bindings.map(Arc::new),
        })
    }

    fn key(&self) -> Result<SecretKey, Problem> {
        (self.root)().ok_or_else(|| {
            let detail = "the key that tickets are sealed with is not available";
            Problem::new(Slug::KeyUnavailable, detail)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow::array::{Int64Array, RecordBatch, StringArray};
    use catalog::clock::{ManualClock, SeededRandom};
    use catalog::ids::TenantId;

    use super::*;

    struct World {
        clock: Arc<ManualClock>,
        tickets: Tickets,
    }

    fn world_at(silo: &str, key: u8) -> World {
        let clock = Arc::new(ManualClock::new(Timestamp::from_micros(1_000_000)));
        let tickets = Tickets::new(
            move || Some(SecretKey::new([key; 32])),
            SiloId::parse(silo).unwrap(),
            Arc::clone(&clock) as _,
            Arc::new(SeededRandom::new(7)),
        );
        World { clock, tickets }
    }

    fn principal(tenant: &str, subject: &str) -> Principal {
        Principal {
            tenant: TenantId::parse(tenant).unwrap(),
            subject: subject.to_owned(),
        }
    }

    fn statement() -> Statement {
        let batch = RecordBatch::try_from_iter(vec![
            ("a", Arc::new(Int64Array::from(vec![7])) as _),
            ("b", Arc::new(StringArray::from(vec!["x"])) as _),
        ])
        .unwrap();
        Statement {
            sql: "SELECT secret_word FROM records WHERE a = $1".into(),
            bindings: Bindings::new(&batch, &["$1".to_owned(), "$2".to_owned()])
                .unwrap()
                .map(Arc::new),
        }
    }

    fn refused(world: &World, principal: &Principal, ticket: &[u8]) {
        let problem = world.tickets.open(principal, ticket).unwrap_err();
        assert_eq!(problem.slug(), Slug::InvalidCursor);
    }

    #[test]
    fn a_ticket_opens_for_whom_it_was_made() {
        let world = world_at("eu", 1);
        let alice = principal("acme", "alice");
        let ticket = world.tickets.seal(&alice, &statement()).unwrap();
        assert_eq!(world.tickets.open(&alice, &ticket).unwrap(), statement());
        let bare = Statement::new("SELECT 1");
        let ticket = world.tickets.seal(&alice, &bare).unwrap();
        assert_eq!(world.tickets.open(&alice, &ticket).unwrap(), bare);
    }

    #[test]
    fn no_byte_of_a_ticket_can_be_changed_and_none_can_be_read() {
        let world = world_at("eu", 1);
        let alice = principal("acme", "alice");
        let ticket = world.tickets.seal(&alice, &statement()).unwrap();
        assert!(!ticket.windows(11).any(|part| part == b"secret_word"));
        for index in 0..ticket.len() {
            for bit in [1, 0x80] {
                let mut tampered = ticket.to_vec();
                tampered[index] ^= bit;
                refused(&world, &alice, &tampered);
            }
        }
        for length in [0, 1, 11, 12, 27, 28, ticket.len() - 1] {
            refused(&world, &alice, &ticket[..length]);
        }
        refused(&world, &alice, &[&ticket[..], b"x"].concat());
    }

    #[test]
    fn nobody_elses_ticket_opens_nor_one_of_another_silo_or_key() {
        let world = world_at("eu", 1);
        let alice = principal("acme", "alice");
        let ticket = world.tickets.seal(&alice, &statement()).unwrap();
        refused(&world, &principal("acme", "bob"), &ticket);
        refused(&world, &principal("globex", "alice"), &ticket);
        refused(&world_at("us", 1), &alice, &ticket);
        refused(&world_at("eu", 2), &alice, &ticket);
    }

    #[test]
    fn a_ticket_expires() {
        let world = world_at("eu", 1);
        let alice = principal("acme", "alice");
        let ticket = world.tickets.seal(&alice, &statement()).unwrap();
        world
            .clock
            .advance(TICKET_AGE_MAX - Duration::from_micros(1));
        assert!(world.tickets.open(&alice, &ticket).is_ok());
        world.clock.advance(Duration::from_micros(1));
        refused(&world, &alice, &ticket);
        let problem = world.tickets.open(&alice, &ticket).unwrap_err();
        assert!(problem.detail().contains("expired"));
    }

    #[test]
    fn two_tickets_for_one_statement_differ() {
        let world = world_at("eu", 1);
        let alice = principal("acme", "alice");
        let first = world.tickets.seal(&alice, &statement()).unwrap();
        assert_ne!(first, world.tickets.seal(&alice, &statement()).unwrap());
    }
}
