//! One file for each command.

pub mod apply;
pub mod check;
pub mod controller;
pub mod explain;
pub mod gateway;
pub mod get;
pub mod admin;
mod operator;
mod process;
pub mod peer;
pub mod sidecar;
pub mod status;
pub mod token;

pub use operator::{OperatorClient, operator_in};
