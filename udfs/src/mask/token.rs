//! TOKEN: like HASH, in a domain of its own, so that a token and a hash of one value cannot be matched.

use super::hash::HashKey;

const DOMAIN: &[u8] = b"th-token";

/// Appends `t<version>:` and 128 bits of the keyed hash of a value.
pub(super) fn write(key: &HashKey, value: &str, out: &mut String) {
    out.push('t');
    key.write(DOMAIN, value, out);
}
