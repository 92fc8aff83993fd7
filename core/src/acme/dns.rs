//! The records of `dns-01`: written by dynamic update (RFC 2136, signed as RFC 8945 says), or by a command.

use std::{
    io,
    path::Path,
    process::Stdio,
    time::{Duration, SystemTime},
};

use hickory_proto::{
    op::{Message, ResponseCode, update_message},
    rr::{
        Name, RData, Record, RecordSet, TSigner,
        rdata::{TXT, tsig::TsigAlgorithm},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
};

use crate::{
    decide::{AcmeAuthority, DnsUpdate, TsigAlgorithmName, TsigKey},
    outgoing,
};

/// Seconds that others may keep the record.
const TTL: u32 = 60;
/// One update, from the connection to its answer.
const MOST_UPDATE: Duration = Duration::from_secs(15);
/// One run of the command.
const MOST_COMMAND: Duration = Duration::from_secs(120);
/// Seconds by which our clock and the server's may differ (RFC 8945 section 10).
const FUDGE: u16 = 300;

/// A TXT record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TxtRecord {
    /// Without a dot at its end.
    pub(super) name: String,
    pub(super) value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Add,
    Remove,
}

/// Adds the record to those that are there.
pub(super) async fn write(
    authority: &AcmeAuthority,
    hook: Option<&Path>,
    record: &TxtRecord,
) -> Result<(), String> {
    change(authority, hook, record, Change::Add).await
}

/// Removes this record, and no other of its name.
pub(super) async fn remove(
    authority: &AcmeAuthority,
    hook: Option<&Path>,
    record: &TxtRecord,
) -> Result<(), String> {
    change(authority, hook, record, Change::Remove).await
}

async fn change(
    authority: &AcmeAuthority,
    hook: Option<&Path>,
    record: &TxtRecord,
    change: Change,
) -> Result<(), String> {
    match (&authority.update, hook) {
        (Some(update), _) => by_update(update, record, change).await,
        (None, Some(hook)) => by_command(hook, record, change).await,
        (None, None) => Err(
            "nothing writes records here: give the AcmeIssuer dns.rfc2136, or the process --acme-dns-hook"
                .into(),
        ),
    }
}

