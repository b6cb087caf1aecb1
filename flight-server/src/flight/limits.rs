//! Every limit of the Flight service, checked against each other when this compiles.

use std::time::Duration;

/// Clients send up to this much in one message.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How long the one message of a call may take to arrive.
pub(crate) const MESSAGE_TIME_MAX: Duration = Duration::from_secs(30);

/// And that of a stranger, who may ask whether this process serves.
pub(crate) const PROBE_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a load may be silent.
pub(crate) const LOAD_IDLE_MAX: Duration = Duration::from_mins(1);

/// Rows of a message of a load, and values in a column of them.
pub(crate) const LOAD_VALUES_MAX: usize = 4 * 1024 * 1024;

/// Of the messages that follow a refusal, this much is read before it is said.
pub(crate) const UNWANTED_BYTES_MAX: usize = 4 * MESSAGE_BYTES_MAX;

/// So many calls at once are read on so.
pub(crate) const UNWANTED_AT_ONCE: usize = 16;

/// They are waited for no longer than this, each:
pub(crate) const UNWANTED_IDLE_MAX: Duration = Duration::from_secs(1);

/// and all together.
pub(crate) const UNWANTED_TIME_MAX: Duration = Duration::from_secs(10);

/// Messages to clients grow to about this and no further, except for a single row that is larger: clients commonly
/// refuse 4 MiB, and the framing and padding of Arrow come on top.
pub(crate) const MESSAGE_BYTES_TARGET: usize = 2 * 1024 * 1024;

/// How long a ticket can be redeemed.
pub(crate) const TICKET_AGE_MAX: Duration = Duration::from_mins(15);

/// How many endpoints of a FlightInfo are cancelled by one action.
pub(crate) const CANCELLED_AT_ONCE_MAX: usize = 16;

/// How many executions one binding of parameters may ask for.
pub(crate) const PARAMETER_ROWS_MAX: usize = 256;

/// How large the parameters of one binding may be: they travel in tickets.
pub(crate) const PARAMETER_BYTES_MAX: usize = 1024 * 1024;

/// How many values they may have, in rows or nested in them: there are some that take no bytes.
pub(crate) const PARAMETER_VALUES_MAX: usize = 64 * 1024;

/// A prepared statement that nobody used for this long is forgotten.
pub(crate) const PREPARED_IDLE_MAX: Duration = Duration::from_hours(1);

/// The least recently used statement of a principal makes room for one more than this.
pub(crate) const PREPARED_PER_PRINCIPAL_MAX: usize = 128;

/// Nor may the texts and parameters of one principal's statements take more than this.
pub(crate) const PREPARED_BYTES_PER_PRINCIPAL_MAX: usize = 16 * 1024 * 1024;

/// Those of one tenant together: its own least recently used one makes room.
pub(crate) const PREPARED_PER_TENANT_MAX: usize = 2_048;

/// And what these may take.
pub(crate) const PREPARED_BYTES_PER_TENANT_MAX: usize = 64 * 1024 * 1024;

/// Beyond this, of all principals together, newcomers are refused: the statements of others are not for taking.
pub(crate) const PREPARED_TOTAL_MAX: usize = 64 * 1024;

/// Longer receipts are told by their names: the metadata of one call has 8 KiB with many clients.
pub(crate) const RECEIPT_BYTES_MAX: usize = 5 * 1024;

/// Longer name patterns match nothing that exists, and cost time to compile.
pub(crate) const PATTERN_BYTES_MAX: usize = 1024;

const _: () = assert!(
    PARAMETER_BYTES_MAX < MESSAGE_BYTES_TARGET,
    "a ticket fits into a message"
);
const _: () = assert!(2 * PARAMETER_BYTES_MAX <= MESSAGE_BYTES_MAX);
const _: () = assert!(PARAMETER_BYTES_MAX < PREPARED_BYTES_PER_PRINCIPAL_MAX);
const _: () = assert!(PREPARED_PER_PRINCIPAL_MAX < PREPARED_PER_TENANT_MAX);
const _: () = assert!(PREPARED_PER_TENANT_MAX < PREPARED_TOTAL_MAX);
const _: () = assert!(PREPARED_BYTES_PER_PRINCIPAL_MAX < PREPARED_BYTES_PER_TENANT_MAX);
