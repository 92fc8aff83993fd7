//! `tombolo quickstart`: two clusters on this machine, as separate processes of this binary.

mod client;
mod cluster;
mod documents;
mod ports;
mod process;
mod tour;
mod town;

use crate::{failure::Failure, style};

pub use process::{END_WITH_STDIN, end_with_stdin};
use town::Town;

/// Arguments of `tombolo quickstart`.
#[derive(clap::Args, Debug)]
pub struct QuickstartArgs {
    /// Walk the tour: try what the two clusters do, one line a step, then stop
    #[arg(long)]
    check: bool,
    /// Use ports from this one on, instead of free ones
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1024..=64000))]
    port_base: Option<u16>,
    /// Keep the state directory with the logs of all processes
    #[arg(long)]
    keep: bool,
}

/// Starts both clusters; then the tour, or waits for Ctrl-C. Leaves nothing behind.
pub async fn run(args: QuickstartArgs) -> Result<(), Failure> {
    let mut town = Town::plan(args.port_base)?;
    let outcome = tokio::select! {
        outcome = visit(&mut town, args.check) => outcome,
        _ = tombolo_core::lifecycle::shutdown_signal() => {
            println!("\nstopping");
            Ok(())
        }
    };
    town.stop().await;
    let keep = args.keep || (outcome.is_err() && args.check);
    if let Some(place) = town.clean_up(keep) {
        println!("{}", style::dim(&format!("state and logs are kept in {}", place.display())));
    }
    outcome
}

async fn visit(town: &mut Town, check: bool) -> Result<(), Failure> {
    town.start().await?;
    if check {
        return tour::walk(town).await;
    }
    print_guide(town);
    std::future::pending().await
}

fn print_guide(town: &Town) {
    let gateway = town.east.https_address();
    let curl = format!(
        "curl -s --cacert {} --resolve {host}:{port}:127.0.0.1",
        town.public_ca_file().display(),
        host = documents::HOST,
        port = gateway.port()
    );
    let url = format!("https://{}:{}", documents::HOST, gateway.port());
    println!("\n{}", style::bold("Two clusters are up. Try, in another terminal:"));
    let say = |what: &str, line: String| println!("\n  {}\n  {line}", style::dim(&format!("# {what}")));
    say("storefront, checkout v1 and payments in east", format!("{curl} {url}/"));
    say("the same in lane v2: by header, by cookie", format!("{curl} {url}/ -H 'x-gray: v2'"));
    println!("  {curl} {url}/ -b 'gray=1'");
    say("ledger, which only west has", format!("{curl} {url}/ledger"));
    say("a call that payments' AuthorizationPolicy refuses", format!("{curl} -i {url}/forbidden"));
    let program = std::env::current_exe().map_or("tombolo".into(), |path| path.display().to_string());
    say(
        "why a request goes where it goes",
        format!("{program} explain --admin {} GET {url}/ -H 'x-gray: v2'", town.east.gateway_admin()),
    );
    say("how east is", format!("{program} status --state-dir {}", town.east.controller_state().display()));
    say(
        "change something and apply it",
        format!(
            "{program} apply --state-dir {} -f {}",
            town.east.controller_state().display(),
            town.east.documents_file().display()
        ),
    );
    println!("\n{}", style::dim(&format!("logs: {}    Ctrl-C stops everything", town.logs().display())));
}
