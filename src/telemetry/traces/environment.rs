//! The environment variables of OpenTelemetry, as its specification names them
//! (OTLP Exporter Configuration; Environment Variable Specification). A value that can't be used is
//! told and ignored, which that specification asks for: traces are no reason not to serve.

use std::time::Duration;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, TE, TRAILER,
        TRANSFER_ENCODING, UPGRADE,
    },
};
use opentelemetry::KeyValue;
use opentelemetry_sdk::{Resource, trace::Sampler};
use percent_encoding::percent_decode_str;
use url::Url;
use uuid::Uuid;

/// Where traces go and which. The default is nowhere.
#[derive(Debug, Default)]
pub struct Settings {
    pub(super) collector: Option<Collector>,
    pub(super) mistakes: Vec<Unusable>,
}

/// A variable whose value can't be used. The value isn't told: it may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {what}")]
pub struct Unusable {
    /// Its name.
    pub variable: String,
    /// What is wrong, and what is done instead.
    pub what: String,
}

/// What is needed to send traces to a collector.
#[derive(Debug)]
pub(super) struct Collector {
    pub(super) endpoint: Url,
    /// Marked sensitive: they may hold a key.
    pub(super) headers: HeaderMap,
    pub(super) timeout: Duration,
    pub(super) sampler: Sampler,
    pub(super) resource: Resource,
    pub(super) batches: Batches,
}

/// How spans are put together (`OTEL_BSP_*`).
#[derive(Debug, Clone, Copy)]
pub(super) struct Batches {
    /// How long the first span of a batch waits for others.
    pub(super) delay: Duration,
    /// The most spans that wait; beyond it they are dropped.
    pub(super) queue: usize,
    /// The most spans in one request.
    pub(super) size: usize,
}

/// The specification's defaults.
const TIMEOUT: u64 = 10_000;
const DELAY: u64 = 5_000;
const QUEUE: u64 = 2_048;
const BATCH: u64 = 512;
/// A queue beyond this is a mistake: about a gigabyte.
const MOST_QUEUED: u64 = 1 << 20;
/// What belongs to a message or a connection and not to who sends it: another value of it breaks the request, or
/// leads it astray (RFC 9110 §7.2, §7.6.1, §8).
const OF_THE_MESSAGE: [HeaderName; 10] = [
    CONNECTION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    EXPECT,
    HOST,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];
/// Nobody waits longer for a collector.
const LONGEST: u64 = 600_000;

impl Settings {
    /// As the environment has them: `env` gives a variable's value.
    pub fn of(env: impl Fn(&str) -> Option<String>) -> Self {
        let mut read = Reading {
            env: |name: &str| env(name).filter(|value| !value.trim().is_empty()),
            mistakes: Vec::new(),
        };
        let collector = read.collector();
        Self {
            collector,
            mistakes: read.mistakes,
        }
    }

    /// What can't be used of the environment.
    #[must_use]
    pub fn mistakes(&self) -> &[Unusable] {
        &self.mistakes
    }
}

/// Whether each `%` begins an escape (RFC 3986 §2.1), which a decoder leaves as it is where it doesn't.
fn is_escaped(value: &str) -> bool {
    value.split('%').skip(1).all(|behind| {
        let digits = behind.bytes().take(2);
        digits.filter(u8::is_ascii_hexdigit).count() == 2
    })
}

struct Reading<E> {
    env: E,
    mistakes: Vec<Unusable>,
}

impl<E: Fn(&str) -> Option<String>> Reading<E> {
    fn collector(&mut self) -> Option<Collector> {
        if self.is_disabled() {
            return None;
        }
        match (self.env)("OTEL_TRACES_EXPORTER").as_deref().map(str::trim) {
            None | Some("otlp") => {}
            Some("none") => return None,
            Some(_) => {
                self.wrong(
                    "OTEL_TRACES_EXPORTER",
                    "only `otlp` and `none` are known, and `otlp` is taken",
                );
            }
        }
        let endpoint = self.endpoint()?;
        // The specification's default too.
        if let Some((name, protocol)) = self.signal("PROTOCOL")
            && protocol.trim() != "http/protobuf"
        {
            self.wrong(&name, "only `http/protobuf` is spoken, and is taken; give the collector's port for it, which is usually 4318");
        }
        Some(Collector {
            endpoint,
            headers: self.headers(),
            timeout: self.timeout(),
            sampler: self.sampler(),
            resource: self.resource(),
            batches: self.batches(),
        })
    }

