use std::net::IpAddr;

use http::{HeaderMap, Method};

use super::*;

fn patterns(texts: &[&str]) -> Box<[Pattern]> {
    texts.iter().map(|text| Pattern::parse(text)).collect()
}

fn from(identities: &[&str], namespaces: &[&str], trust_domains: &[&str]) -> PolicyRule {
    let source = Source {
        identities: patterns(identities),
        namespaces: patterns(namespaces),
        accounts: [].into(),
        trust_domains: patterns(trust_domains),
    };
    PolicyRule { from: Some(source), to: None }
}

fn to(methods: &[Method], paths: &[&str], ports: &[u16]) -> PolicyRule {
    let operation = Operation {
        methods: methods.iter().map(|method| method.as_str().into()).collect(),
        paths: patterns(paths),
        ports: ports.into(),
        headers: [].into(),
    };
    PolicyRule { from: None, to: Some(operation) }
}

fn policy(name: &str, deny: bool, rules: Vec<PolicyRule>) -> Policy {
    Policy { name: name.into(), deny, dry_run: false, selector: Labels::default(), rules: rules.into() }
}

/// What a call of `METHOD PATH` from `caller` ends with: `allow`, or what denied it.
fn judge(policies: Vec<Policy>, caller: Option<&str>, request: Option<(Method, &str)>) -> String {
    let policies = Policies([(Arc::from("shop"), policies)].into_iter().collect());
    let own = TrustDomain::parse("east").unwrap();
    let identity = caller.map(|id| SpiffeId::parse(id).unwrap());
    let caller = Caller {
        address: IpAddr::from([10, 0, 0, 1]),
        identity: identity.as_ref(),
        sni: None,
        claimed_lane: None,
        random: 0,
        now: 0,
    };
    let headers = HeaderMap::new();
    let head = request.as_ref().map(|(method, path)| RequestHead {
        scheme: "https",
        host: "checkout",
        method,
        path,
        query: None,
        headers: &headers,
    });
    let workload = InboundWorkload {
        namespace: "shop".into(),
        labels: [("app".into(), "checkout".into())].into(),
        ..Default::default()
    };
    let call = Call { own: &own, port: 8080, head: head.as_ref(), caller: &caller };
    let judged = call.verdict(&policies, &workload, &mut Untraced).enforced;
    if judged.allowed { "allow".into() } else { judged.why().into() }
}

const FRONT: Option<&str> = Some("spiffe://east/ns/shop/sa/storefront");
const FOREIGN: Option<&str> = Some("spiffe://west/ns/shop/sa/storefront");
const GET: Option<(Method, &str)> = Some((Method::GET, "/pay"));

#[test]
fn without_policies_the_own_trust_domain_may_call() {
    assert_eq!(judge(vec![], FRONT, GET), "allow");
    assert_eq!(judge(vec![], FOREIGN, GET), "foreign-trust-domain");
    assert_eq!(judge(vec![], None, GET), "allow", "the inbound listener admitted plaintext");
}

#[test]
fn an_allow_policy_closes_the_workload_to_all_others() {
    let allow = |rule| vec![policy("shop/p", false, vec![rule])];
    for (rule, caller, expected) in [
        (from(&["spiffe://east/ns/shop/sa/storefront"], &[], &[]), FRONT, "allow"),
        (from(&["spiffe://east/ns/shop/sa/other"], &[], &[]), FRONT, "no-policy-allows"),
        (from(&["spiffe://east/ns/shop/*"], &[], &[]), FRONT, "allow"),
        (from(&[], &["shop"], &[]), FRONT, "allow"),
        (from(&[], &["bank"], &[]), FRONT, "no-policy-allows"),
        (from(&[], &["shop"], &["east"]), FRONT, "allow"),
        (from(&[], &["shop"], &["west"]), FRONT, "no-policy-allows"),
        (from(&[], &["*"], &[]), None, "no-policy-allows"),
        (PolicyRule::default(), None, "allow"),
    ] {
        assert_eq!(judge(allow(rule), caller, GET), expected);
    }
    assert_eq!(judge(vec![policy("shop/none", false, vec![])], FRONT, GET), "no-policy-allows");
}

