//! The processes of a test, by name, and where they write.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{Running, netns, wait_until};

/// Nothing may take longer, however busy the machine is.
pub const LONG: Duration = Duration::from_secs(60);

/// What runs. All of it is killed when this is dropped.
pub struct Processes {
    dir: PathBuf,
    running: Vec<(String, Running)>,
}

impl Processes {
    /// Their logs lie in this directory.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.into(), running: Vec::new() }
    }

    /// Where a process writes.
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    /// Starts one, and does not wait.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn begin(&mut self, name: &str, command: &mut Command) {
        let log = self.log(name);
        let open = || fs::File::options().append(true).open(&log);
        let files = fs::write(&log, "").and_then(|()| Ok((open()?, open()?)));
        let (out, error) = files.unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let running = Running::start(command.stdout(out).stderr(error).stdin(Stdio::null()));
        self.add(name, running);
    }

    /// Starts one, and waits until it says that it is ready.
    ///
    /// # Panics
    /// If it does not.
    pub fn spawn(&mut self, name: &str, command: &mut Command) {
        self.begin(name, command);
        self.ready(name);
    }

    /// Waits until one says that it is ready.
    ///
    /// # Panics
    /// If it does not.
    pub fn ready(&self, name: &str) {
        let deadline = Instant::now() + LONG;
        let said = || fs::read_to_string(self.log(name)).unwrap_or_default();
        while !said().contains("ready") {
            assert!(Instant::now() < deadline, "{name} is not ready: {}", said());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Keeps one that was started elsewhere.
    pub fn add(&mut self, name: &str, running: Running) {
        self.running.push((name.into(), running));
    }

    fn find(&mut self, name: &str) -> &mut Running {
        let found = self.running.iter_mut().find(|(known, _)| known == name);
        found.map_or_else(|| panic!("{name} does not run"), |(_, running)| running)
    }

    /// The id of one.
    pub fn id(&mut self, name: &str) -> u32 {
        self.find(name).child().id()
    }

    /// Sends a signal.
    pub fn signal(&mut self, name: &str, signal: &str) {
        netns::run(&format!("kill -{signal} {}", self.id(name)));
    }

    /// Kills one.
    pub fn kill(&mut self, name: &str) {
        self.running.retain(|(known, _)| known != name);
    }

    /// Tells one to end, and waits for it.
    pub fn stop(&mut self, name: &str) {
        self.signal(name, "TERM");
        self.ended(name);
    }

    /// Waits until one has ended by itself.
    ///
    /// # Panics
    /// If it does not.
    pub fn ended(&mut self, name: &str) {
        let process = self.find(name);
        wait_until(&format!("the end of {name}"), LONG, || matches!(process.child().try_wait(), Ok(Some(_))));
        self.kill(name);
    }
}
