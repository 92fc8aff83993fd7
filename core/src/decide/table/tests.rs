//! Precedence by table, and the index against a reference that reads like the specification's text.

use http::{HeaderMap, HeaderName, Method};
use proptest::prelude::*;

use super::*;
use crate::decide::{
    matcher::{HeaderMatch, QueryMatch, TextMatch},
    rule::{Action, Origin, Weighted},
    trace::Untraced,
};

/// A match as a test writes it.
#[derive(Debug, Clone)]
struct Spec {
    host: &'static str,
    path: (Kind, &'static str),
    method: Option<Method>,
    headers: Vec<(&'static str, &'static str)>,
    query: Vec<(&'static str, &'static str)>,
    created: i128,
    route: &'static str,
    rule: u16,
    position: u16,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Exact,
    Prefix,
    Regex,
}

fn spec(host: &'static str, kind: Kind, path: &'static str) -> Spec {
    Spec {
        host,
        path: (kind, path),
        method: None,
        headers: vec![],
        query: vec![],
        created: 0,
        route: "httproute/a/r",
        rule: 0,
        position: 0,
    }
}

fn entry(spec: &Spec) -> (HostPattern, Entry) {
    let path = match spec.path.0 {
        Kind::Exact => PathMatch::Exact(spec.path.1.into()),
        Kind::Prefix => PathMatch::prefix(spec.path.1),
        Kind::Regex => PathMatch::regex(spec.path.1).unwrap(),
    };
    let exact = |value: &str| TextMatch::Exact(value.into());
    let header = |(name, value): &(&'static str, &str)| HeaderMatch {
        name: HeaderName::from_static(name),
        value: exact(value),
    };
    let query = |(name, value): &(&str, &str)| QueryMatch { name: (*name).into(), value: exact(value) };
    let matches = RequestMatch {
        path,
        method: spec.method.clone(),
        headers: spec.headers.iter().map(header).collect(),
        query: spec.query.iter().map(query).collect(),
    };
    let origin = Origin {
        route: spec.route.into(),
        created: spec.created,
        position: spec.rule,
        name: spec.rule.to_string().into(),
    };
    let rule = Rule {
        origin,
        action: Action::Forward(Weighted::default()),
        filters: Default::default(),
        timeouts: Default::default(),
        retry: Default::default(),
        mirrors: Arc::from([]),
        session: None,
        release: None,
        trusts_lane: false,
        calls: false,
    };
    let entry = Entry {
        matches: Arc::new(matches),
        rule: Arc::new(rule),
        position: spec.position,
        own: HostPattern::parse(Some(spec.host)),
    };
    (entry.own.clone(), entry)
}

/// A request as a test writes it.
#[derive(Debug, Clone)]
struct Ask {
    host: String,
    method: Method,
    path: String,
    query: Option<String>,
    headers: Vec<(&'static str, &'static str)>,
}

fn ask(host: &str, path: &str) -> Ask {
    Ask { host: host.into(), method: Method::GET, path: path.into(), query: None, headers: vec![] }
}

type Id = (String, u16, u16);

fn find(specs: &[Spec], ask: &Ask) -> Option<Id> {
    let headers: HeaderMap =
        ask.headers.iter().map(|(n, v)| (HeaderName::from_static(n), v.parse().unwrap())).collect();
    let head = RequestHead {
        scheme: "http",
        host: &ask.host,
        method: &ask.method,
        path: &ask.path,
        query: ask.query.as_deref(),
        headers: &headers,
    };
    let table = RouteTable::new(specs.iter().map(entry));
    let found = table.find(&ask.host, &head, &mut Untraced)?;
    Some((found.rule.origin.route.to_string(), found.rule.origin.position, found.position))
}

/// The specification, sentence by sentence, over all matches.
fn reference(specs: &[Spec], ask: &Ask) -> Option<Id> {
    let mut applicable: Vec<&Spec> = specs.iter().filter(|spec| applies(spec, ask)).collect();
    applicable.sort_by(|a, b| prefer(a, b));
    applicable.first().map(|spec| (spec.route.to_string(), spec.rule, spec.position))
}

fn applies(spec: &Spec, ask: &Ask) -> bool {
    let host = match spec.host.strip_prefix("*.") {
        _ if spec.host == "*" => true,
        Some(suffix) => {
            ask.host.strip_suffix(suffix).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        }
        None => spec.host == ask.host,
    };
    let path = match spec.path {
        (Kind::Exact, path) => ask.path == path,
        (Kind::Prefix, prefix) => {
            let elements = |path: &str| -> Vec<String> {
                path.strip_suffix('/').unwrap_or(path).split('/').skip(1).map(str::to_string).collect()
            };
            let (path, prefix) = (elements(&ask.path), elements(prefix));
            path.len() >= prefix.len() && path[..prefix.len()] == prefix[..]
        }
        (Kind::Regex, pattern) => regex::Regex::new(&format!("^({pattern})$")).unwrap().is_match(&ask.path),
    };
    let method = spec.method.as_ref().is_none_or(|method| *method == ask.method);
    let headers = spec.headers.iter().all(|wanted| ask.headers.contains(wanted));
    let pairs: Vec<_> =
        ask.query.as_deref().unwrap_or("").split('&').filter_map(|p| p.split_once('=')).collect();
    let query = spec
        .query
        .iter()
        .all(|(name, value)| pairs.iter().find(|(n, _)| n == name).is_some_and(|(_, v)| v == value));
    host && path && method && headers && query
}

fn prefer(a: &Spec, b: &Spec) -> std::cmp::Ordering {
    let non_wildcard = |s: &Spec| if s.host.starts_with('*') { 0 } else { s.host.len() };
    let kind = |s: &Spec| match s.path.0 {
        Kind::Exact => 0,
        Kind::Prefix => 1,
        Kind::Regex => 2,
    };
    let prefix_length = |s: &Spec| {
        if s.path.0 == Kind::Prefix { s.path.1.strip_suffix('/').unwrap_or(s.path.1).len() } else { 0 }
    };
    non_wildcard(b)
        .cmp(&non_wildcard(a))
        .then(b.host.len().cmp(&a.host.len()))
        .then(kind(a).cmp(&kind(b)))
        .then(prefix_length(b).cmp(&prefix_length(a)))
        .then(b.method.is_some().cmp(&a.method.is_some()))
        .then(b.headers.len().cmp(&a.headers.len()))
        .then(b.query.len().cmp(&a.query.len()))
        .then(a.created.cmp(&b.created))
        .then(a.route.cmp(b.route))
        .then(a.rule.cmp(&b.rule))
        .then(a.position.cmp(&b.position))
}

const HOSTS: [&str; 7] = ["*", "*.com", "*.a.com", "a.com", "b.a.com", "c.b.a.com", "com"];
const PATHS: [&str; 9] = ["/", "/a", "/a/", "/a/b", "/ab", "/a/b/c", "/a/b/", "/b", "//"];
const REGEXES: [&str; 4] = ["/a.*", "/.*", "/a/[a-c]", "/a|/b"];
const ROUTES: [&str; 3] = ["httproute/a/r", "httproute/a/s", "httproute/b/a"];
const PAIRS: [(&str, &str); 4] = [("x-a", "1"), ("x-a", "2"), ("x-b", "1"), ("x-c", "1")];

fn pairs() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    prop::collection::vec(prop::sample::select(&PAIRS[..]), 0..3)
}

