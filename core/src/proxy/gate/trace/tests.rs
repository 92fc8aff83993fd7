use super::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn request(fields: &[(&'static str, &str)]) -> RequestHeader {
    let mut request = RequestHeader::build("GET", b"/", None).unwrap();
    for (name, value) in fields {
        request.append_header(*name, value.to_string()).unwrap();
    }
    request
}

/// What goes on, where spans are recorded or not.
fn entered(fields: &[(&'static str, &str)], recorded: bool) -> (RequestHeader, Spot) {
    let mut request = request(fields);
    let spot = enter(&mut request, false, |_| recorded).unwrap();
    (request, spot)
}

fn said(request: &RequestHeader, name: &str) -> String {
    let values: Vec<_> = request.headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect();
    values.join("|")
}

/// What the sampler is asked.
fn asked(fields: &[(&'static str, &str)]) -> (String, Option<bool>) {
    let mut seen = None;
    enter(&mut request(fields), false, |parent| {
        seen = Some((format!("{:032x}", parent.trace), parent.sampled));
        false
    })
    .unwrap();
    seen.unwrap()
}

#[test]
fn only_valid_traceparents_count() {
    for valid in [format!("00-{TRACE}-{SPAN}-01"), format!("cc-{TRACE}-{SPAN}-01-more")] {
        assert_eq!(asked(&[("traceparent", &valid)]), (TRACE.into(), Some(true)), "{valid}");
    }
    assert_eq!(asked(&[("traceparent", &format!("00-{TRACE}-{SPAN}-02"))]), (TRACE.into(), Some(false)));
    for wrong in [
        format!("ff-{TRACE}-{SPAN}-01"),
        format!("00-{TRACE}-{SPAN}-01-more"),
        format!("00-{TRACE}-0000000000000000-01"),
        format!("00-{}-{SPAN}-01", "0".repeat(32)),
        format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
        "00".to_owned(),
    ] {
        let (trace, sampled) = asked(&[("traceparent", &wrong), ("tracestate", "a=b")]);
        assert!(trace != TRACE && sampled.is_none(), "{wrong}");
        let (request, _) = entered(&[("traceparent", &wrong), ("tracestate", "a=b")], false);
        assert_eq!(said(&request, "tracestate"), "", "of another trace");
    }
    let twice = format!("00-{TRACE}-{SPAN}-01");
    assert_ne!(asked(&[("traceparent", &twice), ("traceparent", &twice)]).0, TRACE);
}

#[test]
fn what_is_not_recorded_keeps_its_parent() {
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let (request, spot) = entered(&[("traceparent", &parent), ("tracestate", "a=b"), ("b3", "0")], false);
    assert_eq!((said(&request, "traceparent"), said(&request, "tracestate")), (parent, "a=b".into()));
    assert_eq!((said(&request, "b3").as_str(), spot.trace_id()), ("0", TRACE));
    assert!(spot.span.is_none());
}

#[test]
fn a_span_that_is_recorded_is_the_parent_of_what_comes_next() {
    let parent = format!("00-{TRACE}-{SPAN}-00");
    let (request, spot) = entered(&[("traceparent", &parent), ("tracestate", "a=b")], true);
    let span = spot.span.unwrap();
    assert_eq!(said(&request, "traceparent"), format!("00-{TRACE}-{:016x}-01", span.id));
    assert_eq!((format!("{:032x}", span.trace).as_str(), span.state.as_deref()), (TRACE, Some("a=b")));
    assert_eq!(format!("{:016x}", span.parent.unwrap()), SPAN);
}

#[test]
fn the_span_of_a_call_stands_between_the_requests_and_what_comes_next() {
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let mut request = request(&[("traceparent", &parent), ("b3", "0")]);
    let span = enter(&mut request, true, |_| true).unwrap().span.unwrap();
    let onward = format!("{:016x}", span.onward.unwrap());
    assert_eq!(said(&request, "traceparent"), format!("00-{TRACE}-{onward}-01"));
    assert_eq!(said(&request, "b3"), format!("{TRACE}-{onward}-1-{:016x}", span.id));
    assert_eq!(format!("{:016x}", span.parent.unwrap()), SPAN);
    assert_ne!(span.onward, Some(span.id));
}

#[test]
fn a_trace_begins_where_there_is_none() {
    let (request, spot) = entered(&[], false);
    assert!(said(&request, "traceparent").starts_with(&format!("00-{}-", spot.trace_id())));
    assert!(said(&request, "traceparent").ends_with("-00"));
    let (request, spot) = entered(&[], true);
    let span = spot.span.as_ref().unwrap();
    assert_eq!(said(&request, "traceparent"), format!("00-{}-{:016x}-01", spot.trace_id(), span.id));
    assert_eq!((span.parent, said(&request, "b3")), (None, String::new()));
    assert_ne!(entered(&[], true).1.trace_id(), spot.trace_id());
}

#[test]
fn b3_is_read_and_passed_on_as_it_came_and_as_w3c() {
    let short = "a3ce929d0e0e4736";
    let padded = format!("{}{short}", "0".repeat(16));
    for (fields, trace, sampled) in [
        (vec![("b3", format!("{TRACE}-{SPAN}-1"))], TRACE, Some(true)),
        (vec![("b3", format!("{TRACE}-{SPAN}-0-{SPAN}"))], TRACE, Some(false)),
        (vec![("b3", format!("{short}-{SPAN}"))], padded.as_str(), None),
        (vec![("x-b3-traceid", TRACE.into()), ("x-b3-spanid", SPAN.into())], TRACE, None),
        (
            vec![("x-b3-traceid", short.into()), ("x-b3-spanid", SPAN.into()), ("x-b3-sampled", "0".into())],
            padded.as_str(),
            Some(false),
        ),
        (
            vec![("x-b3-traceid", TRACE.into()), ("x-b3-spanid", SPAN.into()), ("x-b3-flags", "1".into())],
            TRACE,
            Some(true),
        ),
    ] {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(asked(&fields), (trace.into(), sampled), "{fields:?}");
        let (request, _) = entered(&fields, false);
        let flag = if sampled == Some(true) { "01" } else { "00" };
        assert_eq!(said(&request, "traceparent"), format!("00-{trace}-{SPAN}-{flag}"), "{fields:?}");
        for (name, value) in &fields {
            assert_eq!(said(&request, name), *value, "as it came");
        }
        let (request, spot) = entered(&fields, true);
        let id = format!("{:016x}", spot.span.unwrap().id);
        assert_eq!(said(&request, "traceparent"), format!("00-{trace}-{id}-01"));
        let digits = trace.strip_prefix("0000000000000000").unwrap_or(trace);
        if fields[0].0 == "b3" {
            assert_eq!(said(&request, "b3"), format!("{digits}-{id}-1-{SPAN}"));
            assert_eq!(said(&request, "x-b3-traceid"), "");
        } else {
            let several = ["x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid"].map(|n| said(&request, n));
            assert_eq!(several, [digits, &id, SPAN]);
            let debug = said(&request, "x-b3-flags") == "1";
            assert_eq!(said(&request, "x-b3-sampled"), if debug { "" } else { "1" });
        }
    }
}

#[test]
fn b3_may_say_no_more_than_whether_to_record() {
    for (text, sampled) in [("0", Some(false)), ("1", Some(true)), ("d", Some(true)), ("x", None)] {
        assert_eq!(asked(&[("b3", text)]).1, sampled, "{text}");
    }
    let (request, spot) = entered(&[("b3", "d")], true);
    let id = spot.span.as_ref().unwrap().id;
    assert_eq!(said(&request, "b3"), format!("{}-{id:016x}-d", spot.trace_id()));
    // W3C counts before B3, which is told the same.
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let (request, spot) = entered(&[("traceparent", &parent), ("b3", "0")], true);
    assert_eq!(said(&request, "b3"), format!("{TRACE}-{:016x}-1-{SPAN}", spot.span.unwrap().id));
}

#[test]
fn a_tracestate_is_kept_within_its_bounds() {
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let kept = |states: &[&str]| {
        let mut fields = vec![("traceparent", parent.as_str())];
        fields.extend(states.iter().map(|state| ("tracestate", *state)));
        said(&entered(&fields, false).0, "tracestate")
    };
    assert_eq!(kept(&["a=1", "b=2, c=3"]), "a=1,b=2,c=3");
    let members = |count: usize| (0..count).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
    assert_eq!(kept(&[&members(32)]), members(32));
    assert_eq!(kept(&[&members(33)]), "");
    let (long, short) = (format!("long={}", "x".repeat(200)), format!("s={}", "y".repeat(98)));
    let all = [long.as_str(), &short, &long, &short, &short].join(",");
    // Of the long ones the last goes first.
    let expected = [long.as_str(), &short, &short, &short].join(",");
    assert_eq!(kept(&[&all]), expected);
    let many = [short.as_str(); 6].join(",");
    assert_eq!(kept(&[&many]), [short.as_str(); 5].join(","));
}

#[test]
fn request_ids_differ() {
    assert_ne!(request_id(), request_id());
    assert_eq!(request_id().len(), 32);
}
