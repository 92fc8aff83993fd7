//! What a controller costs that has many peers with many services: memory, the time of a full resync, the bytes of a
//! change. The peers are simulated; they speak the real protocol over real connections.

mod peer;

use std::time::{Duration, Instant};

use tombolo_proto::v1::{PeerTokenRequest, link_message::Message};

use crate::{
    Failure,
    controller::{Controller, held_to},
    measure::cpu_time,
    rounds::runtime,
};
use peer::Peer;

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Scale {
    /// Other clusters
    #[arg(long, default_value_t = 100)]
    peers: usize,
    /// Services of each
    #[arg(long, default_value_t = 1_000)]
    services: usize,
    /// Endpoints of each service
    #[arg(long, default_value_t = 10)]
    endpoints: usize,
    /// Services that the controller's own cluster exports to each peer, at last
    #[arg(long, default_value_t = 1_000)]
    own: usize,
}

impl Scale {
    /// Measures and prints. Fails where a target is missed.
    pub fn run(self) -> Result<(), Failure> {
        runtime()?.block_on(self.measure())
    }

    async fn measure(&self) -> Result<(), Failure> {
        let mut hub = Controller::start().await?;
        let mut peers: Vec<Peer> = (0..self.peers).map(Peer::new).collect();
        hub.apply(&documents(self.peers)).await?;
        let request = PeerTokenRequest { ttl_seconds: 600, uses: u32::try_from(self.peers)? };
        let token = hub.operator.peer_token(request).await?.into_inner().token;
        for peer in &mut peers {
            peer.join(&token).await;
            peer.link("1").await?;
        }
        for peer in &mut peers {
            peer.hears(|heard| heard.updated.is_some()).await?;
        }
        hub.settle().await?;
        let before = hub.resident()?;
        println!("{} links, nothing said: {} MiB", self.peers, before >> 10);

        let first = self.sync(&hub, &mut peers, 1).await?;
        let busy = hub.settle().await?;
        println!("first sync: {first}; then the controller was busy with it for {busy} s more");
        let after = hub.resident()?;
        let endpoints = self.peers * self.services * self.endpoints;
        let each = (after.saturating_sub(before) << 10) as f64 / endpoints as f64;
        println!(
            "{} services, {endpoints} endpoints, all named: {} MiB, {each:.0} bytes an endpoint",
            self.peers * self.services,
            after >> 10,
        );
        for peer in &mut peers {
            peer.link("2").await?;
        }
        let again = self.sync(&hub, &mut peers, 2).await?;
        println!("full resync of all, nothing changed: {again}");
        hub.settle().await?;
        println!("after it: {} MiB", hub.resident()? >> 10);
        self.change_of_a_peer(&hub, &mut peers).await?;
        let few = self.change_of_our_own(&mut hub, &mut peers, 10).await?;
        let many = self.change_of_our_own(&mut hub, &mut peers, self.own).await?;
        println!("peers: {}", hub.states(&["synced"]).await?);
        // The name of a service and its numbers may be a few digits longer.
        let misses = [
            ("under 1024 bytes an endpoint", each < 1024.0),
            ("a full resync in under 30 s", again.time.max(first.time) < Duration::from_secs(30)),
            ("bytes of a change that do not grow with services", many <= few + 32),
        ];
        held_to(&misses)
    }

    /// All peers say everything at once.
    async fn sync(&self, hub: &Controller, peers: &mut [Peer], revision: u64) -> Result<Sync, Failure> {
        let (begun, busy) = (Instant::now(), cpu_time(hub.id())?);
        let saying = peers.iter().map(|peer| peer.say_all(self.services, self.endpoints, revision));
        futures::future::try_join_all(saying).await?;
        for peer in peers {
            peer.hears(|heard| heard.acked == revision).await?;
        }
        Ok(Sync { time: begun.elapsed(), cpu: (cpu_time(hub.id())? - busy) / 1e6 })
    }