    /// Only `true` is true (Environment Variable Specification, Boolean).
    fn is_disabled(&mut self) -> bool {
        const NAME: &str = "OTEL_SDK_DISABLED";
        let value = (self.env)(NAME).unwrap_or_default();
        let is = |word: &str| value.trim().eq_ignore_ascii_case(word);
        if !is("true") && !is("false") && !value.is_empty() {
            self.wrong(
                NAME,
                "only `true` turns traces off, and `false` is taken; write one of them",
            );
        }
        is("true")
    }

    /// `OTEL_EXPORTER_OTLP_TRACES_*`, or what counts for all signals.
    fn signal(&self, what: &str) -> Option<(String, String)> {
        [
            format!("OTEL_EXPORTER_OTLP_TRACES_{what}"),
            format!("OTEL_EXPORTER_OTLP_{what}"),
        ]
        .into_iter()
        .find_map(|name| (self.env)(&name).map(|value| (name, value)))
    }

    fn wrong(&mut self, name: &str, what: &str) {
        self.mistakes.push(Unusable {
            variable: name.to_owned(),
            what: what.to_owned(),
        });
    }

    fn endpoint(&mut self) -> Option<Url> {
        let (name, value) = self.signal("ENDPOINT")?;
        let url = Url::parse(value.trim()).ok();
        let Some(mut url) =
            url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        else {
            self.wrong(
                &name,
                "expected an address such as http://collector:4318; no traces are sent",
            );
            return None;
        };
        if !url.username().is_empty() || url.password().is_some() {
            self.wrong(
                &name,
                "has a user before its host; take out all up to the `@`, and give the collector its key as a header, in OTEL_EXPORTER_OTLP_HEADERS; no traces are sent",
            );
            return None;
        }
        if name == "OTEL_EXPORTER_OTLP_ENDPOINT" {
            let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
            url.set_path(&path);
        }
        Some(url)
    }

    fn headers(&mut self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        // Those of the signal win, name by name.
        for name in [
            "OTEL_EXPORTER_OTLP_HEADERS",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
        ] {
            let Some(list) = (self.env)(name) else {
                continue;
            };
            for (key, value) in self.pairs(name, &list) {
                let parsed = HeaderName::try_from(key)
                    .ok()
                    .zip(HeaderValue::try_from(value).ok());
                let Some((key, mut value)) = parsed else {
                    self.wrong(name, "one of its headers isn't one, and isn't sent");
                    continue;
                };
                if OF_THE_MESSAGE.contains(&key) {
                    let what = format!(
                        "`{key}` belongs to the request itself, and isn't sent as it is here"
                    );
                    self.wrong(name, &what);
                    continue;
                }
                value.set_sensitive(true);
                headers.insert(key, value);
            }
        }
        headers
    }

