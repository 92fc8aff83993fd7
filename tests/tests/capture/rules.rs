//! What the rules of `tombolo sidecar init` let by, and what they leave behind, by nftables and by iptables.

use tombolo_tests::wait_until;

use crate::world::{LONG, World};

/// The nat rules of ours in the client's machine: is there a table of nft's, and how many lines iptables and ip6tables have.
fn in_force(world: &World) -> (bool, usize, usize) {
    let count = |program: &str| {
        let lines = world.net.text("client", &[program, "-t", "nat"]);
        lines.lines().filter(|line| line.contains("TOMBOLO")).count()
    };
    let nft = world.net.text("client", &["nft", "list", "tables"]).contains("inet tombolo");
    (nft, count("iptables-save"), count("ip6tables-save"))
}

#[test]
fn rules_take_the_place_of_others_whichever_program_they_were_written_for() {
    let Some(mut world) = World::new() else { return };
    world.captured(&[], &[], &[]);
    let reached = |family: &str| world.curl(&[family, "http://server.shop.svc.cluster.local/"]).0 == 200;
    assert_eq!(in_force(&world), (true, 0, 0));
    world.init("client", &["--iptables"]);
    let (nft, four, six) = in_force(&world);
    assert!(!nft && four > 0 && four == six, "{four} {six}");
    assert!(reached("-4") && reached("-6"));
    world.init("client", &["--iptables", "--ipv4-only"]);
    assert_eq!(in_force(&world), (false, four, 0));
    assert!(reached("-4") && !reached("-6"));
    world.init("client", &["--iptables"]);
    world.init("client", &["--ipv4-only"]);
    assert_eq!(in_force(&world), (true, 0, 0));
    assert!(reached("-4") && !reached("-6"));

    // Where nft is missing: in this command's own view of the file system there is no such file.
    let nft = world.net.text("client", &["sh", "-c", "readlink -f $(command -v nft)"]);
    let init = format!(
        "mount --bind /dev/null {} && exec {} sidecar init --user {}",
        nft.trim(),
        world.path("tombolo").display(),
        crate::world::USER
    );
    world.init("client", &["--undo"]);
    assert!(!reached("-4"));
    world.net.text("client", &["sh", "-c", &init]);
    assert_eq!(in_force(&world), (false, four, six));
    assert!(reached("-4") && reached("-6"));
}

#[test]
fn excepted_ports_and_ranges_go_past_the_sidecar() {
    let Some(mut world) = World::new() else { return };
    world.captured(&["--outbound-unknown", "refuse"], &[], &[]);
    let mut servers = Vec::new();
    for port in ["8000", "8001"] {
        servers.push(world.net.start("hub", &["python3", "-m", "http.server", port, "--bind", "::"]));
        let url = format!("http://10.77.0.1:{port}/");
        wait_until("a server", LONG, || world.curl_in("hub", &["-o", "/dev/null", &url]).0 == 200);
    }
    let gets = |host: &str, port: u16| {
        world.curl(&["-g", "-o", "/dev/null", &format!("http://{host}:{port}/")]).0 == 200
    };
    // Each destination, and whether it is reached: what comes to the sidecar is refused.
    let all = || {
        let destinations =
            [("10.77.0.1", 8000), ("[fd77::1]", 8000), ("10.77.0.1", 8001), ("[fd77::1]", 8001)];
        destinations.map(|(host, port)| gets(host, port))
    };
    for filter in [&[][..], &["--iptables"]] {
        let init = |more: &[&str]| world.init("client", &[filter, more].concat());
        init(&[]);
        assert_eq!(all(), [false; 4], "{filter:?}");
        init(&["--exclude-outbound-port", "8000"]);
        assert_eq!(all(), [true, true, false, false], "{filter:?}: by port");
        init(&["--exclude-range", "10.77.0.0/30"]);
        assert_eq!(all(), [true, false, true, false], "{filter:?}: by range");
        init(&["--exclude-range", "fd77::/120"]);
        assert_eq!(all(), [false, true, false, true], "{filter:?}: by range of IPv6");
        // Next to the range.
        init(&["--exclude-range", "10.77.0.4/30", "--exclude-outbound-port", "7999"]);
        assert_eq!(all(), [false; 4], "{filter:?}");
        // The mesh is reached all the same.
        assert_eq!(world.curl(&["http://server.shop.svc.cluster.local/"]).0, 200);
    }
    world.logged("client", |line| {
        line["reason"] == "unknown_destination" && line["upstream"] == "10.77.0.1:8001"
    });
    for server in &mut servers {
        assert!(server.child().try_wait().unwrap().is_none());
    }
}
