//! Traffic that the kernel redirects to the sidecar, so that an application takes part without knowing of it.
//!
//! ```text
//! app -> any address -> redirected -> Outbound -> a virtual address: Way -> mutual TLS
//!                                              -> any other:         Passing (or refused)
//! anyone -> the app's port -> redirected -> Inbound -> as the plaintext policy says -> app
//! ```

mod inbound;
pub mod install;
mod listening;
mod outbound;
mod passing;
pub mod plaintext;
pub mod rules;

use std::{fmt, str::FromStr};

pub(crate) use inbound::Inbound;
pub(crate) use listening::{Listening, Used, own_ipv6};
pub(crate) use outbound::Outbound;
pub(crate) use passing::{Far, Passing, refuse};

use crate::addresses::{Addresses, Range6};
use crate::loopback::Range;

/// What a sidecar takes of redirected traffic. The rules that redirect it are those of [`rules`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capture {
    /// The port of outbound connections, on the loopback addresses of both families; 0 takes a free one.
    pub outbound: u16,
    /// The port of inbound connections, on all addresses of both families; 0 takes a free one.
    pub inbound: u16,
    /// Where services have their virtual addresses.
    pub addresses: Addresses,
}

impl Default for Capture {
    /// Ports 15001 and 15007, virtual addresses in 240.240.0.0/16 and fd74:6f6d:626f::/64.
    fn default() -> Self {
        let addresses = Addresses { v4: Range::captured(), v6: Some(Range6::default()) };
        Self { outbound: 15001, inbound: 15007, addresses }
    }
}

/// What becomes of connections to destinations that the mesh does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unknown {
    /// They are passed on untouched.
    #[default]
    Passthrough,
    /// They are refused.
    Refuse,
}

impl FromStr for Unknown {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "passthrough" => Ok(Self::Passthrough),
            "refuse" => Ok(Self::Refuse),
            _ => Err("use passthrough or refuse"),
        }
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passthrough => "passthrough",
            Self::Refuse => "refuse",
        })
    }
}
