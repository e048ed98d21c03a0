//! How a secret may stand in an answer.

use std::fmt::Write as _;

use base64_simd::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Plain, in JSON, in an address, in hex, in base64 at any place; each once.
pub(super) fn of(secret: &[u8]) -> Vec<Vec<u8>> {
    if secret.len() < super::BEGINNING {
        return Vec::new();
    }
    let mut forms = vec![secret.to_vec()];
    if let Ok(text) = std::str::from_utf8(secret)
        && let Ok(json) = serde_json::to_string(text)
    {
        let inside = json
            .strip_prefix('"')
            .and_then(|json| json.strip_suffix('"'))
            .unwrap_or(&json);
        forms.push(inside.as_bytes().to_vec());
        // Some writers escape the slash too (RFC 8259 §7).
        forms.push(inside.replace('/', "\\/").into_bytes());
    }
    for is_upper in [true, false] {
        for keeps_slash in [true, false] {
            forms.push(percent_encoded(secret, is_upper, keeps_slash).into_bytes());
        }
    }
    let hex = |byte: &u8| format!("{byte:02x}");
    let hex: String = secret.iter().map(hex).collect();
    forms.push(hex.to_uppercase().into_bytes());
    forms.push(hex.into_bytes());
    let form = url::form_urlencoded::byte_serialize(secret).collect::<String>();
    forms.push(form.into_bytes());
    for before in 0..3 {
        // What stands before shifts the bits; only what is the key's alone is looked for.
        let mut shifted = vec![0; before];
        shifted.extend_from_slice(secret);
        let own = (before * 8).div_ceil(6)..(shifted.len() * 8) / 6;
        forms.push(STANDARD_NO_PAD.encode_to_string(&shifted).as_bytes()[own.clone()].to_vec());
        forms.push(URL_SAFE_NO_PAD.encode_to_string(&shifted).as_bytes()[own].to_vec());
    }
    forms.sort();
    forms.dedup();
    forms
}

/// Everything but what an address never needs to encode (RFC 3986 §2.3); many leave the slash.
fn percent_encoded(secret: &[u8], is_upper: bool, keeps_slash: bool) -> String {
    let mut text = String::with_capacity(secret.len() * 3);
    for byte in secret {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(*byte));
            }
            b'/' if keeps_slash => text.push('/'),
            _ if is_upper => {
                let _ = write!(text, "%{byte:02X}");
            }
            _ => {
                let _ = write!(text, "%{byte:02x}");
            }
        }
    }
    text
}
