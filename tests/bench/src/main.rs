//! What Tombolo costs, beside its peers. See README.md here.

mod backend;
mod compare;
mod controller;
mod decide;
mod dns;
mod documents;
mod fleet;
mod floor;
mod guard;
mod load;
mod measure;
mod process;
mod proxy;
mod reload;
mod rounds;
mod scale;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Whatever went wrong, in words.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measures what Tombolo costs.
#[derive(Parser, Debug)]
#[command(name = "tombolo-bench", about = "What Tombolo costs, beside its peers")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Tombolo beside nginx, HAProxy, Envoy and bare pingora: CPU, throughput, latency, memory
    Compare(compare::Compare),
    /// CPU microseconds a request, in interleaved rounds
    Cpu(rounds::Cpu),
    /// User instructions a request, counted by callgrind
    Instructions(rounds::Instructions),
    /// User instructions of decisions and requests, against the counts that are committed
    Guard(guard::Guard),
    /// How long a change among 10,000 routes takes to be in force, and what requests notice of it
    Reload(reload::Reload),
    /// Nanoseconds of a decision alone
    Decide(decide::Decide),
    /// What a sidecar costs that knows 1,000 services and 10,000 endpoints: memory, and answers of its DNS
    Dns(dns::Dns),
    /// What a controller costs with 100 peers, 100,000 services and 1,000,000 endpoints
    Scale(scale::Scale),
    /// What a controller costs with 2,000 sidecars, and how soon a changed endpoint is in use
    Fleet(fleet::Fleet),
    /// The controller that is measured by `scale` and `fleet`
    #[command(hide = true)]
    Hub(controller::Hub),
    /// Decisions that are counted by `guard`
    #[command(hide = true)]
    Decisions(decide::Decisions),
    /// The bare proxy that the gateway is measured by
    #[command(hide = true)]
    Floor(floor::Floor),
}

fn main() -> Result<(), Failure> {
    match Cli::parse().command {
        Command::Compare(compare) => compare.run(),
        Command::Cpu(cpu) => cpu.run(),
        Command::Instructions(instructions) => instructions.run(),
        Command::Guard(guard) => guard.run(),
        Command::Decisions(decisions) => decisions.run(),
        Command::Reload(reload) => reload.run(),
        Command::Decide(decide) => decide.run(),
        Command::Dns(dns) => dns.run(),
        Command::Scale(scale) => scale.run(),
        Command::Fleet(fleet) => fleet.run(),
        Command::Hub(hub) => hub.run(),
        Command::Floor(floor) => floor.run(),
    }
}
