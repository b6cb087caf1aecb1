//! A record as it was sent, and how it is read.

use bytes::Bytes;
use catalog::clock::Timestamp;

use crate::record::{AuditRecord, Refusal, Row, Terms, parse};

/// One record as it was sent.
#[derive(Debug)]
pub enum IncomingRecord {
    /// As JSON.
    Json {
        /// The text.
        text: Bytes,
        /// The idempotency key of the request's headers, where the request is one record.
        idempotency_key: Option<String>,
    },
    /// As a row of columns, read by [`crate::record::Columns`].
    Row(Box<Row>),
}

impl IncomingRecord {
    /// How much room it takes while it is on its way, in bytes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Json { text, .. } => text.len(),
            Self::Row(row) => row.bytes,
        }
    }

    pub(super) fn read(self, now: Timestamp) -> Result<AuditRecord, Refusal> {
        match self {
            Self::Json {
                text,
                idempotency_key,
            } => {
                let header_key = idempotency_key.as_deref();
                parse(&text, &Terms { now, header_key })
            }
            Self::Row(row) => row.record,
        }
    }
}
