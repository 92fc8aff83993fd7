//! Links that break: between controllers, between gateways, both, in one direction, now and then.

use crate::{
    net::{Way, What, cut, heal},
    steps::{Scene, UNSEEN},
    world::app,
};

/// Where requests go when nobody answers in their own cluster.
const AWAY: [&str; 3] = ["west-1", "west-2", "north-1"];

#[test]
fn a_control_link_that_breaks_is_not_seen() {
    let Some(mut scene) = Scene::new() else { return };
    // Served by other clusters, so that what is known of them matters.
    scene.step("the only endpoint here is killed", UNSEEN, &AWAY, |world| {
        world.processes.kill(&app("east-1"))
    });
    scene.step("no controller hears west's", UNSEEN, &AWAY, |world| {
        cut(&world.net, "west", What::Control, Way::In, 100);
        world.peer_is("east", "west", "not connected", |peer| peer["connected"] == false);
    });
    scene.step("nor says anything to it", UNSEEN, &AWAY, |world| {
        cut(&world.net, "west", What::Control, Way::Both, 100);
        world.peer_is("east", "west", "stale", |peer| peer["state"] == "stale");
        // Kept, all the same.
        assert_eq!(world.peer("east", "west")["imported"], 1);
    });
    scene.step("it is back", UNSEEN, &AWAY, |world| {
        heal(&world.net, "west");
        world
            .peer_is("east", "west", "synced", |peer| peer["state"] == "synced" && peer["connected"] == true);
    });
    scene.step("it comes and goes, twice", UNSEEN, &AWAY, |world| {
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
}

#[test]
fn a_data_link_that_breaks_costs_no_request() {
    let Some(mut scene) = Scene::new() else { return };
    scene.step("the only endpoint here is killed", UNSEEN, &AWAY, |world| {
        world.processes.kill(&app("east-1"))
    });
    for way in [Way::In, Way::Both] {
        let name = if way == Way::In { "nothing comes to west" } else { "nothing comes to west or from it" };
        scene.step(name, UNSEEN, &["north-1"], |world| cut(&world.net, "west", What::Data, way, 100));
        scene.step("it is back", UNSEEN, &AWAY, |world| heal(&world.net, "west"));
        let begun = crate::calls::now();
        scene.answers("west-1", begun);
    }
    scene.step("west has no link at all", UNSEEN, &["north-1"], |world| {
        cut(&world.net, "west", What::All, Way::Both, 100);
    });
    scene.step("it is back", UNSEEN, &AWAY, |world| heal(&world.net, "west"));
    // In one direction only: requests get lost, and answers do not.
    scene.meanwhile("a fifth of the packets to west is lost", UNSEEN, 300, |world| {
        cut(&world.net, "west", What::Data, Way::In, 20);
    });
    scene.step("none is lost any more", UNSEEN, &AWAY, |world| heal(&world.net, "west"));
}
