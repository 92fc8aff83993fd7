//! The controller that is measured, in a process of its own.

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use tombolo_core::{
    model::TrustDomain,
    telemetry::{AccessLog, Telemetry},
};
use tombolo_proto::v1::{ApplyRequest, StatusRequest, apply_request::File, operator_client::OperatorClient};
use tonic::transport::{Channel, Endpoint};

use crate::{
    Failure,
    measure::{cpu_time, resident},
    rounds::runtime,
};

/// The controller's process; it ends with the bench.
pub struct Controller {
    process: Child,
    /// What an operator asks it.
    pub operator: OperatorClient<Channel>,
    // Declared last, removed last.
    _state: tempfile::TempDir,
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

impl Controller {
    /// Starts one with an empty state.
    pub async fn start() -> Result<Self, Failure> {
        let state = tempfile::tempdir()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("hub").arg("--state").arg(state.path().join("hub"));
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let output = process.stdout.take().ok_or("the controller has no output")?;
        BufReader::new(output).read_line(&mut line)?;
        let socket = line.trim().strip_prefix("ready ").ok_or("the controller does not start")?;
        let endpoint = Endpoint::from_shared(format!("unix://{socket}"))?;
        let operator = OperatorClient::new(endpoint.connect().await?);
        Ok(Self { process, operator, _state: state })
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Applies documents.
    pub async fn apply(&mut self, documents: &str) -> Result<(), Failure> {
        let files = vec![File { name: "bench.yaml".into(), text: documents.into() }];
        let answer = self.operator.apply(ApplyRequest { files, ..Default::default() }).await?.into_inner();
        if answer.errors.is_empty() { Ok(()) } else { Err(answer.errors.join("; ").into()) }
    }

    /// KiB.
    pub fn resident(&self) -> Result<u64, Failure> {
        resident(self.process.id())
    }

    /// Waits until it does nothing any more, the disk included; 90 seconds at most. Gives the seconds that it was busy.
    pub async fn settle(&self) -> Result<u32, Failure> {
        let mut quiet = 0;
        for passed in 1..=90 {
            let before = cpu_time(self.process.id())?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let busy = cpu_time(self.process.id())? - before;
            quiet = if busy < 50_000.0 { quiet + 1 } else { 0 };
            if quiet == 5 {
                return Ok(passed - quiet);
            }
        }
        Ok(90)
    }

    /// How many peers are in each state.
    pub async fn states(&mut self, states: &[&str]) -> Result<String, Failure> {
        let json = self.operator.status(StatusRequest {}).await?.into_inner().json;
        let mut shown = String::new();
        for state in states {
            let count = json.matches(&format!("\"state\":\"{state}\"")).count();
            write!(shown, "{count} {state} ")?;
        }
        Ok(shown)
    }
}

/// The error names each target that was missed.
pub fn held_to(targets: &[(&str, bool)]) -> Result<(), Failure> {
    let missed: Vec<_> = targets.iter().filter(|(_, met)| !met).map(|(target, _)| *target).collect();
    if missed.is_empty() { Ok(()) } else { Err(format!("missed: {}", missed.join("; ")).into()) }
}

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Hub {
    /// Where it keeps its state
    #[arg(long)]
    state: PathBuf,
}

impl Hub {
    /// Runs until its input ends.
    pub fn run(self) -> Result<(), Failure> {
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::ERROR)
            .with_writer(std::io::stderr)
            .init();
        let runtime = runtime()?;
        let options = tombolo_federation::Options {
            cluster: "hub".into(),
            trust_domain: TrustDomain::parse("hub.example")?,
            state_dir: self.state,
            listen: "127.0.0.1:0".parse()?,
            advertise: Vec::new(),
            config: Vec::new(),
            network: "hub".into(),
            own_ranges: Vec::new(),
            bundle_endpoint: None,
            acme_dns_hook: None,
            admin: None,
            telemetry: Arc::new(Telemetry::new(AccessLog::off())),
        };
        let running = runtime.block_on(tombolo_federation::start(options))?;
        println!("ready {}", running.socket.display());
        // Until the bench is gone.
        let _end = std::io::stdin().read_to_end(&mut Vec::new());
        Ok(())
    }
}
