//! The caller's trace, as W3C Trace Context writes it.

use std::str::FromStr as _;

use http::{HeaderMap, HeaderName};
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The length of version 00, and of what every later version begins with.
const VERSION_00: usize = 55;
/// More of `tracestate` needn't be kept (Trace Context §3.3.1.5).
const MAX_STATE_BYTES: usize = 512;
const MAX_STATE_MEMBERS: usize = 32;

/// The trace that a request belongs to. Anything wrong with `traceparent` and there is none; anything
/// wrong with `tracestate` and that alone is ignored (Trace Context §3.2, §3.3).
pub(super) fn extract(headers: &HeaderMap) -> Option<SpanContext> {
    let mut fields = headers.get_all(TRACEPARENT).iter();
    let field = fields.next()?;
    if fields.next().is_some() {
        return None;
    }
    let (trace_id, span_id, flags) = parse(field.as_bytes())?;
    let state = state(headers).unwrap_or_default();
    Some(SpanContext::new(trace_id, span_id, flags, true, state))
}

/// `00-<trace>-<span>-<flags>`, in lower-case hex; a version that isn't known yet may say more.
fn parse(field: &[u8]) -> Option<(TraceId, SpanId, TraceFlags)> {
    let (known, more) = field.split_at_checked(VERSION_00)?;
    let [b'-', rest @ ..] = &known[2..] else {
        return None;
    };
    let (trace, rest) = rest.split_at(32);
    let [b'-', rest @ ..] = rest else {
        return None;
    };
    let (span, rest) = rest.split_at(16);
    let [b'-', flags @ ..] = rest else {
        return None;
    };
    let [version]: [u8; 1] = hex(&known[..2])?;
    let goes_on_well = match version {
        0 => more.is_empty(),
        0xff => false,
        _ => more.is_empty() || more[0] == b'-',
    };
    let trace_id = TraceId::from_bytes(hex(trace)?);
    let span_id = SpanId::from_bytes(hex(span)?);
    let [flags]: [u8; 1] = hex(flags)?;
    let is_valid = goes_on_well && trace_id != TraceId::INVALID && span_id != SpanId::INVALID;
    // Other flags say nothing to us (§3.2.2.5.2).
    is_valid.then(|| {
        (
            trace_id,
            span_id,
            TraceFlags::new(flags) & TraceFlags::SAMPLED,
        )
    })
}

fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |letter: u8| match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'f' => Some(letter - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn state(headers: &HeaderMap) -> Option<TraceState> {
    let mut whole = String::new();
    for field in headers.get_all(TRACESTATE) {
        if !whole.is_empty() {
            whole.push(',');
        }
        whole.push_str(field.to_str().ok()?);
        if whole.len() > MAX_STATE_BYTES {
            return None;
        }
    }
    let members = whole
        .split(',')
        .map(|member| member.trim_matches([' ', '\t']));
    let members: Vec<_> = members.filter(|member| !member.is_empty()).collect();
    let is_good = members.len() <= MAX_STATE_MEMBERS && members.iter().all(|it| is_member(it));
    // The SDK's own reading takes nearly everything.
    is_good.then(|| TraceState::from_str(&members.join(",")).ok())?
}

/// `key=value` (Trace Context §3.3.1.3).
fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else {
        return false;
    };
    let is_start = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit();
    let is_key = |it: u8| is_start(it) || matches!(it, b'_' | b'-' | b'*' | b'/' | b'@');
    let is_value = |it: u8| matches!(it, b' '..=b'~') && it != b'=';
    key.bytes().next().is_some_and(is_start)
        && key.bytes().all(is_key)
        && !value.is_empty()
        && value.bytes().all(is_value)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn of(parents: &[&str], states: &[&str]) -> Option<SpanContext> {
        let mut headers = HeaderMap::new();
        for parent in parents {
            headers.append(TRACEPARENT, HeaderValue::from_str(parent).expect("good"));
        }
        for state in states {
            headers.append(TRACESTATE, HeaderValue::from_str(state).expect("good"));
        }
        extract(&headers)
    }

    #[test]
    fn a_good_one_is_continued() {
        let context = of(&[GOOD], &["congo=t61rcWkgMzE", "rojo=00f067aa0ba902b7"]).expect("good");
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(context.trace_id().to_string(), trace);
        assert_eq!(context.span_id().to_string(), "00f067aa0ba902b7");
        assert!(context.is_sampled() && context.is_remote());
        let state = context.trace_state().header();
        assert_eq!(state, "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7");
    }

    #[test]
    fn flags_but_the_first_are_nothing_to_us() {
        let flagged = |flags: &str| of(&[&format!("{}{flags}", &GOOD[..53])], &[]).expect("good");
        for (flags, sampled) in [("00", false), ("01", true), ("02", false), ("ff", true)] {
            let context = flagged(flags);
            assert_eq!(context.is_sampled(), sampled, "{flags}");
            assert_eq!(context.trace_flags().to_u8(), u8::from(sampled));
        }
    }

    #[test]
    fn a_later_version_may_say_more() {
        let later = GOOD.replacen("00", "cc", 1);
        assert!(of(&[&later], &[]).is_some());
        assert!(of(&[&format!("{later}-more")], &[]).is_some());
        assert!(of(&[&format!("{later}.more")], &[]).is_none());
        assert!(of(&[&format!("{GOOD}-more")], &[]).is_none());
    }

    #[test]
    fn whatever_is_wrong_is_ignored() {
        let wrong = [
            String::new(),
            GOOD[..54].to_owned(),
            format!("{GOOD}0"),
            GOOD.to_uppercase(),
            GOOD.replacen("00", "ff", 1),
            GOOD.replacen("00", "+0", 1),
            GOOD.replace('-', "_"),
            GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            GOOD.replace("4bf9", "4bg9"),
            GOOD.replace("-01", "-0g"),
            GOOD.replace("4736-", "473-6"),
        ];
        for wrong in wrong {
            assert!(of(&[&wrong], &[]).is_none(), "{wrong}");
        }
        assert!(of(&[GOOD, GOOD], &[]).is_none(), "two of them");
    }

    #[test]
    fn a_wrong_state_is_ignored_alone() {
        let long = format!("a={}", "x".repeat(MAX_STATE_BYTES));
        let many = "a=1,".repeat(MAX_STATE_MEMBERS + 1);
        for state in ["=", "a", "a=", "=b", "A=b", "a=b=c", "a b=c", &long, &many] {
            let context = of(&[GOOD], &[state]).expect("good");
            assert_eq!(context.trace_state().header(), "", "{state}");
        }
    }
}
