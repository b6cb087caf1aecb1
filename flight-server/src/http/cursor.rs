//! Cursors: where a page of records ended, for whoever was shown it.
//!
//! A cursor is sealed, and opens for the tenant, the principal and the question it was made for, on a listener of the same
//! silo, under the same policy and masks, for a day. It grants nothing: the next page is authorised anew.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use catalog::clock::{Clock, Random, Timestamp};
use catalog::guard::Decision;
use catalog::ids::RecordId;
use catalog::keys::SecretKey;
use engine::query::listing::{Listing, Position};
use prost::Message;
use sha2::{Digest, Sha256};

use crate::carried;
use crate::problem::{Problem, Slug};

const PURPOSE: &str = "trailhouse http page cursor";
const VERSION: u32 = 1;
const AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Characters of the longest cursor that is looked at.
const CHARACTERS_MAX: usize = 4_096;

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
    policy: String,
    #[prost(string, tag = "6")]
    profile: String,
    /// SHA-256 of the listing.
    #[prost(bytes = "vec", tag = "7")]
    question: Vec<u8>,
    #[prost(int64, tag = "8")]
    created_at_us: i64,
    #[prost(string, tag = "9")]
    record_id: String,
    #[prost(int64, tag = "10")]
    expires_at_us: i64,
}

/// The cursor of a page that ends there.
pub(super) fn seal(
    (root, random, clock): (&SecretKey, &dyn Random, &dyn Clock),
    decision: &Decision,
    listing: &Listing,
    end: Position,
) -> Result<String, Problem> {
    let sealed = Sealed {
        created_at_us: end.created_at.as_micros(),
        record_id: end.record_id.to_string(),
        expires_at_us: clock.now().plus(AGE_MAX).as_micros(),
        ..of(decision, listing)
    };
    let sealed = carried::seal(root, PURPOSE, random, &sealed.encode_to_vec());
    let broken = || Problem::new(Slug::Internal, "the cursor could not be made");
    Ok(URL_SAFE_NO_PAD.encode(sealed.ok_or_else(broken)?))
}

/// Where the page before ended.
pub(super) fn open(
    (root, clock): (&SecretKey, &dyn Clock),
    decision: &Decision,
    listing: &Listing,
    cursor: &str,
) -> Result<Position, Problem> {
    // One answer for garbage, tampering and somebody else's cursor: they are not told apart.
    let refused = |detail| Problem::new(Slug::InvalidCursor, detail);
    let invalid = || refused("the cursor is none of this caller's");
    if cursor.len() > CHARACTERS_MAX {
        return Err(invalid());
    }
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| invalid())?;
    let plain = carried::open(root, PURPOSE, &bytes).ok_or_else(invalid)?;
    let sealed = Sealed::decode(plain.as_slice()).map_err(|_| invalid())?;
    let own = of(decision, listing);
    let is_theirs = sealed.version == own.version
        && sealed.tenant == own.tenant
        && sealed.subject == own.subject
        && sealed.silo == own.silo;
    if !is_theirs {
        return Err(invalid());
    }
    if Timestamp::from_micros(sealed.expires_at_us) <= clock.now() {
        return Err(refused("the cursor has expired: start with the first page"));
    }
    if sealed.policy != own.policy || sealed.profile != own.profile {
        let detail =
            "the policy, or the caller's role, is another one since: start with the first page";
        return Err(refused(detail));
    }
    if sealed.question != own.question {
        let detail = "the cursor belongs to another question: ask with the same stream, time range, filters and sort";
        return Err(refused(detail));
    }
    Ok(Position {
        created_at: Timestamp::from_micros(sealed.created_at_us),
        record_id: RecordId::parse(&sealed.record_id).map_err(|_| invalid())?,
    })
}

/// What a cursor of this caller's and of this question says, but for its place and its time.
fn of(decision: &Decision, listing: &Listing) -> Sealed {
    Sealed {
        version: VERSION,
        tenant: decision.tenant.to_string(),
        subject: decision.subject.clone(),
        silo: decision.silo.to_string(),
        policy: decision.policy.version.to_string(),
        profile: decision.profile.name.clone(),
        question: Sha256::digest(format!("{listing:?}")).to_vec(),
        ..Sealed::default()
    }
}
