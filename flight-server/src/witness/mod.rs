//! Witnesses of logs (C2SP tlog-witness): being one, and asking one.

pub(crate) mod asked;
pub(crate) mod serving;
