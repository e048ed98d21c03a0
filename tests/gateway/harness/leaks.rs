//! Planted secrets, and the search for them in everything that the gateway lets out.
//!
//! Every clave, Api-key and password of a test's world holds a mark that stands nowhere else;
//! tokens have one by nature, and are registered when they are signed.

use std::{
    collections::HashSet,
    io,
    sync::{LazyLock, Mutex, Once},
    thread::{self, ThreadId},
};

use base64_simd::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use llavero::telemetry::logs;
use memchr::memmem;
use tracing_subscriber::{
    Registry, filter::filter_fn, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// In every clave.
pub const CLAVE_MARK: &str = "canario7f3a";
/// In every Api-key; its JSON, URL and plain forms all differ.
pub const KEY_MARK: &str = r#"llave"7f3a\+/=%&"#;
/// In every password.
pub const PASSWORD_MARK: &str = r#"contra"4e81\/&ña"#;
/// In every body and header that an odd upstream sends.
pub const UPSTREAM_MARK: &str = "palabras-del-erp-91c2";

/// How the tokens of every test begin: their headers in base64url.
const TOKEN_MARKS: [&str; 2] = ["eyJ0eXAiOiJKV1Qi", "eyJhbGciOi"];

struct Form {
    secret: &'static str,
    finder: memmem::Finder<'static>,
}

static FORMS: LazyLock<Vec<Form>> = LazyLock::new(|| {
    let secrets = [
        ("a clave", CLAVE_MARK),
        ("an Api-key", KEY_MARK),
        ("a password", PASSWORD_MARK),
        ("the upstream's words", UPSTREAM_MARK),
        ("a token", TOKEN_MARKS[0]),
        ("a token", TOKEN_MARKS[1]),
    ];
    let forms = secrets.into_iter().flat_map(|(secret, mark)| {
        forms(mark).into_iter().map(move |form| Form {
            secret,
            finder: memmem::Finder::new(&form).into_owned(),
        })
    });
    forms.collect()
});
static SIGNATURES: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);
/// All that was logged, with the thread that did it.
static LINES: Mutex<Vec<(ThreadId, String)>> = Mutex::new(Vec::new());
static LEAKS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// How a text may come out: plain, in JSON, in an address, in base64 at any place, in hex.
fn forms(text: &str) -> Vec<String> {
    let json = serde_json::to_string(text).unwrap();
    let percent: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let form: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
    let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![
        text.to_owned(),
        text.to_uppercase(),
        json.trim_matches('"').to_owned(),
        form.to_lowercase(),
        form,
        percent.to_lowercase(),
        percent,
        hex,
    ];
    for offset in 0..3 {
        // What stands before shifts the alphabet; the edges depend on the neighbours.
        let mut shifted = vec![b'x'; offset];
        shifted.extend_from_slice(text.as_bytes());
        for encoded in [
            STANDARD_NO_PAD.encode_to_string(&shifted),
            URL_SAFE_NO_PAD.encode_to_string(&shifted),
        ] {
            let inner = &encoded[if offset == 0 { 0 } else { 4 }..encoded.len() - 2];
            forms.push(inner.to_owned());
        }
    }
    forms.sort();
    forms.dedup();
    forms
}

/// From now on, that token must come out nowhere, its signature alone included.
pub fn register_token(token: &str) {
    assert!(TOKEN_MARKS.iter().any(|mark| token.starts_with(mark)));
    let signature = token.rsplit('.').next().unwrap();
    if signature.len() >= 20 {
        SIGNATURES.lock().unwrap().insert(signature.to_owned());
    }
}

/// What a text gives away, if anything.
pub fn found_in(text: &[u8]) -> Option<String> {
    let shown = || String::from_utf8_lossy(&text[..text.len().min(2000)]).into_owned();
    if let Some(form) = FORMS.iter().find(|form| form.finder.find(text).is_some()) {
        let needle = String::from_utf8_lossy(form.finder.needle()).into_owned();
        return Some(format!("{} as {needle:?} in {}", form.secret, shown()));
    }
    let signatures = SIGNATURES.lock().unwrap();
    text.split(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')))
        .filter(|word| word.len() >= 20)
        .filter_map(|word| str::from_utf8(word).ok())
        .find(|word| signatures.contains(*word))
        .map(|_| format!("a token's signature in {}", shown()))
}

/// Fails the test where a text gives something away.
pub fn assert_none_in(what: &str, text: &[u8]) {
    if let Some(leak) = found_in(text) {
        panic!("{what} gives away {leak}");
    }
}

/// The log lines so far that hold a text, such as a request id.
pub fn lines_with(needle: &str) -> Vec<serde_json::Value> {
    let lines = LINES.lock().unwrap();
    lines
        .iter()
        .filter(|(_, line)| line.contains(needle))
        .map(|(_, line)| serde_json::from_str(line).unwrap())
        .collect()
}

/// Those of them that were logged on this thread. Where a test has one thread, what other tests log
/// meanwhile isn't among them; what they logged on it before may be.
pub fn own_lines_with(needle: &str) -> Vec<serde_json::Value> {
    let (lines, own) = (LINES.lock().unwrap(), thread::current().id());
    lines
        .iter()
        .filter(|(thread, line)| *thread == own && line.contains(needle))
        .map(|(_, line)| serde_json::from_str(line).unwrap())
        .collect()
}

/// Waits for a log line that holds a text and fits, which must come soon.
pub async fn line_with(
    needle: &str,
    fits: impl Fn(&serde_json::Value) -> bool,
) -> serde_json::Value {
    let begun = std::time::Instant::now();
    let mut seen = 0;
    loop {
        {
            let lines = LINES.lock().unwrap();
            // There are many, and whoever logs waits: none is looked at twice.
            let new = lines[seen..].iter().map(|(_, line)| line);
            for line in new.filter(|line| line.contains(needle)) {
                let line = serde_json::from_str(line).unwrap();
                if fits(&line) {
                    return line;
                }
            }
            seen = lines.len();
        }
        assert!(
            begun.elapsed().as_secs() < 30,
            "no such line about {needle} comes"
        );
        tokio::task::yield_now().await;
    }
}

/// Fails where any line of the whole run so far gave something away.
pub fn assert_none_logged() {
    let leaks = LEAKS.lock().unwrap();
    assert!(leaks.is_empty(), "the log gives away {}", leaks.join("\n"));
}

struct Lines;

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(leak) = found_in(line) {
            LEAKS.lock().unwrap().push(leak);
        }
        let text = String::from_utf8_lossy(line).into_owned();
        LINES.lock().unwrap().push((thread::current().id(), text));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Logs as `llavero serve` does, at TRACE, into memory.
pub fn watch_logs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        Registry::default()
            .with(filter_fn(logs::may_pass))
            .with(logs::lines(true, || Lines))
            .init();
    });
}
