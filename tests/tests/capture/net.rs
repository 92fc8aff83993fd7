//! Network namespaces on one bridge, made for a test and gone with it.

use std::{
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU8, Ordering},
};

use tombolo_tests::Running;

/// Set where namespaces cannot be made, to have these tests say so and pass.
const WITHOUT: &str = "TOMBOLO_TESTS_WITHOUT_NETNS";

/// Namespaces that see each other: `hub` holds the bridge, each other one is a machine of its own.
pub struct Net {
    prefix: String,
    machines: Vec<String>,
}

/// Runs a command that has to succeed, and gives what it printed.
pub fn run(line: &str) -> String {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output();
    let output =
        output.unwrap_or_else(|error| panic!("{line}: {error}: is it installed? (tests/run sees to it)"));
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Net {
    /// Makes them: machine N is 10.77.0.(N+2) and fd77::(N+2), the hub 10.77.0.1 and fd77::1, everybody's way to elsewhere.
    /// None where that is not possible, and the run was told that this is no failure.
    pub fn new(machines: &[&str]) -> Option<Self> {
        static NETS: AtomicU8 = AtomicU8::new(0);
        let number = NETS.fetch_add(1, Ordering::Relaxed);
        let net = Self { prefix: format!("tb{}-{number}", std::process::id()), machines: Vec::new() };
        let made = Command::new("ip").args(["netns", "add", &net.name("hub")]).output();
        if !made.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!(
                "NOT TESTED: no network namespace can be made here ({made:?}): this takes root and iproute2"
            );
            assert!(std::env::var_os(WITHOUT).is_some(), "set {WITHOUT}=1 where that is as it should be");
            return None;
        }
        let mut net = net;
        net.machines.push("hub".into());
        net.ip("hub", "link set lo up");
        net.ip("hub", "link add br0 type bridge");
        net.ip("hub", "addr add 10.77.0.1/24 dev br0");
        net.ip("hub", "addr add fd77::1/64 dev br0 nodad");
        net.ip("hub", "link set br0 up");
        for (machine, number) in machines.iter().zip(2..) {
            net.add(machine, number);
        }
        Some(net)
    }

    fn add(&mut self, machine: &str, number: u8) {
        let (name, hub) = (self.name(machine), self.name("hub"));
        run(&format!("ip netns add {name}"));
        self.machines.push(machine.into());
        run(&format!("ip -n {hub} link add to-{machine} type veth peer name eth0 netns {name}"));
        self.ip("hub", &format!("link set to-{machine} master br0 up"));
        for command in [
            "link set lo up".to_string(),
            format!("addr add 10.77.0.{number}/24 dev eth0"),
            format!("addr add fd77::{number}/64 dev eth0 nodad"),
            "link set eth0 up".into(),
            "route add default via 10.77.0.1".into(),
            "-6 route add default via fd77::1".into(),
        ] {
            self.ip(machine, &command);
        }
        // Nobody answers there: whoever gets an answer was captured.
        fs::create_dir_all(self.etc(machine)).unwrap();
        self.resolv_conf(machine, "");
    }

    /// Makes the programs of a machine look names up with these lines more in their `resolv.conf`.
    pub fn resolv_conf(&self, machine: &str, more: &str) {
        fs::write(self.etc(machine).join("resolv.conf"), format!("nameserver 10.77.0.53\n{more}")).unwrap();
    }

    fn name(&self, machine: &str) -> String {
        format!("{}-{machine}", self.prefix)
    }

    /// What `ip netns exec` puts in the place of /etc.
    fn etc(&self, machine: &str) -> PathBuf {
        PathBuf::from("/etc/netns").join(self.name(machine))
    }

    fn ip(&self, machine: &str, command: &str) {
        run(&format!("ip -n {} {command}", self.name(machine)));
    }

    /// The address of a machine.
    pub fn address(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, number)
    }

    /// A command inside of a machine.
    pub fn command(&self, machine: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(machine), program]).stdin(Stdio::null());
        command
    }

    /// Runs a command line inside of a machine to its end.
    pub fn output(&self, machine: &str, line: &[&str]) -> Output {
        self.command(machine, line[0]).args(&line[1..]).output().unwrap()
    }

    /// The same, of a command that has to succeed; what it printed.
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
