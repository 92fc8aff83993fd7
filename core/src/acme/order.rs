//! One order, from its account to its certificate.

use std::{fs::File, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use instant_acme::{
    AuthorizationStatus, CertificateIdentifier, ChallengeType, Error, Identifier, KeyAuthorization, NewOrder,
    Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::{
    Answer, Challenges, FailureKind, Issued,
    desk::{Desk, is_type, shorten},
    dns::{self, TxtRecord},
    store::Store,
};
use crate::{
    decide::{AcmeAuthority, AcmeCertificate, AcmeChallengeType},
    tls::EdgeCertificate,
};

/// An order may take this long, besides the time that its records take to spread.
const MOST_TIME: Duration = Duration::from_secs(300);
/// How long the authority may take to look at challenges, and again to issue.
const POLL: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(120));

/// Gives answers to challenges wherever an authority may come in.
#[async_trait]
pub trait Responder: Send + Sync + 'static {
    /// Returns when the answer is given everywhere, or with a reason for people.
    async fn give(&self, answer: &Answer) -> Result<(), String>;
    /// Gives it no more.
    async fn withdraw(&self, answer: &Answer);
}

#[async_trait]
impl Responder for Challenges {
    async fn give(&self, answer: &Answer) -> Result<(), String> {
        Challenges::give(self, answer).map_err(|error| error.to_string())
    }

    async fn withdraw(&self, answer: &Answer) {
        Challenges::withdraw(self, answer);
    }
}

/// Why an order failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct OrderError {
    pub(super) kind: FailureKind,
    /// For people; says nothing of keys.
    pub(super) message: String,
    /// How long the authority wants to be left alone.
    pub(super) retry_after: Option<Duration>,
}

impl OrderError {
    pub(super) fn local(message: impl Into<String>) -> Self {
        Self { kind: FailureKind::Local, message: message.into(), retry_after: None }
    }

    fn challenge(message: impl Into<String>) -> Self {
        Self { kind: FailureKind::Challenge, message: message.into(), retry_after: None }
    }
}

/// Orders certificates.
pub(super) struct Orderer {
    pub(super) store: Store,
    pub(super) responder: Arc<dyn Responder>,
    /// The command for `dns-01` where there is no server for updates.
    pub(super) hook: Option<PathBuf>,
    /// Held for as long as there may be orders.
    pub(super) _lock: File,
}

/// Orders in a row where nonces are not taken.
const ATTEMPTS: u32 = 3;

/// What has been shown to the authority, and has to be taken back.
#[derive(Default)]
struct Shown {
    answers: Vec<Answer>,
    records: Vec<TxtRecord>,
}

/// True if the authority has not said again what the order replaces (RFC 9773 section 5): it may not know that field.
fn is_unreflected(error: &Error) -> bool {
    matches!(error, Error::Other(error) if error.to_string().starts_with("replaces field mismatch"))
}

impl Orderer {
    /// Orders. `replaces`: the one in use, if the authority knows of renewal windows.
    pub(super) async fn order(
        &self,
        wanted: &AcmeCertificate,
        replaces: Option<&Issued>,
    ) -> Result<Issued, OrderError> {
        let mut attempts = 1;
        loop {
            let mut shown = Shown::default();
            let limit = MOST_TIME + wanted.authority.propagation;
            let attempt = tokio::time::timeout(limit, self.attempt(wanted, replaces, &mut shown)).await;
            self.take_back(&wanted.authority, shown).await;
            let over = |_| Err(OrderError::local(format!("the order took longer than {limit:?}")));
            match attempt.unwrap_or_else(over) {
                // No fault of the order's, and the next one may have better luck: there is nothing to wait for.
                Err(error) if error.kind == FailureKind::Nonce && attempts < ATTEMPTS => attempts += 1,
                outcome => return outcome,
            }
        }
    }

