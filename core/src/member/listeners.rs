//! A set of listeners that follows what is wanted of it.

use std::{collections::BTreeMap, fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::proxy::{Accepted, ConnectionService, Inherited, ListenLimits, Serving, Sharing, open, serve};

/// A listener that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted<P> {
    /// Where to listen; port 0 takes a free one, and keeps it.
    pub address: SocketAddr,
    /// What for. A change of it is seen by the next connection; the socket stays.
    pub purpose: P,
}

/// Makes the service for a key and purpose.
type Make<K, P> = Box<dyn Fn(&K, &P) -> Arc<dyn ConnectionService> + Send>;

/// Listeners by key, opened and closed as they come and go.
///
/// A listener that stays is never closed, whatever else changes: nobody who connects is refused. One that goes takes no
/// more connections; those that are open end by themselves (see [`Serving::stop`]). One that cannot be bound leaves the
/// others alone, and is tried again at each [`ListenerSet::apply`].
pub struct ListenerSet<K, P> {
    make: Make<K, P>,
    limits: ListenLimits,
    sharing: Sharing,
    drain: watch::Receiver<bool>,
    inherited: Inherited,
    open: BTreeMap<K, Open<P>>,
    /// Those that take no more connections, while some of theirs are left.
    closing: Vec<Serving>,
}

struct Open<P> {
    wanted: Wanted<P>,
    service: Arc<Switch>,
    serving: Serving,
}

impl<K, P> ListenerSet<K, P>
where
    K: Ord + Clone + fmt::Debug,
    P: PartialEq + Clone + fmt::Debug,
{
    /// An empty set. `make` makes the service for a key and purpose; all listeners also stop when `drain` turns true.
    pub fn new(
        make: impl Fn(&K, &P) -> Arc<dyn ConnectionService> + Send + 'static,
        limits: ListenLimits,
        drain: watch::Receiver<bool>,
    ) -> Self {
        Self {
            make: Box::new(make),
            limits,
            sharing: Sharing::None,
            drain,
            inherited: Inherited::default(),
            open: BTreeMap::new(),
            closing: Vec::new(),
        }
    }

    /// Where a socket is wanted that was taken over from another process, that one is used.
    pub fn inherit(&mut self, inherited: Inherited) {
        self.inherited = inherited;
    }

    /// On one port, one of the listeners may have every address and others single ones (see
    /// [`bind_beside`](crate::proxy::bind_beside)).
    #[must_use]
    pub fn beside_each_other(self) -> Self {
        Self { sharing: Sharing::Own, ..self }
    }

    /// As [`Self::beside_each_other`], and other processes of the same user may listen on the same addresses.
    #[must_use]
    pub fn beside_other_processes(self) -> Self {
        Self { sharing: Sharing::Processes, ..self }
    }

    /// Makes the set as it is wanted. Gives the listeners that could not be bound, each with its reason.
    pub fn apply(&mut self, wanted: &BTreeMap<K, Wanted<P>>) -> Vec<(K, SocketAddr, io::Error)> {
        self.closing.retain(|serving| serving.open() > 0);
        let mut gone = self.take_gone(wanted);
        let mut failed = Vec::new();
        for (key, wanted) in wanted {
            if let Some(open) = self.open.get_mut(key) {
                if open.wanted.purpose != wanted.purpose {
                    open.service.set((self.make)(key, &wanted.purpose));
                    open.wanted = wanted.clone();
                }
                continue;
            }
            let service = (self.make)(key, &wanted.purpose);
            // An address that only changes hands keeps its socket.
            let opened = match gone.iter().position(|open| open.wanted.address == wanted.address) {
                Some(at) => {
                    let open = gone.swap_remove(at);
                    open.service.set(service);
                    Ok(Open { wanted: wanted.clone(), ..open })
                }
                None => self.bind(wanted, service),
            };
            match opened {
                Ok(open) => drop(self.open.insert(key.clone(), open)),
                Err(error) => failed.push((key.clone(), wanted.address, error)),
            }
        }
        for open in gone {
            tracing::info!(address = %open.serving.address(), "no longer listening");
            open.serving.stop();
            self.closing.push(open.serving);
        }
        failed
    }

    /// Takes out what is not wanted any more, or elsewhere.
    fn take_gone(&mut self, wanted: &BTreeMap<K, Wanted<P>>) -> Vec<Open<P>> {
        let is_gone = |key: &K, open: &Open<P>| {
            wanted.get(key).is_none_or(|wanted| wanted.address != open.wanted.address)
        };
        let keys: Vec<K> =
            self.open.iter().filter(|(key, open)| is_gone(key, open)).map(|(key, _)| key.clone()).collect();
        keys.iter().filter_map(|key| self.open.remove(key)).collect()
    }

    fn bind(&self, wanted: &Wanted<P>, service: Arc<dyn ConnectionService>) -> io::Result<Open<P>> {
        let service = Switch::new(service);
        let listener = open(wanted.address, &self.inherited, self.sharing)?;
        let serving = serve(listener, service.clone(), self.limits, self.drain.clone())?;
        tracing::debug!(address = %serving.address(), "listening");
        Ok(Open { wanted: wanted.clone(), service, serving })
    }

    /// The bound address of a listener, with its real port.
    pub fn address(&self, key: &K) -> Option<SocketAddr> {
        self.open.get(key).map(|open| open.serving.address())
    }

    /// All listeners that are open.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &Serving)> {
        self.open.iter().map(|(key, open)| (key, &open.serving))
    }

    /// Stops all and waits for their connections to end, no longer than `limit` in all. False: some are left.
    pub async fn drained(mut self, limit: Duration) -> bool {
        self.apply(&BTreeMap::new());
        let all = async {
            for serving in &self.closing {
                serving.drained(limit).await;
            }
        };
        let _ = tokio::time::timeout(limit, all).await;
        self.closing.iter().all(|serving| serving.open() == 0)
    }
}

