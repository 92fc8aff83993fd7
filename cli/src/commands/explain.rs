//! `tombolo explain`.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use super::{admin, check::Output};
use crate::failure::Failure;

/// Arguments of `tombolo explain`.
#[derive(clap::Args, Debug)]
pub struct ExplainArgs {
    /// Ask these files, or directories of *.yaml, *.yml and *.json
    #[arg(long, value_name = "PATH", num_args = 1.., required_unless_present = "admin")]
    config: Vec<PathBuf>,
    /// Ask a running proxy, at its admin listener
    #[arg(long, value_name = "ADDR", conflicts_with = "config")]
    admin: Option<SocketAddr>,
    /// A header of the request, `name: value`
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The client's address
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    client: IpAddr,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// e.g. GET
    method: Method,
    /// With scheme and host, e.g. https://shop.example.test/buy?x=1
    url: Uri,
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write NAME: VALUE, e.g. 'x-gray: v2'")?;
    let name = name.trim().parse::<HeaderName>().map_err(|e| e.to_string())?;
    let value = value.trim().parse::<HeaderValue>().map_err(|e| e.to_string())?;
    Ok((name, value))
}

/// Says where the request would go.
pub async fn run(args: ExplainArgs) -> Result<(), Failure> {
    if args.url.host().is_none() {
        return Err(Failure::usage("give the whole URL with scheme and host, e.g. https://shop.example.test/buy"));
    }
    let text = match args.admin {
        Some(address) => ask(address, &args).await?,
        None => decide_on_files(&args)?,
    };
    println!("{}", text.trim_end());
    Ok(())
}
