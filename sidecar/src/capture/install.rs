//! Carries out the steps that put rules in force.

use std::{
    io::{self, Write},
    path::Path,
    process::{Command, Output, Stdio},
};

use super::rules::{Filter, Step};

/// Where administrators' programs are, besides `PATH`, which a unit or container may have without them.
const PLACES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin"];

/// Why rules are not in force.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Neither program is there.
    #[error("neither nft nor iptables is installed: install the package nftables (or iptables)")]
    NoFilter,
    /// A command could not be run.
    #[error("{command}: {error}")]
    Start {
        /// Which.
        command: String,
        /// Why.
        error: io::Error,
    },
    /// A command did not do what it should.
    #[error(
        "{command} failed: {said}; it takes root, or CAP_NET_ADMIN and CAP_NET_RAW in the network namespace"
    )]
    Failed {
        /// Which.
        command: String,
        /// What it said on standard error.
        said: String,
    },
}

/// The programs that are installed, the one to use first.
pub fn installed() -> Result<Vec<Filter>, InstallError> {
    let known = [("nft", Filter::Nftables), ("iptables", Filter::Iptables)];
    let found: Vec<_> =
        known.into_iter().filter(|(program, _)| find(program).is_some()).map(|(_, filter)| filter).collect();
    if found.is_empty() { Err(InstallError::NoFilter) } else { Ok(found) }
}

/// True if this machine has IPv6: else `ip6tables` fails, and nothing comes by IPv6.
pub fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// Carries out the steps, up to the first that fails. nft's only step is one transaction.
pub fn carry_out(steps: &[Step]) -> Result<(), InstallError> {
    for step in steps {
        match step {
            Step::Run(command, input) => succeed(command, input)?,
            Step::Unless(test, command) => {
                if !run(test, "")?.status.success() {
                    succeed(command, "")?;
                }
            }
            Step::Try(command) => {
                let _tried = run(command, "");
            }
        }
    }
    Ok(())
}

fn succeed(command: &[String], input: &str) -> Result<(), InstallError> {
    let output = run(command, input)?;
    if output.status.success() {
        return Ok(());
    }
    let said: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(2000).collect();
    Err(InstallError::Failed { command: command.join(" "), said })
}

fn run(command: &[String], input: &str) -> Result<Output, InstallError> {
    let failed = |error| InstallError::Start { command: command.join(" "), error };
    let (program, arguments) = command.split_first().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    let place = find(program).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    let mut child = Command::new(place)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    // A ruleset is shorter than a pipe's buffer, or is read to its end before anything is said. One that is not read
    // belongs to a command that fails, and says why.
    if let Some(mut stdin) = child.stdin.take() {
        let _broken = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output().map_err(failed)
}

fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(PLACES.iter().map(Into::into));
    places.map(|place| place.join(program)).find(|place| place.is_file())
}
