//! What is known, and where it is kept: clocks that jump, disks that are full, changes and how fast they are used.

use std::{fs, path::PathBuf, time::Duration};

use serde_json::Value;
use tombolo_tests::{netns::run, wait_until};

use crate::{
    calls::now,
    net::{Way, What, cut, heal},
    steps::{RESTART, Scene, UNSEEN},
    world::{LONG, World, app, controller, gateway, sidecar},
};

/// Where requests go when nobody answers in their own cluster.
const AWAY: [&str; 3] = ["west-1", "west-2", "north-1"];

#[test]
fn a_clock_that_jumps_changes_nothing() {
    let Some(mut scene) = Scene::new() else { return };
    scene.step("east's controller gets a clock of its own", UNSEEN, &["east-1"], |world| {
        world.processes.kill(&controller("east"));
        world.set_clock(&controller("east"), 0);
        world.start_controller("east");
        for peer in ["west", "north"] {
            world.peer_is("east", peer, "synced", |p| p["state"] == "synced" && p["connected"] == true);
        }
    });
    scene.step("the only endpoint here is killed", UNSEEN, &AWAY, |world| {
        world.processes.kill(&app("east-1"))
    });
    for (name, hours) in [("it jumps ahead by a day", 25), ("and back by two", -25), ("it is right again", 0)]
    {
        scene.step(name, UNSEEN, &AWAY, |world| {
            world.set_clock(&controller("east"), hours * 3600);
            // Time has gone on at the controller, with the other clock.
            world.signs_of_life("east", "west", 2);
            for peer in ["west", "north"] {
                let status = world.peer("east", peer);
                assert_eq!(
                    (status["state"].as_str(), status["imported"].as_u64()),
                    (Some("synced"), Some(1)),
                    "{status}"
                );
            }
        });
    }
    scene.nothing_is_lost();
}

#[test]
fn clocks_of_proxies_that_jump_change_nothing() {
    let Some(mut scene) = Scene::new() else { return };
    let proxies = [gateway("east"), sidecar("east-client"), sidecar("west-1")];
    scene.step("a gateway and two sidecars get clocks of their own", RESTART, &["east-1"], |world| {
        for proxy in &proxies {
            world.processes.stop(proxy);
            world.set_clock(proxy, 0);
        }
        world.begin_gateway("east");
        world.begin_client();
        world.begin_sidecar("west-1");
        proxies.iter().for_each(|proxy| world.processes.ready(proxy));
    });
    scene.step("the only endpoint here is killed", UNSEEN, &AWAY, |world| {
        world.processes.kill(&app("east-1"))
    });
    // Certificates of a day hold through it: they are valid for five minutes before they are made.
    for (name, seconds) in [
        ("they jump ahead by eight hours", 8 * 3600),
        ("and back by more", -240),
        ("they are right again", 0),
    ] {
        scene.step(name, UNSEEN, &AWAY, |world| {
            proxies.iter().for_each(|proxy| world.set_clock(proxy, seconds));
        });
        let begun = now();
        scene.answers("west-1", begun);
        // Connections that are made after it as well.
        scene.step("an endpoint restarts", UNSEEN, &AWAY, |world| {
            world.processes.stop(&sidecar("west-2"));
            world.begin_sidecar("west-2");
            world.processes.ready(&sidecar("west-2"));
        });
        let begun = now();
        scene.answers("west-2", begun);
    }
    scene.nothing_is_lost();
}

/// A small disk in the place of a directory, for as long as this lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(path: PathBuf) -> Self {
        fs::create_dir_all(&path).unwrap();
        run(&format!("mount -t tmpfs -o size=16m,mode=0700 none {}", path.display()));
        Self(path)
    }

    /// Not a byte more goes onto it.
    fn fill(&self) {
        let mut size = 1 << 20;
        let mut number = 0;
        while size > 0 {
            let name = self.0.join(format!("filler-{number}"));
            number += 1;
            if fs::write(&name, vec![0; size]).is_err() {
                size /= 2;
            }
        }
    }

    fn free(&self) {
        for entry in fs::read_dir(&self.0).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with("filler-") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whoever has files open there is killed later.
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// Some megabytes that cannot be made smaller.
fn large_documents() -> String {
    let noise = |service: u64| -> String {
        let word =
            |place: u64| ((service << 32) + place + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
        (0..512).map(|place| format!("{:016x}", word(place).wrapping_mul(0xd6e8_feb8_6659_fd93))).collect()
    };
    let service = |number| {
        let noise = noise(number);
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: s{number}, annotations: {{ noise: {noise} }} }}\nspec: {{ ports: [{{ port: 80 }}] }}\n"
        )
    };
    (0..300).map(service).collect()
}