fn method() -> impl Strategy<Value = Method> {
    prop::sample::select(vec![Method::GET, Method::POST])
}

prop_compose! {
    fn any_spec()(
        host in prop::sample::select(&HOSTS[..]),
        path in prop_oneof![
            prop::sample::select(&PATHS[..]).prop_map(|p| (Kind::Exact, p)),
            prop::sample::select(&PATHS[..8]).prop_map(|p| (Kind::Prefix, p)),
            prop::sample::select(&REGEXES[..]).prop_map(|p| (Kind::Regex, p)),
        ],
        method in prop::option::of(method()),
        (mut headers, mut query) in (pairs(), pairs()),
        (created, route, rule) in (0..2i128, prop::sample::select(&ROUTES[..]), 0..3u16),
    ) -> Spec {
        headers.dedup_by_key(|pair| pair.0);
        query.dedup_by_key(|pair| pair.0);
        Spec { host, path, method, headers, query, created, route, rule, position: 0 }
    }
}

prop_compose! {
    fn any_ask()(
        host in prop::sample::select(vec!["a.com", "b.a.com", "c.b.a.com", "d.c.b.a.com", "x.com", "com", "org", "aa.com"]),
        path in prop_oneof![
            prop::sample::select(&PATHS[..]).prop_map(str::to_string),
            "(/[abc]{0,2}){1,5}",
        ],
        method in method(),
        query in prop::option::of(pairs()),
        headers in pairs(),
    ) -> Ask {
        let query = query.map(|pairs| pairs.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join("&"));
        Ask { host: host.into(), method, path, query, headers }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_table_finds_what_the_specification_says(
        mut specs in prop::collection::vec(any_spec(), 0..12),
        asks in prop::collection::vec(any_ask(), 1..8),
    ) {
        for (at, spec) in specs.iter_mut().enumerate() {
            // Positions make every match its own, so that there is one right answer.
            spec.position = u16::try_from(at).unwrap();
        }
        for ask in &asks {
            prop_assert_eq!(find(&specs, ask), reference(&specs, ask), "{:?}", ask);
        }
    }
}

/// The first of two matches wins, in whichever order they were written.
fn first_wins(first: Spec, second: Spec, ask: &Ask) {
    let (first, second) =
        (Spec { route: "httproute/x/first", ..first }, Spec { route: "httproute/a/second", ..second });
    for specs in [[first.clone(), second.clone()], [second.clone(), first.clone()]] {
        let found = find(&specs, ask).unwrap();
        assert_eq!(found.0, "httproute/x/first", "{first:?} before {second:?}");
    }
}

#[test]
fn precedence() {
    use Kind::{Exact, Prefix, Regex};
    let mut ask = ask("b.a.com", "/a/b");
    ask.query = Some("x-a=1&x-b=1".into());
    ask.headers = vec![("x-a", "1"), ("x-b", "1")];
    let base = spec("b.a.com", Prefix, "/a");
    let with = |f: &dyn Fn(&mut Spec)| {
        let mut spec = base.clone();
        f(&mut spec);
        spec
    };
    first_wins(base.clone(), spec("*.a.com", Exact, "/a/b"), &ask);
    first_wins(spec("*.a.com", Regex, "/.*"), spec("*.com", Exact, "/a/b"), &ask);
    first_wins(spec("*.com", Regex, "/.*"), spec("*", Exact, "/a/b"), &ask);
    first_wins(spec("b.a.com", Exact, "/a/b"), spec("b.a.com", Prefix, "/a/b"), &ask);
    first_wins(spec("b.a.com", Prefix, "/a/b"), with(&|s| s.method = Some(Method::GET)), &ask);
    first_wins(spec("b.a.com", Prefix, "/"), spec("b.a.com", Regex, "/a/b"), &ask);
    first_wins(with(&|s| s.method = Some(Method::GET)), with(&|s| s.headers = vec![("x-a", "1")]), &ask);
    first_wins(
        with(&|s| s.headers = vec![("x-a", "1"), ("x-b", "1")]),
        with(&|s| (s.headers, s.query) = (vec![("x-a", "1")], vec![("x-a", "1"), ("x-b", "1")])),
        &ask,
    );
    first_wins(with(&|s| s.query = vec![("x-a", "1")]), with(&|s| s.created = -1), &ask);
    first_wins(base.clone(), with(&|s| s.created = 1), &ask);
}

#[test]
fn ties_go_to_the_name_then_the_rule_then_the_match() {
    let base = spec("a.com", Kind::Prefix, "/");
    let later = |route, rule, position| Spec { route, rule, position, ..base.clone() };
    let specs = [later("httproute/b/a", 0, 0), later("httproute/a/s", 1, 0), later("httproute/a/s", 0, 1)];
    assert_eq!(find(&specs, &ask("a.com", "/")), Some(("httproute/a/s".into(), 0, 1)));
    assert_eq!(find(&specs[..2], &ask("a.com", "/")), Some(("httproute/a/s".into(), 1, 0)));
}

#[test]
fn a_less_specific_host_is_tried_where_no_rule_of_the_specific_one_matches() {
    let specs = [spec("b.a.com", Kind::Exact, "/x"), spec("*", Kind::Prefix, "/")];
    assert_eq!(find(&specs, &ask("b.a.com", "/y")), find(&specs[1..], &ask("b.a.com", "/y")));
    assert!(find(&specs[..1], &ask("b.a.com", "/y")).is_none());
}

#[test]
fn hostile_paths_and_hosts_are_only_not_found() {
    let specs = [spec("*.a.com", Kind::Prefix, "/a/b"), spec("a.com", Kind::Regex, "/(a+)+")];
    for path in ["", "*", &"/".repeat(8000), &"/a".repeat(4000), "\u{1f41f}/\u{e9}"] {
        for host in ["", ".", "..a.com", ".a.com", &"a.".repeat(200), "a.com", "\u{e9}.a.com"] {
            assert_eq!(find(&specs, &ask(host, path)), None, "{host} {path}");
        }
    }
}
