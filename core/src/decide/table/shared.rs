//! Listeners that the same routes are attached to, such as those for HTTP and HTTPS, share one table.

use std::{collections::HashMap, sync::Arc};

use super::{Entry, RouteTable};
use crate::decide::{host::HostPattern, matcher::RequestMatch, rule::Rule};

/// Which match of which rule is attached for which host, by the route's host.
type Identity = (HostPattern, HostPattern, *const RequestMatch, *const Rule, u16);

/// Tables by what stands in them. For one compilation: an identity holds while its table does.
#[derive(Default)]
pub(crate) struct RouteTables(HashMap<Box<[Identity]>, Arc<RouteTable>>);

impl RouteTables {
    /// The table of these entries.
    pub(crate) fn share(&mut self, entries: Vec<(HostPattern, Entry)>) -> Arc<RouteTable> {
        let identity = |(host, entry): &(HostPattern, Entry)| {
            let (matches, rule) = (Arc::as_ptr(&entry.matches), Arc::as_ptr(&entry.rule));
            (host.clone(), entry.own.clone(), matches, rule, entry.position)
        };
        let identities = entries.iter().map(identity).collect();
        self.0.entry(identities).or_insert_with(|| Arc::new(RouteTable::new(entries))).clone()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        decide::{Compiled, compile},
        resources::{Source, parse},
    };

    fn compiled(text: &str) -> Compiled {
        let base = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: tombolo }
spec: { controllerName: tombolo.dev/gateway-controller }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: public }
spec:
  gatewayClassName: tombolo
  listeners:
    - { name: a, protocol: HTTP, port: 80 }
    - { name: b, protocol: HTTP, port: 81 }
    - { name: c, protocol: HTTP, port: 82, hostname: one.example }
---
";
        let parsed = parse(&[Source { name: "test".into(), text: base.to_owned() + text }]);
        assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
        compile(&parsed.resources)
    }

    fn is_shared(compiled: &Compiled, one: usize, other: usize) -> bool {
        let table = |at: usize| &compiled.binds[at].listeners[0].routes;
        Arc::ptr_eq(table(one), table(other))
    }

    #[test]
    fn what_is_the_same_is_held_once_and_what_differs_is_not() {
        let route = |parent: &str, hosts: &str| {
            let name = parent.len() + hosts.len();
            format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: r{name} }}\n\
                 spec: {{ parentRefs: [{{ name: public{parent} }}], hostnames: [{hosts}] }}\n---\n"
            )
        };
        let both = compiled(&route("", "one.example, two.example"));
        assert!(is_shared(&both, 0, 1) && !is_shared(&both, 0, 2));
        let of_one = compiled(&(route("", "one.example") + &route(", sectionName: a", "two.example")));
        assert!(!is_shared(&of_one, 0, 1) && is_shared(&of_one, 1, 2));
    }
}
