//! A second opinion on JSON that shares no code with the gateway's.

use std::collections::BTreeSet;

/// Whether any object of a well-formed JSON text has a name twice.
pub fn has_a_name_twice(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut open: Vec<BTreeSet<String>> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'{' | b'[' => open.push(BTreeSet::new()),
            b'}' | b']' => drop(open.pop()),
            b'"' => {
                let end = end_of_string(bytes, at);
                let string: String = serde_json::from_str(&text[at..end]).expect("is a string");
                let is_a_name = bytes[end..]
                    .iter()
                    .find(|byte| !byte.is_ascii_whitespace())
                    .is_some_and(|&byte| byte == b':');
                if is_a_name && !open.last_mut().expect("is in an object").insert(string) {
                    return true;
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    false
}

/// Where the string that begins at `at` has ended.
fn end_of_string(bytes: &[u8], mut at: usize) -> usize {
    at += 1;
    while bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}
