//! A record as it was sent, and how it is read.

use bytes::Bytes;
use catalog::clock::Timestamp;

use crate::record::{AuditRecord, Refusal, Terms, parse};

/// One record as it was sent.
#[derive(Debug, Clone)]
pub struct IncomingRecord {
    /// The JSON text.
    pub json: Bytes,
    /// The idempotency key of the request's headers, where the request is one record.
    pub idempotency_key: Option<String>,
}

impl IncomingRecord {
    /// How much room it takes while it is on its way, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.json.len()
    }

    pub(super) fn read(self, now: Timestamp) -> Result<AuditRecord, Refusal> {
        let header_key = self.idempotency_key.as_deref();
        parse(&self.json, &Terms { now, header_key })
    }
}
