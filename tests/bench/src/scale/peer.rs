//! One of the other clusters: it says what it is told to, and counts what it hears.

use std::{sync::Arc, time::Instant};

use prost::Message as _;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tombolo_core::identity::Token;
use tombolo_federation::testing::{FakeLink, FakePeer};
use tombolo_proto::v1::{self, LinkMessage, link_message::Message};

use crate::Failure;

/// What a peer has heard.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// The revision that the hub has taken of what this peer says.
    pub acked: u64,
    /// The revision of what the hub says.
    pub revision: u64,
    /// Services, summaries and withdrawals, with the gateways and the end of each update, in bytes.
    pub bytes: u64,
    /// Services of them.
    pub services: u64,
    /// When the last update came.
    pub updated: Option<Instant>,
}

/// A cluster with its link.
pub struct Peer {
    fake: Arc<FakePeer>,
    number: usize,
    known: Option<(Token, v1::ClusterInfo)>,
    out: Option<mpsc::Sender<LinkMessage>>,
    heard: watch::Receiver<Heard>,
    reading: Option<JoinHandle<()>>,
}

impl Peer {
    /// A cluster that nobody knows yet.
    pub fn new(number: usize) -> Self {
        let fake = Arc::new(FakePeer::new(&name(number)));
        Self {
            fake,
            number,
            known: None,
            out: None,
            heard: watch::channel(Heard::default()).1,
            reading: None,
        }
    }

    /// Links with the hub.
    pub async fn join(&mut self, token: &str) {
        self.known = Some(self.fake.join(token).await);
    }

    /// Opens the link, in place of the one that was. `epoch` names the history of what is said from now on.
    pub async fn link(&mut self, epoch: &str) -> Result<(), Failure> {
        if let Some(reading) = self.reading.take() {
            reading.abort();
        }
        self.out = None;
        let (token, info) = self.known.as_ref().ok_or("the peer has not joined")?;
        let FakeLink { out, incoming } = self.fake.link(token, info, epoch).await;
        let (sender, heard) = watch::channel(Heard::default());
        self.heard = heard;
        self.reading = Some(tokio::spawn(read(FakeLink { out: out.clone(), incoming }, sender)));
        self.out = Some(out);
        Ok(())
    }

    /// Says all of its services, and that this is all.
    pub async fn say_all(&self, services: usize, endpoints: usize, revision: u64) -> Result<(), Failure> {
        let mesh_addresses = vec![format!("198.51.100.{}:15443", self.number % 250)];
        self.say(Message::Gateways(v1::Gateways { revision, mesh_addresses })).await?;
        for service in 0..services {
            self.say(Message::Service(self.service(service, endpoints))).await?;
        }
        self.say(Message::Synced(v1::Synced { revision, full: true })).await
    }

    /// One of its services; half of them bear names that all clusters have.
    pub fn service(&self, service: usize, endpoints: usize) -> v1::ExportedService {
        let name = if service.is_multiple_of(2) {
            format!("shared-{service}")
        } else {
            format!("{}-{service}", name(self.number))
        };
        let endpoints = (0..endpoints).map(|number| self.fake.endpoint("bench", &name, number)).collect();
        self.fake.service("bench", &name, endpoints)
    }

    /// Says something.
    pub async fn say(&self, message: Message) -> Result<(), Failure> {
        let out = self.out.as_ref().ok_or("the peer has no link")?;
        out.send(LinkMessage { message: Some(message) }).await.map_err(|_| "the link is gone".into())
    }

    /// What it has heard so far.
    pub fn heard(&self) -> Heard {
        self.heard.borrow().clone()
    }

    /// Waits until it has heard that.
    pub async fn hears(&mut self, wanted: impl FnMut(&Heard) -> bool) -> Result<Heard, Failure> {
        let heard = tokio::time::timeout(std::time::Duration::from_secs(120), self.heard.wait_for(wanted));
        let heard = heard.await.map_err(|_| "the hub does not answer")?;
        Ok(heard.map_err(|_| "the link is gone")?.clone())
    }
}

/// The cluster's name.
pub fn name(number: usize) -> String {
    format!("p{number:03}")
}

async fn read(mut link: FakeLink, heard: watch::Sender<Heard>) {
    loop {
        let message = link.hears(Some).await;
        let Some(message) = message else { return };
        let bytes = LinkMessage { message: Some(message.clone()) }.encoded_len() as u64;
        let answer = match message {
            Message::Ping(ping) => Some(Message::Pong(v1::Pong { id: ping.id })),
            Message::Synced(synced) => {
                heard.send_modify(|heard| {
                    heard.bytes += bytes;
                    heard.revision = synced.revision;
                    heard.updated = Some(Instant::now());
                });
                Some(Message::Ack(v1::Ack { revision: synced.revision }))
            }
            Message::Ack(ack) => {
                heard.send_modify(|heard| heard.acked = ack.revision);
                None
            }
            Message::Service(_) | Message::Summaries(_) | Message::Withdrawn(_) | Message::Gateways(_) => {
                let services = u64::from(matches!(message, Message::Service(_)));
                heard.send_modify(|heard| {
                    heard.bytes += bytes;
                    heard.services += services;
                });
                None
            }
            _ => None,
        };
        if let Some(answer) = answer
            && !link.say(answer).await
        {
            return;
        }
    }
}