    /// One endpoint of one peer's service comes and goes.
    async fn change_of_a_peer(&self, hub: &Controller, peers: &mut [Peer]) -> Result<(), Failure> {
        const CHANGES: u64 = 100;
        let peer = peers.first_mut().ok_or("there are no peers")?;
        let (begun, busy) = (Instant::now(), cpu_time(hub.id())?);
        let mut bytes = 0;
        for change in 0..CHANGES {
            let message =
                Message::Service(peer.service(1, self.endpoints + usize::from(change.is_multiple_of(2))));
            let synced = tombolo_proto::v1::Synced { revision: 3 + change, full: false };
            bytes += prost::Message::encoded_len(&tombolo_proto::v1::LinkMessage {
                message: Some(message.clone()),
            });
            peer.say(message).await?;
            peer.say(Message::Synced(synced)).await?;
            peer.hears(|heard| heard.acked == 3 + change).await?;
        }
        let micros = (cpu_time(hub.id())? - busy) / CHANGES as f64;
        println!(
            "an endpoint of a peer changes: {} bytes, acknowledged after {:.2?}, {micros:.0} us of CPU",
            bytes / usize::try_from(CHANGES)?,
            begun.elapsed() / u32::try_from(CHANGES)?,
        );
        Ok(())
    }

    /// One endpoint of the own cluster changes, which exports so many services to all peers. Gives the bytes to each.
    async fn change_of_our_own(
        &self,
        hub: &mut Controller,
        peers: &mut [Peer],
        own: usize,
    ) -> Result<u64, Failure> {
        hub.apply(&services(own)).await?;
        for peer in &mut *peers {
            peer.hears(|heard| heard.services >= own as u64).await?;
        }
        hub.settle().await?;
        let before: Vec<_> = peers.iter().map(Peer::heard).collect();
        let (begun, busy) = (Instant::now(), cpu_time(hub.id())?);
        hub.apply(&service(0, 100 + own)).await?;
        let mut bytes = 0;
        for (peer, before) in peers.iter_mut().zip(before) {
            let heard = peer.hears(|heard| heard.revision > before.revision).await?;
            bytes = bytes.max(heard.bytes - before.bytes);
        }
        println!(
            "an endpoint of our own changes, of {own} services: {bytes} bytes to each peer, all have it after {:.2?}, \
             {:.0} ms of CPU",
            begun.elapsed(),
            (cpu_time(hub.id())? - busy) / 1e3,
        );
        Ok(bytes)
    }
}

/// What a sync took.
struct Sync {
    time: Duration,
    /// Seconds of CPU of the controller.
    cpu: f64,
}

impl std::fmt::Display for Sync {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1?}, {:.1} s of the controller's CPU", self.time, self.cpu)
    }
}

/// Everything is exchanged with each peer.
fn documents(peers: usize) -> String {
    let all = "{ services: [{ namespace: '*', name: '*' }] }";
    let peer = |number| {
        let name = peer::name(number);
        format!(
            "apiVersion: tombolo.dev/v1alpha1\nkind: Peer\nmetadata: {{ name: {name} }}\n\
             spec: {{ trustDomain: {name}.example, export: {all}, import: {all} }}\n---\n"
        )
    };
    (0..peers).map(peer).collect()
}

/// So many services of the own cluster, each with one endpoint, exported.
fn services(count: usize) -> String {
    (0..count).map(|number| service(number, 1)).collect()
}

fn service(number: usize, weight: usize) -> String {
    let name = format!("own-{number}");
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: own }}\n\
         spec: {{ ports: [{{ name: http, port: 80 }}] }}\n---\n\
         apiVersion: multicluster.x-k8s.io/v1alpha1\nkind: ServiceExport\nmetadata: {{ name: {name}, namespace: own }}\n---\n\
         apiVersion: tombolo.dev/v1alpha1\nkind: Workload\nmetadata: {{ name: {name}, namespace: own }}\n\
         spec: {{ address: 192.0.2.{}, services: [{name}], account: own, weight: {}, ports: [{{ port: 80 }}] }}\n---\n",
        1 + number % 250,
        weight.min(1000),
    )
}
