//! `tombolo`: the one binary. Every process of the mesh, and the commands for operators.

mod commands;
mod demo;
mod failure;
mod quickstart;
mod style;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::Failure;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Edge gateway and mesh federation.
#[derive(Parser, Debug)]
#[command(
    name = "tombolo",
    version,
    about = "Edge gateway, sidecars, and the federation of clusters",
    after_help = "Try `tombolo quickstart` for two clusters on this machine."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run an edge gateway, from files or from a controller
    Gateway(Box<commands::gateway::GatewayArgs>),
    /// Run the proxy beside one workload
    Sidecar(Box<commands::sidecar::SidecarCommand>),
    /// Run a cluster's control plane: registry, certificate authority, configuration, federation
    Controller(Box<commands::controller::ControllerArgs>),
    /// Run two clusters on this machine and show what they do
    Quickstart(quickstart::QuickstartArgs),
    /// Validate configuration: every problem at once, and the status each object would have
    Check(commands::check::CheckArgs),
    /// Say where a request would go, and why
    Explain(commands::explain::ExplainArgs),
    /// Put configuration in force, as a new generation
    Apply(commands::apply::ApplyArgs),
    /// Take configuration out of force, as a new generation
    Delete(commands::delete::DeleteArgs),
    /// List the generations of configuration: who changed what, and when
    History(commands::history::HistoryArgs),
    /// Show what differs between generations, or what applying files would change
    Diff(commands::diff::DiffArgs),
    /// Put an earlier generation's configuration in force again, as a new generation
    Rollback(commands::rollback::RollbackArgs),
    /// Show configuration and state objects
    Get(commands::get::GetArgs),
    /// Show and steer gray releases
    #[command(subcommand)]
    Gray(commands::gray::GrayCommand),
    /// Issue the token with which a gateway or sidecar joins this cluster
    JoinToken(commands::token::JoinTokenArgs),
    /// Link this cluster with others
    #[command(subcommand)]
    Peer(commands::peer::PeerCommand),
    /// Show how the cluster is
    Status(commands::status::StatusArgs),
    /// The built-in HTTP service of the quickstart
    #[command(hide = true)]
    DemoService(demo::DemoArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if std::env::var_os(quickstart::END_WITH_STDIN).is_some() {
        quickstart::end_with_stdin();
    }
    // An application that takes this process's place keeps the bound that it was given.
    let waits = matches!(&cli.command, Command::Sidecar(command) if matches!(**command, commands::sidecar::SidecarCommand::Wait(_)));
    if !waits {
        tombolo_core::lifecycle::raise_file_limit();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Failure::new(format!("cannot start: {error}"))),
    };
    match runtime.block_on(run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

fn fail(failure: &Failure) -> ExitCode {
    let text = failure.to_string();
    if !text.is_empty() {
        eprintln!("{} {text}", style::red("tombolo:"));
    }
    ExitCode::from(failure.code())
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Gateway(args) => commands::gateway::run(*args).await,
        Command::Sidecar(args) => commands::sidecar::run(*args).await,
        Command::Controller(args) => commands::controller::run(*args).await,
        Command::Quickstart(args) => quickstart::run(args).await,
        Command::Check(args) => commands::check::run(args),
        Command::Explain(args) => commands::explain::run(args).await,
        Command::Apply(args) => commands::apply::run(args).await,
        Command::Delete(args) => commands::delete::run(args).await,
        Command::History(args) => commands::history::run(args).await,
        Command::Diff(args) => commands::diff::run(args).await,
        Command::Rollback(args) => commands::rollback::run(args).await,
        Command::Get(args) => commands::get::run(args).await,
        Command::Gray(command) => commands::gray::run(command).await,
        Command::JoinToken(args) => commands::token::run(args).await,
        Command::Peer(command) => commands::peer::run(command).await,
        Command::Status(args) => commands::status::run(args).await,
        Command::DemoService(args) => demo::run(args).await,
    }
}
