//! This cluster's own bundle, served to whoever asks.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{net::TcpListener, sync::watch};
use tombolo_core::{
    spiffe::{self, Document},
    tls,
};

use crate::{running::stopped, state::State};

/// How often others should ask: well within the lead time of a rotation.
const REFRESH: Duration = Duration::from_secs(300);

/// Where the bundle is served, and with which certificate.
#[derive(Debug, Clone)]
pub struct BundleListener {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Profile `https_web`: PEM files of a chain and its key, read anew when they change. None: profile `https_spiffe`,
    /// with the controller's own certificate.
    pub web: Option<(PathBuf, PathBuf)>,
}

/// Serves until `stop`. Fails where the address or the certificate cannot be used. Gives the bound address.
pub async fn serve(
    listener: BundleListener,
    state: Arc<State>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<SocketAddr> {
    let bound = TcpListener::bind(listener.listen).await?;
    let address = bound.local_addr()?;
    let web = listener.web.map(|(chain, key)| Web::open(chain, key)).transpose()?;
    let first = own(&state).map_err(io::Error::other)?;
    let last = Mutex::new(first);
    let served = Arc::clone(&state);
    let config = move || match &web {
        Some(web) => web.config(),
        None => {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            match own(&served) {
                Ok(config) => *last = config,
                Err(error) => tracing::error!(%error, "the bundle endpoint keeps its last certificate"),
            }
            Arc::clone(&last)
        }
    };
    let document = move || {
        let bundle = (*state.ca.bundle()).clone();
        Document { bundle, has_sequence: true, refresh_hint: Some(REFRESH) }.print()
    };
    tokio::spawn(async move { spiffe::serve(bound, config, document, stopped(&mut stop)).await });
    Ok(address)
}

fn own(state: &State) -> Result<Arc<ServerConfig>, tls::TlsError> {
    tls::public_server(&state.credentials(), &["http/1.1"])
}

/// A certificate in files.
struct Web {
    chain: PathBuf,
    key: PathBuf,
    last: Mutex<(Option<SystemTime>, Arc<ServerConfig>)>,
}

impl Web {
    fn open(chain: PathBuf, key: PathBuf) -> io::Result<Self> {
        let first = (changed(&chain), read(&chain, &key)?);
        Ok(Self { chain, key, last: Mutex::new(first) })
    }

    /// Of the files of now; where they cannot be used, of the last that could.
    fn config(&self) -> Arc<ServerConfig> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let at = changed(&self.chain);
        if last.0 != at {
            match read(&self.chain, &self.key) {
                Ok(config) => *last = (at, config),
                Err(error) => {
                    tracing::error!(path = %self.chain.display(), %error, "the bundle endpoint keeps its last certificate");
                    last.0 = at;
                }
            }
        }
        Arc::clone(&last.1)
    }
}

fn changed(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn read(chain: &Path, key: &Path) -> io::Result<Arc<ServerConfig>> {
    let wrong = |path: &Path, error: &dyn std::fmt::Display| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
    };
    let certificates = CertificateDer::pem_file_iter(chain).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = certificates.map_err(|error| wrong(chain, &error))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, &error))?;
    let config = ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, private));
    let mut config = config.map_err(|error| wrong(chain, &error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
