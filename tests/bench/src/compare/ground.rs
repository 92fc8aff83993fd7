//! What all contenders stand on: applications, certificates, files.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::{
    Failure, backend,
    documents::Certificate,
    process::{PROXY_CORE, Process, beside, free_ports, pinned},
};

/// Applications and files.
pub struct Ground {
    dir: tempfile::TempDir,
    /// Of the edge's hosts.
    pub certificate: Certificate,
    /// HTTP/1.1.
    pub app: SocketAddr,
    /// Another version of it.
    pub app_v2: SocketAddr,
    /// HTTP/1.1 over TLS.
    pub tls_app: SocketAddr,
    /// gRPC without TLS.
    pub grpc_app: SocketAddr,
    envoy: PathBuf,
}

impl Ground {
    /// Starts the applications and makes certificates, all with keys on P-256.
    pub async fn new(envoy: PathBuf) -> Result<Self, Failure> {
        let dir = tempfile::tempdir()?;
        let certificate = Certificate::make(dir.path())?;
        together(dir.path(), "tls")?;
        identities(dir.path())?;
        Ok(Self {
            certificate,
            app: backend::start().await?,
            app_v2: backend::start().await?,
            tls_app: backend::start_tls(dir.path()).await?,
            grpc_app: backend::start_grpc().await?,
            dir,
            envoy,
        })
    }

    /// Where all files are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its binary.
    pub fn program(&self, name: &str) -> Result<PathBuf, Failure> {
        match name {
            "envoy" => Ok(self.envoy.clone()),
            "tombolo" => beside(name),
            name => Ok(name.into()),
        }
    }

    /// What a program says of its version; nothing if it cannot be run.
    pub fn version(&self, name: &str, flag: &str) -> Option<String> {
        let program = self.program(name).ok()?;
        let output = Command::new(&program).arg(flag).output().ok()?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let line = said.lines().map(str::trim).find(|line| !line.is_empty())?;
        Some(line.strip_prefix(&program.display().to_string()).unwrap_or(line).trim().to_owned())
    }

    /// Starts a peer with one of the configurations in `tests/bench/peers`, on the core of proxies.
    pub fn peer(&self, name: &str, config: &Filled, listens: &[SocketAddr]) -> Result<Process, Failure> {
        let name = name.replace(['/', ' ', ','], "-");
        let file = self.dir().join(format!("{name}-{}", config.name));
        fs::write(&file, &config.text)?;
        let (program, _) = config.name.split_once('-').ok_or("a template's name begins with its program")?;
        let mut command = pinned(PROXY_CORE);
        command.arg(self.program(program)?);
        match program {
            "envoy" => {
                command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"])
            }
            "haproxy" => command.args(["-db", "-f"]),
            _ => command.args(["-e", "stderr", "-c"]),
        };
        let mut process = Process::start(&format!("{name}-{}", config.name), command.arg(file), self.dir())?;
        process.ready(None, listens)?;
        Ok(process)
    }

    /// Free addresses, one for each of these names.
    pub fn addresses<const N: usize>(&self) -> Result<[SocketAddr; N], Failure> {
        let numbers: [u16; N] = std::array::from_fn(|number| number as u16);
        let base = free_ports(&numbers)?;
        Ok(numbers.map(|number| SocketAddr::from(([127, 0, 0, 1], base + number))))
    }
}

/// A configuration with its words filled in.
#[derive(Debug, PartialEq)]
pub struct Filled {
    name: &'static str,
    text: String,
}

/// A configuration of `tests/bench/peers`, in which `@WORD@` stands for a text.
pub struct Template {
    /// The file's name: the program, a hyphen, and what for.
    pub name: &'static str,
    pub text: &'static str,
}

impl Template {
    /// Fills in texts and, for an address `WORD`, `@WORD@` and `@WORD_PORT@`.
    pub fn fill(&self, addresses: &[(&str, SocketAddr)], texts: &[(&str, &str)]) -> Result<Filled, Failure> {
        let mut text = self.text.to_owned();
        for (word, address) in addresses {
            text = text.replace(&format!("@{word}@"), &address.to_string());
            text = text.replace(&format!("@{word}_PORT@"), &address.port().to_string());
        }
        for (word, with) in texts {
            text = text.replace(&format!("@{word}@"), with);
        }
        let mut words = text.split('@').skip(1);
        let is_word = |w: &&str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
        match words.find(is_word) {
            Some(word) => Err(format!("{}: nothing for @{word}@", self.name).into()),
            None => Ok(Filled { name: self.name, text }),
        }
    }
}

/// An authority, and certificates of a `client` and a `server` for mutual TLS.
fn identities(dir: &Path) -> Result<(), Failure> {
    let mut authority = CertificateParams::new(Vec::new())?;
    // Who has its issuer's name is taken for self-signed.
    authority.distinguished_name.push(DnType::CommonName, "bench authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    fs::write(dir.join("ca.crt"), authority.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(authority, key);
    for name in ["client", "server"] {
        let key = KeyPair::generate()?;
        let mut made = CertificateParams::new([format!("{name}.example.test")])?;
        made.distinguished_name.push(DnType::CommonName, name);
        let made = made.signed_by(&key, &issuer)?;
        fs::write(dir.join(format!("{name}.crt")), made.pem())?;
        fs::write(dir.join(format!("{name}.key")), key.serialize_pem())?;
        together(dir, name)?;
    }
    Ok(())
}

/// Certificate and key in one file, as HAProxy wants them.
fn together(dir: &Path, name: &str) -> Result<(), Failure> {
    let part = |end: &str| fs::read_to_string(dir.join(format!("{name}.{end}")));
    Ok(fs::write(dir.join(format!("{name}.pem")), part("crt")? + &part("key")?)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_in_whole() {
        let template = Template { name: "x-y", text: "bind @HERE@ port @HERE_PORT@ \"@type\": a@b.c @WHAT@" };
        let here = [("HERE", SocketAddr::from(([127, 0, 0, 1], 80)))];
        let filled = template.fill(&here, &[("WHAT", "that")]).unwrap();
        assert_eq!(filled.text, "bind 127.0.0.1:80 port 80 \"@type\": a@b.c that");
        assert_eq!(template.fill(&here, &[]).unwrap_err().to_string(), "x-y: nothing for @WHAT@");
    }
}
