//! What was acknowledged survives what fails: stores, the key service, the process between any two of its steps.

mod clock;
mod outage;
mod quota;
mod stores;
mod writers;

/// How many times longer the long run is.
const NIGHTLY: usize = if option_env!("TRAILHOUSE_NIGHTLY").is_some() {
    20
} else {
    1
};
