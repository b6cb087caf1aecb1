//! REDACT: one constant, whatever the value.

/// What stands for a value that is not shown.
pub const REDACTED: &str = "[redacted]";

/// Appends [`REDACTED`].
pub(super) fn write(out: &mut String) {
    out.push_str(REDACTED);
}
