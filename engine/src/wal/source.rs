//! Whose frames: the source, and the small encodings that all formats of the log share.

use std::sync::Arc;

use catalog::ids::{SiloId, TenantId};
use catalog::keys::{KeyPurpose, push_prefixed};

/// A table of a tenant in a silo: the unit in which frames are released and recovered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source {
    /// Whose.
    pub tenant: TenantId,
    /// Where.
    pub silo: SiloId,
    /// Which table, as its name below the schema `audit`.
    pub table: Arc<str>,
    /// Which of the tenant's keys seals the frames.
    pub purpose: KeyPurpose,
}

impl Source {
    /// Tenant, silo, table and purpose, each as a u32 LE length and its bytes.
    pub(super) fn push(&self, bytes: &mut Vec<u8>) {
        push_prefixed(bytes, self.tenant.as_str().as_bytes());
        push_prefixed(bytes, self.silo.as_str().as_bytes());
        push_prefixed(bytes, self.table.as_bytes());
        push_prefixed(bytes, self.purpose.as_str().as_bytes());
    }

    pub(super) fn parse(fields: &mut Fields<'_>) -> Option<Self> {
        let tenant = TenantId::from_stored(fields.text()?).ok()?;
        let silo = SiloId::parse(fields.text()?).ok()?;
        let table = fields.text()?.into();
        let purpose = fields.text()?;
        let purpose = KeyPurpose::ALL
            .into_iter()
            .find(|known| known.as_str() == purpose)?;
        Some(Self {
            tenant,
            silo,
            table,
            purpose,
        })
    }
}

/// Bytes that are read field by field; `None` when there are too few.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn prefixed(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.take(length)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.prefixed()?).ok()
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}
