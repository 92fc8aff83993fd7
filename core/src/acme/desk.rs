//! Our account with an authority, and its errors in our words.

use instant_acme::{Account, Error, ExternalAccountKey, NewAccount, Problem};

use super::{
    FailureKind,
    http::{Client, RetryAfter},
    order::OrderError,
    store::Store,
};
use crate::decide::AcmeAuthority;

/// An authority with our account there.
pub(super) struct Desk {
    pub(super) account: Account,
    retry_after: RetryAfter,
}

impl Desk {
    /// Our account there; a new one where there is none.
    pub(super) async fn open(store: &Store, authority: &AcmeAuthority) -> Result<Self, OrderError> {
        let kept = store.account(authority);
        let kept = kept.map_err(|error| OrderError::local(format!("the account's key: {error}")))?;
        let Some(credentials) = kept else { return Self::register(store, authority).await };
        let (client, retry_after) = client(authority)?;
        let account = Account::builder_with_http(Box::new(client)).from_credentials(credentials).await;
        let account = account.map_err(|error| unreachable(authority, &retry_after, error))?;
        Ok(Self { account, retry_after })
    }

    pub(super) async fn register(store: &Store, authority: &AcmeAuthority) -> Result<Self, OrderError> {
        let (client, retry_after) = client(authority)?;
        let contact = authority.email.as_ref().map(|email| format!("mailto:{email}"));
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        let new =
            NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let external =
            authority.external.as_ref().map(|(id, key)| ExternalAccountKey::new(id.to_string(), &key.0));
        let created = Account::builder_with_http(Box::new(client))
            .create(&new, authority.directory.to_string(), external.as_ref())
            .await;
        let (account, credentials) = created.map_err(|error| unreachable(authority, &retry_after, error))?;
        store
            .keep_account(authority, &credentials)
            .map_err(|error| OrderError::local(format!("the account's key cannot be kept: {error}")))?;
        tracing::info!(issuer = %authority.issuer, directory = %authority.directory, "registered");
        Ok(Self { account, retry_after })
    }

    /// An error in our words.
    pub(super) fn explain(&self, error: Error) -> OrderError {
        let (kind, message) = match &error {
            Error::Api(problem) => (kind_of(problem), problem.to_string()),
            Error::Timeout(_) => {
                (FailureKind::Authority, "the authority has not come to an end in time".into())
            }
            other => (FailureKind::Authority, other.to_string()),
        };
        let retry_after = self.retry_after.get();
        OrderError { kind, message: shorten(&message), retry_after }
    }
}

/// By the problem's type (RFC 8555 section 6.7).
fn kind_of(problem: &Problem) -> FailureKind {
    match problem_type(problem) {
        "rateLimited" => FailureKind::Limited,
        "badNonce" => FailureKind::Nonce,
        "unauthorized"
        | "connection"
        | "dns"
        | "caa"
        | "tls"
        | "incorrectResponse"
        | "rejectedIdentifier"
        | "unsupportedIdentifier" => FailureKind::Challenge,
        _ if matches!(problem.status, Some(429 | 503)) => FailureKind::Limited,
        _ => FailureKind::Authority,
    }
}

fn problem_type(problem: &Problem) -> &str {
    problem.r#type.as_deref().and_then(|text| text.rsplit(':').next()).unwrap_or_default()
}

pub(super) fn is_type(error: &Error, wanted: &str) -> bool {
    matches!(error, Error::Api(problem) if problem_type(problem) == wanted)
}

/// What others wrote is shown in part only, on one line.
pub(super) fn shorten(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}

fn client(authority: &AcmeAuthority) -> Result<(Client, RetryAfter), OrderError> {
    let retry_after = RetryAfter::default();
    let client =
        Client::new(authority.roots_pem.as_deref(), retry_after.clone()).map_err(OrderError::local)?;
    Ok((client, retry_after))
}

fn unreachable(authority: &AcmeAuthority, retry_after: &RetryAfter, error: Error) -> OrderError {
    let (kind, message) = match &error {
        Error::Api(problem) => (kind_of(problem), problem.to_string()),
        other => (FailureKind::Authority, other.to_string()),
    };
    let message = shorten(&format!("{}: {message}", authority.directory));
    OrderError { kind, message, retry_after: retry_after.get() }
}
