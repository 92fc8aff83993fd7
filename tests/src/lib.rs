//! What the end-to-end tests share: finding the binary, running it, waiting for conditions.

pub mod netns;
pub mod processes;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The repository's root.
pub fn root() -> PathBuf {
    // This package lies one folder below it.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// The `tombolo` binary of this build. `tests/run` builds it before the tests.
///
/// # Panics
/// If it was not built.
pub fn tombolo() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    // target/PROFILE/deps/TEST -> target/PROFILE/tombolo
    let binary = test.parent().and_then(Path::parent).map(|dir| dir.join("tombolo")).unwrap_or_default();
    assert!(binary.is_file(), "{} is not there: build it first (tests/run does)", binary.display());
    binary
}

/// A command of the binary with nothing inherited on standard input.
pub fn command<const N: usize>(args: [&str; N]) -> Command {
    let mut command = Command::new(tombolo());
    command.args(args).env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// A child that is killed when the test ends, however it ends.
pub struct Running(Child);

impl Running {
    /// Starts it.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        match command.spawn() {
            Ok(child) => Self(child),
            Err(error) => panic!("{command:?}: {error}"),
        }
    }

    /// The child.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _killed = self.0.kill();
        let _status = self.0.wait();
    }
}

/// Polls until the condition holds.
///
/// # Panics
/// If it does not within the limit.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(10));
    }
}
