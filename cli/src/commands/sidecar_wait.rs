//! `tombolo sidecar wait`.

use std::{
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr},
    os::unix::process::CommandExt,
    process::Command,
    time::Duration,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep},
};

use super::admin;
use crate::failure::Failure;

/// How often the sidecar is asked.
const EVERY: Duration = Duration::from_millis(100);

/// Arguments of `tombolo sidecar wait`.
#[derive(clap::Args, Debug)]
pub struct WaitArgs {
    /// The sidecar's admin listener (its --admin)
    #[arg(long, value_name = "ADDR", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 15000)))]
    admin: SocketAddr,
    /// Give up after so many seconds; 0: never
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
    /// The application, which takes this process's place
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Waits until `/ready` is 200, and then becomes the application, if there is one.
pub async fn run(args: WaitArgs) -> Result<(), Failure> {
    // As the first process of a container it would not be ended by it otherwise.
    let mut ends = signal(SignalKind::terminate()).map_err(|error| Failure::new(error.to_string()))?;
    tokio::select! {
        waited = until_ready(&args) => waited?,
        _ = ends.recv() => return Err(Failure::new("told to end before the sidecar was ready")),
    }
    let Some((program, arguments)) = args.command.split_first() else { return Ok(()) };
    let error = Command::new(program).args(arguments).exec();
    Err(Failure::new(format!("{}: {error}", program.to_string_lossy())))
}

async fn until_ready(args: &WaitArgs) -> Result<(), Failure> {
    let limit = (args.timeout > 0).then(|| Duration::from_secs(args.timeout));
    let begun = Instant::now();
    loop {
        let said = match admin::get(args.admin, "/ready").await {
            Ok((200, _)) => return Ok(()),
            Ok((status, body)) => format!("{status} {}", body.trim()),
            Err(error) => error,
        };
        if limit.is_some_and(|limit| begun.elapsed() >= limit) {
            let waited = format!("the sidecar is not ready after {} s", args.timeout);
            return Err(Failure::new(format!("{waited}: http://{}/ready: {said}", args.admin)));
        }
        sleep(EVERY).await;
    }
}
