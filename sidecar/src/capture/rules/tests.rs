use super::*;

fn rules() -> Rules {
    Rules {
        users: ["1337".to_string()].into(),
        groups: BTreeSet::new(),
        mark: None,
        outbound: Some(15001),
        dns: Some(15053),
        inbound: Some(15007),
        outbound_ports: BTreeSet::new(),
        inbound_ports: [15006].into(),
        ranges: Vec::new(),
        ipv6: true,
    }
}

/// The standard input of the steps, and the lines of the others.
fn text(steps: &[Step]) -> String {
    let one = |step: &Step| match step {
        Step::Run(_, input) => input.clone(),
        other => format!("{other}\n"),
    };
    steps.iter().map(one).collect()
}

fn nft(rules: &Rules) -> Vec<String> {
    let all = text(&rules.install(Filter::Nftables, &[], true));
    all.lines().map(|line| line.trim().to_string()).collect()
}

fn iptables(rules: &Rules) -> Vec<String> {
    text(&rules.install(Filter::Iptables, &[], true)).lines().map(str::to_string).collect()
}

#[test]
fn the_whole_table_is_replaced_in_one_transaction() {
    let expected = r#"table inet tombolo
delete table inet tombolo
table inet tombolo {
  chain output {
    type nat hook output priority -100; policy accept;
    meta skuid 1337 return
    meta l4proto { tcp, udp } th dport 53 redirect to :15053
    oifname "lo" return
    tcp flags & (fin | syn | rst | ack) == syn redirect to :15001
  }
  chain prerouting {
    type nat hook prerouting priority -100; policy accept;
    iifname "lo" return
    fib daddr type != local return
    tcp dport 15006 return
    tcp flags & (fin | syn | rst | ack) == syn redirect to :15007
  }
}
"#;
    assert_eq!(text(&rules().install(Filter::Nftables, &[Filter::Nftables], true)), expected);
    assert_eq!(text(&Rules::undo(Filter::Nftables, true)), "table inet tombolo\ndelete table inet tombolo\n");
}

#[test]
fn every_exception_stands_before_what_it_is_excepted_from() {
    let rules = Rules {
        groups: ["mesh".to_string()].into(),
        mark: Some(0x539),
        outbound_ports: [25, 5432].into(),
        ranges: vec![Cidr::parse("10.1.0.0/16").unwrap(), Cidr::parse("fd00:1::/64").unwrap()],
        inbound_ports: [22, 15006].into(),
        ..rules()
    };
    let lines = nft(&rules);
    let at =
        |wanted: &str| lines.iter().position(|line| line == wanted).unwrap_or_else(|| panic!("{wanted}"));
    let captured = at("tcp flags & (fin | syn | rst | ack) == syn redirect to :15001");
    for exception in ["meta mark 0x539 return", "meta skuid 1337 return", "meta skgid mesh return"] {
        assert!(
            at(exception) < at("meta l4proto { tcp, udp } th dport 53 redirect to :15053"),
            "{exception}"
        );
    }
    for exception in [
        "ip daddr 10.1.0.0/16 return",
        "ip6 daddr fd00:1::/64 return",
        "tcp dport 25 return",
        "tcp dport 5432 return",
    ] {
        assert!(at(exception) < captured, "{exception}");
    }
    assert!(
        (captured + 1..at("tcp flags & (fin | syn | rst | ack) == syn redirect to :15007"))
            .contains(&at("tcp dport 22 return"))
    );

    let lines = iptables(&rules);
    let (four, six) = lines.split_at(lines.iter().position(|line| line == "COMMIT").unwrap());
    let has =
        |lines: &[String], rule: &str| lines.iter().any(|line| line == &format!("-A TOMBOLO_OUTPUT {rule}"));
    assert!(has(four, "-d 10.1.0.0/16 -j RETURN") && !has(four, "-d fd00:1::/64 -j RETURN"));
    assert!(has(six, "-d fd00:1::/64 -j RETURN") && !has(six, "-d 10.1.0.0/16 -j RETURN"));
    for lines in [four, six] {
        for rule in [
            "-m mark --mark 0x539 -j RETURN",
            "-m owner --gid-owner mesh -j RETURN",
            "-p tcp --dport 25 -j RETURN",
        ] {
            assert!(has(lines, rule), "{rule}");
        }
    }
}

