//! What the demo service answers.

use hyper::StatusCode;
use serde::{Deserialize, Serialize};

/// Who answered, who had called, and what was called next.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct Reply {
    /// The service's name.
    pub service: String,
    /// Its version.
    pub version: String,
    /// The cluster it runs in.
    pub cluster: String,
    /// The SPIFFE ID of the caller, as its sidecar verified it.
    pub caller: Option<String>,
    /// The baggage that arrived.
    pub baggage: Option<String>,
    /// What was called next, in order.
    pub calls: Vec<Outcome>,
}

/// What came of a call.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(untagged)]
pub enum Outcome {
    /// The called service's own answer.
    Reply(Box<Reply>),
    /// It failed.
    Failed {
        /// What was called.
        url: String,
        /// The status it answered, if it did.
        status: Option<u16>,
        /// In words.
        error: String,
    },
}

impl Outcome {
    /// True if the call was answered with success.
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Reply(_))
    }

    /// What to tell our own caller: a refusal is passed on, anything else is a bad gateway.
    pub fn status_for_caller(&self) -> StatusCode {
        match self {
            Self::Failed { status: Some(403), .. } => StatusCode::FORBIDDEN,
            Self::Failed { .. } => StatusCode::BAD_GATEWAY,
            Self::Reply(_) => StatusCode::OK,
        }
    }
}

impl Reply {
    /// The first reply of this service in the chain, depth first.
    pub fn find(&self, service: &str) -> Option<&Self> {
        if self.service == service {
            return Some(self);
        }
        self.calls.iter().find_map(|call| match call {
            Outcome::Reply(reply) => reply.find(service),
            Outcome::Failed { .. } => None,
        })
    }
}

/// The `URI=` part of an `x-forwarded-client-cert` header.
pub fn caller_uri(header: &str) -> Option<String> {
    header
        .split(';')
        .find_map(|part| part.trim().strip_prefix("URI="))
        .map(|uri| uri.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(service: &str, calls: Vec<Outcome>) -> Reply {
        Reply {
            service: service.into(),
            version: "v1".into(),
            cluster: "east".into(),
            caller: None,
            baggage: None,
            calls,
        }
    }

    #[test]
    fn finds_a_service_down_the_chain_and_survives_json() {
        let failed = Outcome::Failed { url: "http://x/".into(), status: Some(403), error: "no".into() };
        let inner = Outcome::Reply(Box::new(reply("payments", vec![])));
        let outer =
            reply("storefront", vec![failed, Outcome::Reply(Box::new(reply("checkout", vec![inner])))]);
        let json = serde_json::to_string(&outer).expect("serializes");
        let back: Reply = serde_json::from_str(&json).expect("parses");
        assert_eq!(back, outer);
        assert_eq!(back.find("payments").map(|r| r.service.as_str()), Some("payments"));
        assert!(back.find("ledger").is_none());
    }

    #[test]
    fn takes_the_uri_out_of_the_client_certificate_header() {
        let header = "By=spiffe://a/ns/x/sa/y;URI=spiffe://b/ns/z/sa/w";
        assert_eq!(caller_uri(header).as_deref(), Some("spiffe://b/ns/z/sa/w"));
        assert_eq!(caller_uri("By=spiffe://a/ns/x/sa/y"), None);
    }
}
