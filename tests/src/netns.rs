//! Network namespaces, made for a test and gone with it.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU8, Ordering},
};

use crate::Running;

/// Set where namespaces cannot be made, to have these tests say so and pass.
const WITHOUT: &str = "TOMBOLO_TESTS_WITHOUT_NETNS";

/// Runs a command that has to succeed, and gives what it printed.
///
/// # Panics
/// If it fails or is not there.
pub fn run(line: &str) -> String {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output();
    let output =
        output.unwrap_or_else(|error| panic!("{line}: {error}: is it installed? (tests/run sees to it)"));
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Machines: each a namespace of its own, with loopback and whatever links a test makes.
#[derive(Debug)]
pub struct Net {
    prefix: String,
    machines: Vec<String>,
}

impl Net {
    /// Makes the first machine. None where that is not possible, and the run was told that this is no failure.
    ///
    /// # Panics
    /// If it is not possible, and the run was told nothing.
    pub fn new(first: &str) -> Option<Self> {
        static NETS: AtomicU8 = AtomicU8::new(0);
        let number = NETS.fetch_add(1, Ordering::Relaxed);
        let mut net = Self { prefix: format!("tb{}-{number}", std::process::id()), machines: Vec::new() };
        let made = Command::new("ip").args(["netns", "add", &net.name(first)]).output();
        if !made.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!(
                "NOT TESTED: no network namespace can be made here ({made:?}): this takes root and iproute2"
            );
            assert!(std::env::var_os(WITHOUT).is_some(), "set {WITHOUT}=1 where that is as it should be");
            return None;
        }
        net.made(first);
        Some(net)
    }

    /// Makes a machine more.
    pub fn add(&mut self, machine: &str) {
        run(&format!("ip netns add {}", self.name(machine)));
        self.made(machine);
    }

    fn made(&mut self, machine: &str) {
        self.machines.push(machine.into());
        self.ip(machine, "link set lo up");
    }

    /// Makes a bridge of a machine's own, up and with this address (`A.B.C.D/N`).
    pub fn bridge(&self, machine: &str, bridge: &str, address: &str) {
        self.ip(machine, &format!("link add {bridge} type bridge"));
        self.ip(machine, &format!("addr add {address} dev {bridge}"));
        self.ip(machine, &format!("link set {bridge} up"));
    }

    /// Links a machine with a bridge: `link` is its device, and `to-MACHINE` the other end.
    pub fn link(&self, machine: &str, link: &str, address: &str, (hub, bridge): (&str, &str)) {
        let name = self.name(machine);
        self.ip(hub, &format!("link add to-{machine} type veth peer name {link} netns {name}"));
        self.ip(hub, &format!("link set to-{machine} master {bridge} up"));
        self.ip(machine, &format!("addr add {address} dev {link}"));
        self.ip(machine, &format!("link set {link} up"));
    }

    /// Makes the programs of a machine look names up by this `resolv.conf`.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn resolv_conf(&self, machine: &str, text: &str) {
        let written = fs::create_dir_all(self.etc(machine))
            .and_then(|()| fs::write(self.etc(machine).join("resolv.conf"), text));
        written.unwrap_or_else(|error| panic!("{}: {error}", self.etc(machine).display()));
    }

    fn name(&self, machine: &str) -> String {
        format!("{}-{machine}", self.prefix)
    }

    /// What `ip netns exec` puts in the place of /etc.
    fn etc(&self, machine: &str) -> PathBuf {
        PathBuf::from("/etc/netns").join(self.name(machine))
    }

    /// `ip` on a machine.
    pub fn ip(&self, machine: &str, command: &str) {
        run(&format!("ip -n {} {command}", self.name(machine)));
    }

    /// A command inside of a machine.
    pub fn command(&self, machine: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(machine), program]).stdin(Stdio::null());
        command
    }

    /// Runs a command line inside of a machine to its end.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn output(&self, machine: &str, line: &[&str]) -> Output {
        let output = self.command(machine, line[0]).args(&line[1..]).output();
        output.unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    /// The same, of a command that has to succeed; what it printed.
    ///
    /// # Panics
    /// If it fails.
    pub fn text(&self, machine: &str, line: &[&str]) -> String {
        let output = self.output(machine, line);
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{line:?}: {}\n{out}\n{error}", output.status);
        out.into_owned()
    }

    /// Starts a program inside of a machine that runs until it is dropped.
    pub fn start(&self, machine: &str, line: &[&str]) -> Running {
        Running::start(
            self.command(machine, line[0]).args(&line[1..]).stdout(Stdio::null()).stderr(Stdio::null()),
        )
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for machine in &self.machines {
            // What is not there any more needs no removal.
            let _ = fs::remove_dir_all(self.etc(machine));
            let _ = Command::new("ip").args(["netns", "del", &self.name(machine)]).output();
        }
    }
}