    /// The authority's window for the renewal of a certificate, and when to ask again. None: it has none.
    pub(super) async fn window(
        &self,
        authority: &AcmeAuthority,
        issued: &Issued,
    ) -> Option<((i64, i64), Duration)> {
        let (key, serial) = issued.ari_id()?;
        let id = CertificateIdentifier::new(key.as_slice().into(), serial.as_slice().into());
        let desk = Desk::open(&self.store, authority).await.ok()?;
        let (info, again) = desk.account.renewal_info(&id).await.ok()?;
        let millis = |time: time::OffsetDateTime| time.unix_timestamp().saturating_mul(1000);
        Some(((millis(info.suggested_window.start), millis(info.suggested_window.end)), again))
    }

    async fn attempt(
        &self,
        wanted: &AcmeCertificate,
        replaces: Option<&Issued>,
        shown: &mut Shown,
    ) -> Result<Issued, OrderError> {
        let authority = &*wanted.authority;
        let mut desk = Desk::open(&self.store, authority).await?;
        let mut order = match self.place(&desk, wanted, replaces).await {
            // The authority has forgotten us: one more try with a new account.
            Err(error) if is_type(&error, "accountDoesNotExist") => {
                desk = Desk::register(&self.store, authority).await?;
                self.place(&desk, wanted, replaces).await
            }
            placed => placed,
        }
        .map_err(|error| desk.explain(error))?;
        self.show_all(&desk, &mut order, authority, shown).await?;
        match order.poll_ready(&POLL).await {
            Ok(OrderStatus::Ready | OrderStatus::Valid) => {}
            Ok(_) => return Err(why_invalid(&mut order).await),
            Err(error) => {
                let explained = desk.explain(error);
                return Err(match explained.kind {
                    FailureKind::Limited => explained,
                    _ if order.state().status == OrderStatus::Invalid => why_invalid(&mut order).await,
                    _ => explained,
                });
            }
        }
        finish(&desk, &mut order, wanted).await
    }

    async fn place(
        &self,
        desk: &Desk,
        wanted: &AcmeCertificate,
        replaces: Option<&Issued>,
    ) -> Result<Order, Error> {
        let names: Vec<Identifier> =
            wanted.names.iter().map(|name| Identifier::Dns(name.to_string())).collect();
        if let Some((key, serial)) = replaces.and_then(Issued::ari_id) {
            let id = CertificateIdentifier::new(key.as_slice().into(), serial.as_slice().into());
            match desk.account.new_order(&NewOrder::new(&names).replaces(id)).await {
                // It may not know that one, or it was replaced already: then this is an order like any other.
                Err(error)
                    if is_type(&error, "alreadyReplaced")
                        || is_type(&error, "malformed")
                        || matches!(error, Error::Unsupported(_))
                        || is_unreflected(&error) => {}
                placed => return placed,
            }
        }
        desk.account.new_order(&NewOrder::new(&names)).await
    }

