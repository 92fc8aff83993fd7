//! Links that break: between controllers, between gateways, both, in one direction, now and then.

use crate::{
    calls::now,
    net::{Way, What, cut, heal},
    steps::{Scene, UNSEEN},
    world::{app, controller},
};

/// Where requests go when nobody answers in their own cluster.
const AWAY: [&str; 3] = ["west-1", "west-2", "north-1"];
/// Of those, where they go first: whatever becomes of control links, no other place.
const WEST: [&str; 2] = ["west-1", "west-2"];

#[test]
fn a_control_link_that_breaks_is_not_seen() {
    let Some(mut scene) = Scene::new() else { return };
    // Served by other clusters, so that what is known of them matters.
    scene.step("the only endpoint here is killed", UNSEEN, &AWAY, |world| {
        world.processes.kill(&app("east-1"))
    });
    for (way, name) in
        [(Way::In, "west's controller hears nobody"), (Way::Out, "nobody hears west's controller")]
    {
        scene.step(name, UNSEEN, &WEST, |world| {
            cut(&world.net, "west", What::Control, way, 100);
            world.peer_is("east", "west", "not connected", |peer| peer["connected"] == false);
        });
        scene.step("it is back", UNSEEN, &WEST, |world| {
            heal(&world.net, "west");
            world.peer_is("east", "west", "connected", |peer| peer["connected"] == true);
        });
    }
    scene.step("neither hears the other", UNSEEN, &WEST, |world| {
        cut(&world.net, "west", What::Control, Way::Both, 100);
        world.peer_is("east", "west", "stale", |peer| peer["state"] == "stale");
        // Kept, all the same.
        assert_eq!(world.peer("east", "west")["imported"], 1);
    });
    scene.step("it is back", UNSEEN, &WEST, |world| {
        heal(&world.net, "west");
        world
            .peer_is("east", "west", "synced", |peer| peer["state"] == "synced" && peer["connected"] == true);
    });
    scene.step("it comes and goes, twice", UNSEEN, &WEST, |world| {
        for _ in 0..2 {
            cut(&world.net, "west", What::Control, Way::Both, 100);
            world.peer_is("east", "west", "not connected", |peer| peer["connected"] == false);
            heal(&world.net, "west");
            world.peer_is("east", "west", "connected", |peer| peer["connected"] == true);
        }
    });
    scene.meanwhile("a third of the packets to west's is lost", UNSEEN, 300, |world| {
        cut(&world.net, "west", What::Control, Way::In, 33);
    });
    scene.step("none is lost any more", UNSEEN, &WEST, |world| heal(&world.net, "west"));
    scene.nothing_is_lost();
}

#[test]
fn a_data_link_that_breaks_costs_no_request() {
    let Some(mut scene) = Scene::new() else { return };
    scene.step("the only endpoint here is killed", UNSEEN, &AWAY, |world| {
        world.processes.kill(&app("east-1"))
    });
    for what in [What::Data, What::All] {
        for way in [Way::In, Way::Out, Way::Both] {
            let name = format!("{what:?} of west is cut: {way:?}");
            scene.step(&name, UNSEEN, &["north-1"], |world| cut(&world.net, "west", what, way, 100));
            scene.step("it is back", UNSEEN, &AWAY, |world| heal(&world.net, "west"));
            let begun = now();
            scene.answers("west-1", begun);
        }
    }
    scene.flap("the data link comes and goes, five times", UNSEEN, 5, |world, is_up| {
        if is_up { heal(&world.net, "west") } else { cut(&world.net, "west", What::Data, Way::Both, 100) }
    });
    scene.step("it stays", UNSEEN, &AWAY, |_| {});
    // In one direction only: requests get lost, and answers do not.
    scene.meanwhile("a fifth of the packets to west is lost", UNSEEN, 300, |world| {
        cut(&world.net, "west", What::Data, Way::In, 20);
    });
    scene.step("none is lost any more", UNSEEN, &AWAY, |world| heal(&world.net, "west"));
    scene.nothing_is_lost();
}

#[test]
fn a_peer_that_is_revoked_is_used_no_more_until_it_is_linked_again() {
    let Some(mut scene) = Scene::new() else { return };
    scene.step("the only endpoint here is killed", UNSEEN, &AWAY, |world| {
        world.processes.kill(&app("east-1"))
    });
    scene.step("west is revoked while its controller is away", UNSEEN, &["north-1"], |world| {
        world.processes.kill(&controller("west"));
        world.operator("east", &["peer", "revoke", "west"]);
    });
    let list = scene.world.operator("east", &["peer", "list"]);
    let is_withdrawn = |line: &str| line.contains("west") && line.contains("withdrawn");
    assert!(list.lines().any(is_withdrawn), "{list}");
    scene.step("it hears of it", UNSEEN, &["north-1"], |world| {
        world.start_controller("west");
        world.peer_is("west", "east", "withdrawn", |peer| {
            peer["state"] == "withdrawn" && peer["endedBy"] == "peer" && peer["imported"] == 0
        });
        world.peer_is("east", "west", "told", |peer| peer["told"] == true);
    });
    scene.step("they are linked again", UNSEEN, &AWAY, |world| {
        let token = world.operator("west", &["peer", "token"]);
        world.operator("east", &["peer", "join", token.trim()]);
        world.peer_is("east", "west", "connected", |peer| peer["connected"] == true);
    });
    let begun = now();
    scene.answers("west-1", begun);
    scene.nothing_is_lost();
}
