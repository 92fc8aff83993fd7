//! Watching a decision being made. The decision's code is the same whether anyone watches or not.

use std::fmt::Display;

/// Told why candidates lost, as the decision goes on.
///
/// [`Untraced`] is what requests are served with: every call on it compiles to nothing, as the texts are only made in
/// the closures.
pub(crate) trait Trace {
    /// False where nobody listens: work done only for the trace is skipped.
    const ON: bool;

    /// The listener, host or table that candidates are taken from.
    fn place(&mut self, _what: &'static str, _name: impl FnOnce() -> String) {}

    /// A candidate that came before the one that won, and why it lost.
    fn lost(&mut self, _candidate: impl FnOnce() -> String, _reason: impl Display) {}
}

/// Nobody watches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Untraced;

impl Trace for Untraced {
    const ON: bool = false;
}
