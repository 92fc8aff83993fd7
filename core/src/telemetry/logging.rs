//! The process's own log, on standard error.
//!
//! Levels: **error**, somebody has to act, something does not work; **warn**, it works, but not as configured, or a
//! neighbour misbehaves; **info**, what changes rarely: start, stop, a new generation, a link up or down; **debug**, single
//! connections and objects; **trace**, single messages. Nothing a client can cause at will is above debug.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt};

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For collectors.
    Json,
}

/// Starts logging. `filter` is e.g. `info` or `info,tombolo_core::discovery=debug`.
///
/// # Errors
/// If the filter does not parse, or logging was started before.
pub fn init_logging(filter: &str, format: LogFormat) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|e| format!("{filter:?} is not a log filter: {e}"))?;
    // Colours only where a person looks.
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    let outcome = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    outcome.map_err(|e| format!("logging cannot be started: {e}"))
}
