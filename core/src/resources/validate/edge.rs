//! GatewayClass, Gateway, ReferenceGrant, Service, Secret, EndpointSlice, Endpoints.

use super::common::Checker;
use crate::resources::kinds::{
    EndpointSlice, Endpoints, FromNamespaces, Gateway, GatewayClass, ListenerSet, ListenerSpec,
    ReferenceGrant, RouteNamespaces, Secret, Service, ServicePortSpec, TargetPort,
};

pub(super) fn gateway_class(c: &mut Checker, class: &GatewayClass) {
    let has_form = class.controller_name.split_once('/').is_some_and(|(domain, path)| {
        !path.is_empty() && domain.contains('.') && crate::model::check_dns_subdomain(domain).is_ok()
    });
    c.at("controllerName", |c| {
        c.require(has_form, "is not DOMAIN/PATH", "ours is tombolo.dev/gateway-controller");
    });
}

pub(super) fn gateway(c: &mut Checker, gateway: &Gateway) {
    if let Some(tls) = &gateway.tls {
        c.at("tls", |c| super::stream::gateway_tls(c, tls));
    }
    listeners(c, &gateway.listeners);
    let allowed = gateway.allowed_listeners.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
    c.at("allowedListeners.namespaces", |c| namespaces(c, allowed));
    if let Some(infrastructure) = &gateway.infrastructure {
        c.at("infrastructure", |c| {
            c.at_most("labels", infrastructure.labels.len(), 8);
            c.labels("labels", &infrastructure.labels);
            c.at_most("annotations", infrastructure.annotations.len(), 16);
        });
    }
    if let Some(scope) = gateway.default_scope.as_deref() {
        let known = matches!(scope, "All" | "None");
        c.at("defaultScope", |c| c.require(known, format!("{scope:?} is not known"), "use All or None"));
    }
    c.at_most("addresses", gateway.addresses.len(), 16);
    c.each("addresses", &gateway.addresses, |c, address| {
        if let (None | Some("IPAddress"), Some(value)) = (address.r#type.as_deref(), &address.value)
            && !value.is_empty()
        {
            c.address("value", value);
        }
    });
}

pub(super) fn listener_set(c: &mut Checker, set: &ListenerSet) {
    c.at("parentRef", |c| c.dns_name("name", &set.parent_ref.name));
    listeners(c, &set.listeners);
}

fn listeners(c: &mut Checker, listeners: &[ListenerSpec]) {
    let count = listeners.len();
    c.at("listeners", |c| {
        c.require((1..=64).contains(&count), format!("has {count} entries"), "use 1 to 64")
    });
    c.unique("listeners", "listener", listeners.iter().map(|l| l.name.as_str()));
    c.each("listeners", listeners, listener);
}

fn namespaces(c: &mut Checker, namespaces: Option<&RouteNamespaces>) {
    let needs = namespaces.is_some_and(|n| n.from == Some(FromNamespaces::Selector));
    let there = namespaces.is_some_and(|n| n.selector.is_some());
    c.at("selector", |c| c.require(!needs || there, "is missing", "from: Selector needs it"));
    let expressions = namespaces.and_then(|n| n.selector.as_ref()).map(|s| s.match_expressions.as_slice());
    c.at("selector", |c| {
        if let Some(selector) = namespaces.and_then(|n| n.selector.as_ref()) {
            c.labels("matchLabels", &selector.match_labels);
        }
        c.each("matchExpressions", expressions.unwrap_or_default(), |c, expression| {
            c.label_key("key", &expression.key);
            let (operator, count) = (expression.operator.as_str(), expression.values.len());
            let fits = match operator {
                "In" | "NotIn" => count > 0,
                "Exists" | "DoesNotExist" => count == 0,
                _ => {
                    let message = format!("{operator:?} is not known");
                    return c.at("operator", |c| c.fail(message, "use In, NotIn, Exists or DoesNotExist"));
                }
            };
            let hint = "In and NotIn need values, Exists and DoesNotExist have none";
            c.at("values", |c| c.require(fits, format!("does not go with {operator}"), hint));
        });
    });
}

fn listener(c: &mut Checker, listener: &ListenerSpec) {
    c.dns_name("name", &listener.name);
    c.port("port", listener.port);
    if let Some(hostname) = listener.hostname.as_ref().filter(|h| !h.is_empty()) {
        c.hostname("hostname", hostname);
    }
    match &listener.tls {
        Some(_) if matches!(listener.protocol.as_str(), "HTTP" | "TCP" | "UDP") => {
            c.at("tls", |c| {
                c.fail(format!("{} has no TLS", listener.protocol), "use protocol HTTPS, or remove it")
            });
        }
        Some(tls) => c.at("tls", |c| c.at_most("certificateRefs", tls.certificate_refs.len(), 64)),
        None => {}
    }
    let allowed = listener.allowed_routes.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
    c.at("allowedRoutes.namespaces", |c| namespaces(c, allowed));
}

pub(super) fn reference_grant(c: &mut Checker, grant: &ReferenceGrant) {
    c.at("from", |c| c.require(!grant.from.is_empty(), "is empty", "name who may refer"));
    c.at("to", |c| c.require(!grant.to.is_empty(), "is empty", "name what may be referred to"));
    c.each("from", &grant.from, |c, from| c.dns_label("namespace", &from.namespace));
}

pub(super) fn service(c: &mut Checker, service: &Service) {
    if service.r#type.as_deref() == Some("ExternalName") {
        c.at("type", |c| c.fail("ExternalName is not supported", "use a Workload with the address"));
    }
    c.at_most("ports", service.ports.len(), 256);
    let needs_names = service.ports.len() > 1;
    c.each("ports", &service.ports, |c, port| {
        c.port("port", port.port);
        if let Some(TargetPort::Number(number)) = port.target_port {
            c.port("targetPort", number);
        }
        if needs_names || !port.name.is_empty() {
            c.dns_label("name", &port.name);
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let known = matches!(protocol, "TCP" | "UDP" | "SCTP");
        c.at("protocol", |c| c.require(known, format!("{protocol:?} is not known"), "use TCP"));
    });
    c.unique("ports", "port", service.ports.iter().map(|p| p.name.as_str()).filter(|name| !name.is_empty()));
    let protocol = |port: &ServicePortSpec| port.protocol.clone().unwrap_or_else(|| "TCP".into());
    let mut numbers: Vec<_> = service.ports.iter().map(|p| (p.port, protocol(p))).collect();
    numbers.sort_unstable();
    let twice = numbers.windows(2).any(|pair| pair.first() == pair.last());
    c.at("ports", |c| c.require(!twice, "the same port stands twice", "give each port once"));
}

pub(super) fn secret(c: &mut Checker, secret: &Secret) {
    for key in secret.data.keys().filter(|key| !secret.string_data.contains_key(*key)) {
        // Never the value itself.
        c.at(&format!("data.{key}"), |c| {
            c.require(secret.value(key).is_some(), "is not base64", "encode it, or use stringData")
        });
    }
    if secret.r#type == "kubernetes.io/tls" {
        for key in ["tls.crt", "tls.key"] {
            let there = secret.data.contains_key(key) || secret.string_data.contains_key(key);
            c.at(&format!("data.{key}"), |c| {
                c.require(there, "is missing", "a Secret of type kubernetes.io/tls has it")
            });
        }
    }
}

