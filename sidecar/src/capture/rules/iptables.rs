//! The rules for `iptables`: two chains of our own, and one jump to each.

use super::{Rules, Step, step::words};

/// Our chains, by the chain of the nat table that jumps to them.
const CHAINS: [(&str, &str); 2] = [("OUTPUT", "TOMBOLO_OUTPUT"), ("PREROUTING", "TOMBOLO_PREROUTING")];

/// Both programs, as far as they are wanted; `-w` waits for others that change rules.
fn programs(ipv6: bool) -> impl Iterator<Item = (&'static str, bool)> {
    [("iptables", false), ("ip6tables", true)].into_iter().filter(move |(_, six)| ipv6 || !six)
}

/// The chains are filled before anything jumps to them.
pub(super) fn install(rules: &Rules) -> Vec<Step> {
    programs(rules.ipv6).flat_map(|(program, six)| family(rules, program, six)).collect()
}

fn family(rules: &Rules, program: &str, six: bool) -> Vec<Step> {
    let mut lines = vec!["*nat".to_string()];
    // A chain that is declared is emptied, where it exists.
    lines.extend(CHAINS.iter().map(|(_, chain)| format!(":{chain} - [0:0]")));
    lines.extend(outgoing(rules, six).into_iter().map(|rule| format!("-A TOMBOLO_OUTPUT {rule}")));
    lines.extend(incoming(rules).into_iter().map(|rule| format!("-A TOMBOLO_PREROUTING {rule}")));
    lines.push("COMMIT\n".into());
    let fill = Step::Run(words(&format!("{program}-restore -w --noflush")), lines.join("\n"));
    let jumps = CHAINS.iter().map(|(from, chain)| {
        let jump = |verb: &str| words(&format!("{program} -w -t nat {verb} {from} -j {chain}"));
        Step::Unless(jump("-C"), jump("-A"))
    });
    std::iter::once(fill).chain(jumps).collect()
}

/// For addresses of both kinds, as far as there are any.
pub(super) fn undo(ipv6: bool) -> Vec<Step> {
    programs(ipv6).flat_map(|(program, _)| undo_by(program)).collect()
}

/// For IPv6 alone.
pub(super) fn undo_ipv6() -> Vec<Step> {
    undo_by("ip6tables")
}

/// The jumps go first: a chain that is jumped to cannot be removed.
fn undo_by(program: &str) -> Vec<Step> {
    let step = |rest: String| Step::Try(words(&format!("{program} -w -t nat {rest}")));
    let all = CHAINS.iter().flat_map(|(from, chain)| {
        [format!("-D {from} -j {chain}"), format!("-F {chain}"), format!("-X {chain}")]
    });
    all.map(step).collect()
}

fn outgoing(rules: &Rules, six: bool) -> Vec<String> {
    let mut lines: Vec<String> = rules.mark.map(marked).into_iter().collect();
    let owner = |kind: &str, name: &String| format!("-m owner --{kind}-owner {name} -j RETURN");
    lines.extend(rules.users.iter().map(|user| owner("uid", user)));
    lines.extend(rules.groups.iter().map(|group| owner("gid", group)));
    if let Some(port) = rules.dns {
        // Before loopback is left alone: resolvers are often there.
        let to = |protocol| format!("-p {protocol} --dport 53 -j REDIRECT --to-ports {port}");
        lines.extend(["udp", "tcp"].map(to));
    }
    let Some(port) = rules.outbound else { return lines };
    lines.push("-o lo -j RETURN".into());
    let ranges = rules.ranges.iter().filter(|range| range.is_ipv4() != six);
    lines.extend(ranges.map(|range| format!("-d {range} -j RETURN")));
    lines.extend(rules.outbound_ports.iter().map(|port| format!("-p tcp --dport {port} -j RETURN")));
    lines.push(format!("-p tcp --syn -j REDIRECT --to-ports {port}"));
    lines
}

fn incoming(rules: &Rules) -> Vec<String> {
    let Some(port) = rules.inbound else { return Vec::new() };
    let mut lines: Vec<String> = rules.mark.map(marked).into_iter().collect();
    lines.push("-i lo -j RETURN".into());
    lines.push("-m addrtype ! --dst-type LOCAL -j RETURN".into());
    lines.extend(rules.inbound_ports.iter().map(|port| format!("-p tcp --dport {port} -j RETURN")));
    lines.push(format!("-p tcp --syn -j REDIRECT --to-ports {port}"));
    lines
}

fn marked(mark: u32) -> String {
    format!("-m mark --mark {mark:#x} -j RETURN")
}
