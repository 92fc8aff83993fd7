//! What becomes of a route's rules.

use http::{HeaderMap, Method};

use super::*;
use crate::decide::{RequestHead, trace::Untraced};

#[test]
fn a_route_tries_again_as_it_says_and_else_as_all_do() {
    for (retry, expected) in [
        ("", (2, vec![503])),
        (", retry: {}", (2, vec![])),
        (", retry: { attempts: 0, codes: [500] }", (0, vec![500])),
        (", retry: { attempts: 100 }", (15, vec![])),
        (", retry: { attempts: 1000, codes: [500, 504] }", (15, vec![500, 504])),
    ] {
        let rules = format!("rules: [{{ backendRefs: [{{ name: web, port: 80 }}]{retry} }}]");
        let to_edge = format!("parentRefs: [{{ name: edge }}], {rules}");
        let compiled = world(&[gateway("edge", HTTP), http_route("web", "shop", &to_edge)]);
        let rule = compiled.binds[0].listeners[0].routes.rules().next().unwrap();
        assert_eq!((rule.retry.attempts, rule.retry.codes.to_vec()), expected, "{retry}");
        assert_eq!(route(&compiled, "web")[0], "Accepted=True/Accepted");
    }
}

#[test]
fn a_match_may_list_its_methods() {
    let backend = "backendRefs: [{ name: web, port: 80 }]";
    let rules = format!("rules: [{{ matches: [{{ method: GET, methods: [GET, PUT] }}], {backend} }}]");
    let to_edge = format!("parentRefs: [{{ name: edge }}], {rules}");
    let compiled = world(&[gateway("edge", HTTP), http_route("web", "shop", &to_edge)]);
    let routes = &compiled.binds[0].listeners[0].routes;
    for (method, found) in [(Method::GET, true), (Method::PUT, true), (Method::DELETE, false)] {
        let headers = HeaderMap::new();
        let head = RequestHead {
            scheme: "http",
            host: "a.example",
            method: &method,
            path: "/",
            query: None,
            headers: &headers,
        };
        let answered = routes.find("a.example", &head, &mut Untraced);
        assert_eq!(answered.is_some(), found, "{method}");
    }
}