impl<K: fmt::Debug, P> fmt::Debug for ListenerSet<K, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.open.keys()).finish()
    }
}

/// Gives each connection to the service that is in force when it is accepted.
struct Switch(ArcSwap<Arc<dyn ConnectionService>>);

impl Switch {
    fn new(service: Arc<dyn ConnectionService>) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(service)))
    }

    fn set(&self, service: Arc<dyn ConnectionService>) {
        self.0.store(Arc::new(service));
    }
}

impl ConnectionService for Switch {
    fn serve(self: Arc<Self>, accepted: Accepted) -> BoxFuture<'static, ()> {
        let service = Arc::clone(&**self.0.load());
        service.serve(accepted)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    /// Says its name, then answers each byte until the other side is done.
    struct Named(String);

    impl ConnectionService for Named {
        fn serve(self: Arc<Self>, mut accepted: Accepted) -> BoxFuture<'static, ()> {
            Box::pin(async move {
                accepted.tcp.write_all(self.0.as_bytes()).await.unwrap();
                let (mut read, mut write) = accepted.tcp.split();
                tokio::io::copy(&mut read, &mut write).await.ok();
            })
        }
    }

    fn set() -> (ListenerSet<u8, &'static str>, watch::Sender<bool>) {
        let (drain, draining) = watch::channel(false);
        let make = |key: &u8, purpose: &&'static str| -> Arc<dyn ConnectionService> {
            Arc::new(Named(format!("{key}{purpose}")))
        };
        (ListenerSet::new(make, ListenLimits::default(), draining), drain)
    }

    fn wanted(all: &[(u8, SocketAddr, &'static str)]) -> BTreeMap<u8, Wanted<&'static str>> {
        all.iter()
            .map(|(key, address, purpose)| (*key, Wanted { address: *address, purpose: *purpose }))
            .collect()
    }

    fn any() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    async fn connect(address: SocketAddr, says: &str) -> TcpStream {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        let mut name = vec![0; says.len()];
        timeout(SOON, tcp.read_exact(&mut name)).await.unwrap().unwrap();
        assert_eq!(String::from_utf8(name).unwrap(), says);
        tcp
    }

    async fn echoes(tcp: &mut TcpStream) {
        tcp.write_all(b"x").await.unwrap();
        assert_eq!(timeout(SOON, tcp.read_u8()).await.unwrap().unwrap(), b'x');
    }

    /// Resolves when nobody accepts there any more.
    async fn closed(address: SocketAddr) {
        timeout(SOON, async { while TcpStream::connect(address).await.is_ok() {} }).await.unwrap();
    }

    #[tokio::test]
    async fn opens_and_closes_without_cutting_what_is_open() {
        let (mut set, _drain) = set();
        assert!(set.apply(&wanted(&[(1, any(), "a"), (2, any(), "b")])).is_empty());
        let (one, two) = (set.address(&1).unwrap(), set.address(&2).unwrap());
        let mut first = connect(one, "1a").await;
        set.apply(&wanted(&[(2, any(), "b")]));
        closed(one).await;
        echoes(&mut first).await;
        connect(two, "2b").await;
        assert_eq!(set.address(&2), Some(two), "what stays keeps its socket");
        drop(first);
        assert!(set.drained(SOON).await);
        closed(two).await;
    }

    #[tokio::test]
    async fn a_new_purpose_keeps_the_socket_and_its_connections() {
        let (mut set, _drain) = set();
        set.apply(&wanted(&[(1, any(), "a")]));
        let address = set.address(&1).unwrap();
        let mut old = connect(address, "1a").await;
        set.apply(&wanted(&[(1, any(), "b")]));
        connect(address, "1b").await;
        echoes(&mut old).await;
        assert_eq!(set.address(&1), Some(address));
    }

    #[tokio::test]
    async fn an_address_that_changes_hands_is_never_closed() {
        let (mut set, _drain) = set();
        let free = TcpListener::bind(any()).await.unwrap().local_addr().unwrap();
        assert!(set.apply(&wanted(&[(1, free, "a")])).is_empty());
        assert!(set.apply(&wanted(&[(2, free, "b")])).is_empty());
        connect(free, "2b").await;
        assert_eq!(set.address(&1), None);
    }

    #[tokio::test]
    async fn what_cannot_be_bound_leaves_the_others_alone_and_is_tried_again() {
        let (mut set, _drain) = set();
        let other = TcpListener::bind(any()).await.unwrap();
        let taken = other.local_addr().unwrap();
        let all = wanted(&[(1, taken, "a"), (2, any(), "b")]);
        let failed = set.apply(&all);
        assert_eq!(failed.len(), 1);
        assert_eq!((failed[0].0, failed[0].1, failed[0].2.kind()), (1, taken, io::ErrorKind::AddrInUse));
        connect(set.address(&2).unwrap(), "2b").await;
        drop(other);
        assert!(set.apply(&all).is_empty());
        connect(taken, "1a").await;
    }

    #[tokio::test]
    async fn a_single_address_goes_beside_every_address_in_whichever_order_they_come() {
        let (mut set, _drain) = set();
        set = set.beside_each_other();
        let port = TcpListener::bind(any()).await.unwrap().local_addr().unwrap().port();
        let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), port);
        let (every, one, other) = (at("0.0.0.0"), at("127.128.0.1"), at("127.0.0.1"));
        assert!(set.apply(&wanted(&[(1, every, "a"), (2, one, "b")])).is_empty());
        connect(one, "2b").await;
        connect(other, "1a").await;
        assert!(set.apply(&wanted(&[(2, one, "b")])).is_empty());
        closed(other).await;
        assert!(set.apply(&wanted(&[(1, every, "a"), (2, one, "b")])).is_empty());
        connect(one, "2b").await;
        connect(other, "1a").await;
    }

    #[tokio::test]
    async fn all_stop_when_the_process_drains() {
        let (mut set, drain) = set();
        set.apply(&wanted(&[(1, any(), "a")]));
        let address = set.address(&1).unwrap();
        let mut open = connect(address, "1a").await;
        drain.send_replace(true);
        closed(address).await;
        echoes(&mut open).await;
    }
}
