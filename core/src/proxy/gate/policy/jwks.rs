//! Key sets from files and URLs: read at their first use, again when they are old, and when a token has a newer key.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bytes::{Bytes, BytesMut};
use dashmap::DashMap;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    time::Instant,
};

use crate::{
    decide::{BackendTls, BackendTrust, KeySource},
    jwt::KeySet,
    outgoing, tls,
};

/// Bytes of a key set; a longer one is refused.
const LONGEST: usize = 1 << 20;
/// Reading one may take this long.
const LIMIT: Duration = Duration::from_secs(5);
/// Not read more often than this, whatever tokens come.
const PAUSE: Duration = Duration::from_secs(10);
/// As long as there is none at all, it is tried so often.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Sources that are remembered; for one more, all are forgotten and read again.
const SOURCES: usize = 256;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Key sets by where they come from.
#[derive(Default)]
pub(super) struct KeySets(DashMap<Arc<str>, Arc<Fetched>>);

#[derive(Default)]
struct Fetched {
    /// The last good one: it stays in use where it cannot be read again.
    set: ArcSwapOption<KeySet>,
    /// Held while it is read.
    reading: tokio::sync::Mutex<()>,
    tried: Mutex<Option<Instant>>,
}

impl KeySets {
    /// The keys of a source. Waits where there are none yet, or where `is_behind` says that a token has a newer one.
    pub async fn keys(&self, source: &KeySource, is_behind: impl Fn(&KeySet) -> bool) -> Option<Arc<KeySet>> {
        let (from, refresh) = match source {
            KeySource::Known(set) => return Some(set.clone()),
            KeySource::Missing => return None,
            KeySource::Fetched { from, refresh } => (from, *refresh),
        };
        let fetched = self.fetched(from);
        match fetched.set.load_full() {
            Some(set) if !is_behind(&set) => {
                if fetched.is_tried_before(refresh) {
                    let (fetched, from) = (fetched.clone(), from.clone());
                    tokio::spawn(async move { fetched.read(&from, refresh).await });
                }
                return Some(set);
            }
            Some(_) => fetched.read(from, PAUSE).await,
            None => fetched.read(from, FIRST_PAUSE).await,
        }
        fetched.set.load_full()
    }

    fn fetched(&self, from: &Arc<str>) -> Arc<Fetched> {
        if let Some(fetched) = self.0.get(from) {
            return fetched.clone();
        }
        if self.0.len() >= SOURCES {
            self.0.clear();
        }
        self.0.entry(from.clone()).or_default().clone()
    }
}

impl Fetched {
    /// True if it was last read longer ago than this.
    fn is_tried_before(&self, pause: Duration) -> bool {
        let tried = *self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        tried.is_none_or(|tried| tried.elapsed() >= pause)
    }

    /// Reads it, unless that was done within `pause`. Of several at a time one reads, and the others wait for it.
    async fn read(&self, from: &str, pause: Duration) {
        let _one = self.reading.lock().await;
        if !self.is_tried_before(pause) {
            return;
        }
        let read =
            tokio::time::timeout(LIMIT, fetch(from)).await.unwrap_or_else(|_| Err("it took too long".into()));
        match read.and_then(|text| Ok(KeySet::parse(&text)?)) {
            Ok(set) => self.set.store(Some(Arc::new(set))),
            Err(error) => tracing::warn!(from, %error, "a key set cannot be read"),
        }
        *self.tried.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

async fn fetch(from: &str) -> Result<Bytes, Error> {
    if from.starts_with('/') {
        let mut text = Vec::new();
        let file = tokio::fs::File::open(from).await?;
        file.take(LONGEST as u64 + 1).read_to_end(&mut text).await?;
        return if text.len() > LONGEST { Err("it is too long".into()) } else { Ok(text.into()) };
    }
    let uri: Uri = from.parse()?;
    let host = uri.host().ok_or("no host")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let tcp = outgoing::connect_host(host, port).await?;
    if secure {
        let by_system =
            BackendTls { trust: BackendTrust::System, hostname: host.into(), names: Arc::from([]) };
        let config = tls::backend_client(&by_system, None, &["http/1.1"])?;
        let name = ServerName::try_from(host.to_owned())?;
        let tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        get(tls, &uri).await
    } else {
        get(tcp, &uri).await
    }
}

async fn get(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    uri: &Uri,
) -> Result<Bytes, Error> {
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(driver);
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let authority = uri.authority().ok_or("no authority")?.as_str();
    let request = Request::get(target)
        .header(header::HOST, authority.rsplit('@').next().unwrap_or(authority))
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::OK {
        return Err(format!("the answer is {}", response.status()).into());
    }
    let mut body = response.into_body();
    let mut text = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            if text.len() + data.len() > LONGEST {
                return Err(io::Error::other("it is too long").into());
            }
            text.extend_from_slice(&data);
        }
    }
    Ok(text.freeze())
}