#[test]
fn a_full_disk_loses_nothing() {
    let Some(mut scene) = Scene::new() else { return };
    let path = scene.world.path(&controller("east"));
    let aside = scene.world.path("aside");
    scene.world.processes.stop(&controller("east"));
    fs::rename(&path, &aside).unwrap();
    let disk = SmallDisk::new(path.clone());
    run(&format!("cp -a {}/. {}", aside.display(), path.display()));
    scene.step("east's controller has a small disk", UNSEEN, &["east-1"], |world| {
        world.start_controller("east");
        for peer in ["west", "north"] {
            world.peer_is("east", peer, "synced", |p| p["state"] == "synced" && p["connected"] == true);
        }
    });
    scene.step("which is full, and an endpoint of west goes", UNSEEN, &["east-1"], |world| {
        disk.fill();
        world.processes.kill(&app("west-1"));
        world.processes.stop(&sidecar("west-1"));
        // What does not fit is not in force, and who asked for it is told.
        let large = world.path("large.yaml");
        fs::write(&large, large_documents()).unwrap();
        let told = world.refused("east", &["apply", large.to_str().unwrap()]);
        assert!(told.contains("cannot be written"), "{told}");
        assert!(world.status("east")["storeFailures"].as_u64() > Some(0));
    });
    scene.step("its controller restarts while it is", UNSEEN, &["east-1"], |world| {
        world.processes.kill(&controller("east"));
        world.start_controller("east");
        for peer in ["west", "north"] {
            world.peer_is("east", peer, "synced", |p| p["state"] == "synced" && p["connected"] == true);
        }
    });
    scene.step("the only endpoint here is killed", UNSEEN, &["west-2", "north-1"], |world| {
        world.processes.kill(&app("east-1"));
    });
    scene.step("the controller restarts on it", UNSEEN, &["west-2", "north-1"], |world| {
        world.processes.kill(&controller("east"));
        disk.free();
        world.start_controller("east");
        for peer in ["west", "north"] {
            world.peer_is("east", peer, "synced", |p| p["state"] == "synced" && p["imported"] == 1);
        }
    });
    // What happened meanwhile is known.
    scene.step("and all is well again", UNSEEN, &["east-1", "west-2", "north-1"], |world| {
        world.start_app("east-1");
        world.start_app("west-1");
        world.begin_sidecar("west-1");
        world.processes.ready(&sidecar("west-1"));
    });
    scene.nothing_is_lost();
}

#[test]
fn a_change_in_one_cluster_is_used_in_another_soon() {
    let Some(mut scene) = Scene::new() else { return };
    scene.step("the only endpoint here is killed", UNSEEN, &AWAY, |world| {
        world.processes.kill(&app("east-1"))
    });
    scene.step("an endpoint of west says goodbye", UNSEEN, &["west-1", "north-1"], |world| {
        world.processes.stop(&sidecar("west-2"));
    });
    let mut slowest = Duration::ZERO;
    for _ in 0..3 {
        let slow = appears(&mut scene, "west-2");
        eprintln!("a new endpoint of west has its first request from east after {} ms", slow.as_millis());
        slowest = slowest.max(slow);
        scene.step("it goes again", UNSEEN, &["west-1", "north-1"], |world| {
            world.processes.stop(&sidecar("west-2"))
        });
    }
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
}

/// Starts a sidecar; how long after its `ready` it has a request from the other cluster.
fn appears(scene: &mut Scene, machine: &str) -> Duration {
    scene.world.begin_sidecar(machine);
    scene.world.processes.ready(&sidecar(machine));
    scene.answers(machine, now())
}

#[test]
fn a_root_is_replaced_while_a_peer_is_away() {
    let Some(mut scene) = Scene::new() else { return };
    scene.step("the only endpoint here is killed", UNSEEN, &AWAY, |world| {
        world.processes.kill(&app("east-1"))
    });
    let authority = |world: &World| world.status("west")["ca"].clone();
    let first = authority(&scene.world);
    scene.step("no controller reaches west's", UNSEEN, &AWAY, |world| {
        cut(&world.net, "west", What::Control, Way::Both, 100);
        world.peer_is("east", "west", "not connected", |peer| peer["connected"] == false);
    });
    scene.step("west has a new root, and signs with it", UNSEEN, &AWAY, |world| {
        world.operator("west", &["peer", "rotate", "--lead", "3"]);
        wait_until("west signs with its new root", LONG, || authority(world)["phase"] == "signing");
    });
    scene.step("its servers get certificates of it", UNSEEN, &AWAY, |world| {
        for machine in ["west-1", "west-2"] {
            world.processes.stop(&sidecar(machine));
            fs::remove_dir_all(world.path(&sidecar(machine))).unwrap();
            world.begin_sidecar(machine);
            world.processes.ready(&sidecar(machine));
        }
    });
    let begun = now();
    scene.answers("west-1", begun);
    scene.step("the link is back", UNSEEN, &AWAY, |world| {
        heal(&world.net, "west");
        for peer in ["east", "north"] {
            world.peer_is(peer, "west", "synced", |p| p["state"] == "synced" && p["connected"] == true);
            world.peer_is("west", peer, "synced", |p| p["state"] == "synced" && p["connected"] == true);
        }
    });
    let then = authority(&scene.world);
    assert_ne!(then["signing"], first["signing"]);
    let both = [&first["signing"], &then["signing"]].map(Value::as_str).map(Option::unwrap);
    for peer in ["east", "north"] {
        let shown = scene.world.operator(peer, &["peer", "show", "west", "--output", "json"]);
        assert!(both.iter().all(|root| shown.contains(root)), "{peer}: {shown}");
    }
}

#[test]
fn a_new_root_signs_as_soon_as_every_peer_holds_it() {
    let Some(mut scene) = Scene::new() else { return };
    let authority = |world: &World| world.status("west")["ca"].clone();
    let first = authority(&scene.world);
    scene.step("no controller reaches west's, which has a new root", UNSEEN, &["east-1"], |world| {
        cut(&world.net, "west", What::Control, Way::Both, 100);
        world.operator("west", &["peer", "rotate", "--lead", "86400"]);
        let peers = serde_json::json!(["peer east", "peer north"]);
        wait_until("all but the peers hold it", LONG, || authority(world)["waitingFor"] == peers);
    });
    let then = authority(&scene.world);
    assert_eq!((&then["phase"], &then["signing"]), (&"published".into(), &first["signing"]));
    scene.step("the link is back", UNSEEN, &["east-1"], |world| {
        heal(&world.net, "west");
        wait_until("west signs with its new root", LONG, || authority(world)["phase"] == "signing");
    });
    assert_ne!(authority(&scene.world)["signing"], first["signing"]);
}
