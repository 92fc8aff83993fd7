//! What label sets have in common.

use std::fmt;

use prometheus_client::encoding::{EncodeLabel, LabelSetEncoder};

/// The label, with the value `true`, of what is counted together past the bound of label sets: OpenTelemetry's
/// `otel.metric.overflow`.
pub(super) const OVERFLOW: &str = "otel_metric_overflow";

/// Writes labels. Those without a value are left out, which is the same to Prometheus.
pub(super) fn encode_set(labels: &[(&str, &str)], encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
    let mut there = labels.iter().filter(|(_, value)| !value.is_empty());
    there.try_for_each(|(name, value)| (*name, *value).encode(encoder.encode_label()))
}
