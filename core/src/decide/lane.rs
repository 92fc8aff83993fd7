//! The lane on the wire: the member `tombolo.lane` of the `baggage` header (W3C Baggage).
//!
//! Where traffic enters from outside, [`baggage_with_lane`] with no lane strips it; everywhere else it writes the lane
//! that the decision gave. Members of others pass untouched.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::model::Lane;

/// The W3C Baggage header.
pub const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// The annotation of an HTTPRoute or GRPCRoute whose clients from outside are believed in which lane they are: `true`, or
/// `false` as by default. For routes that only one's own testers or trusted proxies can reach.
pub const TRUST_CLIENT_LANE: &str = "tombolo.dev/trust-client-lane";

/// The key of our member.
pub const LANE_MEMBER: &str = "tombolo.lane";

/// The lane that a request is in; the first valid member of our name counts. None: the baseline.
///
/// What is not a lane (see [`Lane::parse`]) is as if it were not there: a request must not fail for its baggage.
pub fn lane_from_baggage(headers: &HeaderMap) -> Option<Lane> {
    members(headers).find_map(|member| lane_of(member).and_then(|value| Lane::parse(value).ok()))
}

/// The one `baggage` value to send on: what others put there, with our member set to `lane`, or without it if none.
///
/// None: send no `baggage` at all. Values that are not visible ASCII are dropped, as the specification knows no others.
pub fn baggage_with_lane(headers: &HeaderMap, lane: Option<&Lane>) -> Option<HeaderValue> {
    let mut out = String::new();
    for member in members(headers).filter(|member| lane_of(member).is_none()) {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(member);
    }
    if let Some(lane) = lane {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(LANE_MEMBER);
        out.push('=');
        out.push_str(lane.as_str());
    }
    if out.is_empty() {
        return None;
    }
    // Made of header values and a DNS label, so always valid.
    HeaderValue::try_from(out).ok()
}

/// True if `baggage` already says what [`baggage_with_lane`] would make of it in meaning, so that nothing needs writing.
pub fn carries_lane(headers: &HeaderMap, lane: Option<&Lane>) -> bool {
    let mut ours = members(headers).filter_map(lane_of);
    match (ours.next(), lane) {
        (None, None) => true,
        (Some(value), Some(lane)) => value == lane.as_str() && ours.next().is_none(),
        _ => false,
    }
}

/// List members of all `baggage` headers, without the white space around them.
fn members(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(BAGGAGE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|member| !member.is_empty())
}

/// The value of a member that is ours, without properties (`;...`).
fn lane_of(member: &str) -> Option<&str> {
    let (key, value) = member.split_once('=').unwrap_or((member, ""));
    let value = value.split_once(';').map_or(value, |(value, _)| value);
    (key.trim() == LANE_MEMBER).then(|| value.trim())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (BAGGAGE, value.parse().unwrap())).collect()
    }

    #[test]
    fn the_lane_is_read_from_any_member() {
        for (values, expected) in [
            (&["tombolo.lane=v2"][..], Some("v2")),
            (&["user=1, tombolo.lane = v2 ;p=1,x=y"], Some("v2")),
            (&["user=1", "tombolo.lane=v2"], Some("v2")),
            (&["tombolo.lane=NOT OK, tombolo.lane=v2"], Some("v2")),
            (&["tombolo.lane=v2,tombolo.lane=v3"], Some("v2")),
            (&["xtombolo.lane=v2"], None),
            (&["tombolo.lane"], None),
            (&[], None),
        ] {
            let lane = lane_from_baggage(&headers(values));
            assert_eq!(lane.as_ref().map(Lane::as_str), expected, "{values:?}");
        }
    }

    #[test]
    fn other_members_stay_and_ours_is_replaced_or_removed() {
        let v2 = Lane::parse("v2").unwrap();
        for (values, lane, expected) in [
            (&["a=1,tombolo.lane=x;p, b=2;q=3"][..], Some(&v2), Some("a=1,b=2;q=3,tombolo.lane=v2")),
            (&["a=1,tombolo.lane=x", "b=2"], None, Some("a=1,b=2")),
            (&["tombolo.lane=x, tombolo.lane=y"], None, None),
            (&["tombolo.lane"], None, None),
            (&[], Some(&v2), Some("tombolo.lane=v2")),
            (&[" , ,"], None, None),
        ] {
            let out = baggage_with_lane(&headers(values), lane);
            assert_eq!(out.as_ref().map(|v| v.to_str().unwrap()), expected, "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(values in prop::collection::vec("[ -~]{0,40}", 0..3), lane in "[a-z]{1,5}") {
            let before: HeaderMap = values.iter().map(|v| (BAGGAGE, v.parse().unwrap())).collect();
            for lane in [None, Some(Lane::parse(&lane).unwrap())] {
                let after: HeaderMap =
                    baggage_with_lane(&before, lane.as_ref()).map(|value| (BAGGAGE, value)).into_iter().collect();
                prop_assert_eq!(lane_from_baggage(&after), lane.clone());
                prop_assert!(carries_lane(&after, lane.as_ref()));
                let foreign = |headers: &HeaderMap| -> Vec<String> {
                    members(headers).filter(|m| lane_of(m).is_none()).map(str::to_string).collect()
                };
                prop_assert_eq!(foreign(&before), foreign(&after));
            }
        }
    }
}