    /// `key=value,key=value`, percent-encoded.
    fn pairs(&mut self, name: &str, list: &str) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        for pair in list.split(',').filter(|pair| !pair.trim().is_empty()) {
            let decoded = pair.split_once('=').and_then(|(key, value)| {
                if !is_escaped(value) {
                    return None;
                }
                let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
                Some((key.trim().to_owned(), value.into_owned()))
            });
            match decoded {
                Some(pair) => pairs.push(pair),
                None => self.wrong(name, "expected key=value,key=value, percent-encoded; a part that isn't so is ignored"),
            }
        }
        pairs
    }

    fn number(&mut self, name: &str, default: u64, within: std::ops::RangeInclusive<u64>) -> u64 {
        let Some(value) = (self.env)(name) else {
            return default;
        };
        match value.trim().parse() {
            Ok(number) if within.contains(&number) => number,
            _ => {
                let (least, most) = within.into_inner();
                self.wrong(
                    name,
                    &format!("expected a whole number from {least} to {most}; {default} is taken"),
                );
                default
            }
        }
    }

    fn timeout(&mut self) -> Duration {
        let name = self.signal("TIMEOUT").map(|(name, _)| name);
        let millis = name.map_or(TIMEOUT, |name| self.number(&name, TIMEOUT, 1..=LONGEST));
        Duration::from_millis(millis)
    }

    fn batches(&mut self) -> Batches {
        let delay = self.number("OTEL_BSP_SCHEDULE_DELAY", DELAY, 0..=LONGEST);
        let queue = self.number("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE, 1..=MOST_QUEUED);
        let size = self.number(
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
            BATCH.min(queue),
            1..=queue,
        );
        let fit = |number| usize::try_from(number).unwrap_or(usize::MAX);
        Batches {
            delay: Duration::from_millis(delay),
            queue: fit(queue),
            size: fit(size),
        }
    }

    fn sampler(&mut self) -> Sampler {
        let parent_based = |root| Sampler::ParentBased(Box::new(root));
        let name = (self.env)("OTEL_TRACES_SAMPLER");
        let name = name.as_deref().map(str::trim);
        if name.is_none_or(|name| !name.ends_with("traceidratio"))
            && (self.env)("OTEL_TRACES_SAMPLER_ARG").is_some()
        {
            self.wrong("OTEL_TRACES_SAMPLER_ARG", "means nothing to this sampler, and is ignored; set OTEL_TRACES_SAMPLER to parentbased_traceidratio or traceidratio, or remove it");
        }
        match name {
            None | Some("parentbased_always_on") => parent_based(Sampler::AlwaysOn),
            Some("parentbased_always_off") => parent_based(Sampler::AlwaysOff),
            Some("parentbased_traceidratio") => parent_based(self.ratio()),
            Some("always_on") => Sampler::AlwaysOn,
            Some("always_off") => Sampler::AlwaysOff,
            Some("traceidratio") => self.ratio(),
            Some(_) => {
                self.wrong("OTEL_TRACES_SAMPLER", "expected always_on, always_off, traceidratio, or one of them after `parentbased_`; parentbased_always_on is taken");
                parent_based(Sampler::AlwaysOn)
            }
        }
    }

    fn ratio(&mut self) -> Sampler {
        let value = (self.env)("OTEL_TRACES_SAMPLER_ARG");
        let ratio = value.map(|value| value.trim().parse::<f64>());
        match ratio {
            None => Sampler::TraceIdRatioBased(1.0),
            Some(Ok(ratio)) if (0.0..=1.0).contains(&ratio) => Sampler::TraceIdRatioBased(ratio),
            Some(_) => {
                self.wrong(
                    "OTEL_TRACES_SAMPLER_ARG",
                    "expected a number from 0 to 1; 1 is taken",
                );
                Sampler::TraceIdRatioBased(1.0)
            }
        }
    }

    fn resource(&mut self) -> Resource {
        let mut attributes = vec![
            ("service.name".to_owned(), env!("CARGO_PKG_NAME").to_owned()),
            (
                "service.version".to_owned(),
                env!("CARGO_PKG_VERSION").to_owned(),
            ),
            ("service.instance.id".to_owned(), Uuid::now_v7().to_string()),
            ("telemetry.sdk.name".to_owned(), "opentelemetry".to_owned()),
            ("telemetry.sdk.language".to_owned(), "rust".to_owned()),
        ];
        if let Some(list) = (self.env)("OTEL_RESOURCE_ATTRIBUTES") {
            attributes.extend(self.pairs("OTEL_RESOURCE_ATTRIBUTES", &list));
        }
        if let Some(name) = (self.env)("OTEL_SERVICE_NAME") {
            attributes.push(("service.name".to_owned(), name.trim().to_owned()));
        }
        // Of two with one name the later counts.
        let attributes = attributes
            .into_iter()
            .map(|(key, value)| KeyValue::new(key, value));
        Resource::builder_empty()
            .with_attributes(attributes)
            .build()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn of(variables: &[(&str, &str)]) -> Settings {
        let variables: HashMap<_, _> = variables.iter().copied().collect();
        Settings::of(|name| variables.get(name).map(|value| (*value).to_owned()))
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");

    #[test]
    fn nothing_is_sent_unless_there_is_an_endpoint() {
        for variables in [
            &[][..],
            &[("OTEL_SERVICE_NAME", "x")],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")],
            &[ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")],
            &[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")],
        ] {
            let settings = of(variables);
            assert!(settings.collector.is_none(), "{variables:?}");
            assert_eq!(settings.mistakes, []);
        }
    }

    #[test]
    fn a_common_endpoint_gets_the_signals_path_and_its_own_is_as_it_is() {
        let endpoint =
            |variables: &[_]| of(variables).collector.expect("good").endpoint.to_string();
        assert_eq!(endpoint(&[ENDPOINT]), "http://127.0.0.1:4318/v1/traces");
        let below = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c.example.com/otlp/");
        assert_eq!(endpoint(&[below]), "https://c.example.com/otlp/v1/traces");
        let own = (
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "http://127.0.0.1:4318",
        );
        assert_eq!(endpoint(&[ENDPOINT, own]), "http://127.0.0.1:4318/");
    }

    #[test]
    fn the_rest_is_as_the_specification_says() {
        let collector = of(&[
            ENDPOINT,
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b%3D, other=1"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "other=2"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "service.name=no,deployment.environment.name=prueba%2C1",
            ),
            ("OTEL_SERVICE_NAME", "portero"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
        ]);
        assert_eq!(collector.mistakes, []);
        let collector = collector.collector.expect("good");
        assert_eq!(collector.headers["x-key"], "a b=");
        assert_eq!(collector.headers["other"], "2");
        assert!(
            !format!("{:?}", collector.headers).contains("a b"),
            "it isn't shown"
        );
        assert_eq!(collector.timeout, Duration::from_millis(2500));
        let resource = |key: &'static str| {
            let value = collector.resource.get(&opentelemetry::Key::new(key));
            value.map(|value| value.to_string())
        };
        assert_eq!(resource("service.name").as_deref(), Some("portero"));
        assert_eq!(
            resource("deployment.environment.name").as_deref(),
            Some("prueba,1")
        );
        assert_eq!(
            resource("service.version").as_deref(),
            Some(env!("CARGO_PKG_VERSION"))
        );
        assert_eq!(collector.batches.queue, 100);
        assert_eq!(collector.batches.size, 100);
        let sampler = format!("{:?}", collector.sampler);
        assert_eq!(sampler, "ParentBased(TraceIdRatioBased(0.25))");
    }

    #[test]
    fn a_header_that_belongs_to_the_message_is_told_and_not_sent() {
        for (part, told) in [
            ("host=secreto", "`host`"),
            ("Content-Length=7", "`content-length`"),
            ("transfer-encoding=chunked", "`transfer-encoding`"),
            ("content-type=text/plain", "`content-type`"),
            ("b=%zz", "percent-encoded"),
            ("b=%", "percent-encoded"),
            ("b=%a", "percent-encoded"),
            ("b=%%41", "percent-encoded"),
            ("b=%ff", "percent-encoded"),
        ] {
            let list = format!("x-key=a%25b,{part}");
            let settings = of(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_HEADERS", &list)]);
            let [mistake] = settings.mistakes() else {
                panic!("{part}: {:?}", settings.mistakes());
            };
            assert!(mistake.what.contains(told), "{}", mistake.what);
            assert!(!mistake.what.contains("secreto"));
            let headers = settings.collector.expect("good").headers;
            assert_eq!(headers.len(), 1, "{part}");
            assert_eq!(headers["x-key"], "a%b");
        }
    }

    #[test]
    fn what_cant_be_used_is_told_by_name_and_never_shown() {
        let settings = of(&[
            ENDPOINT,
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "secreto"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a b=secreto,secreto"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "secreto"),
            ("OTEL_TRACES_EXPORTER", "secreto"),
            ("OTEL_TRACES_SAMPLER", "secreto"),
            ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4000"),
        ]);
        assert_eq!(settings.mistakes().len(), 8, "{:#?}", settings.mistakes());
        assert!(!format!("{:?}", settings.mistakes()).contains("secreto"));
        assert!(settings.collector.is_some());
        for endpoint in [
            "secreto",
            "ftp://secreto",
            "unix:/secreto",
            "http://secreto@127.0.0.1:4318",
            "http://:secreto@127.0.0.1:4318",
            "https://ana:secreto@c.example.com/otlp",
        ] {
            let settings = of(&[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)]);
            assert!(settings.collector.is_none());
            let [mistake] = settings.mistakes() else {
                panic!("{endpoint}: {:?}", settings.mistakes());
            };
            assert_eq!(mistake.variable, "OTEL_EXPORTER_OTLP_ENDPOINT");
            assert!(!mistake.what.contains("secreto"));
            assert_eq!(
                mistake.what.contains("OTEL_EXPORTER_OTLP_HEADERS"),
                endpoint.contains('@')
            );
        }
    }

    #[test]
    fn what_means_nothing_is_told() {
        for (variable, value, also) in [
            ("OTEL_SDK_DISABLED", "yes", None),
            ("OTEL_SDK_DISABLED", "1", None),
            ("OTEL_TRACES_SAMPLER_ARG", "0.5", None),
            ("OTEL_TRACES_SAMPLER_ARG", "0.5", Some("always_on")),
        ] {
            let mut variables = vec![ENDPOINT, (variable, value)];
            variables.extend(also.map(|sampler| ("OTEL_TRACES_SAMPLER", sampler)));
            let settings = of(&variables);
            let [mistake] = settings.mistakes() else {
                panic!("{variables:?}: {:?}", settings.mistakes());
            };
            assert_eq!(mistake.variable, variable);
            assert!(settings.collector.is_some(), "{variables:?}");
        }
        for (variable, value, also) in [
            ("OTEL_SDK_DISABLED", "False", "always_on"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.5", "traceidratio"),
        ] {
            let settings = of(&[ENDPOINT, (variable, value), ("OTEL_TRACES_SAMPLER", also)]);
            assert_eq!(settings.mistakes(), [], "{variable}");
        }
    }
}
