//! How metrics are shown: OpenMetrics to whoever asks for it, and otherwise Prometheus's text format,
//! which every scraper reads. Exemplars are part of the first only.

use std::fmt;

use http::HeaderValue;
use prometheus_client::{encoding::text, registry::Registry};

/// How a scraper wants metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus's text format 0.0.4.
    Text,
}

impl Format {
    /// The one that `Accept` prefers (RFC 9110 §12.5.1). Only who names OpenMetrics gets it.
    #[must_use]
    pub fn accepted(accept: Option<&HeaderValue>) -> Self {
        let accept = accept
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let (mut open, mut plain) = (0.0, 0.0);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut weight, mut is_known) = (1.0, true);
            for parameter in parts {
                match parameter.split_once('=') {
                    Some(("q", value)) => weight = value.parse().unwrap_or(0.0),
                    Some(("version", version)) if kind.contains("openmetrics") => {
                        is_known = matches!(version.trim_matches('"'), "1.0.0" | "0.0.1");
                    }
                    _ => {}
                }
            }
            match kind.as_str() {
                "application/openmetrics-text" if is_known => open = f64::max(open, weight),
                "text/plain" | "text/*" | "*/*" => plain = f64::max(plain, weight),
                _ => {}
            }
        }
        if open > 0.0 && open >= plain {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }

    /// As `Content-Type` has it.
    #[must_use]
    pub fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        })
    }
}

/// All metrics as they are now.
///
/// # Errors
/// A metric can't be written.
pub fn render(metrics: &Registry, format: Format) -> Result<String, fmt::Error> {
    let mut open = String::new();
    text::encode(&mut open, metrics)?;
    Ok(match format {
        Format::OpenMetrics => open,
        Format::Text => plain(&open),
    })
}

/// The same in Prometheus's text format: there a counter's family is called as its sample is, types are
/// fewer, and units, exemplars and the end aren't told.
fn plain(open: &str) -> String {
    let mut plain = String::with_capacity(open.len());
    let lines: Vec<_> = open.lines().collect();
    let mut suffix = "";
    for (at, line) in lines.iter().enumerate() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), text) => {
                // The type, on the next line, says what the family is called.
                let kind = lines.get(at + 1).and_then(|next| next.rsplit(' ').next());
                suffix = match kind {
                    Some("counter") => "_total",
                    Some("info") => "_info",
                    _ => "",
                };
                plain.push_str(&format!(
                    "# HELP {name}{suffix} {}\n",
                    text.unwrap_or_default()
                ));
            }
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let kind = match kind {
                    "info" | "stateset" => "gauge",
                    "unknown" => "untyped",
                    kind => kind,
                };
                plain.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
            }
            (Some("#"), ..) => {}
            _ => {
                plain.push_str(without_exemplar(line));
                plain.push('\n');
            }
        }
    }
    plain
}

/// A sample without what stands behind ` # `, outside its labels.
fn without_exemplar(line: &str) -> &str {
    let (mut quoted, mut escaped) = (false, false);
    for (at, letter) in line.bytes().enumerate() {
        match letter {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'#' if !quoted => return line[..at].trim_end(),
            _ => {}
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::{
        counter::Counter, exemplar::HistogramWithExemplars, family::Family, gauge::Gauge,
        info::Info,
    };

    use super::*;

    #[test]
    fn openmetrics_is_for_whoever_names_it() {
        let accepted = |accept| Format::accepted(Some(&HeaderValue::from_static(accept)));
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
            application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        assert_eq!(accepted(prometheus), Format::OpenMetrics);
        assert_eq!(
            accepted("application/openmetrics-text"),
            Format::OpenMetrics
        );
        for plain in [
            "*/*",
            "text/plain",
            "text/html, */*",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;version=9.0.0",
            "application/openmetrics-text;q=0.1, text/plain;q=0.2",
            "application/json",
        ] {
            assert_eq!(accepted(plain), Format::Text, "{plain}");
        }
        assert_eq!(Format::accepted(None), Format::Text);
    }

    #[test]
    fn the_text_format_knows_neither_exemplars_nor_units_nor_other_types() {
        let mut metrics = Registry::default();
        let (count, gauge) = (
            Family::<[(&str, &str); 1], Counter>::default(),
            Gauge::<i64>::default(),
        );
        count.get_or_create(&[("of", "a # \"b\\")]).inc();
        let lasting = HistogramWithExemplars::<[(&str, &str); 1]>::new([1.0].into_iter());
        lasting.observe(0.5, Some([("trace_id", "abc")]), None);
        metrics.register("things", "Things", count);
        metrics.register("level", "A level", gauge);
        metrics.register("build", "The build", Info::new([("version", "1")]));
        metrics.register("lasting", "How long", lasting);
        let open = render(&metrics, Format::OpenMetrics).expect("good");
        assert!(open.contains("# {trace_id=\"abc\"} 0.5"), "{open}");
        assert!(open.ends_with("# EOF\n"));
        let expected = "\
            # HELP things_total Things.\n# TYPE things_total counter\nthings_total{of=\"a # \\\"b\\\\\"} 1\n\
            # HELP level A level.\n# TYPE level gauge\nlevel 0\n\
            # HELP build_info The build.\n# TYPE build_info gauge\nbuild_info{version=\"1\"} 1\n\
            # HELP lasting How long.\n# TYPE lasting histogram\nlasting_sum 0.5\nlasting_count 1\n\
            lasting_bucket{le=\"1.0\"} 1\nlasting_bucket{le=\"+Inf\"} 1\n";
        assert_eq!(render(&metrics, Format::Text).expect("good"), expected);
    }
}
