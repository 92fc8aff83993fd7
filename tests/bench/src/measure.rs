//! What a process has used.

use std::{fs, path::Path, process::Command};

use crate::Failure;

/// Clock ticks a second in /proc (USER_HZ, which Linux shows as 100 on every architecture that it is built for here).
const TICKS: f64 = 100.0;

/// User and kernel time of all threads of a process, in microseconds.
pub fn cpu_time(process: u32) -> Result<f64, Failure> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, in parentheses, may hold anything; utime and stime are fields 14 and 15 (proc(5)).
    let (_, rest) = stat.rsplit_once(')').ok_or("an odd /proc/PID/stat")?;
    let mut times = rest.split_whitespace().skip(11);
    let mut time = || times.next().ok_or("an odd /proc/PID/stat")?.parse::<f64>().map_err(Failure::from);
    Ok((time()? + time()?) * 1e6 / TICKS)
}

/// A process and what it started, and those what they started.
pub fn family(process: u32) -> Vec<u32> {
    let mut all = vec![process];
    let mut next = 0;
    while let Some(parent) = all.get(next) {
        // Threads other than the first start no processes in what is measured here.
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
        all.extend(children.unwrap_or_default().split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
        next += 1;
    }
    all
}

/// Resident memory of a process, in KiB.
pub fn resident(process: u32) -> Result<u64, Failure> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Tells a process under callgrind to do something.
pub fn callgrind_control(process: u32, arguments: &[&str]) -> Result<(), Failure> {
    let output = Command::new("callgrind_control").args(arguments).arg(process.to_string()).output()?;
    if !output.status.success() {
        return Err(format!("callgrind_control: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(())
}

/// Instructions in callgrind's dump number 1 of this process.
pub fn dumped(file: &Path) -> Result<u64, Failure> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut lines = text.lines();
    let summary = lines.find_map(|l| l.strip_prefix("summary: ").or_else(|| l.strip_prefix("totals: ")));
    Ok(summary.ok_or("callgrind's dump has no sum")?.trim().parse()?)
}

/// The middle of these.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
