//! Which spans are recorded (OpenTelemetry's samplers, `OTEL_TRACES_SAMPLER`).

use std::str::FromStr;

use crate::proxy::TraceParent;

/// Decides of a trace that begins here, and of one that came in with a parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampler {
    root: Share,
    /// What came in decides, where it says something.
    parent_based: bool,
}

/// Traces whose id's last 63 bits are below this: all that sample by the same share choose the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share(u64);

impl Share {
    const ALL: Self = Self(1 << 63);
    const NONE: Self = Self(0);

    fn of(ratio: f64) -> Self {
        // The cast saturates; the product of 1 and 2^63 is exact.
        Self((ratio * (1_u64 << 63) as f64) as u64)
    }
}

impl Default for Sampler {
    /// `parentbased_always_on`, as OpenTelemetry has it.
    fn default() -> Self {
        Self { root: Share::ALL, parent_based: true }
    }
}

impl Sampler {
    /// By what came in; of traces that begin here this share, 0 to 1.
    pub fn parent_based(ratio: f64) -> Self {
        Self { root: Share::of(ratio), parent_based: true }
    }

    /// By its OpenTelemetry name and argument; a missing argument is 1.
    pub(super) fn by_name(name: &str, argument: Option<&str>) -> Result<Self, String> {
        let (base, parent_based) = match name.strip_prefix("parentbased_") {
            Some(base) => (base, true),
            None => (name, false),
        };
        let root = match base {
            "always_on" => Share::ALL,
            "always_off" => Share::NONE,
            "traceidratio" => Share::of(argument.map_or(Ok(1.0), ratio)?),
            _ => {
                return Err(format!(
                    "{name:?} is not known: use always_on, always_off, traceidratio, or one of them with parentbased_ before it"
                ));
            }
        };
        Ok(Self { root, parent_based })
    }

    pub(super) fn samples(self, parent: &TraceParent) -> bool {
        match parent.sampled.filter(|_| self.parent_based) {
            Some(sampled) => sampled,
            // The cast takes the last 64 bits.
            None => (parent.trace as u64) >> 1 < self.root.0,
        }
    }
}

/// A share, 0 to 1.
fn ratio(text: &str) -> Result<f64, String> {
    let parsed = f64::from_str(text).ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    parsed.ok_or_else(|| format!("{text:?} is not a share: use a number from 0 to 1"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(name: &str, argument: Option<&str>) -> Sampler {
        Sampler::by_name(name, argument).unwrap()
    }

    fn asked(sampler: Sampler, trace: u128, sampled: Option<bool>) -> bool {
        sampler.samples(&TraceParent { trace, sampled })
    }

    #[test]
    fn what_came_in_decides_where_the_sampler_says_so() {
        for (name, expected) in [
            ("always_on", [true; 3]),
            ("always_off", [false; 3]),
            ("parentbased_always_on", [true, true, false]),
            ("parentbased_always_off", [false, true, false]),
            ("parentbased_traceidratio", [true, true, false]),
        ] {
            let got = [None, Some(true), Some(false)].map(|came| asked(of(name, None), u128::MAX, came));
            assert_eq!(got, expected, "{name}");
        }
        assert_eq!(Sampler::default(), of("parentbased_always_on", None));
        assert_eq!(Sampler::parent_based(0.25), of("parentbased_traceidratio", Some("0.25")));
    }

    #[test]
    fn a_share_of_traces_is_chosen_by_their_ids() {
        let quarter = of("traceidratio", Some("0.25"));
        // Only the last bytes count: they are the random ones.
        let trace = |n: u64| u128::from(u64::MAX) << 64 | u128::from(n);
        assert!(asked(quarter, trace(0), None) && asked(quarter, trace((1 << 62) - 1), None));
        assert!(!asked(quarter, trace(1 << 62), None) && !asked(quarter, trace(u64::MAX), None));
        let ids = (0..4000_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let sampled = ids.filter(|id| asked(quarter, trace(*id), None)).count();
        assert!((900..1100).contains(&sampled), "{sampled}");
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for (name, argument) in [
            ("xray", None),
            ("traceidratio", Some("2")),
            ("traceidratio", Some("-0.1")),
            ("traceidratio", Some("NaN")),
        ] {
            assert!(Sampler::by_name(name, argument).is_err(), "{name} {argument:?}");
        }
    }
}
