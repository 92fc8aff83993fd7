//! Processes: started on a core of their own, waited for, and ended with whatever they started.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    Failure,
    measure::{cpu_time, family, resident},
};

/// Under callgrind, starting takes this long at most.
const START: Duration = Duration::from_secs(120);
/// The core of what is measured.
pub const PROXY_CORE: u16 = 0;
/// The core of clients, applications and controllers.
pub const OTHER_CORE: u16 = 1;

/// A process that runs until this is dropped.
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

/// A command that will run on this core, and ends when this process does.
pub fn pinned(core: u16) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string(), "setpriv", "--pdeathsig", "TERM"]);
    command
}

impl Process {
    /// Starts it. What it says is written to a file in this directory, and shown if it does not come up.
    pub fn start(name: &str, command: &mut Command, dir: &Path) -> Result<Self, Failure> {
        let log = dir.join(format!("{name}.log"));
        let out = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = command.spawn().map_err(|error| format!("{name}: {command:?}: {error}"))?;
        Ok(Self { child, name: name.into(), log })
    }

    /// Waits until it has said that it is ready, with all of these addresses open; fails if it ends before.
    pub fn ready(&mut self, says: Option<&str>, listens: &[SocketAddr]) -> Result<(), Failure> {
        let end = Instant::now() + START;
        loop {
            let said = says.is_none_or(|word| self.said().contains(word));
            if said && listens.iter().all(|address| TcpStream::connect(address).is_ok()) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("{} ended with {status}: {}", self.name, self.said()).into());
            }
            if Instant::now() > end {
                return Err(format!("{} did not come up: {}", self.name, self.said()).into());
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// The last of what it said.
    fn said(&self) -> String {
        let mut text = Vec::new();
        let read = File::open(&self.log).and_then(|mut file| {
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(4096)))?;
            file.read_to_end(&mut text)
        });
        match read {
            Ok(_) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => format!("{}: {error}", self.log.display()),
        }
    }

    /// Its process id: `taskset`, `setpriv` and `valgrind` become what they start.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// User and kernel time of it and of all that it started, in microseconds.
    pub fn cpu_time(&self) -> Result<f64, Failure> {
        family(self.id()).into_iter().map(cpu_time).sum()
    }

    /// Resident memory of it and of all that it started, in KiB.
    pub fn resident(&self) -> Result<u64, Failure> {
        family(self.id()).into_iter().map(resident).sum()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            // Its id may be another's by now.
            return eprintln!("{} ended by itself: {}", self.name, self.said());
        }
        for id in family(self.id()).into_iter().filter_map(|id| Pid::from_raw(id.try_into().ok()?)) {
            // Fails only if it has ended already.
            let _killed = kill_process(id, Signal::KILL);
        }
        let _status = self.child.wait();
    }
}

/// A number to which each of these can be added to have a port that nothing has now. All below 20,000, where the
/// kernel chooses none for connections, if there is such a number.
pub fn free_ports(added: &[u16]) -> Result<u16, Failure> {
    let from = 10_000 + u16::try_from(std::process::id() % 8_000)?;
    let free = |base: &u16| added.iter().all(|more| TcpListener::bind(("127.0.0.1", base + more)).is_ok());
    Ok((from..19_500).find(free).ok_or("no free port")?)
}

/// A binary of the same build, or the one that the environment's `TOMBOLO` names.
pub fn beside(name: &str) -> Result<PathBuf, Failure> {
    if let Some(named) = std::env::var_os(name.to_uppercase()) {
        return Ok(fs::canonicalize(named)?);
    }
    let own = std::env::current_exe()?;
    let binary = own.parent().unwrap_or(Path::new(".")).join(name);
    if !binary.is_file() {
        return Err(format!("{} is not there: build it with the same profile", binary.display()).into());
    }
    Ok(binary)
}
