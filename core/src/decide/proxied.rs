//! Who speaks the PROXY protocol to a Gateway's listeners, from the Gateway's annotations.
//!
//! `tombolo.dev/proxy-protocol: v1 | v2 | any` says that connections begin with a header of that version, and
//! `tombolo.dev/proxy-protocol-from: 10.0.0.0/8, fd00::/8` who sends one: connections from elsewhere begin without, as
//! their word would not be believed. Without it, everybody has to send one.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::{Bind, Blocks, Cidr};
use crate::resources::ResourceSet;

/// The annotation that says which version is expected.
pub const PROXY_PROTOCOL: &str = "tombolo.dev/proxy-protocol";
/// The annotation that says from whom.
pub const PROXY_PROTOCOL_FROM: &str = "tombolo.dev/proxy-protocol-from";

/// Blocks that the annotation may name; more are refused.
const MOST_BLOCKS: usize = 64;

/// What connections of a listener begin with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxied {
    /// Version 1 (text) is taken.
    pub v1: bool,
    /// Version 2 (binary) is taken.
    pub v2: bool,
    /// Who sends a header; none: everybody.
    pub from: Option<Blocks>,
}

impl Proxied {
    /// From a Gateway's annotations. None: no header is expected. The error says what is wrong, for people.
    pub fn parse(annotations: &BTreeMap<String, String>) -> Result<Option<Self>, String> {
        let Some(version) = annotations.get(PROXY_PROTOCOL) else {
            return match annotations.contains_key(PROXY_PROTOCOL_FROM) {
                true => Err(format!(
                    "annotation {PROXY_PROTOCOL_FROM} says who sends headers, but {PROXY_PROTOCOL} does not say which"
                )),
                false => Ok(None),
            };
        };
        let (v1, v2) = match version.as_str() {
            "v1" => (true, false),
            "v2" => (false, true),
            "any" => (true, true),
            other => return Err(format!("annotation {PROXY_PROTOCOL}: {other:?} is not v1, v2 or any")),
        };
        let blocks = annotations.get(PROXY_PROTOCOL_FROM).map(|list| {
            let texts: Vec<&str> = list.split(',').map(str::trim).filter(|text| !text.is_empty()).collect();
            if texts.is_empty() || texts.len() > MOST_BLOCKS {
                return Err(format!("annotation {PROXY_PROTOCOL_FROM}: name 1 to {MOST_BLOCKS} blocks"));
            }
            let blocks: Result<Vec<Cidr>, _> = texts.into_iter().map(Cidr::parse).collect();
            let blocks = blocks.map_err(|error| format!("annotation {PROXY_PROTOCOL_FROM}: {error}"))?;
            Ok(Blocks::new(blocks))
        });
        Ok(Some(Self { v1, v2, from: blocks.transpose()? }))
    }

    /// True if a connection from this address begins with a header.
    pub fn expects(&self, peer: IpAddr) -> bool {
        self.from.as_ref().is_none_or(|from| from.contains(peer))
    }
}

/// By Gateway, `NAMESPACE/NAME`. A Gateway whose annotations cannot be read is not accepted and listens nowhere, as who
/// calls could not be told.
pub(crate) type ProxiedTable = BTreeMap<Arc<str>, Arc<Proxied>>;

pub(crate) fn proxied_table(resources: &ResourceSet) -> ProxiedTable {
    let of = |annotations| Proxied::parse(annotations).ok().flatten();
    let gateways = resources.gateways.iter();
    gateways
        .filter_map(|(key, gateway)| Some((key.to_string().into(), Arc::new(of(&gateway.meta.annotations)?))))
        .collect()
}

impl super::Compiled {
    /// What connections of this socket begin with. Gateways that share a socket share this: the first that says
    /// something is heard.
    pub fn proxied(&self, bind: &Bind) -> Option<Arc<Proxied>> {
        bind.listeners.iter().find_map(|listener| self.proxied.get(&listener.gateway)).cloned()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(list: &[(&str, &str)]) -> Result<Option<Proxied>, String> {
        Proxied::parse(&list.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    #[test]
    fn annotations_say_who_sends_which_version() {
        assert_eq!(parse(&[]), Ok(None));
        let any = parse(&[(PROXY_PROTOCOL, "any")]).unwrap().unwrap();
        assert!(any.v1 && any.v2 && any.expects([8, 8, 8, 8].into()));
        let some =
            parse(&[(PROXY_PROTOCOL, "v2"), (PROXY_PROTOCOL_FROM, "10.0.0.0/8, ::1")]).unwrap().unwrap();
        assert!(!some.v1 && some.v2);
        assert!(some.expects([10, 1, 2, 3].into()) && !some.expects([11, 1, 2, 3].into()));
        assert!(parse(&[(PROXY_PROTOCOL, "v3")]).unwrap_err().contains("v1, v2 or any"));
        assert!(parse(&[(PROXY_PROTOCOL, "v1"), (PROXY_PROTOCOL_FROM, "10.0.0.0/99")]).is_err());
        assert!(parse(&[(PROXY_PROTOCOL, "v1"), (PROXY_PROTOCOL_FROM, " ,")]).is_err());
        assert!(parse(&[(PROXY_PROTOCOL_FROM, "10.0.0.0/8")]).unwrap_err().contains("does not say which"));
    }
}
