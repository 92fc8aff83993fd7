//! The main job, on real processes: `tombolo quickstart --check`.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use tombolo_tests::command;

#[test]
fn the_tour_passes_all_nine_steps_in_time() {
    let began = Instant::now();
    let output = command(["quickstart", "--check"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    for step in 1..=9 {
        assert!(text.contains(&format!("ok   {step}. ")), "step {step} is missing:\n{text}");
    }
    assert!(began.elapsed() < Duration::from_secs(120), "took {:?}", began.elapsed());
    let place = text.lines().find_map(|line| line.strip_prefix("state in ")).unwrap();
    assert!(!std::path::Path::new(place).exists(), "{place} was left behind");
    println!("{text}");
}
