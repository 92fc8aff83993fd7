//! What becomes of an automatic release, as a pure state machine: requests and the time go in, the next step comes out.

use std::time::Duration;

use tombolo_core::{
    resources::{
        kinds::{Analysis, MetricName},
        parse_duration,
    },
    telemetry::{INTERVALS, interval_end},
};

/// Requests of an arm that a step must have seen, where the document does not say.
const MIN_REQUESTS: u64 = 50;
/// Besides the whole step, requests are judged by parts that last at least so long.
const RECENT: Duration = Duration::from_secs(10);

/// An analysis in the form that it is carried out in. Weights are in hundredths of a percent.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Weight and least duration of each step; weights grow.
    pub steps: Vec<(u16, Duration)>,
    /// Percent.
    pub least_success: Option<f64>,
    /// The longest p99.
    pub most_latency: Option<Duration>,
    /// Requests that a step must have seen.
    pub min_requests: u64,
    /// Whether the arm goes back to nothing when a threshold is broken.
    pub rollback: bool,
}

impl Plan {
    /// From a document, which was checked when it was read.
    pub fn of(analysis: &Analysis) -> Self {
        let step = |step: &tombolo_core::resources::kinds::AnalysisStep| {
            // The cast saturates.
            ((step.weight * 100.0).round() as u16, parse_duration(&step.duration).unwrap_or(Duration::MAX))
        };
        let of = |name: MetricName| analysis.thresholds.iter().filter(move |t| t.metric == name);
        let success = of(MetricName::SuccessRate).filter_map(|t| t.min).reduce(f64::max);
        let latency = of(MetricName::LatencyP99).filter_map(|t| t.max).reduce(f64::min);
        Self {
            steps: analysis.steps.iter().map(step).collect(),
            least_success: success,
            most_latency: latency.map(|millis| Duration::from_secs_f64(millis / 1000.0)),
            min_requests: analysis.min_requests.unwrap_or(MIN_REQUESTS),
            rollback: analysis.rollback.unwrap_or(true),
        }
    }

    /// The first threshold that these requests break, in words.
    fn broken(&self, counts: &Counts) -> Option<String> {
        if counts.requests < self.min_requests.max(1) {
            return None;
        }
        let success = counts.success();
        if let Some(least) = self.least_success.filter(|least| success < *least) {
            return Some(format!(
                "success-rate {success:.2}% is below {least}%, of {} requests",
                counts.requests
            ));
        }
        // The interval that holds the p99 ends no more than a quarter above where it begins: broken for sure only if all
        // of it lies above.
        let beyond = |most: &Duration| counts.p99_at_least() >= *most;
        self.most_latency.filter(beyond).map(|most| {
            let p99 = counts.p99_at_least();
            format!("latency-p99 {p99:.0?} or more is above {most:?}, of {} requests", counts.requests)
        })
    }
}

/// Requests of an arm.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// All.
    pub requests: u64,
    /// Those answered with 5xx.
    pub failures: u64,
    /// By duration, in the intervals of telemetry.
    pub latency: Vec<u64>,
}

impl Counts {
    /// Adds what came since.
    pub fn add(&mut self, more: &Self) {
        self.requests = self.requests.saturating_add(more.requests);
        self.failures = self.failures.saturating_add(more.failures);
        self.latency.resize(INTERVALS, 0);
        for (count, more) in self.latency.iter_mut().zip(&more.latency) {
            *count = count.saturating_add(*more);
        }
    }

    /// What came since those earlier counters of the same process.
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |at: usize| earlier.latency.get(at).copied().unwrap_or(0);
        let latency = self.latency.iter().enumerate().take(INTERVALS);
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            failures: self.failures.saturating_sub(earlier.failures),
            latency: latency.map(|(at, count)| count.saturating_sub(before(at))).collect(),
        }
    }

    /// Percent.
    fn success(&self) -> f64 {
        let failures = self.failures.min(self.requests);
        100.0 * (self.requests - failures) as f64 / (self.requests.max(1)) as f64
    }

    /// The beginning of the interval in which the 99th of 100 requests is.
    fn p99_at_least(&self) -> Duration {
        let all: u64 = self.latency.iter().sum();
        let mut seen = 0;
        let at = self.latency.iter().position(|count| {
            seen += count;
            seen * 100 >= all * 99
        });
        at.and_then(|at| at.checked_sub(1)).and_then(interval_end).unwrap_or_default()
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Nothing now.
    Wait,
    /// The arm gets this weight.
    Step(u16),
    /// A threshold is broken: the arm gets nothing any more.
    RollBack(String),
    /// A threshold is broken: the arm stays where it is, and nothing goes on by itself.
    Stop(String),
    /// The last step has passed.
    Pass,
}

/// An automatic release on its way.
#[derive(Debug, Clone)]
pub struct Course {
    plan: Plan,
    weight: u16,
    since: Duration,
    counts: Counts,
    /// Those of late, and since when: what was well for long does not hide what goes wrong now.
    recent: (Counts, Duration),
}

impl Course {
    /// The arm has this weight now: the step of that weight begins, or the first one above it is next. `now` is counted
    /// from any fixed point.
    pub fn begin(plan: Plan, weight: u16, now: Duration) -> Self {
        let recent = (Counts::default(), now);
        Self { plan, weight, since: now, counts: Counts::default(), recent }
    }

    /// The plan that is carried out.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The weight that the arm has.
    pub fn weight(&self) -> u16 {
        self.weight
    }

    /// The requests of late, once they are enough to judge and of long enough.
    fn recent_whole(&self, now: Duration) -> Option<Counts> {
        let (counts, since) = &self.recent;
        let enough = counts.requests >= self.plan.min_requests && now.saturating_sub(*since) >= RECENT;
        enough.then(|| counts.clone())
    }

    /// Takes requests that came since the last time, and says what is next. What it says has to be done before it is asked
    /// again, by a new course with the new weight.
    pub fn observe(&mut self, more: &Counts, now: Duration) -> Next {
        self.counts.add(more);
        let lasting = self.plan.steps.iter().find(|(weight, _)| *weight == self.weight).map(|(_, d)| *d);
        let next = self.plan.steps.iter().map(|(weight, _)| *weight).find(|weight| *weight > self.weight);
        self.recent.0.add(more);
        let broken = self.plan.broken(&self.counts).or_else(|| self.plan.broken(&self.recent_whole(now)?));
        if let Some(reason) = broken.filter(|_| self.weight > 0) {
            return if self.plan.rollback { Next::RollBack(reason) } else { Next::Stop(reason) };
        }
        if self.recent_whole(now).is_some() {
            self.recent = (Counts::default(), now);
        }
        let judged = self.plan.least_success.is_none() && self.plan.most_latency.is_none()
            || self.counts.requests >= self.plan.min_requests;
        // A weight that is no step's is where somebody began, and takes no time.
        let passed = lasting.is_none_or(|lasting| judged && now.saturating_sub(self.since) >= lasting);
        match (passed, next) {
            (false, _) => Next::Wait,
            (true, Some(weight)) => Next::Step(weight),
            (true, None) => Next::Pass,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
