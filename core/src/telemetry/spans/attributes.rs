//! A request's span in the words of OpenTelemetry's semantic conventions for HTTP and RPC.

use std::time::{SystemTime, UNIX_EPOCH};

use http::{Method, Version};
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{
        Span, Status,
        span::SpanKind,
        status::StatusCode::{Error, Unset},
    },
};

use super::record::{Record, Role};

/// The lowest flag: the trace is sampled (W3C Trace Context section 3.2.2.5).
const SAMPLED: u32 = 1;

/// Attributes, as far as they are known.
#[derive(Default)]
pub(super) struct Attributes(pub Vec<KeyValue>);

impl Attributes {
    fn add(&mut self, key: &str, value: Value) {
        let value = Some(AnyValue { value: Some(value) });
        self.0.push(KeyValue { key: key.into(), value, ..Default::default() });
    }

    pub fn text(&mut self, key: &str, text: impl Into<String>) {
        self.add(key, Value::StringValue(text.into()));
    }

    fn some(&mut self, key: &str, text: Option<impl ToString>) {
        if let Some(text) = text {
            self.text(key, text.to_string());
        }
    }

    fn number(&mut self, key: &str, number: impl Into<i64>) {
        self.add(key, Value::IntValue(number.into()));
    }
}

/// The method, where it is one that everybody knows; else `_OTHER`, as anyone may make up more.
pub(in crate::telemetry) fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => "_OTHER",
    }
}

impl Record {
    /// As OTLP has it.
    pub(super) fn into_span(self) -> Span {
        let mut all = Attributes::default();
        self.add_http(&mut all);
        self.add_rpc(&mut all);
        self.add_network(&mut all);
        self.add_mesh(&mut all);
        let failed = self.is_failed();
        Span {
            trace_id: self.ids.trace.to_be_bytes().into(),
            span_id: self.ids.id.to_be_bytes().into(),
            trace_state: self.ids.state.as_deref().unwrap_or_default().into(),
            parent_span_id: self.ids.parent.map(|id| id.get().to_be_bytes().into()).unwrap_or_default(),
            flags: SAMPLED,
            name: self.name(),
            kind: match self.role {
                Role::Server => SpanKind::Server,
                Role::Client => SpanKind::Client,
            } as i32,
            start_time_unix_nano: nanos(self.begun),
            end_time_unix_nano: nanos(self.begun + self.duration),
            attributes: all.0,
            status: Some(Status { message: String::new(), code: if failed { Error } else { Unset } as i32 }),
            ..Default::default()
        }
    }

    /// Of a call its service and method, else the method with the route; never the path, of which there is no end.
    fn name(&self) -> String {
        if let (Some(_), Some((service, method))) = (self.grpc, self.call()) {
            return format!("{service}/{method}");
        }
        let method = match known_method(&self.method) {
            "_OTHER" => "HTTP",
            known => known,
        };
        match &self.route {
            Some(route) => format!("{method} {route}"),
            None => method.into(),
        }
    }

    /// `/SERVICE/METHOD`.
    fn call(&self) -> Option<(&str, &str)> {
        self.path.strip_prefix('/')?.rsplit_once('/')
    }

    /// True if whoever looks at this span is to see an error: of a server its own, of a client any.
    fn is_failed(&self) -> bool {
        match (self.role, self.grpc) {
            (Role::Client, Some(Some(code))) => code != 0,
            // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS
            (Role::Server, Some(Some(code))) => matches!(code, 2 | 4 | 12 | 13 | 14 | 15),
            (Role::Client, _) => self.status >= 400,
            (Role::Server, _) => self.status >= 500,
        }
    }

    fn add_http(&self, all: &mut Attributes) {
        let method = known_method(&self.method);
        all.text("http.request.method", method);
        if method == "_OTHER" {
            all.text("http.request.method_original", self.method.as_str());
        }
        all.number("http.response.status_code", self.status);
        all.text("url.scheme", if self.tls { "https" } else { "http" });
        all.text("url.path", &*self.path);
        all.text(
            "network.protocol.version",
            match self.version {
                Version::HTTP_10 => "1.0",
                Version::HTTP_2 => "2",
                _ => "1.1",
            },
        );
        all.some("user_agent.original", self.user_agent.as_ref());
        if self.tries > 1 {
            all.number("http.request.resend_count", self.tries - 1);
        }
        if self.is_failed() {
            let status = || self.status.to_string();
            all.text("error.type", self.reason.map_or_else(status, Into::into));
        }
    }

    fn add_rpc(&self, all: &mut Attributes) {
        let Some(code) = self.grpc else { return };
        all.text("rpc.system", "grpc");
        if let Some((service, method)) = self.call() {
            all.text("rpc.service", service);
            all.text("rpc.method", method);
        }
        if let Some(code) = code {
            all.number("rpc.grpc.status_code", code);
        }
    }

    fn add_network(&self, all: &mut Attributes) {
        all.text("server.address", &*self.host);
        if let Some(port) = self.port {
            all.number("server.port", port);
        }
        if self.role == Role::Server {
            all.some("client.address", self.client.map(|client| client.ip().to_canonical()));
        }
        let peer = if self.role == Role::Server { self.client } else { self.upstream };
        if let Some(peer) = peer {
            all.text("network.peer.address", peer.ip().to_canonical().to_string());
            all.number("network.peer.port", peer.port());
        }
    }

    fn add_mesh(&self, all: &mut Attributes) {
        all.some("tombolo.route", self.route.as_ref());
        all.some("tombolo.service", self.service.as_ref());
        all.some("tombolo.arm", self.arm.as_ref());
        all.some("tombolo.lane", self.lane.as_ref());
        all.some("tombolo.endpoint", self.endpoint.as_ref().map(|(id, _)| id));
        all.some("tombolo.cluster", self.endpoint.as_ref().map(|(_, cluster)| cluster));
        all.some("tombolo.source", self.caller.as_ref());
        all.some("tombolo.request_id", self.request_id.as_ref());
        all.some("tombolo.reason", self.reason);
    }
}

/// Since 1970; the cast holds until the year 2554.
fn nanos(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
