//! `tombolo explain`.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use http::{Method, Uri};

use tombolo_core::{
    decide::{self, SnapshotAvailability},
    member::{Question, ServiceShown},
    model::Snapshot,
    resources,
};

use super::{
    admin,
    check::{self, Output},
};
use crate::failure::Failure;

/// Arguments of `tombolo explain`.
#[derive(clap::Args, Debug)]
pub struct ExplainArgs {
    /// Ask this file, or this directory of *.yaml, *.yml and *.json; may be given several times
    #[arg(long, value_name = "PATH", required_unless_present = "admin")]
    config: Vec<PathBuf>,
    /// Ask a running proxy, at its admin listener
    #[arg(long, value_name = "ADDR", conflicts_with = "config")]
    admin: Option<SocketAddr>,
    /// A header of the request, `name: value`
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The client's address
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    client: IpAddr,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Instead of a request: how requests for this service are shared over tiers, endpoints and gateways, and where the next one
    /// goes
    #[arg(long, value_name = "NAMESPACE/NAME", requires = "admin", conflicts_with_all = ["method", "headers"])]
    service: Option<String>,
    /// Which of the service's names: `cluster` for this cluster's endpoints, `clusterset` for those of all
    #[arg(long, value_enum, default_value_t = NameScope::Cluster, requires = "service")]
    scope: NameScope,
    /// For requests in this lane
    #[arg(long, requires = "service")]
    lane: Option<String>,
    /// e.g. GET
    #[arg(required_unless_present = "service", requires = "url")]
    method: Option<Method>,
    /// With scheme and host, e.g. `https://shop.example.test/buy?x=1`
    url: Option<Uri>,
}

/// A scope of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum NameScope {
    Cluster,
    Clusterset,
}

/// Says where the request would go.
pub async fn run(args: ExplainArgs) -> Result<(), Failure> {
    if let (Some(service), Some(admin)) = (&args.service, args.admin) {
        return ask_service(admin, service, &args).await;
    }
    let (Some(method), Some(url)) = (&args.method, &args.url) else {
        return Err(Failure::usage("give a method and a URL, or --service with --admin"));
    };
    if url.host().is_none() {
        return Err(Failure::usage(
            "give the whole URL with scheme and host, e.g. https://shop.example.test/buy",
        ));
    }
    let mut question = Question::new(method.as_str(), &url.to_string()).map_err(usage)?;
    for field in &args.headers {
        question.add_header(field).map_err(usage)?;
    }
    question.address = args.client;
    match args.admin {
        Some(address) => ask(address, &question, args.output).await,
        None => decide_on_files(&args.config, &question, args.output),
    }
}

fn usage(error: impl std::fmt::Display) -> Failure {
    Failure::usage(error.to_string())
}

/// The running proxy says how it balances a service, and picks as it would for a request.
async fn ask_service(address: SocketAddr, service: &str, args: &ExplainArgs) -> Result<(), Failure> {
    let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-/".contains(c));
    if !plain(service) || !args.lane.as_deref().is_none_or(plain) {
        return Err(Failure::usage("--service takes NAMESPACE/NAME, --lane a DNS label"));
    }
    let scope = if args.scope == NameScope::Clusterset { "clusterset" } else { "cluster" };
    let lane = args.lane.as_ref().map(|lane| format!("&lane={lane}")).unwrap_or_default();
    let asked = admin::get(address, &format!("/explain?service={service}&scope={scope}{lane}")).await;
    let (status, body) = asked.map_err(Failure::new)?;
    if status != 200 {
        return Err(Failure::new(body.trim_end().to_owned()));
    }
    if args.output == Output::Json {
        println!("{}", body.trim_end());
        return Ok(());
    }
    let shown: ServiceShown = serde_json::from_str(&body).map_err(|error| {
        Failure::new(format!("the proxy is of another version ({error}); use --output json"))
    })?;
    println!("{}", shown.to_string().trim_end());
    Ok(())
}

/// The running proxy decides by what it has in force.
async fn ask(address: SocketAddr, question: &Question, output: Output) -> Result<(), Failure> {
    let (status, body) =
        admin::get(address, &format!("/explain?{}", question.to_query())).await.map_err(Failure::new)?;
    if status != 200 {
        return Err(Failure::new(body.trim_end().to_owned()));
    }
    if output == Output::Json {
        println!("{}", body.trim_end());
        return Ok(());
    }
    // A sidecar's answer, and that of another version, may have another form.
    if let Ok(explanation) = serde_json::from_str::<decide::Explanation>(&body) {
        println!("{}", explanation.to_string().trim_end());
        return Ok(());
    }
    let explanation: serde_json::Value =
        serde_json::from_str(&body).map_err(|e| Failure::new(format!("the answer is not JSON: {e}")))?;
    super::status::print_value(&explanation, 0);
    Ok(())
}

/// The same function that a gateway on these files would call. Which of its sockets: the one of the URL's port, else the
/// first with a listener for the scheme.
fn decide_on_files(paths: &[PathBuf], question: &Question, output: Output) -> Result<(), Failure> {
    let (sources, mut problems) = resources::load(paths);
    let parsed = resources::parse(&sources);
    problems.extend(parsed.problems);
    if !problems.is_empty() {
        eprintln!("{}", check::lines(&problems));
    }
    let config = std::sync::Arc::new(decide::compile(&parsed.resources));
    let services = resources::static_services(&parsed.resources, "local");
    // A cookie that is shown here is no gateway's.
    let cookies = Some(decide::CookieKey::derive(b"explain"));
    let snapshot = Snapshot { version: 1, config, services, cookies, ..Default::default() };
    let wants_tls = question.url.scheme_str() == Some("https");
    let is_tls =
        |bind: &decide::Bind| bind.listeners.iter().any(|l| l.protocol == decide::ListenerProtocol::Https);
    let binds = &snapshot.config.binds;
    let by_port = binds.iter().find(|bind| bind.key.port == question.port());
    let bind = by_port.or_else(|| binds.iter().find(|bind| is_tls(bind) == wants_tls)).or(binds.first());
    let bind = bind.ok_or_else(|| Failure::new("there is no Gateway listener in these files"))?;
    let host = question.host();
    let (head, caller) = (question.head(&host), question.caller(&host));
    let explanation =
        decide::explain_edge(&snapshot, bind.key, &head, &caller, &SnapshotAvailability(&snapshot));
    match output {
        Output::Text => println!("{}", explanation.to_string().trim_end()),
        Output::Json => println!("{}", serde_json::to_string_pretty(&explanation).unwrap_or_default()),
    }
    Ok(())
}
