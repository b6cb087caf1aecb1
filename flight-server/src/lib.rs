//! Wire and process: Flight SQL, HTTP, authentication, command line, configuration.
//!
//! Invariant: no plans and no decisions are made here.

pub mod auth;
pub mod cli;
pub mod config;
pub mod flight;
pub mod http;
pub mod limits;
pub mod observe;
pub mod problem;
pub mod service;

#[cfg(test)]
mod world;
