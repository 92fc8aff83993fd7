//! Connections to backends are not used for ever, however busy they are.

use std::time::Duration;

use super::{clients::*, harness::*};
use crate::proxy::connection::AGE;

/// Often enough for a connection not to become idle for too long.
const STEP: Duration = Duration::from_secs(40);

#[tokio::test]
async fn a_connection_that_is_busy_all_the_time_is_given_up_when_it_is_old() {
    for decision in [forward(), over_http2()] {
        let app = App::named("app").await;
        let proxy = Setup::default().forwards(decision).with([plain(app.address)]);
        let listener = proxy.outbound();
        let mut age = Duration::ZERO;
        while age < AGE + STEP {
            assert_eq!(status(&get(listener.address(), "").await), 200);
            let expected = if age < AGE * 9 / 10 { 1..=1 } else { 1..=2 };
            assert!(expected.contains(&app.connections()), "{} at {age:?}", app.connections());
            tokio::time::pause();
            tokio::time::advance(STEP).await;
            tokio::time::resume();
            age += STEP;
        }
        assert_eq!(status(&get(listener.address(), "").await), 200);
        assert_eq!(app.connections(), 2);
    }
}