/// Runs `COMMAND add|remove NAME VALUE`.
async fn by_command(hook: &Path, record: &TxtRecord, change: Change) -> Result<(), String> {
    let verb = match change {
        Change::Add => "add",
        Change::Remove => "remove",
    };
    let running = Command::new(hook)
        .args([verb, &record.name, &record.value])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let running = running.map_err(|error| format!("cannot run {}: {error}", hook.display()))?;
    let ended = tokio::time::timeout(MOST_COMMAND, running.wait_with_output()).await;
    let ended = ended.map_err(|_| format!("{} took longer than {MOST_COMMAND:?}", hook.display()))?;
    let output = ended.map_err(|error| format!("{}: {error}", hook.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String = said.lines().next().unwrap_or_default().chars().take(200).collect();
    Err(format!("{} {verb}: {}: {said}", hook.display(), output.status))
}

async fn by_update(update: &DnsUpdate, record: &TxtRecord, change: Change) -> Result<(), String> {
    let at = |error: io::Error| format!("DNS update at {}: {error}", update.server);
    let (message, mut verifier) = message(update, record, change)?;
    let exchange = tokio::time::timeout(MOST_UPDATE, exchange(update, &message));
    let answer = exchange.await.map_err(|_| at(io::ErrorKind::TimedOut.into()))?.map_err(at)?;
    let malformed = |error: String| format!("DNS update at {}: {error}", update.server);
    // An error such as BADKEY is not signed: it is told as it is, since it lets nothing through.
    let code = Message::from_vec(&answer).map_err(|error| malformed(error.to_string()))?.response_code;
    if code != ResponseCode::NoError {
        return Err(format!("DNS update at {}: {code}", update.server));
    }
    if let Some(verifier) = &mut verifier {
        verifier.verify(&answer).map_err(|error| malformed(error.to_string()))?;
    }
    Ok(())
}

type Verifier = Option<hickory_proto::rr::TSigVerifier>;

fn message(update: &DnsUpdate, record: &TxtRecord, change: Change) -> Result<(Vec<u8>, Verifier), String> {
    let name = |text: &str| {
        let mut name = Name::from_ascii(text).map_err(|error| format!("{text}: {error}"))?;
        name.set_fqdn(true);
        Ok::<_, String>(name)
    };
    let (zone, owner) = (name(&update.zone)?, name(&record.name)?);
    if !zone.zone_of(&owner) {
        return Err(format!("{} is not in zone {}", record.name, update.zone));
    }
    let data = RData::TXT(TXT::new(vec![record.value.clone()]));
    let set = RecordSet::from(Record::from_rdata(owner, TTL, data));
    let mut message = match change {
        Change::Add => update_message::append(set, zone, false, false),
        Change::Remove => update_message::delete_by_rdata(set, zone, false),
    };
    let mut verifier = None;
    if let Some(key) = &update.tsig {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let signed = signer(key, name(&key.name)?)?;
        verifier = message.finalize(&signed, now).map_err(|error| error.to_string())?;
    }
    Ok((message.to_vec().map_err(|error| error.to_string())?, verifier))
}

fn signer(key: &TsigKey, name: Name) -> Result<TSigner, String> {
    let algorithm = match key.algorithm {
        TsigAlgorithmName::HmacSha256 => TsigAlgorithm::HmacSha256,
        TsigAlgorithmName::HmacSha384 => TsigAlgorithm::HmacSha384,
        TsigAlgorithmName::HmacSha512 => TsigAlgorithm::HmacSha512,
    };
    TSigner::new(key.key.0.to_vec(), algorithm, name, FUDGE).map_err(|error| error.to_string())
}

/// Over TCP (RFC 7766): an update may be answered there by every server.
async fn exchange(update: &DnsUpdate, message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut tcp = outgoing::connect(update.server).await?;
    tcp.write_all(&[&length.to_be_bytes(), message].concat()).await?;
    let length = tcp.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    tcp.read_exact(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use hickory_proto::op::OpCode;
    use tokio::net::TcpListener;

    use super::*;
    use crate::decide::Hidden;

    const KEY: &[u8] = b"a key of thirty-two bytes or more";

    fn update(server: std::net::SocketAddr) -> DnsUpdate {
        let key = Hidden(KEY.into());
        let tsig = TsigKey { name: "acme.key".into(), algorithm: TsigAlgorithmName::HmacSha256, key };
        DnsUpdate { server, zone: "example".into(), tsig: Some(tsig) }
    }

    fn record(name: &str) -> TxtRecord {
        TxtRecord { name: name.into(), value: "proof".into() }
    }

    /// A primary server that answers one update, signed with `key`, and gives what it was sent.
    async fn primary(key: &'static [u8]) -> (std::net::SocketAddr, tokio::task::JoinHandle<Message>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut bytes = vec![0; usize::from(tcp.read_u16().await.unwrap())];
            tcp.read_exact(&mut bytes).await.unwrap();
            let name = Name::from_ascii("acme.key.").unwrap();
            let ours = TSigner::new(KEY.to_vec(), TsigAlgorithm::HmacSha256, name.clone(), FUDGE).unwrap();
            let (mac, time, _) = ours.verify_message_byte(&bytes, None, true).unwrap();
            let request = Message::from_vec(&bytes).unwrap();
            let mut answer = Message::response(request.id, OpCode::Update);
            let theirs = TSigner::new(key.to_vec(), TsigAlgorithm::HmacSha256, name, FUDGE).unwrap();
            let context = hickory_proto::rr::TSigResponseContext::new(request.id, time, theirs, mac, None);
            let unsigned = answer.to_vec().unwrap();
            answer.set_signature(context.sign(&unsigned).unwrap());
            let bytes = answer.to_vec().unwrap();
            let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
            tcp.write_all(&[&length, bytes.as_slice()].concat()).await.unwrap();
            request
        });
        (address, task)
    }

    #[tokio::test]
    async fn an_update_is_signed_and_so_is_its_answer() {
        let (server, asked) = primary(KEY).await;
        by_update(&update(server), &record("_acme-challenge.a.example"), Change::Add).await.unwrap();
        let asked = asked.await.unwrap();
        assert_eq!(asked.op_code, OpCode::Update);
        let added = &asked.authorities[0];
        assert_eq!(added.name.to_string(), "_acme-challenge.a.example.");
        assert_eq!(added.data.to_string(), "proof");
    }

    #[tokio::test]
    async fn an_answer_by_another_key_is_not_believed() {
        let (server, asked) = primary(b"another key, of the same length..").await;
        let refused = by_update(&update(server), &record("_acme-challenge.a.example"), Change::Remove).await;
        assert!(refused.is_err());
        asked.await.unwrap();
    }

    #[test]
    fn a_name_outside_of_the_zone_is_refused() {
        let update = update(([127, 0, 0, 1], 53).into());
        let refused = message(&update, &record("_acme-challenge.a.other"), Change::Add).err().unwrap();
        assert_eq!(refused, "_acme-challenge.a.other is not in zone example");
    }

    #[tokio::test]
    async fn a_command_is_told_what_to_do_and_its_words_are_passed_on() {
        let dir = tempfile::tempdir().unwrap();
        let (hook, log) = (dir.path().join("hook"), dir.path().join("log"));
        let script = format!(
            "#!/bin/sh\necho \"$@\" >> {}\n[ $1 = add ] || {{ echo no >&2; exit 3; }}\n",
            log.display()
        );
        std::fs::write(&hook, script).unwrap();
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
        by_command(&hook, &record("_acme-challenge.a.example"), Change::Add).await.unwrap();
        let failed = by_command(&hook, &record("x"), Change::Remove).await.unwrap_err();
        assert!(failed.contains("remove") && failed.ends_with(": no"), "{failed}");
        assert_eq!(
            std::fs::read_to_string(log).unwrap(),
            "add _acme-challenge.a.example proof\nremove x proof\n"
        );
    }
}
