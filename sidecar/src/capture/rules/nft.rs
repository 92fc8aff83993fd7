//! The rules for `nft`: one table of our own, which is replaced whole in one transaction.

use super::{Rules, Step, step::words};

/// Takes the table away, whether it is there or not.
pub(super) const UNDO: &str = "table inet tombolo\ndelete table inet tombolo\n";

/// Only the first packet of a connection: one that was there before the rules goes on as it was.
const BEGINS: &str = "tcp flags & (fin | syn | rst | ack) == syn";

/// Loads a ruleset.
pub(super) fn load(ruleset: String) -> Step {
    Step::Run(words("nft -f -"), ruleset)
}

/// Takes the table away where it is; may be done where nft does not work at all.
pub(super) fn try_undo() -> Step {
    Step::Try(words("nft delete table inet tombolo"))
}

/// The ruleset.
pub(super) fn install(rules: &Rules) -> String {
    let mut lines = vec![UNDO.trim_end().to_string(), "table inet tombolo {".into()];
    if rules.outbound.or(rules.dns).is_some() {
        lines.push(chain("output", outgoing(rules)));
    }
    if let Some(port) = rules.inbound {
        lines.push(chain("prerouting", incoming(rules, port)));
    }
    lines.push("}\n".into());
    lines.join("\n")
}

fn chain(hook: &str, rules: Vec<String>) -> String {
    let rules: String = rules.iter().map(|rule| format!("    {rule}\n")).collect();
    // -100: where destinations are translated.
    format!("  chain {hook} {{\n    type nat hook {hook} priority -100; policy accept;\n{rules}  }}")
}

/// What leaves the machine's processes, in the order in which it is looked at.
fn outgoing(rules: &Rules) -> Vec<String> {
    let mut lines = common(rules);
    lines.extend(rules.users.iter().map(|user| format!("meta skuid {user} return")));
    lines.extend(rules.groups.iter().map(|group| format!("meta skgid {group} return")));
    if let Some(port) = rules.dns {
        // Before loopback is left alone: resolvers are often there.
        lines.push(format!("meta l4proto {{ tcp, udp }} th dport 53 redirect to :{port}"));
    }
    let Some(port) = rules.outbound else { return lines };
    lines.push("oifname \"lo\" return".into());
    lines.extend(rules.ranges.iter().map(|range| match range.is_ipv4() {
        true => format!("ip daddr {range} return"),
        false => format!("ip6 daddr {range} return"),
    }));
    lines.extend(rules.outbound_ports.iter().map(|port| format!("tcp dport {port} return")));
    lines.push(format!("{BEGINS} redirect to :{port}"));
    lines
}

/// What comes to this machine.
fn incoming(rules: &Rules, port: u16) -> Vec<String> {
    let mut lines = common(rules);
    lines.push("iifname \"lo\" return".into());
    lines.push("fib daddr type != local return".into());
    lines.extend(rules.inbound_ports.iter().map(|port| format!("tcp dport {port} return")));
    lines.push(format!("{BEGINS} redirect to :{port}"));
    lines
}

fn common(rules: &Rules) -> Vec<String> {
    let family = (!rules.ipv6).then(|| "meta nfproto ipv6 return".to_string());
    family.into_iter().chain(rules.mark.map(|mark| format!("meta mark {mark:#x} return"))).collect()
}
