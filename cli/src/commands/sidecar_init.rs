//! `tombolo sidecar init`.

use std::collections::BTreeSet;

use tombolo_core::decide::Cidr;
use tombolo_sidecar::capture::{
    install::{carry_out, has_ipv6, installed},
    rules::{Filter, Rules},
};

use crate::failure::Failure;

/// Arguments of `tombolo sidecar init`.
#[derive(clap::Args, Debug)]
pub struct InitArgs {
    /// The user that the sidecar runs as, whose traffic is left alone: a name or number; may be given several times
    #[arg(long = "user", value_name = "USER")]
    users: Vec<String>,
    /// The same by its group
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// The same by the mark on its packets (its --mark), e.g. 0x539: where it runs as the application's user
    #[arg(long, value_name = "NUMBER", value_parser = parse_mark)]
    mark: Option<u32>,
    /// Where the sidecar takes outbound connections (its --capture-outbound)
    #[arg(long, value_name = "PORT", default_value_t = 15001)]
    outbound_port: u16,
    /// Where the sidecar takes inbound connections to the application (its --capture-inbound)
    #[arg(long, value_name = "PORT", default_value_t = 15007)]
    inbound_port: u16,
    /// Where the sidecar's DNS is (its --dns-listen)
    #[arg(long, value_name = "PORT", default_value_t = 15053)]
    dns_port: u16,
    /// Where mesh traffic comes in (its --inbound-listen), which is left alone
    #[arg(long, value_name = "PORT", default_value_t = 15006)]
    mesh_port: u16,
    /// A port of other machines that is left alone; may be given several times
    #[arg(long = "exclude-outbound-port", value_name = "PORT")]
    outbound_ports: Vec<u16>,
    /// A port of this machine that is left alone, e.g. 22 where it is administered by SSH; may be given several times
    #[arg(long = "exclude-inbound-port", value_name = "PORT")]
    inbound_ports: Vec<u16>,
    /// Addresses of other machines that are left alone, e.g. 10.1.0.0/16; may be given several times
    #[arg(long = "exclude-range", value_name = "CIDR", value_parser = Cidr::parse)]
    ranges: Vec<Cidr>,
    /// Leave outbound TCP alone
    #[arg(long)]
    no_outbound: bool,
    /// Leave inbound TCP alone
    #[arg(long)]
    no_inbound: bool,
    /// Leave DNS alone
    #[arg(long)]
    no_dns: bool,
    /// Leave IPv6 alone
    #[arg(long)]
    ipv4_only: bool,
    /// Write the rules for iptables, also where nft is installed
    #[arg(long)]
    iptables: bool,
    /// Take the rules out of force
    #[arg(long)]
    undo: bool,
    /// Print what would be run, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// A mark on packets, decimal or 0x...; 0 is none.
pub(super) fn parse_mark(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    match parsed {
        Ok(0) | Err(_) => Err(format!("{text:?} is not a mark: use a number from 1 on, e.g. 0x539")),
        Ok(mark) => Ok(mark),
    }
}

impl InitArgs {
    fn rules(&self, ipv6: bool) -> Rules {
        let set = |ports: &[u16]| ports.iter().copied().collect::<BTreeSet<_>>();
        // The sidecar's own ports are not the application's.
        let own = [self.mesh_port, self.outbound_port, self.inbound_port, self.dns_port];
        Rules {
            users: self.users.iter().cloned().collect(),
            groups: self.groups.iter().cloned().collect(),
            mark: self.mark,
            outbound: (!self.no_outbound).then_some(self.outbound_port),
            dns: (!self.no_dns).then_some(self.dns_port),
            inbound: (!self.no_inbound).then_some(self.inbound_port),
            outbound_ports: set(&self.outbound_ports),
            inbound_ports: set(&self.inbound_ports).into_iter().chain(own).collect(),
            ranges: self.ranges.clone(),
            ipv6,
        }
    }
}

/// Puts the rules in force, or takes them out of it.
pub fn run(args: &InitArgs) -> Result<(), Failure> {
    let (there, has_ipv6) = (installed(), has_ipv6());
    let there = match args.dry_run {
        // What would be run where nothing is installed is of use as well.
        true => there.unwrap_or(vec![Filter::Nftables]),
        false => there.map_err(|e| Failure::new(e.to_string()))?,
    };
    let first = if args.iptables { Some(Filter::Iptables) } else { there.first().copied() };
    let steps: Vec<_> = match (args.undo, args.iptables) {
        // Whichever of them it was written for, and for both kinds of addresses.
        (true, false) => there.into_iter().flat_map(|filter| Rules::undo(filter, has_ipv6)).collect(),
        (true, true) => Rules::undo(Filter::Iptables, has_ipv6),
        (false, _) => {
            let rules = args.rules(!args.ipv4_only && has_ipv6);
            rules.check().map_err(|e| Failure::usage(e.to_string()))?;
            first.into_iter().flat_map(|filter| rules.install(filter, &there, has_ipv6)).collect()
        }
    };
    if args.dry_run {
        steps.iter().for_each(|step| println!("{step}"));
        return Ok(());
    }
    carry_out(&steps).map_err(|e| Failure::new(e.to_string()))?;
    let done = if args.undo { "no traffic is captured any more" } else { "traffic is captured" };
    println!("tombolo sidecar init: {done}");
    Ok(())
}