    /// Shows everything that the authority asks for, then says so.
    async fn show_all(
        &self,
        desk: &Desk,
        order: &mut Order,
        authority: &AcmeAuthority,
        shown: &mut Shown,
    ) -> Result<(), OrderError> {
        let kind = match authority.challenge {
            AcmeChallengeType::Http01 => ChallengeType::Http01,
            AcmeChallengeType::TlsAlpn01 => ChallengeType::TlsAlpn01,
            AcmeChallengeType::Dns01 => ChallengeType::Dns01,
        };
        let mut open = 0;
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(|error| desk.explain(error))?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let name = authorization.identifier().identifier.clone();
            let Identifier::Dns(name) = name else { continue };
            let Some(challenge) = authorization.challenge(kind.clone()) else {
                return Err(OrderError::challenge(format!("{name}: the authority offers no {kind:?}")));
            };
            let proof = challenge.key_authorization();
            self.show(authority, &name, &challenge.token, &proof, shown).await?;
            open += 1;
        }
        if open == 0 {
            return Ok(());
        }
        if !shown.records.is_empty() {
            tokio::time::sleep(authority.propagation).await;
        }
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(|error| desk.explain(error))?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            if let Some(mut challenge) = authorization.challenge(kind.clone()) {
                challenge.set_ready().await.map_err(|error| desk.explain(error))?;
            }
        }
        Ok(())
    }

    async fn show(
        &self,
        authority: &AcmeAuthority,
        name: &str,
        token: &str,
        proof: &KeyAuthorization,
        shown: &mut Shown,
    ) -> Result<(), OrderError> {
        let answer = match authority.challenge {
            AcmeChallengeType::Http01 => Answer::Http { token: token.into(), body: proof.as_str().into() },
            AcmeChallengeType::TlsAlpn01 => {
                let digest = proof.digest().as_ref().try_into();
                let digest = digest.map_err(|_| OrderError::local("the digest is not SHA-256"))?;
                Answer::Tls { name: name.to_ascii_lowercase().into(), digest }
            }
            AcmeChallengeType::Dns01 => {
                let record = TxtRecord { name: format!("_acme-challenge.{name}"), value: proof.dns_value() };
                // Also where it fails: it may have been written all the same.
                shown.records.push(record.clone());
                let written = dns::write(authority, self.hook.as_deref(), &record).await;
                return written.map_err(|error| OrderError::local(format!("{}: {error}", record.name)));
            }
        };
        shown.answers.push(answer.clone());
        self.responder.give(&answer).await.map_err(OrderError::local)
    }

    async fn take_back(&self, authority: &AcmeAuthority, shown: Shown) {
        for answer in &shown.answers {
            self.responder.withdraw(answer).await;
        }
        for record in &shown.records {
            if let Err(error) = dns::remove(authority, self.hook.as_deref(), record).await {
                tracing::warn!(name = record.name, %error, "a challenge's record could not be removed");
            }
        }
    }
}

/// What the authority says about each name that it could not verify.
async fn why_invalid(order: &mut Order) -> OrderError {
    let mut reasons = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let name = authorization.identifier().to_string();
        let Ok(state) = authorization.refresh().await else { continue };
        let errors = state.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
        reasons.extend(errors.map(|error| format!("{name}: {error}")));
    }
    if reasons.is_empty() {
        reasons.push("the authority has refused the order".into());
    }
    OrderError::challenge(shorten(&reasons.join("; ")))
}

/// A fresh key, its request, and the certificate for it.
async fn finish(desk: &Desk, order: &mut Order, wanted: &AcmeCertificate) -> Result<Issued, OrderError> {
    let failed = |error: rcgen::Error| OrderError::local(format!("the request for the certificate: {error}"));
    let names: Vec<String> = wanted.names.iter().map(ToString::to_string).collect();
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::new(names.clone()).map_err(failed)?;
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(failed)?;
    order.finalize_csr(request.der()).await.map_err(|error| desk.explain(error))?;
    let chain = order.poll_certificate(&POLL).await.map_err(|error| desk.explain(error))?;
    let issued = Issued {
        secret: wanted.secret.to_string(),
        issuer: wanted.authority.issuer.to_string(),
        directory: wanted.authority.directory.to_string(),
        names,
        certificate: chain,
        key: key.serialize_pem(),
    };
    check(&issued).map_err(|message| OrderError {
        kind: FailureKind::Authority,
        message: format!("what was issued cannot be used: {message}"),
        retry_after: None,
    })?;
    Ok(issued)
}

/// That it can be served, and is for the names that were ordered.
fn check(issued: &Issued) -> Result<(), String> {
    let certificate =
        EdgeCertificate::from_pem(&issued.secret, issued.certificate.as_bytes(), issued.key.as_bytes())
            .map_err(|error| error.to_string())?;
    let missing = issued.names.iter().find(|name| !certificate.names().contains(name));
    match missing {
        Some(name) => Err(format!("it is not for {name}")),
        None => Ok(()),
    }
}
