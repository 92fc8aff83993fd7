//! A sidecar that knows many services: its memory, and the answers of its DNS.

use std::{
    fmt::Write as _,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    Failure,
    process::{OTHER_CORE, PROXY_CORE, Process, beside, free_ports, pinned},
};

/// Nothing takes longer.
const LONG: Duration = Duration::from_secs(120);
/// Questions that wait for an answer at a time.
const WINDOW: usize = 32;
/// An answer that has not come by then is lost; its question is followed by another.
const LOST: Duration = Duration::from_millis(200);

/// What a sidecar costs that knows many services.
#[derive(clap::Args, Debug)]
pub struct Dns {
    /// Services
    #[arg(long, default_value_t = 1000)]
    services: usize,
    /// Endpoints of each
    #[arg(long, default_value_t = 10)]
    endpoints: usize,
    /// For how long it is asked
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Fail where it knows them in more than this, in MiB
    #[arg(long, default_value_t = 40)]
    most_memory: u64,
    /// Fail where it gives fewer answers in a second of CPU
    #[arg(long, default_value_t = 50_000)]
    least_answers: u64,
}

impl Dns {
    /// Runs all of it.
    pub fn run(self) -> Result<(), Failure> {
        let dir = tempfile::tempdir()?;
        let world = World::start(dir.path())?;
        let idle = world.sidecar.resident()?;
        println!("| a sidecar that knows | resident |\n|---|---|\n| no service | {:.1} MiB |", mebi(idle));

        self.apply(&world)?;
        let names: Vec<String> =
            (0..self.services).map(|n| format!("service-{n}.shop.svc.cluster.local")).collect();
        let last = names.last().ok_or("no services")?;
        until("the last service's name", || Ok(world.resolve(last)?.is_some()))?;
        let named = world.sidecar.resident()?;
        println!("| {} services by name | {:.1} MiB |", self.services, mebi(named));

        for name in &names {
            let address = world.resolve(name)?.ok_or("a service without an address")?;
            call(address, name)?;
        }
        let wanted = self.services * self.endpoints;
        let known = world.sidecar.resident()?;
        println!("| and their {wanted} endpoints, each service called once | {:.1} MiB |", mebi(known));

        let (answers, cpu, taken) = world.flood(&names, Duration::from_secs(self.seconds))?;
        let each = answers as f64 / (cpu / 1e6);
        println!(
            "\nDNS: {answers} answers in {taken:.1?}, {:.1} us of CPU each: {each:.0} a second on one core",
            cpu / answers as f64
        );
        let more = known.saturating_sub(idle) / 1024;
        if more > self.most_memory || each < self.least_answers as f64 {
            return Err(format!("missed: {more} MiB more, {each:.0} answers a second").into());
        }
        Ok(())
    }

    fn apply(&self, world: &World) -> Result<(), Failure> {
        let mut text = String::new();
        for n in 0..self.services {
            write!(
                text,
                "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: service-{n}, namespace: shop }}\n\
                 spec: {{ ports: [{{ name: http, port: 80 }}] }}\n\
                 ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                 metadata: {{ name: service-{n}, namespace: shop, labels: {{ kubernetes.io/service-name: service-{n} }} }}\n\
                 addressType: IPv4\nports: [{{ name: http, port: 9 }}]\nendpoints:\n"
            )?;
            for endpoint in 0..self.endpoints {
                // Loopback addresses on which nobody listens: each call is refused at once.
                let [_, b, c, d] = u32::try_from(n * self.endpoints + endpoint + 1)?.to_be_bytes();
                writeln!(text, "- addresses: [127.{}.{c}.{d}]", 200 + u32::from(b))?;
            }
        }
        let file = world.dir.join("services.yaml");
        fs::write(&file, text)?;
        world.command(&["apply", "--timeout", "60", "-f", &file.display().to_string()]).map(drop)
    }
}

fn mebi(kibi: u64) -> f64 {
    kibi as f64 / 1024.0
}

/// A controller and a sidecar of its cluster.
struct World<'d> {
    dir: &'d Path,
    sidecar: Process,
    dns: SocketAddr,
    _controller: Process,
}

