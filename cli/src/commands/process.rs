//! What the three kinds of process share: logging, the admin listener's address, shutdown.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tombolo_core::{
    identity::Token,
    lifecycle::{Drain, DrainTrigger, shutdown_signal},
    telemetry::{AccessLog, LogFormat, Sink, SpanSettings, Spans, Telemetry, init_logging},
};

use crate::failure::Failure;

/// How long a process that was told to end finishes what runs.
pub const DRAIN_TIME: Duration = Duration::from_secs(30);

/// How long a process that has ended its work waits for the collector to take its last spans.
pub const FLUSH_TIME: Duration = Duration::from_secs(3);

/// Arguments of every process.
#[derive(clap::Args, Debug)]
pub struct Common {
    /// Where /live, /ready, /metrics, /config and /explain are served
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<SocketAddr>,
    /// Which log lines: error, warn, info, debug, trace, or a filter such as info,tombolo_core::discovery=debug
    #[arg(long, value_name = "FILTER", default_value = "info", env = "TOMBOLO_LOG")]
    pub log: String,
    /// Log lines as JSON
    #[arg(long)]
    pub log_json: bool,
    /// Where the access log goes: stdout, off, or a file
    #[arg(long, value_name = "SINK", default_value = "off", value_parser = parse_sink)]
    pub access_log: Sink,
}

/// Arguments of proxies: which spans are recorded, and where they go.
#[derive(clap::Args, Debug)]
pub struct Tracing {
    /// The collector that spans go to by OTLP over gRPC, http://HOST:PORT or https://HOST:PORT. Without it,
    /// OpenTelemetry's variables count (OTEL_EXPORTER_OTLP_ENDPOINT and others); without both there are no spans
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// The share of traces that begin here of which spans are recorded, 0 to 1; in others their beginning decides
    #[arg(long, value_name = "SHARE")]
    pub trace_sampling: Option<String>,
}

impl Tracing {
    /// Starts recording, if anything is to be recorded. `service` is the process's name, unless variables name it.
    pub fn start(&self, service: &str) -> Result<Option<Spans>, Failure> {
        // Arguments count before variables.
        let get = |name: &str| match (name, &self.otlp_endpoint, &self.trace_sampling) {
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", Some(endpoint), _) => Some(endpoint.clone()),
            ("OTEL_TRACES_SAMPLER", _, Some(_)) => Some("parentbased_traceidratio".into()),
            ("OTEL_TRACES_SAMPLER_ARG", _, Some(share)) => Some(share.clone()),
            _ => std::env::var(name).ok(),
        };
        let spans = SpanSettings::from_env(service, &get)
            .and_then(|settings| settings.map(Spans::start).transpose())
            .map_err(|error| Failure::usage(error.to_string()))?;
        Ok(spans)
    }
}

fn parse_sink(text: &str) -> Result<Sink, String> {
    match text {
        "" => Err("write stdout, off, or a path".into()),
        "off" => Ok(Sink::Off),
        "stdout" => Ok(Sink::Stdout),
        path => Ok(Sink::File(PathBuf::from(path))),
    }
}

impl Common {
    /// Starts logging and counting.
    pub fn start(&self, spans: Option<Spans>) -> Result<Arc<Telemetry>, Failure> {
        let format = if self.log_json { LogFormat::Json } else { LogFormat::Text };
        init_logging(&self.log, format).map_err(Failure::usage)?;
        let access = AccessLog::open(&self.access_log)
            .map_err(|e| Failure::new(format!("cannot open the access log: {e}")))?;
        Ok(Arc::new(Telemetry::new(access).with_spans(spans)))
    }
}

/// A drain that begins at SIGTERM or SIGINT. A second signal ends the process at once.
pub fn drain_on_signal() -> Drain {
    let (trigger, drain) = DrainTrigger::new();
    tokio::spawn(async move {
        let signal = shutdown_signal().await;
        tracing::info!(signal, "draining; a second signal ends at once");
        trigger.drain();
        shutdown_signal().await;
        std::process::exit(1);
    });
    drain
}

/// Starts this binary once more, with the same arguments, at each SIGUSR2: the new process takes over by itself. The
/// binary is looked for where this one was started from, so that a new version that was put there is the one that runs.
pub fn replace_on_signal() {
    // Asked now: once the file was replaced, the kernel calls it deleted.
    let Ok(binary) = std::env::current_exe() else {
        return tracing::warn!("the place of this binary cannot be found out: SIGUSR2 will not be heard");
    };
    let Ok(mut signals) = signal(SignalKind::user_defined2()) else {
        return tracing::warn!("SIGUSR2 cannot be watched");
    };
    tokio::spawn(async move {
        while signals.recv().await.is_some() {
            let mut command = tokio::process::Command::new(&binary);
            command.args(std::env::args_os().skip(1)).stdin(std::process::Stdio::null());
            match command.spawn() {
                Ok(child) => {
                    tracing::info!(process = child.id(), "SIGUSR2: a new process was started");
                    tokio::spawn(report(child));
                }
                Err(error) => tracing::error!(binary = %binary.display(), %error, "cannot be started"),
            }
        }
    });
}

/// Says so where the new process ends before this one: nothing was replaced.
async fn report(mut child: tokio::process::Child) {
    if let Ok(status) = child.wait().await {
        tracing::error!(%status, "the new process has ended; this one serves on");
    }
}

/// A printed token, or `@FILE`, if there is one. A file that is gone is no token: it may have been removed after its use.
pub fn join_token(argument: Option<&str>) -> Result<Option<Arc<Token>>, Failure> {
    let Some(argument) = argument else { return Ok(None) };
    if let Some(path) = argument.strip_prefix('@')
        && !std::path::Path::new(path).exists()
    {
        return Ok(None);
    }
    let text = super::token::read(argument)?;
    let token = Token::parse(&text).map_err(|e| Failure::new(format!("the join token: {e}")))?;
    Ok(Some(Arc::new(token)))
}
