//! The admin pages of a gateway.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use http::StatusCode;
use serde_json::{Value, json};
use tombolo_core::{
    balance::Pools,
    decide::{self, Bind, BindKey, ListenerProtocol, explain_edge},
    lifecycle::admin::{Page, Pages},
    member::{Question, QuestionError, explain_service, shares, view},
    model::Snapshot,
    quota::Quotas,
    resources::{self, Source},
    telemetry::Samples,
};

use crate::{
    stapling::{Staples, show, show_conditions},
    state::Served,
    static_source::picture,
};

/// `/config` and `/explain`; `/preview` takes documents.
pub(crate) struct GatewayPages {
    pub served: Arc<ArcSwap<Served>>,
    pub pools: Arc<Pools>,
    pub quotas: Arc<Quotas>,
    pub staples: Arc<ArcSwap<Staples>>,
    /// Recent requests; none where a controller has the documents.
    pub samples: Option<Arc<Samples>>,
}

impl Pages for GatewayPages {
    fn page(&self, path: &str, query: Option<&str>) -> Option<Page> {
        match path {
            "/config" => Some(Page::json(&self.config())),
            "/explain" => Some(self.explain(query.unwrap_or_default())),
            _ => None,
        }
    }

    fn asked(&self, path: &str, text: &str) -> Option<Page> {
        (path == "/preview").then(|| self.preview(text))
    }
}

impl GatewayPages {
    fn config(&self) -> Value {
        let served = self.served.load();
        let state = &served.state;
        let listeners = state.snapshot.config.binds.iter().map(|bind| listener(bind, &served));
        let mut config = view(&state.snapshot, &self.pools);
        let staples = self.staples.load();
        show_conditions(&mut config["objects"], &state.snapshot.config.binds, &staples);
        let more = json!({
            "listeners": listeners.collect::<Vec<_>>(),
            "problems": state.problems,
            "certificateProblems": state.certificate_problems,
            "staples": show(&staples),
            "listenerProblems": served.problems,
            "keptAsBefore": state.kept,
            "sharedRateLimits": shares(&self.quotas),
        });
        if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
            config.extend(more);
        }
        config
    }

    /// The socket is found by the URL's scheme and port: the configured port, or the one that is really bound.
    fn explain(&self, query: &str) -> Page {
        let served = self.served.load();
        match explain_service(&served.state.snapshot, &self.pools, query) {
            Some(Ok(shown)) => return Page::json(&shown),
            Some(Err(error)) => return bad(&error),
            None => {}
        }
        match Question::parse(query) {
            Ok(question) => match find(&served, &question) {
                Some(bind) => {
                    let host = question.host();
                    let (head, caller) = (question.head(&host), question.caller(&host));
                    let snapshot: &Snapshot = &served.state.snapshot;
                    Page::json(&explain_edge(snapshot, bind, &head, &caller, &*self.pools))
                }
                None => Page::error(
                    StatusCode::NOT_FOUND,
                    format!("no {} listener has port {}", scheme(&question), question.port()),
                ),
            },
            Err(error) => bad(&error),
        }
    }
}

impl GatewayPages {
    /// What would become of recent requests if these files were all that it reads. Their names and texts are JSON.
    fn preview(&self, files: &str) -> Page {
        let Some(samples) = &self.samples else {
            let hint = "this gateway's documents are a controller's: preview there, without --admin";
            return Page::error(StatusCode::CONFLICT, hint);
        };
        let sources: Vec<Source> = match serde_json::from_str(files) {
            Ok(sources) => sources,
            Err(error) => return Page::error(StatusCode::BAD_REQUEST, error),
        };
        let parsed = resources::parse(&sources);
        if !parsed.problems.is_empty() || parsed.resources.is_empty() {
            let problems: Vec<String> = parsed.problems.iter().map(ToString::to_string).collect();
            let said =
                if problems.is_empty() { "there is no document in it".into() } else { problems.join("\n") };
            return Page::error(StatusCode::UNPROCESSABLE_ENTITY, said);
        }
        let old = Arc::clone(&self.served.load().state.snapshot);
        let new = picture(&parsed.resources, old.version + 1, old.cookies.clone());
        Page::json(&decide::preview(&old, &new, &samples.recent()))
    }
}

fn bad(error: &QuestionError) -> Page {
    Page::error(StatusCode::BAD_REQUEST, error)
}

fn scheme(question: &Question) -> &str {
    question.url.scheme_str().unwrap_or("http")
}

fn find(served: &Served, question: &Question) -> Option<BindKey> {
    let protocol = match scheme(question) {
        "https" => ListenerProtocol::Https,
        _ => ListenerProtocol::Http,
    };
    let binds = &served.state.snapshot.config.binds;
    let speaks = |bind: &&Bind| bind.listeners.iter().any(|listener| listener.protocol == protocol);
    let real = |bind: &Bind| served.listeners.get(&bind.key).map(SocketAddr::port);
    let by_port = |port: u16| {
        let mut of_protocol = binds.iter().filter(speaks);
        of_protocol.find(|bind| bind.key.port == port || real(bind) == Some(port))
    };
    by_port(question.port()).map(|bind| bind.key)
}

fn listener(bind: &Bind, served: &Served) -> Value {
    let listeners = bind.listeners.iter().map(|listener| {
        json!({
            "gateway": &*listener.gateway,
            "name": &*listener.name,
            "hostname": listener.hostname,
            "protocol": listener.protocol.name(),
            "certificates": listener.certificates,
        })
    });
    json!({
        "port": bind.key.port,
        "bound": served.listeners.get(&bind.key).map(ToString::to_string),
        "listeners": listeners.collect::<Vec<_>>(),
    })
}
