//! Where spans go and which are recorded: OpenTelemetry's environment variables.

use std::{path::PathBuf, time::Duration};

use tonic::metadata::{Ascii, MetadataKey, MetadataValue};

use super::Sampler;
use crate::decide::percent_decode;

/// The bound of every number of spans that can be set.
const MOST: usize = 65_536;

/// What is wrong, and where it was said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct SpanError {
    place: String,
    what: String,
}

impl SpanError {
    pub(super) fn new(place: &str, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into() }
    }
}

/// A header field of an export.
pub type Header = (MetadataKey<Ascii>, MetadataValue<Ascii>);

/// How spans are recorded and exported.
#[derive(Debug, Clone, PartialEq)]
pub struct SpanSettings {
    /// The collector: `http://HOST:PORT` or `https://HOST:PORT`.
    pub endpoint: String,
    /// PEM of the authorities that vouch for an `https` collector; none: those of this machine.
    pub certificate: Option<PathBuf>,
    /// Sent with every export.
    pub headers: Vec<Header>,
    /// The bound of one export.
    pub timeout: Duration,
    /// Which spans.
    pub sampler: Sampler,
    /// Who says so: `service.name` and more.
    pub resource: Vec<(String, String)>,
    /// Spans that wait; one more is dropped and counted.
    pub queue: usize,
    /// Spans in one export.
    pub batch: usize,
    /// A span waits no longer than this for its batch to fill.
    pub delay: Duration,
}

/// Set by whom: variables as a process has them.
type Get<'g> = &'g dyn Fn(&str) -> Option<String>;

impl SpanSettings {
    /// To this collector, everything else as OpenTelemetry has it by default.
    pub fn to(endpoint: &str, service: &str) -> Self {
        Self {
            endpoint: endpoint.into(),
            certificate: None,
            headers: Vec::new(),
            timeout: Duration::from_secs(10),
            sampler: Sampler::default(),
            resource: vec![("service.name".into(), service.into())],
            queue: 2048,
            batch: 512,
            delay: Duration::from_secs(5),
        }
    }

    /// What the variables say, for a process that is called `service` unless they name it. None: nothing is exported, as no
    /// collector is named, or `OTEL_SDK_DISABLED=true` or `OTEL_TRACES_EXPORTER=none` say so.
    ///
    /// # Errors
    /// A variable with a value that cannot be used.
    pub fn from_env(service: &str, get: Get<'_>) -> Result<Option<Self>, SpanError> {
        // An empty variable is one that is not set.
        let get = |name: &str| get(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let first = |names: [&'static str; 2]| names.into_iter().find_map(|name| Some((name, get(name)?)));
        let exporter = get("OTEL_TRACES_EXPORTER").unwrap_or_else(|| "otlp".into());
        if get("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true"))
            || exporter == "none"
        {
            return Ok(None);
        }
        if exporter != "otlp" {
            return Err(SpanError::new(
                "OTEL_TRACES_EXPORTER",
                format!("{exporter:?} is not known: use otlp or none"),
            ));
        }
        let Some((_, endpoint)) =
            first(["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"])
        else {
            return Ok(None);
        };
        if let Some((name, protocol)) =
            first(["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"])
            && protocol != "grpc"
        {
            return Err(SpanError::new(name, format!("{protocol:?} is not spoken here: use grpc")));
        }
        let mut settings = Self::to(&endpoint, service);
        let certificate = first(["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"]);
        settings.certificate = certificate.map(|(_, path)| path.into());
        if let Some((name, text)) = first(["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"])
        {
            settings.headers = headers(name, &text)?;
        }
        if let Some((name, text)) = first(["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"])
        {
            settings.timeout = Duration::from_millis(number(name, &text, 1, 600_000)?);
        }
        if let Some(name) = get("OTEL_TRACES_SAMPLER") {
            let argument = get("OTEL_TRACES_SAMPLER_ARG");
            let sampler = Sampler::by_name(&name, argument.as_deref());
            settings.sampler = sampler.map_err(|what| SpanError::new("OTEL_TRACES_SAMPLER", what))?;
        }
        if let Some(text) = get("OTEL_RESOURCE_ATTRIBUTES") {
            settings.add_resource(&text)?;
        }
        if let Some(name) = get("OTEL_SERVICE_NAME") {
            settings.set("service.name", name);
        }
        settings.read_batches(&get)?;
        Ok(Some(settings))
    }

    fn read_batches(&mut self, get: &dyn Fn(&str) -> Option<String>) -> Result<(), SpanError> {
        let read = |name: &str, least: u64, most: u64| {
            get(name).map(|text| number(name, &text, least, most)).transpose()
        };
        let most = MOST as u64;
        if let Some(queue) = read("OTEL_BSP_MAX_QUEUE_SIZE", 1, most)? {
            self.queue = queue as usize;
        }
        if let Some(batch) = read("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 1, most)? {
            self.batch = batch as usize;
        }
        self.batch = self.batch.min(self.queue);
        if let Some(delay) = read("OTEL_BSP_SCHEDULE_DELAY", 1, 600_000)? {
            self.delay = Duration::from_millis(delay);
        }
        Ok(())
    }

    fn set(&mut self, key: &str, value: String) {
        self.resource.retain(|(known, _)| known != key);
        self.resource.push((key.into(), value));
    }

    /// `KEY=VALUE,...`, values percent-encoded.
    fn add_resource(&mut self, text: &str) -> Result<(), SpanError> {
        let place = "OTEL_RESOURCE_ATTRIBUTES";
        for (key, value) in pairs(place, text)? {
            self.set(&key, value);
        }
        if self.resource.len() > 128 {
            return Err(SpanError::new(place, "has more than 128 attributes"));
        }
        Ok(())
    }
}

fn number(place: &str, text: &str, least: u64, most: u64) -> Result<u64, SpanError> {
    let parsed = text.parse().ok().filter(|number| (least..=most).contains(number));
    parsed.ok_or_else(|| {
        SpanError::new(place, format!("{text:?} is not usable: write a number from {least} to {most}"))
    })
}

/// `KEY=VALUE,...`, values percent-encoded (W3C Baggage).
fn pairs(place: &str, text: &str) -> Result<Vec<(String, String)>, SpanError> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let pair = |part: &str| {
        let (key, value) = part.split_once('=')?;
        let value = String::from_utf8(percent_decode(value.trim().as_bytes())).ok()?;
        Some((key.trim().to_owned(), value)).filter(|(key, _)| !key.is_empty())
    };
    let wrong = |part: &str| SpanError::new(place, format!("{part:?} is not KEY=VALUE"));
    parts.map(|part| pair(part).ok_or_else(|| wrong(part))).collect()
}

