//! Callers that never stop, and what they see.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::world::World;

/// Callers at a time, each with a connection that it keeps for fifty requests. Of each request a line: when it began (seconds
/// since the epoch), how long it took (milliseconds), its status (0: no answer; 1: an answer of which a part is missing), and what it said.
const CALLERS: &str = r#"
import http.client, sys, threading, time
host, port, file = sys.argv[1], int(sys.argv[2]), open(sys.argv[3], "a", buffering=1)
lock = threading.Lock()
def call():
    connection, used = None, 0
    while True:
        begun, since = time.time(), time.monotonic()
        try:
            if connection is None:
                connection, used = http.client.HTTPConnection(host, port, timeout=30), 0
            connection.request("GET", "/")
            response = connection.getresponse()
            status, said = response.status, response.read().decode().strip()
        except http.client.IncompleteRead:
            status, said, connection = 1, "cut", None
        except Exception as error:
            status, said, connection = 0, repr(error), None
        took, used = (time.monotonic() - since) * 1000, used + 1
        if used == 50: connection = None
        with lock: file.write("%.6f %.1f %d %s\n" % (begun, took, status, said.replace("\n", " ")))
        time.sleep(0.03)
for _ in range(3): threading.Thread(target=call).start()
"#;

/// One request.
#[derive(Debug, Clone)]
pub struct Call {
    /// When it began, since the epoch.
    pub begun: Duration,
    pub took: Duration,
    /// 0: there was no answer.
    pub status: u16,
    /// The server, or what went wrong.
    pub said: String,
}

impl Call {
    pub fn ended(&self) -> Duration {
        self.begun + self.took
    }

    pub fn is_ok(&self) -> bool {
        self.status == 200
    }
}

/// By now, as callers count.
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// A stream of requests from one machine to one address.
pub struct Callers {
    pub name: &'static str,
    file: PathBuf,
}

impl Callers {
    /// Starts them. They end with the world's processes.
    pub fn start(world: &mut World, name: &'static str, machine: &str, host: &str, port: u16) -> Self {
        let (script, file) = (world.path("callers.py"), world.path(&format!("{name}.calls")));
        fs::write(&script, CALLERS).unwrap();
        let mut command = world.net.command(machine, "python3");
        command.arg(&script).args([host, &port.to_string()]).arg(&file);
        world.processes.begin(&format!("{name}-callers"), &mut command);
        Self { name, file }
    }

    /// The calls that ended since then, in the order in which they ended.
    pub fn since(&self, then: Duration) -> Vec<Call> {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        // The last line may be half written.
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        lines.filter_map(parse).filter(|call| call.ended() >= then).collect()
    }
}

fn parse(line: &str) -> Option<Call> {
    let mut words = line.trim_end().splitn(4, ' ');
    let begun = Duration::from_secs_f64(words.next()?.parse().ok()?);
    let took = Duration::from_secs_f64(words.next()?.parse::<f64>().ok()? / 1000.0);
    Some(Call { begun, took, status: words.next()?.parse().ok()?, said: words.next()?.into() })
}