#[test]
fn what_is_not_wanted_is_not_captured() {
    let redirects = |rules: &Rules| {
        let count = |lines: Vec<String>, word: &str| lines.iter().filter(|line| line.contains(word)).count();
        (count(nft(rules), "redirect to"), count(iptables(rules), "REDIRECT"))
    };
    // In IPv4 and IPv6; DNS takes a rule for UDP and one for TCP there.
    assert_eq!(redirects(&rules()), (3, 8));
    assert_eq!(redirects(&Rules { dns: None, ..rules() }), (2, 4));
    assert_eq!(redirects(&Rules { inbound: None, ..rules() }), (2, 6));
    assert_eq!(redirects(&Rules { outbound: None, ..rules() }), (2, 6));
    assert_eq!(redirects(&Rules { ipv6: false, ..rules() }), (3, 4));
    let four = nft(&Rules { ipv6: false, ..rules() });
    assert_eq!(four.iter().filter(|line| *line == "meta nfproto ipv6 return").count(), 2);
}

#[test]
fn iptables_fills_its_chains_before_it_jumps_to_them_and_leaves_in_the_other_order() {
    let steps = Rules { ipv6: false, dns: None, ..rules() };
    let steps = steps.install(Filter::Iptables, &[Filter::Iptables], false);
    let lines: Vec<String> = steps.iter().map(ToString::to_string).collect();
    let filled = "iptables-restore -w --noflush <<'END'
*nat
:TOMBOLO_OUTPUT - [0:0]
:TOMBOLO_PREROUTING - [0:0]
-A TOMBOLO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A TOMBOLO_OUTPUT -o lo -j RETURN
-A TOMBOLO_OUTPUT -p tcp --syn -j REDIRECT --to-ports 15001
-A TOMBOLO_PREROUTING -i lo -j RETURN
-A TOMBOLO_PREROUTING -m addrtype ! --dst-type LOCAL -j RETURN
-A TOMBOLO_PREROUTING -p tcp --dport 15006 -j RETURN
-A TOMBOLO_PREROUTING -p tcp --syn -j REDIRECT --to-ports 15007
COMMIT
END";
    let jump = |from: &str| {
        let to = |verb: &str| format!("iptables -w -t nat {verb} {from} -j TOMBOLO_{from}");
        format!("{} 2>/dev/null || {}", to("-C"), to("-A"))
    };
    assert_eq!(lines, [filled.to_string(), jump("OUTPUT"), jump("PREROUTING")]);
    let undo: Vec<String> = Rules::undo(Filter::Iptables, false).iter().map(ToString::to_string).collect();
    assert_eq!(undo[0], "iptables -w -t nat -D OUTPUT -j TOMBOLO_OUTPUT 2>/dev/null || true");
    assert_eq!(undo.len(), 6);
}

#[test]
fn what_an_earlier_install_has_put_elsewhere_is_taken_away_after_the_new_rules() {
    let both = [Filter::Nftables, Filter::Iptables];
    let after = |rules: &Rules, filter| {
        let alone = rules.install(filter, &[filter], rules.ipv6);
        let steps = rules.install(filter, &both, true);
        assert_eq!(steps[..alone.len()], alone);
        steps[alone.len()..].iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let (dual, four) = (rules(), Rules { ipv6: false, ..rules() });
    let table = "nft delete table inet tombolo 2>/dev/null || true".to_string();
    assert_eq!(after(&dual, Filter::Iptables), std::slice::from_ref(&table));
    let six = after(&four, Filter::Iptables);
    assert!(six.len() == 7 && six[..6].iter().all(|step| step.starts_with("ip6tables -w")), "{six:?}");
    assert_eq!(six[6], table);
    for rules in [dual, four] {
        let chains: Vec<String> =
            Rules::undo(Filter::Iptables, true).iter().map(ToString::to_string).collect();
        assert_eq!(after(&rules, Filter::Nftables), chains);
    }
}

#[test]
fn rules_that_would_do_harm_are_refused() {
    let nobody = Rules { users: BTreeSet::new(), ..rules() };
    assert_eq!(nobody.check(), Err(RulesError::NobodyExcepted));
    assert_eq!(Rules { mark: Some(1), ..nobody.clone() }.check(), Ok(()));
    assert_eq!(Rules { outbound: None, dns: None, ..nobody }.check(), Ok(()), "only inbound");
    assert_eq!(
        Rules { outbound: None, dns: None, inbound: None, ..rules() }.check(),
        Err(RulesError::Nothing)
    );
    for bad in ["", "a b", "root; drop", "-x", "1\n2", "a{b}"] {
        let rules = Rules { users: [bad.to_string()].into(), ..rules() };
        assert_eq!(rules.check(), Err(RulesError::Name(bad.into())));
    }
}
