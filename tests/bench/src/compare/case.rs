//! What is measured: each case, with what is sent, and by whom.

use bytes::Bytes;

use super::contender::{Contender, Door, Form, Stage, Who};
use crate::{
    backend::{BODY, LARGE, LARGE_PATH},
    documents::{CALL, GRPC_HOST, request, requests},
    load::Protocol,
};

/// The service in a mesh.
const MESH_HOST: &str = "echo.shop.svc.cluster.local";

/// One case.
#[derive(Debug)]
pub struct Case {
    /// For `--only`.
    pub name: &'static str,
    /// For tables.
    pub title: &'static str,
    pub stage: Stage,
    pub door: Door,
    pub protocol: Protocol,
    pub connections: usize,
    pub asked: Asked,
    pub contenders: &'static [Contender],
    /// Requests a second at which latency is measured.
    pub rates: &'static [f64],
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Every route in turn, 1 KiB back.
    Routes,
    /// 100 KiB.
    Large,
    /// A message of 1 KiB there and back.
    Call,
}

impl Case {
    /// Requests in turn.
    pub fn requests(&self) -> Vec<Bytes> {
        match (self.asked, self.stage) {
            (Asked::Routes, Stage::Gateway(routes)) => requests(routes),
            (Asked::Routes, Stage::Pair) => vec![request(MESH_HOST, "/r0/x")],
            (Asked::Large, _) => vec![request("h0.example.test", &format!("/r0{LARGE_PATH}"))],
            (Asked::Call, Stage::Gateway(_)) => vec![request(GRPC_HOST, CALL)],
            (Asked::Call, Stage::Pair) => vec![request(MESH_HOST, CALL)],
        }
    }

    /// Bytes of each answer.
    pub fn body(&self) -> usize {
        if self.asked == Asked::Large { LARGE } else { BODY }
    }

    /// Requests until nothing is done for the first time any more.
    pub fn warm(&self) -> usize {
        match (self.asked, self.stage) {
            (Asked::Routes, Stage::Gateway(routes)) => routes.max(1_000),
            _ => 1_000,
        }
    }

    /// Connections at a fixed rate: as many as are not waited for.
    pub fn few(&self) -> usize {
        (self.connections / 4).max(2)
    }
}

const fn plain(who: Who) -> Contender {
    Contender(who, Form::Plain)
}

const NOBODY: Contender = plain(Who::Nobody);
const PINGORA: Contender = plain(Who::Pingora);
const NGINX: Contender = plain(Who::Nginx);
const HAPROXY: Contender = plain(Who::Haproxy);
const ENVOY: Contender = plain(Who::Envoy);
const TOMBOLO: Contender = plain(Who::Tombolo);
const ENVOY_FEATURED: Contender = Contender(Who::Envoy, Form::Featured);
const TOMBOLO_FEATURED: Contender = Contender(Who::Tombolo, Form::Featured);
const HAPROXY_HTTP2: Contender = Contender(Who::Haproxy, Form::Http2);
const ENVOY_HTTP2: Contender = Contender(Who::Envoy, Form::Http2);

const EDGE: &[Contender] =
    &[NOBODY, PINGORA, NGINX, HAPROXY, ENVOY, TOMBOLO, ENVOY_FEATURED, TOMBOLO_FEATURED];
const PROXIES: &[Contender] = &[PINGORA, NGINX, HAPROXY, ENVOY, TOMBOLO, ENVOY_FEATURED, TOMBOLO_FEATURED];
const PAIR: &[Contender] = &[NOBODY, NGINX, HAPROXY, HAPROXY_HTTP2, ENVOY, ENVOY_HTTP2, TOMBOLO];
const ROUTED: &[Contender] = &[NOBODY, NGINX, HAPROXY, ENVOY, TOMBOLO];

const H1: Case = Case {
    name: "h1",
    title: "HTTP/1.1, 1 KiB, 64 connections",
    stage: Stage::Gateway(1),
    door: Door::Plain,
    protocol: Protocol::Plain,
    connections: 64,
    asked: Asked::Routes,
    contenders: EDGE,
    rates: &[2_000.0],
};

/// All of them. Those that have a stage in common follow each other.
pub const CASES: &[Case] = &[
    H1,
    Case {
        name: "h1-100k",
        title: "HTTP/1.1, 100 KiB, 32 connections",
        asked: Asked::Large,
        connections: 32,
        rates: &[],
        ..H1
    },
    Case {
        name: "tls-h1",
        title: "HTTP/1.1 over TLS 1.3, 1 KiB, 64 connections",
        door: Door::Tls,
        protocol: Protocol::Tls,
        rates: &[],
        ..H1
    },
    Case {
        name: "tls-h2",
        title: "HTTP/2 over TLS 1.3, 1 KiB, 8 connections with 32 streams each",
        door: Door::Tls,
        protocol: Protocol::Http2,
        connections: 8,
        // The application does not speak HTTP/2.
        contenders: PROXIES,
        ..H1
    },
    Case {
        name: "handshake",
        title: "a new TLS 1.3 connection with a full handshake for each request, 16 at a time",
        door: Door::Tls,
        protocol: Protocol::Handshake,
        connections: 16,
        contenders: PROXIES,
        rates: &[],
        ..H1
    },
    Case {
        name: "grpc",
        title: "gRPC unary, 1 KiB both ways, without TLS, 8 connections with 32 calls each",
        door: Door::Grpc,
        protocol: Protocol::Grpc,
        connections: 8,
        asked: Asked::Call,
        contenders: &[NOBODY, NGINX, HAPROXY, ENVOY, TOMBOLO, ENVOY_FEATURED, TOMBOLO_FEATURED],
        rates: &[],
        ..H1
    },
    Case {
        name: "passthrough",
        title: "TLS passed through by SNI (HTTP/1.1, 1 KiB inside), 64 connections",
        door: Door::Passthrough,
        protocol: Protocol::Tls,
        contenders: ROUTED,
        rates: &[],
        ..H1
    },
    Case {
        name: "routes-10k",
        title: "HTTP/1.1, 1 KiB, 64 connections, 10,000 routes over 1,000 hosts in turn",
        stage: Stage::Gateway(10_000),
        contenders: &[NGINX, HAPROXY, ENVOY, TOMBOLO],
        rates: &[],
        ..H1
    },
    Case {
        name: "pair-h1",
        title: "a pair with mutual TLS, HTTP/1.1, 1 KiB, 64 connections",
        stage: Stage::Pair,
        contenders: PAIR,
        rates: &[1_000.0, 2_000.0, 4_000.0],
        ..H1
    },
    Case {
        name: "pair-grpc",
        title: "a pair with mutual TLS, gRPC unary over HTTP/2, 8 connections with 32 calls each",
        stage: Stage::Pair,
        door: Door::Grpc,
        protocol: Protocol::Grpc,
        connections: 8,
        asked: Asked::Call,
        contenders: ROUTED,
        rates: &[2_000.0],
    },
    Case {
        name: "pair-tcp",
        title: "a pair with mutual TLS, TCP (HTTP/1.1 that nobody reads, 1 KiB), 64 connections",
        stage: Stage::Pair,
        door: Door::Tcp,
        contenders: ROUTED,
        rates: &[2_000.0],
        ..H1
    },
];

/// Whose memory is measured.
pub const REMEMBERED: &[Contender] = &[PINGORA, NGINX, HAPROXY, ENVOY, TOMBOLO];
