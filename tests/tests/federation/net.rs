//! Three networks, and one between their edges.

use tombolo_tests::netns::Net;

use crate::world::{CLUSTERS, CONTROL, MESH};

/// Between clusters.
const BETWEEN: &str = "wan";

/// The way out of a cluster.
const OUT: &str =
    "table ip out { chain out { type nat hook postrouting priority 100; oifname \"wan0\" masquerade; }; }";

/// No controller of another cluster reaches this cluster's, as behind NAT: it opens its links itself.
const HIDDEN: &str = "north";
const NO_WAY_IN: &str = "table inet hidden { chain in { type filter hook input priority 0; \
                         iifname \"wan0\" tcp dport 15010 ct state new drop; }; }";

/// Makes them. A cluster's edge is called as the cluster: 10.80.0.1 inside and 198.51.100.(N+1) outside; its machines are
/// `CLUSTER-MACHINE`, 10.80.0.(N+2) in each cluster; `wan` is outside of all, 198.51.100.254. From inside a way leads to
/// the other edges (by masquerading, as is usual), and none leads from outside to a machine.
pub fn three(machines: &[(&str, &[&str])]) -> Option<Net> {
    let mut net = Net::new(BETWEEN)?;
    net.bridge(BETWEEN, "br0", "198.51.100.254/24");
    for (number, (cluster, machines)) in (1..).zip(machines) {
        net.add(cluster);
        net.bridge(cluster, "br0", "10.80.0.1/24");
        net.link(cluster, "wan0", &format!("198.51.100.{number}/24"), (BETWEEN, "br0"));
        net.text(cluster, &["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
        net.text(cluster, &["nft", OUT]);
        if *cluster == HIDDEN {
            net.text(cluster, &["nft", NO_WAY_IN]);
        }
        for (number, machine) in (2..).zip(*machines) {
            let machine = &format!("{cluster}-{machine}");
            net.add(machine);
            net.link(machine, "eth0", &format!("10.80.0.{number}/24"), (cluster, "br0"));
            net.ip(machine, "route add default via 10.80.0.1");
            // Nobody answers there: whoever gets an answer was captured.
            net.resolv_conf(machine, "nameserver 10.80.0.53\n");
        }
    }
    Some(net)
}

/// Where a cluster is reached from outside.
pub fn outside(cluster: &str) -> String {
    let position = CLUSTERS.iter().position(|known| *known == cluster).expect("a cluster");
    format!("198.51.100.{}", position + 1)
}

/// What a cut takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The link between controllers.
    Control,
    /// Requests through gateways.
    Data,
    /// Both.
    All,
}

/// In which direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// What comes to the cluster.
    In,
    /// What goes out of it.
    Out,
    /// Both.
    Both,
}

/// Drops packets between a cluster and all others: of a hundred, so many.
pub fn cut(net: &Net, cluster: &str, what: What, way: Way, percent: u8) {
    let ports = match what {
        What::Control => vec![CONTROL],
        What::Data => vec![MESH, MESH + 1],
        What::All => vec![CONTROL, MESH, MESH + 1],
    };
    let chance = if percent < 100 { format!("numgen random mod 100 < {percent} ") } else { String::new() };
    let mut rules = String::new();
    let directions: &[(&str, &str)] = match way {
        Way::In => &[("prerouting", "iifname")],
        Way::Out => &[("postrouting", "oifname")],
        Way::Both => &[("prerouting", "iifname"), ("postrouting", "oifname")],
    };
    for (hook, device) in directions {
        rules += &format!("chain {hook} {{ type filter hook {hook} priority -300;\n");
        for port in &ports {
            for end in ["sport", "dport"] {
                rules += &format!("{device} \"wan0\" tcp {end} {port} {chance}drop\n");
            }
        }
        rules += "};\n";
    }
    heal(net, cluster);
    net.text(cluster, &["nft", &format!("table inet cut {{ {rules} }};")]);
}

/// Ends whatever cut there is.
pub fn heal(net: &Net, cluster: &str) {
    net.text(cluster, &["nft", "table inet cut {}; delete table inet cut"]);
}
