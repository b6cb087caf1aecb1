//! Keys: who makes them, what they wrap, and how long anyone may hold one.

mod secret;

pub use secret::{KEY_LEN, SecretKey};
