//! The floor: pingora's own server and proxy with nothing added, one thread, one upstream.

use std::{net::SocketAddr, path::PathBuf};

use async_trait::async_trait;
use pingora_core::{
    listeners::tls::TlsSettings, server::Server, server::configuration::ServerConf, upstreams::peer::HttpPeer,
};
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

use crate::Failure;

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Floor {
    /// Where it listens
    #[arg(long)]
    listen: SocketAddr,
    /// Where it sends everything
    #[arg(long)]
    upstream: SocketAddr,
    /// Speaks TLS with the certificate `tls.crt` and the key `tls.key` in this directory
    #[arg(long)]
    tls: Option<PathBuf>,
    /// Speaks TLS here, and plaintext where it listens else
    #[arg(long, requires = "tls")]
    listen_tls: Option<SocketAddr>,
}

struct Bare {
    upstream: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        _context: &mut (),
    ) -> pingora_core::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }
}

impl Floor {
    /// Runs until it is killed.
    pub fn run(self) -> Result<(), Failure> {
        let conf = ServerConf {
            threads: 1,
            // As the gateway has it; no upstream is verified.
            ca_file: Some("/dev/null".into()),
            upstream_keepalive_pool_size: 1024,
            ..ServerConf::default()
        };
        let mut server = Server::new_with_opt_and_conf(None, conf);
        server.bootstrap();
        let mut service = http_proxy_service(&server.configuration, Bare { upstream: self.upstream });
        if self.tls.is_none() || self.listen_tls.is_some() {
            service.add_tcp(&self.listen.to_string());
        }
        if let Some(dir) = self.tls {
            let path = |name| dir.join(name).display().to_string();
            let mut tls = TlsSettings::intermediate(&path("tls.crt"), &path("tls.key"))?;
            tls.enable_h2();
            let listen = self.listen_tls.unwrap_or(self.listen);
            service.add_tls_with_settings(&listen.to_string(), None, tls);
        }
        server.add_service(service);
        server.run_forever()
    }
}