#[test]
fn a_foreign_caller_has_to_be_named() {
    let allow = |rule| vec![policy("shop/p", false, vec![rule])];
    for (rule, expected) in [
        (from(&[], &["shop"], &[]), "no-policy-allows"),
        (PolicyRule::default(), "no-policy-allows"),
        (from(&[], &["shop"], &["west"]), "allow"),
        (from(&["spiffe://west/ns/shop/sa/storefront"], &[], &[]), "allow"),
    ] {
        assert_eq!(judge(allow(rule), FOREIGN, GET), expected);
    }
    // A DENY by namespace means that namespace wherever it is.
    assert_eq!(judge(vec![policy("shop/d", true, vec![from(&[], &["shop"], &[])])], FOREIGN, GET), "shop/d");
}

#[test]
fn deny_wins() {
    let policies = || {
        vec![
            policy("shop/allow", false, vec![from(&[], &["shop"], &[])]),
            policy("shop/deny", true, vec![to(&[Method::POST], &[], &[]), to(&[], &["/admin*"], &[])]),
        ]
    };
    assert_eq!(judge(policies(), FRONT, GET), "allow");
    assert_eq!(judge(policies(), FRONT, Some((Method::POST, "/pay"))), "shop/deny");
    assert_eq!(judge(policies(), FRONT, Some((Method::GET, "/admin/x"))), "shop/deny");
    assert_eq!(judge(policies(), FRONT, None), "shop/deny", "raw TCP hides what is asked for");
}

#[test]
fn a_path_in_disguise_neither_escapes_a_deny_nor_sneaks_into_an_allow() {
    let deny = || vec![policy("shop/deny", true, vec![to(&[], &["/admin*"], &[])])];
    for path in ["/%61dmin", "//admin", "/x/../admin", "/./admin", "/x/%2e%2e/admin", "\\admin", "/%2fadmin"]
    {
        assert_eq!(judge(deny(), FRONT, Some((Method::GET, path))), "shop/deny", "{path}");
    }
    let allow = || vec![policy("shop/allow", false, vec![to(&[], &["/public/*"], &[])])];
    assert_eq!(judge(allow(), FRONT, Some((Method::GET, "/public/a"))), "allow");
    for path in ["/public/../secret", "/public/%2e%2e/secret", "/public/..%2fsecret"] {
        assert_eq!(judge(allow(), FRONT, Some((Method::GET, path))), "no-policy-allows", "{path}");
    }
}

#[test]
fn ports_and_selectors_narrow_a_policy() {
    let deny = |ports: &[u16]| vec![policy("shop/deny", true, vec![to(&[], &[], ports)])];
    assert_eq!(judge(deny(&[8080]), FRONT, GET), "shop/deny");
    assert_eq!(judge(deny(&[9090]), FRONT, GET), "allow");
    assert_eq!(judge(deny(&[9090]), FRONT, None), "allow");
    let selecting = |app: &str| {
        let selector = [("app".into(), app.into())].into();
        vec![Policy { selector, ..policy("shop/deny", true, vec![PolicyRule::default()]) }]
    };
    assert_eq!(judge(selecting("checkout"), FRONT, GET), "shop/deny");
    assert_eq!(judge(selecting("other"), FRONT, GET), "allow");
}

#[test]
fn a_tcp_caller_is_allowed_by_who_it_is_alone() {
    let rule = |from: PolicyRule, to: PolicyRule| PolicyRule { from: from.from, to: to.to };
    let http = rule(from(&[], &["shop"], &[]), to(&[Method::GET], &[], &[]));
    let tcp = rule(from(&[], &["shop"], &[]), to(&[], &[], &[8080]));
    assert_eq!(judge(vec![policy("shop/p", false, vec![http])], FRONT, None), "no-policy-allows");
    assert_eq!(judge(vec![policy("shop/p", false, vec![tcp])], FRONT, None), "allow");
}
