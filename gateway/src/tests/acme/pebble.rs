//! A certificate authority: Debian's `pebble`, a real ACME server, with its faults on; and the DNS it looks names up in.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use hickory_proto::{
    op::{Message, OpCode},
    rr::{
        RData, Record, RecordType,
        rdata::{A, TXT},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
};

const SOON: std::time::Duration = std::time::Duration::from_secs(10);

/// Names and what they lead to; everything else leads to 127.0.0.1.
#[derive(Clone, Default)]
pub struct Zone(Arc<Mutex<Records>>);

#[derive(Default)]
struct Records {
    addresses: HashMap<String, Ipv4Addr>,
    texts: Vec<(String, String)>,
    written: usize,
}

impl Zone {
    pub fn set_address(&self, name: &str, address: [u8; 4]) {
        self.0.lock().unwrap().addresses.insert(format!("{name}."), address.into());
    }

    /// TXT records that are there now, and how many were ever written.
    pub fn texts(&self) -> (usize, usize) {
        let records = self.0.lock().unwrap();
        (records.texts.len(), records.written)
    }

    pub fn add_text(&self, name: &str, value: &str) {
        let mut records = self.0.lock().unwrap();
        records.texts.push((name.to_ascii_lowercase(), value.into()));
        records.written += 1;
    }

    fn answer(&self, query: &Message) -> Message {
        let mut answer = Message::response(query.id, OpCode::Query);
        let Some(question) = query.queries.first() else { return answer };
        answer.add_query(question.clone());
        let (name, records) = (question.name().to_string().to_ascii_lowercase(), self.0.lock().unwrap());
        let mut add = |data| {
            answer.add_answer(Record::from_rdata(question.name().clone(), 0, data));
        };
        match question.query_type() {
            RecordType::A => {
                let address = records.addresses.get(&name).copied().unwrap_or(Ipv4Addr::LOCALHOST);
                add(RData::A(A(address)));
            }
            RecordType::TXT => {
                let found = records.texts.iter().filter(|(at, _)| *at == name);
                found.for_each(|(_, value)| add(RData::TXT(TXT::new(vec![value.clone()]))));
            }
            _ => {}
        }
        answer
    }

    /// An update, whose signature plays no part here.
    fn update(&self, message: &Message) -> Message {
        for record in &message.authorities {
            let (name, value) = (record.name.to_string(), record.data.to_string());
            if record.dns_class == hickory_proto::rr::DNSClass::NONE {
                self.0.lock().unwrap().texts.retain(|(at, text)| (at, text) != (&name, &value));
            } else {
                self.add_text(&name, &value);
            }
        }
        Message::response(message.id, OpCode::Update)
    }

    /// Serves queries over UDP and updates over TCP, on one port.
    pub async fn serve(&self) -> SocketAddr {
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (tcp, udp);
            }
        };
        let address = tcp.local_addr().unwrap();
        let zone = self.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((n, from)) = udp.recv_from(&mut buffer).await {
                let answer = zone.answer(&Message::from_vec(&buffer[..n]).unwrap());
                udp.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        });
        let zone = self.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
                stream.read_exact(&mut bytes).await.unwrap();
                let answer = zone.update(&Message::from_vec(&bytes).unwrap()).to_vec().unwrap();
                let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                stream.write_all(&[&length, answer.as_slice()].concat()).await.unwrap();
            }
        });
        address
    }
}

/// What is said to pebble.
pub struct Setup {
    /// Where it looks for `http-01` and `tls-alpn-01`.
    pub ports: (u16, u16),
    pub dns: SocketAddr,
    /// Seconds that certificates are good for.
    pub validity: u32,
    /// Key id and key (base64url) that accounts have to be bound to.
    pub external: Option<(&'static str, &'static str)>,
}

/// A pebble that runs; ended with this.
pub struct Pebble {
    child: Child,
    directory: tempfile::TempDir,
    port: u16,
    setup: Setup,
    /// PEM, of what its own HTTPS is verified by.
    pub root: String,
}

impl Pebble {
    pub async fn start(setup: Setup) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_string()]).unwrap();
        let root = made.cert.pem();
        std::fs::write(directory.path().join("cert.pem"), &root).unwrap();
        std::fs::write(directory.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let port = free_port();
        let child = Self::spawn(&directory, port, &setup);
        let pebble = Self { child, directory, port, setup, root };
        pebble.up().await;
        pebble
    }

    fn spawn(directory: &tempfile::TempDir, port: u16, setup: &Setup) -> Child {
        let at = |name: &str| directory.path().join(name);
        let keys: HashMap<_, _> = setup.external.into_iter().collect();
        let config = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{}", free_port()),
            "certificate": at("cert.pem"),
            "privateKey": at("key.pem"),
            "httpPort": setup.ports.0,
            "tlsPort": setup.ports.1,
            "ocspResponderURL": "",
            "certificateValidityPeriod": setup.validity,
            "externalAccountBindingRequired": setup.external.is_some(),
            "externalAccountMACKeys": keys,
        }});
        std::fs::write(at("config.json"), config.to_string()).unwrap();
        let log = std::fs::File::create(at("log")).unwrap();
        Command::new("pebble")
            .args(["-config", at("config.json").to_str().unwrap()])
            .args(["-dnsserver", &setup.dns.to_string(), "-strict"])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", "15")
            .env("PEBBLE_AUTHZREUSE", "100")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("pebble is not installed: apt-get install pebble (deploy/setup does it)")
    }

    async fn up(&self) {
        let up = async {
            while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(SOON, up)
            .await
            .unwrap_or_else(|_| panic!("pebble does not start: {}", self.log()));
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Certificates issued so far.
    pub fn issued(&self) -> usize {
        self.log().matches("Issued certificate serial").count()
    }

    /// Ends it; its port is refused from now on.
    pub fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again: it has forgotten every account.
    pub async fn restart(&mut self) {
        self.child = Self::spawn(&self.directory, self.port, &self.setup);
        self.up().await;
    }

    /// An AcmeIssuer `pebble` that uses it, with more of its `spec`.
    pub fn issuer(&self, more: &str) -> String {
        issuer_at(self.port, &self.root, more)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A place for files of a test.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// An AcmeIssuer `pebble` with the directory at this port, which has this root, with more of its `spec`.
pub fn issuer_at(port: u16, root: &str, more: &str) -> String {
    let root: String = root.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "apiVersion: tombolo.dev/v1alpha1
kind: AcmeIssuer
metadata: {{name: pebble, namespace: shop}}
spec:
  termsOfServiceAgreed: true
  email: ops@shop.example
  directory: https://127.0.0.1:{}/dir
  caBundleRef: {{name: pebble-root}}
  {more}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: pebble-root, namespace: shop}}
data:
  ca.crt: |
{root}---
",
        port
    )
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Takes every certificate: it is looked at afterwards.
#[derive(Debug)]
pub struct Anything;

impl rustls::client::danger::ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        tombolo_core::tls::provider().signature_verification_algorithms.supported_schemes()
    }
}
