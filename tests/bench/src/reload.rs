//! A change among many routes: when it is in force, and what requests notice of it.

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    Failure, documents,
    documents::{ROUTES_PER_HOST, requests},
    load::{Load, Protocol, Times, Until},
    measure::{cpu_time, median},
    proxy::{Kind, Proxy, World},
    rounds::runtime,
};

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Reload {
    /// Routes that there are
    #[arg(long, default_value_t = 10_000)]
    routes: usize,
    /// Changes that are made
    #[arg(long, default_value_t = 10)]
    changes: usize,
}

impl Reload {
    /// Measures and prints.
    pub fn run(self) -> Result<(), Failure> {
        let runtime = runtime()?;
        let world = runtime.block_on(World::new())?;
        let kind = Kind::Gateway { routes: self.routes, log: false };
        let begun = Instant::now();
        let proxy = Proxy::start(kind, &world, false, false)?;
        println!("start with {} routes until ready: {:.2?}", self.routes, begun.elapsed());
        let few = requests(ROUTES_PER_HOST);
        let load = Load::new(proxy.plain, Protocol::Plain, 2, few, &world.certificate)?;
        let steady = runtime.block_on(load.run(Until::Time(Instant::now() + Duration::from_secs(3))))?;
        print_latency("undisturbed", steady);
        runtime.block_on(self.change(&proxy, load))
    }

    async fn change(&self, proxy: &Proxy, load: Load) -> Result<(), Failure> {
        // It ends with the process.
        let until = Until::Time(Instant::now() + Duration::from_secs(3 * self.changes as u64));
        let loading = tokio::spawn(async move { load.run(until).await });
        let host = self.routes.div_ceil(ROUTES_PER_HOST).saturating_sub(1);
        let numbers = (host * ROUTES_PER_HOST)..self.routes;
        let mut times = Vec::new();
        let mut costs = Vec::new();
        for change in 0..self.changes {
            let before = cpu_time(proxy.id())?;
            let text = documents::routes(host, numbers.clone(), &format!("-{change}"));
            let begun = Instant::now();
            fs::write(documents::route_file(&proxy.documents, host), text)?;
            let path = format!("/r0-{change}");
            while !answers(proxy.plain, host, &path).await? {
                if begun.elapsed() > Duration::from_secs(60) {
                    return Err("a change never came into force".into());
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            times.push(begun.elapsed().as_secs_f64() * 1e3);
            costs.push((cpu_time(proxy.id())? - before) / 1e3);
        }
        let (middle, cost) = (median(&mut times), median(&mut costs));
        println!(
            "{} changes: in force after {middle:.0} ms (median; {:.0} to {:.0}), of which waiting for the next look \
             at the files is up to 1000; CPU with requests meanwhile {cost:.0} ms",
            self.changes,
            times.first().unwrap_or(&0.0),
            times.last().unwrap_or(&0.0),
        );
        print_latency("while it changes", loading.await??);
        Ok(())
    }
}

fn print_latency(what: &str, times: Vec<Duration>) {
    let times = Times::new(times);
    println!(
        "requests {what}: {} in all, p50 {:.2?}, p99 {:.2?}, p99.9 {:.2?}, longest {:.2?}",
        times.len(),
        times.within(0.5),
        times.within(0.99),
        times.within(0.999),
        times.longest(),
    );
}

/// True if a route takes this path.
async fn answers(address: SocketAddr, host: usize, path: &str) -> Result<bool, Failure> {
    let mut tcp = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: h{host}.example.test\r\nconnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.1 200 "))
}
