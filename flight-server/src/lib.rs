//! Wire and process: Flight SQL, HTTP, authentication, command line, configuration.
//!
//! Invariant: no plans and no decisions are made here.

mod assembly;
pub mod auth;
mod carried;
pub mod cli;
mod cloudevents;
pub mod config;
pub mod flight;
pub mod http;
mod intake;
pub mod limits;
pub mod listen;
mod maintenance;
pub mod observe;
pub mod problem;
mod refusals;
pub mod service;
pub mod stores;
mod surroundings;
pub mod volume;
mod witness;

#[cfg(test)]
mod world;
