//! `tombolo quickstart --check`: nine things that the two clusters do, each asserted.

mod failover;
mod gray;
mod load;
mod public;
mod refusals;
mod survival;

use std::time::{Duration, Instant};

use super::{
    client::{Answer, Client},
    town::Town,
};
use crate::{demo::Reply, failure::Failure, style};

/// What a step needs.
struct Tour<'a> {
    town: &'a mut Town,
    client: Client,
}

/// A figure for the line of the step, or why it failed.
type StepResult = Result<String, String>;

/// Walks all steps; the first that fails ends the tour.
pub async fn walk(town: &mut Town) -> Result<(), Failure> {
    let client = town.client()?;
    let mut tour = Tour { town, client };
    println!();
    let began = Instant::now();
    macro_rules! step {
        ($number:literal, $what:literal, $step:path) => {
            let step_began = Instant::now();
            let outcome = $step(&mut tour).await;
            report($number, $what, step_began.elapsed(), outcome)?;
        };
    }
    step!(1, "public HTTPS to storefront and checkout v1", public::reaches_the_stable_version);
    step!(2, "header and cookie reach checkout v2", public::header_and_cookie_force_the_arm);
    step!(3, "a split of 20%, then 40%, that users stay in", gray::split_is_exact_and_sticky);
    step!(4, "a gray request stays in its lane", gray::lane_is_kept);
    step!(5, "ledger in west by DNS name, through west's gateway", failover::calls_across_clusters);
    step!(6, "checkout's only endpoint in east dies under load", failover::endpoint_dies_under_load);
    step!(7, "both controllers die; proxies restart without them", survival::without_controllers);
    step!(8, "west dies entirely, and comes back", survival::without_west);
    step!(9, "plaintext, foreign and wrong identities are refused", refusals::at_the_inbound);
    let panicked = tour.town.panicked();
    if !panicked.is_empty() {
        return Err(Failure::new(format!("a panic in the log of {}", panicked.join(", "))));
    }
    println!("\n9 of 9 steps passed in {:.1} s", began.elapsed().as_secs_f64());
    Ok(())
}

fn report(number: u8, what: &str, took: Duration, outcome: StepResult) -> Result<(), Failure> {
    let took = style::dim(&format!("({:.1} s)", took.as_secs_f64()));
    match outcome {
        Ok(figure) => {
            println!("{} {number}. {what}: {figure} {took}", style::green("ok  "));
            Ok(())
        }
        Err(why) => {
            println!("FAIL {number}. {what}: {why} {took}");
            Err(Failure::new(format!("step {number} failed")))
        }
    }
}

impl Tour<'_> {
    async fn reply(&self, path: &str, headers: &[(&str, &str)]) -> Result<Reply, String> {
        self.client.get(path, headers).await.and_then(|answer| answer.reply())
    }

    async fn status(&self, path: &str) -> Result<u16, String> {
        self.client.get(path, &[]).await.map(|answer: Answer| answer.status)
    }

    /// Polls until the condition holds. `what` says what was waited for.
    async fn wait_until<F>(
        &self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut() -> F,
    ) -> Result<Duration, String>
    where
        F: Future<Output = Result<bool, String>>,
    {
        let began = Instant::now();
        loop {
            let outcome = condition().await;
            if matches!(outcome, Ok(true)) {
                return Ok(began.elapsed());
            }
            if began.elapsed() > limit {
                let why = outcome.err().map(|e| format!(": {e}")).unwrap_or_default();
                return Err(format!("{what}: not within {limit:?}{why}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// `service vN` of a reply's chain, or an error that shows the reply.
fn version_of<'r>(reply: &'r Reply, service: &str) -> Result<&'r str, String> {
    let found = reply.find(service);
    found.map(|r| r.version.as_str()).ok_or_else(|| format!("{service} was not reached: {reply:?}"))
}

fn expect(truth: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if truth { Ok(()) } else { Err(message()) }
}
