//! THE decision: from a snapshot, a request's head and who is calling, to what is to be done with it.
//!
//! Everything here is a pure function: no I/O, no lock, no clock of its own. The proxies only carry out what comes
//! out, and `tombolo explain` calls the very same functions, so what it says is what happens.

mod answer;
mod compiled;
mod head;

pub use answer::{
    ArmReason, Backend, Decision, Filters, HeaderEdits, LocalAnswer, Mirror, Outcome, PathRewrite, Retry,
    Rewrite, Timeouts,
};
pub use compiled::{Availability, Bind, BindKey, Compiled, Listener, ListenerProtocol};
pub use head::{Caller, RequestHead};
