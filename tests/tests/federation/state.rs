//! What is known, and where it is kept: clocks that jump, disks that are full, changes and how fast they are used.

use std::{fs, path::PathBuf, time::Duration};

use tombolo_tests::{netns::run, wait_until};

use crate::{
    calls::now,
    net::{Way, What, cut, heal},
    steps::{Scene, UNSEEN},
    world::{LONG, World, app, controller, sidecar},
};

/// Where requests go when nobody answers in their own cluster.
const AWAY: [&str; 3] = ["west-1", "west-2", "north-1"];

#[test]
fn a_clock_that_jumps_changes_nothing() {
    let Some(mut scene) = Scene::new() else { return };
    scene.step("east's controller gets a clock of its own", UNSEEN, &["east-1"], |world| {
        world.processes.kill(&controller("east"));
        world.set_clock("east", 0);
        world.start_controller("east");
        for peer in ["west", "north"] {
            world.peer_is("east", peer, "synced", |p| p["state"] == "synced" && p["connected"] == true);
        }
    });
    scene.step("the only endpoint here is killed", UNSEEN, &AWAY, |world| {
        world.processes.kill(&app("east-1"))
    });
    for (name, offset) in
        [("it jumps ahead by a day", 25), ("and back by two", -25), ("it is right again", 0)]
    {
        scene.step(name, UNSEEN, &AWAY, |world| {
            world.set_clock("east", offset);
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
        world.start_app("east-1")
    });
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
    assert_ne!(authority(&scene.world), first);
}
