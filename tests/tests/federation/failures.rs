//! Processes and clusters that fail.

use crate::{
    calls::now,
    net::{Way, What, cut, heal},
    steps::{RESTART, Scene, UNSEEN},
    world::{CLUSTERS, SERVERS, app, controller, gateway, second_gateway, sidecar},
};

/// Where requests go when nobody answers in their own cluster.
const AWAY: [&str; 3] = ["west-1", "west-2", "north-1"];
/// Of those, where they go first: whatever becomes of controllers, no other place.
const WEST: [&str; 2] = ["west-1", "west-2"];

#[test]
fn gateways_and_endpoints_that_fail_cost_no_request() {
    let Some(mut scene) = Scene::new() else { return };
    scene.step("the only endpoint here is killed", UNSEEN, &AWAY, |world| {
        world.processes.kill(&app("east-1"))
    });
    scene.step("an endpoint of west is killed", UNSEEN, &["west-2", "north-1"], |world| {
        world.processes.kill(&sidecar("west-1"));
    });
    let begun = now();
    scene.step("it is back", UNSEEN, &AWAY, |world| {
        world.begin_sidecar("west-1");
        world.processes.ready(&sidecar("west-1"));
    });
    scene.answers("west-1", begun);
    let both = [gateway("west"), second_gateway()];
    scene.step("one of west's gateways freezes", UNSEEN, &AWAY, |world| {
        world.processes.signal(&both[0], "STOP");
    });
    scene.step("the other as well", UNSEEN, &["north-1"], |world| world.processes.signal(&both[1], "STOP"));
    scene.step("they go on", UNSEEN, &AWAY, |world| {
        both.iter().for_each(|gateway| world.processes.signal(gateway, "CONT"));
    });
    scene.step("one of west's gateways is killed", UNSEEN, &AWAY, |world| world.processes.kill(&both[0]));
    scene.step("it is back, and the other says goodbye", UNSEEN, &AWAY, |world| {
        world.begin_gateway("west");
        world.processes.ready(&both[0]);
        world.processes.stop(&both[1]);
    });
    scene.step("the only one is killed", UNSEEN, &["north-1"], |world| world.processes.kill(&both[0]));
    scene.step("both are back", UNSEEN, &AWAY, |world| {
        world.begin_gateway("west");
        world.begin_second_gateway();
        both.iter().for_each(|gateway| world.processes.ready(gateway));
    });
    let begun = now();
    scene.answers("west-1", begun);
    scene.step("an endpoint here is back", UNSEEN, &SERVERS, |world| world.start_app("east-1"));
    scene.nothing_is_lost();
}

#[test]
fn controllers_come_and_go_unseen() {
    let Some(mut scene) = Scene::new() else { return };
    scene.step("the only endpoint here is killed", UNSEEN, &AWAY, |world| {
        world.processes.kill(&app("east-1"))
    });
    let shown = scene.world.operator("east", &["status", "--federation"]);
    let is_synced = |peer: &str| shown.lines().any(|line| line.contains(peer) && line.contains("synced"));
    assert!(is_synced("west") && is_synced("north"), "{shown}");
    scene.step("west's controller is killed", UNSEEN, &WEST, |world| {
        world.processes.kill(&controller("west"));
        world.peer_is("east", "west", "not connected", |peer| peer["connected"] == false);
    });
    scene.step("it is back, and freezes", UNSEEN, &WEST, |world| {
        world.start_controller("west");
        world.peer_is("east", "west", "connected", |peer| peer["connected"] == true);
        world.processes.signal(&controller("west"), "STOP");
        world.peer_is("east", "west", "not connected", |peer| peer["connected"] == false);
    });
    scene.step("it goes on", UNSEEN, &WEST, |world| {
        world.processes.signal(&controller("west"), "CONT");
        world.peer_is("east", "west", "connected", |peer| peer["connected"] == true);
    });
    scene.step("it is killed again", UNSEEN, &WEST, |world| world.processes.kill(&controller("west")));
    scene.step("and east's", UNSEEN, &WEST, |world| world.processes.kill(&controller("east")));
    scene.step("both are back", UNSEEN, &WEST, |world| {
        for cluster in ["east", "west"] {
            world.start_controller(cluster);
        }
        for (one, other) in [("east", "west"), ("west", "east"), ("north", "west")] {
            world
                .peer_is(one, other, "synced", |peer| peer["state"] == "synced" && peer["connected"] == true);
        }
    });
    scene.step("all controllers restart at once", UNSEEN, &WEST, |world| {
        for cluster in CLUSTERS {
            world.processes.kill(&controller(cluster));
        }
        for cluster in CLUSTERS {
            world.start_controller(cluster);
        }
    });
    scene.step("an endpoint here is back", UNSEEN, &SERVERS, |world| world.start_app("east-1"));
    scene.nothing_is_lost();
}

#[test]
fn a_whole_cluster_dies_and_returns() {
    let Some(mut scene) = Scene::new() else { return };
    scene.step("the only endpoint here is killed", UNSEEN, &AWAY, |world| {
        world.processes.kill(&app("east-1"))
    });
    let west = [
        controller("west"),
        gateway("west"),
        second_gateway(),
        sidecar("west-1"),
        sidecar("west-2"),
        app("west-1"),
        app("west-2"),
    ];
    // As without power: nobody is there to refuse a connection.
    scene.step("all of west is dead", UNSEEN, &["north-1"], |world| {
        cut(&world.net, "west", What::All, Way::Both, 100);
        west.iter().for_each(|process| world.processes.kill(process));
    });
    let begun = now();
    scene.step("it is back", UNSEEN, &AWAY, |world| {
        heal(&world.net, "west");
        world.start_controller("west");
        for machine in ["west-1", "west-2"] {
            world.start_app(machine);
            world.begin_sidecar(machine);
        }
        world.begin_gateway("west");
        world.begin_second_gateway();
    });
    scene.answers("west-1", begun);
    scene.step("all sidecars are killed and restart", RESTART, &AWAY, |world| {
        world.processes.kill(&sidecar("east-client"));
        for machine in SERVERS {
            world.processes.kill(&sidecar(machine));
        }
        world.begin_client();
        for machine in SERVERS {
            world.begin_sidecar(machine);
        }
    });
    scene.nothing_is_lost();
}
