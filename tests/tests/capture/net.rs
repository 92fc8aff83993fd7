//! Machines on one bridge.

use std::net::Ipv4Addr;

use tombolo_tests::netns::Net;

/// Machines that see each other: N is 10.77.0.(N+2) and fd77::(N+2); `hub` holds the bridge, is 10.77.0.1 and fd77::1, and
/// everybody's way to elsewhere. None where that is not possible, and the run was told that this is no failure.
pub fn bridged(machines: &[&str]) -> Option<Net> {
    let mut net = Net::new("hub")?;
    net.bridge("hub", "br0", "10.77.0.1/24");
    net.ip("hub", "addr add fd77::1/64 dev br0 nodad");
    for (machine, number) in machines.iter().zip(2..) {
        net.add(machine);
        net.link(machine, "eth0", &format!("10.77.0.{number}/24"), ("hub", "br0"));
        net.ip(machine, &format!("addr add fd77::{number}/64 dev eth0 nodad"));
        net.ip(machine, "route add default via 10.77.0.1");
        net.ip(machine, "-6 route add default via fd77::1");
        resolv_conf(&net, machine, "");
    }
    Some(net)
}

/// Makes the programs of a machine look names up where nobody answers (whoever gets an answer was captured), with these
/// lines more in their `resolv.conf`.
pub fn resolv_conf(net: &Net, machine: &str, more: &str) {
    net.resolv_conf(machine, &format!("nameserver 10.77.0.53\n{more}"));
}

/// The address of a machine.
pub fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number)
}
