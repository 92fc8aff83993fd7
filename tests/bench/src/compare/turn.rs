//! One turn of one contender: what it cost, how fast it was, what it holds.

use std::time::{Duration, Instant};

use tokio::{runtime::Runtime, time::timeout};

use super::{
    case::Case,
    contender::{Contender, Door, Running, Stage},
    ground::Ground,
    results::{Figure, Key, Results},
};
use crate::{
    Failure,
    documents::requests,
    load::{Connected, Load, Protocol, Times, Until},
};

/// More than anything takes besides the turn itself.
const LONG: Duration = Duration::from_secs(30);
/// A contender has to serve so soon.
const SOON: Duration = Duration::from_secs(20);
/// Idle connections that are counted.
const IDLE: usize = 1_000;

/// Where everything happens.
pub struct Turns<'a> {
    pub runtime: &'a Runtime,
    pub ground: &'a Ground,
    pub seconds: f64,
}

impl Turns<'_> {
    /// Bounded, whatever a contender does.
    fn wait<T>(&self, what: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let long = LONG + Duration::from_secs_f64(3.0 * self.seconds);
        self.runtime.block_on(async { timeout(long, what).await }).map_err(|_| "it takes too long")?
    }

    fn load(&self, case: &Case, running: &Running, connections: usize) -> Result<Load, Failure> {
        let address = running.door(case.door)?;
        let load = Load::new(address, case.protocol, connections, case.requests(), &self.ground.certificate)?;
        Ok(load.answered_with(case.body()))
    }

    /// Asks until it answers rightly, then until all is warm.
    pub fn warm(&self, case: &Case, running: &Running) -> Result<(), Failure> {
        let load = self.load(case, running, case.few())?;
        let end = Instant::now() + SOON;
        while let Err(error) = self.wait(load.run(Until::Requests(1))) {
            if Instant::now() > end {
                return Err(error);
            }
            std::thread::park_timeout(Duration::from_millis(100));
        }
        self.wait(load.run(Until::Requests(case.warm()))).map(drop)
    }

    fn connected(&self, case: &Case, running: &Running, connections: usize) -> Result<Connected, Failure> {
        let load = self.load(case, running, connections)?;
        self.wait(async {
            let mut connected = load.connect().await?;
            connected.run(Until::Requests(4 * load.at_a_time())).await?;
            Ok(connected)
        })
    }

    /// As many requests as it can take.
    pub fn saturate(
        &self,
        case: &Case,
        who: Contender,
        running: &Running,
        into: &mut Results,
    ) -> Result<(), Failure> {
        let mut connected = self.connected(case, running, case.connections)?;
        let (before, begun) = (running.cpu_time()?, Instant::now());
        let until = Until::Time(begun + Duration::from_secs_f64(self.seconds));
        let served = self.wait(connected.run(until))?.len() as f64;
        let (used, elapsed) = (running.cpu_time()? - before, begun.elapsed().as_secs_f64());
        let mut add = |figure, value| into.add(Key::new(case.name, figure, who), value);
        if !running.processes.is_empty() {
            add(Figure::Cpu, used / served);
            add(Figure::Busy, used / elapsed / 1e4);
        }
        add(Figure::Throughput, served / elapsed);
        Ok(())
    }

    /// Requests at a rate that waits for nobody.
    pub fn steady(
        &self,
        case: &Case,
        rate: f64,
        who: Contender,
        running: &Running,
        into: &mut Results,
    ) -> Result<(), Failure> {
        let mut connected = self.connected(case, running, case.few())?;
        let before = running.cpu_time()?;
        let count = (rate * self.seconds) as usize;
        let times = Times::new(self.wait(connected.run(Until::Rate(count, rate)))?);
        let used = running.cpu_time()? - before;
        let whole = rate as u32;
        let mut add = |figure, value| into.add(Key::new(case.name, figure, who), value);
        if !running.processes.is_empty() {
            add(Figure::CpuAt(whole), used / times.len() as f64);
        }
        let shares =
            [(Figure::P50At(whole), 0.5), (Figure::P99At(whole), 0.99), (Figure::P999At(whole), 0.999)];
        for (figure, share) in shares {
            add(figure, times.within(share).as_secs_f64() * 1e6);
        }
        Ok(())
    }

    /// What it holds when idle, with idle connections, and with routes.
    pub fn memory(&self, who: Contender, into: &mut Results) -> Result<(), Failure> {
        let mut add = |figure, value| into.add(Key::new("memory", figure, who), value);
        let few = Stage::Gateway(1);
        let running = who.start(few, self.ground)?;
        let idle = running.resident()?;
        add(Figure::Idle, idle / 1024.0);
        add(Figure::PerConnection, self.held(&running, Door::Plain, Protocol::Plain)?);
        drop(running);
        // Another process: memory that was given back to its allocator counts for nothing.
        let running = who.start(few, self.ground)?;
        add(Figure::PerTlsConnection, self.held(&running, Door::Tls, Protocol::Tls)?);
        drop(running);
        if let Ok(running) = who.start(Stage::Gateway(10_000), self.ground) {
            add(Figure::Routes, (running.resident()? - idle) / 1024.0);
            drop(running);
        }
        if let Ok(pair) = who.start(Stage::Pair, self.ground) {
            add(Figure::IdlePair, pair.resident()? / pair.processes.len() as f64 / 1024.0);
        }
        Ok(())
    }

    /// KiB for each of many connections that have made requests and are idle.
    fn held(&self, running: &Running, door: Door, protocol: Protocol) -> Result<f64, Failure> {
        let address = running.door(door)?;
        let load =
            |connections| Load::new(address, protocol, connections, requests(1), &self.ground.certificate);
        self.wait(load(16)?.run(Until::Requests(2_000)))?;
        let before = running.resident()?;
        let load = load(IDLE)?;
        let held = self.wait(async {
            let mut connected = load.connect().await?;
            // In turn and few at a time: what is held towards the application is not what is measured.
            connected.run(Until::Rate(2 * IDLE, IDLE as f64)).await?;
            Ok(connected)
        })?;
        let with = running.resident()?;
        drop(held);
        Ok((with - before) / IDLE as f64)
    }
}