pub(super) fn endpoints(c: &mut Checker, endpoints: &Endpoints) {
    c.at_most("subsets", endpoints.subsets.len(), 100);
    c.each("subsets", &endpoints.subsets, |c, subset| {
        c.at_most("addresses", subset.addresses.len(), 1000);
        c.at_most("notReadyAddresses", subset.not_ready_addresses.len(), 1000);
        c.each("addresses", &subset.addresses, |c, address| c.address("ip", &address.ip));
        c.each("notReadyAddresses", &subset.not_ready_addresses, |c, address| c.address("ip", &address.ip));
        c.each("ports", &subset.ports, |c, port| c.port("port", port.port));
    });
}

pub(super) fn endpoint_slice(c: &mut Checker, slice: &EndpointSlice) {
    let known = matches!(slice.address_type.as_str(), "IPv4" | "IPv6");
    c.at("addressType", |c| {
        c.require(known, format!("{:?} is not supported", slice.address_type), "use IPv4 or IPv6");
    });
    c.at_most("endpoints", slice.endpoints.len(), 1000);
    c.each("endpoints", &slice.endpoints, |c, endpoint| {
        c.at("addresses", |c| c.require(!endpoint.addresses.is_empty(), "is empty", "give one address"));
        for (index, address) in endpoint.addresses.iter().enumerate().filter(|_| known) {
            c.address(&format!("addresses[{index}]"), address);
        }
    });
    c.each("ports", &slice.ports, |c, port| c.port("port", port.port));
}