impl<'d> World<'d> {
    fn start(dir: &'d Path) -> Result<Self, Failure> {
        let base = free_ports(&[0, 1, 2])?;
        let at = |more: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, base + more));
        let state = |name: &str| dir.join(name).display().to_string();
        let (control, dns, inbound) = (at(0).to_string(), at(1), at(2).to_string());
        let mut command = pinned(OTHER_CORE);
        command.arg(beside("tombolo")?).args([
            "controller",
            "--cluster",
            "east",
            "--trust-domain",
            "east.test",
        ]);
        command.args(["--listen", &control, "--state-dir", &state("controller")]);
        let mut controller = Process::start("controller", &mut command, dir)?;
        controller.ready(Some("ready"), &[at(0)])?;
        let token = run(dir, &["join-token", "--namespace", "shop", "--account", "client"])?;

        let mut command = pinned(PROXY_CORE);
        command.arg(beside("tombolo")?).args(["sidecar", "--controller", &control, "--workload", "client"]);
        command.args([
            "--join-token",
            token.trim(),
            "--state-dir",
            &state("sidecar"),
            "--app-port",
            "8080=http",
        ]);
        command.args([
            "--inbound-listen",
            &inbound,
            "--dns-listen",
            &dns.to_string(),
            "--resolver",
            "127.0.0.1:9",
        ]);
        // One thread, so that what is counted is what one core does.
        command.args(["--log", "error"]).env("TOKIO_WORKER_THREADS", "1");
        let mut sidecar = Process::start("sidecar", &mut command, dir)?;
        sidecar.ready(Some("ready"), &[])?;
        Ok(Self { dir, sidecar, dns, _controller: controller })
    }

    fn command(&self, line: &[&str]) -> Result<String, Failure> {
        run(self.dir, line)
    }

    /// The address of a name; none: there is no such name so far.
    fn resolve(&self, name: &str) -> Result<Option<Ipv4Addr>, Failure> {
        let socket = self.socket()?;
        let mut buffer = [0; 512];
        for _ in 0..20 {
            socket.send(&question(1, name)?)?;
            let Ok(length) = socket.recv(&mut buffer) else { continue };
            let is_found = buffer.get(6..8) == Some(&[0, 1]);
            // The only record's data ends the answer, but for EDNS, which was not asked for.
            let data = buffer.get(length.saturating_sub(4)..length).and_then(|data| data.first_chunk::<4>());
            return Ok(data.filter(|_| is_found).map(|octets| Ipv4Addr::from(*octets)));
        }
        Err("the sidecar's DNS does not answer".into())
    }

    fn socket(&self) -> Result<UdpSocket, Failure> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(self.dns)?;
        socket.set_read_timeout(Some(LOST))?;
        Ok(socket)
    }

    /// Asks for all names in turn, for so long: answers, microseconds of the sidecar's CPU, and the time taken.
    fn flood(&self, names: &[String], time: Duration) -> Result<(u64, f64, Duration), Failure> {
        let questions: Vec<_> = names.iter().map(|name| question(7, name)).collect::<Result<_, _>>()?;
        let (stop, answers) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let socket = self.socket()?;
        let asking = {
            let (stop, answers) = (Arc::clone(&stop), Arc::clone(&answers));
            std::thread::spawn(move || {
                let (mut next, mut buffer) = (questions.iter().cycle(), [0; 512]);
                let mut ask = || next.next().map(|question| socket.send(question));
                (0..WINDOW).for_each(|_| drop(ask()));
                while !stop.load(Relaxed) {
                    if socket.recv(&mut buffer).is_ok() {
                        answers.fetch_add(1, Relaxed);
                    }
                    drop(ask());
                }
            })
        };
        // What is made at first is no part of an answer.
        std::thread::park_timeout(Duration::from_millis(500));
        let (before, cpu, begun) = (answers.load(Relaxed), self.sidecar.cpu_time()?, Instant::now());
        while begun.elapsed() < time {
            std::thread::park_timeout(time.saturating_sub(begun.elapsed()));
        }
        let (after, cpu) = (answers.load(Relaxed), self.sidecar.cpu_time()? - cpu);
        let taken = begun.elapsed();
        stop.store(true, Relaxed);
        asking.join().map_err(|_| "the client has failed")?;
        Ok((after - before, cpu, taken))
    }
}

/// One of tombolo's own commands, to the controller in this directory.
fn run(dir: &Path, line: &[&str]) -> Result<String, Failure> {
    let output = Command::new(beside("tombolo")?)
        .args(line)
        .arg("--state-dir")
        .arg(dir.join("controller"))
        .output()?;
    if !output.status.success() {
        return Err(format!("{line:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// A question for an address, without EDNS.
fn question(id: u16, name: &str) -> Result<Vec<u8>, Failure> {
    let mut packet = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.') {
        packet.push(u8::try_from(label.len())?);
        packet.extend(label.as_bytes());
    }
    packet.extend([0, 0, 1, 0, 1]);
    Ok(packet)
}

/// One request to a service: whatever the answer, its endpoints are known then.
fn call(address: Ipv4Addr, name: &str) -> Result<(), Failure> {
    let mut tcp = TcpStream::connect((address, 80))?;
    tcp.set_read_timeout(Some(LONG))?;
    write!(tcp, "GET / HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer)?;
    match answer.starts_with(b"HTTP/1.1 503") {
        true => Ok(()),
        false => Err(format!("{name}: {:?}", String::from_utf8_lossy(&answer)).into()),
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> Result<bool, Failure>) -> Result<(), Failure> {
    let end = Instant::now() + LONG;
    while !is_so()? {
        if Instant::now() > end {
            return Err(format!("{what} did not come").into());
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    Ok(())
}