fn headers(place: &str, text: &str) -> Result<Vec<Header>, SpanError> {
    let wrong = |name: &str| SpanError::new(place, format!("{name:?} is no header, or its value is none"));
    let header = |(name, value): (String, String)| {
        let key = name.to_ascii_lowercase().parse().map_err(|_| wrong(&name))?;
        Ok((key, value.parse().map_err(|_| wrong(&name))?))
    };
    pairs(place, text)?.into_iter().map(header).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<SpanSettings>, String> {
        let get = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.to_string())
        };
        SpanSettings::from_env("gateway", &get).map_err(|error| error.to_string())
    }

    const COLLECTOR: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");

    #[test]
    fn nothing_is_exported_unless_a_collector_is_named() {
        for off in [
            &[][..],
            &[COLLECTOR, ("OTEL_TRACES_EXPORTER", "none")],
            &[COLLECTOR, ("OTEL_SDK_DISABLED", "true")],
        ] {
            assert_eq!(read(off), Ok(None), "{off:?}");
        }
        let expected = SpanSettings::to("http://collector:4317", "gateway");
        assert_eq!(read(&[COLLECTOR]), Ok(Some(expected)));
    }

    #[test]
    fn the_variables_of_opentelemetry_are_read() {
        let settings = read(&[
            COLLECTOR,
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces:4317"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "Api-Key=a%20b, x=1"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.1"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,deployment.environment=test"),
            ("OTEL_SERVICE_NAME", "edge"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
            ("OTEL_BSP_SCHEDULE_DELAY", "20"),
        ]);
        let settings = settings.unwrap().unwrap();
        assert_eq!(settings.endpoint, "https://traces:4317");
        assert_eq!(settings.certificate, Some("/ca.pem".into()));
        let (name, value) = &settings.headers[0];
        assert_eq!((name.as_str(), value.to_str().unwrap(), settings.headers.len()), ("api-key", "a b", 2));
        assert_eq!(
            (settings.timeout, settings.delay),
            (Duration::from_millis(2500), Duration::from_millis(20))
        );
        assert_eq!(settings.sampler, Sampler::parent_based(0.1));
        let resource: Vec<_> = settings.resource.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(resource, [("deployment.environment", "test"), ("service.name", "edge")]);
        assert_eq!((settings.queue, settings.batch), (100, 100), "a batch is no larger than the queue");
    }

    #[test]
    fn what_cannot_be_used_is_told_with_its_variable() {
        for (name, value) in [
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "no value"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a b=1"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_RESOURCE_ATTRIBUTES", "=x"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ] {
            let error = read(&[COLLECTOR, (name, value)]).unwrap_err();
            assert!(error.starts_with(name), "{error}");
        }
    }
}
