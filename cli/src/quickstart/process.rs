//! Child processes: this binary, with a log file each.

use std::{
    fs::{File, OpenOptions},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::process::{Child, ChildStdin, Command};

use crate::failure::Failure;

/// When set, a process ends when its standard input closes: with the quickstart, however that ends.
pub const END_WITH_STDIN: &str = "TOMBOLO_END_WITH_STDIN";

/// Ends this process when its standard input closes, so that nothing of a quickstart outlives it.
pub fn end_with_stdin() {
    std::thread::spawn(|| {
        // Whether it ended or broke: whoever started this process is gone.
        let _gone = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        std::process::exit(0);
    });
}

/// One process that can be started, killed, and started again with the same arguments.
pub struct Process {
    name: String,
    args: Vec<String>,
    log: PathBuf,
    running: Option<(Child, Option<ChildStdin>)>,
}

impl Process {
    /// `name` also names the log file in `logs`.
    pub fn new(name: impl Into<String>, logs: &Path, args: Vec<String>) -> Self {
        let name = name.into();
        let log = logs.join(format!("{name}.log"));
        Self { name, args, log, running: None }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts it. The log is appended to.
    pub fn start(&mut self) -> Result<(), Failure> {
        let program =
            std::env::current_exe().map_err(|e| Failure::new(format!("cannot find this program: {e}")))?;
        let log = self.open_log()?;
        let errors = log.try_clone().map_err(|e| self.failure("cannot share its log", &e))?;
        let mut child = Command::new(program)
            .args(&self.args)
            .env(END_WITH_STDIN, "1")
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(errors)
            // Ctrl-C goes to the quickstart alone, which then stops the others.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| self.failure("cannot start", &e))?;
        let stdin = child.stdin.take();
        self.running = Some((child, stdin));
        Ok(())
    }

    fn open_log(&self) -> Result<File, Failure> {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(|e| self.failure(&format!("cannot write its log {}", self.log.display()), &e))
    }

    fn failure(&self, what: &str, error: &std::io::Error) -> Failure {
        Failure::new(format!("{}: {what}: {error}", self.name))
    }

    /// Kills it at once (SIGKILL), as a crash would.
    pub async fn kill(&mut self) {
        if let Some((mut child, _stdin)) = self.running.take() {
            // Fails only if it has ended already.
            let _ended = child.kill().await;
        }
    }

    /// Asks it to end, and kills it if it takes longer than 3 s.
    pub async fn stop(&mut self) {
        if let Some((mut child, stdin)) = self.running.take() {
            drop(stdin);
            if tokio::time::timeout(Duration::from_secs(3), child.wait()).await.is_err() {
                let _ended = child.kill().await;
            }
        }
    }

    /// An error if it has ended by itself, with the last lines of its log.
    pub fn check_alive(&mut self) -> Result<(), Failure> {
        let Some((child, _)) = &mut self.running else { return Ok(()) };
        match child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                Err(Failure::new(format!("{} ended ({status}):\n{}", self.name, self.tail())))
            }
            Err(error) => Err(Failure::new(format!("{}: {error}", self.name))),
        }
    }

    /// The last lines of the log.
    pub fn tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// True if a line of the log speaks of a panic.
    pub fn has_panicked(&self) -> bool {
        let text = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text).contains("panicked at")
    }
}
