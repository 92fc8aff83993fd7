//! The controller that is measured, in a process of its own.

use std::{io::Read, path::PathBuf, sync::Arc};

use tombolo_core::{
    model::TrustDomain,
    telemetry::{AccessLog, Telemetry},
};

use crate::{Failure, rounds::runtime};

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
