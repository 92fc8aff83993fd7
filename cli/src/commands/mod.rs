//! One file for each command.

mod acknowledge;
pub mod admin;
pub mod apply;
pub mod check;
pub mod controller;
pub mod delete;
pub mod diff;
pub mod explain;
pub mod gateway;
pub mod get;
pub mod gray;
pub mod history;
mod operator;
pub mod peer;
mod process;
pub mod rollback;
pub mod sidecar;
pub mod sidecar_init;
pub mod sidecar_wait;
pub mod status;
pub mod token;

pub use operator::{OperatorClient, operator_in};
