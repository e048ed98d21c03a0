//! Tenants' files and directories: any text, with a secret planted where secrets stand.

use std::{
    fs,
    path::Path,
    sync::{Arc, LazyLock},
    time::SystemTime,
};

use llavero::tenants::{KeySlot, Loader, Presented, Tenant, Tenants};
use tempfile::TempDir;

/// What nobody may see. It is written like no path, no variable and no setting.
const SECRET: &str = "Hunter2Zx9";
const TENANT: &str = "carper";

/// Between two versions of the file, or of the directory: what is there is replaced.
const VERSION: u8 = 0x1f;
/// Between the files of a directory, each with its name in its first line.
const FILE: u8 = 0x1e;
/// A directory begins with this line.
const DIRECTORY: &[u8] = b"directory\n";
const MOST_VERSIONS: usize = 3;
/// What one run may say: more than anybody reads.
const MOST_MISTAKES: usize = 500;

static DIR: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a directory"));

fn environment(name: &str) -> Option<String> {
    match name {
        "KEY" => Some(SECRET.to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

/// Whether the last version was accepted.
///
/// # Panics
/// A rule of tenants' files is broken.
pub fn check(data: &[u8]) -> bool {
    if data.windows(SECRET.len()).any(|it| it == SECRET.as_bytes()) {
        // It would stand where no secret stands.
        return false;
    }
    let dir = DIR.path();
    let mut loader = Loader::new(dir, environment);
    let mut good: Option<Arc<Tenant>> = None;
    let (mut is_good, mut was_directory) = (false, false);
    for version in data.split(|&byte| byte == VERSION).take(MOST_VERSIONS) {
        clear(dir);
        let files = version.strip_prefix(DIRECTORY);
        if std::mem::replace(&mut was_directory, files.is_some()) != files.is_some() {
            // What was served came from another place, which is gone.
            good = None;
        }
        let lines = match files {
            Some(files) => write_directory(dir, files),
            None => write_file(&dir.join("carper.yaml"), version),
        };
        // Files of 1970 are read each time.
        let tenants = loader
            .load(SystemTime::UNIX_EPOCH)
            .expect("the directory is there");
        let told = tenants.errors().iter().flat_map(|error| &error.mistakes);
        is_good = told.clone().next().is_none();
        assert!(
            told.clone().count() <= MOST_MISTAKES,
            "there is no end of mistakes"
        );
        for mistake in told {
            let told = mistake.to_string();
            assert!(!told.contains(SECRET), "{told}");
            assert!(mistake.file.starts_with(dir), "{told}");
            assert!(
                told.starts_with(&mistake.file.display().to_string()),
                "{told}"
            );
            assert!(
                mistake.line.is_none_or(|line| (1..=lines).contains(&line)),
                "{told}"
            );
        }
        let served = served(&tenants);
        match (&served, &good) {
            (Some(tenant), _) if is_good => check_tenant(tenant),
            (None, _) if is_good => panic!("a good tenant isn't served"),
            (now, before) => {
                let (now, before) = (
                    now.as_ref().map(Arc::as_ptr),
                    before.as_ref().map(Arc::as_ptr),
                );
                assert_eq!(now, before, "a wrong file changes what is served");
            }
        }
        good = served;
    }
    clear(dir);
    is_good
}

fn served(tenants: &Tenants) -> Option<Arc<Tenant>> {
    tenants.get(TENANT).cloned()
}

fn check_tenant(tenant: &Tenant) {
    assert_eq!(tenant.id().as_str(), TENANT);
    let clave = tenant.clave().as_str();
    let is_label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    assert!((1..=63).contains(&clave.len()) && clave.bytes().all(is_label));
    assert!(!clave.starts_with('-') && !clave.ends_with('-'));
    let has = |name: &str| tenant.credentials().any(|it| &**it.id().name() == name);
    assert!(!tenant.users().is_empty() || has("default"));
    assert!(tenant.users().iter().all(|rule| has(rule.credential())));
    for rule in tenant.users() {
        assert!(rule.conditions().iter().all(|it| !it.any_of().is_empty()));
    }
    for credential in tenant.credentials() {
        let shown = format!("{credential:?} {:?}", credential.id());
        assert!(!shown.contains(SECRET), "{shown}");
        match credential.presented() {
            Presented::Login(login) => {
                assert!(!login.username().trim().is_empty() && !is_empty(login.password()));
            }
            Presented::ApiKey(keys) => {
                let first = keys.key(KeySlot::Present).expect("there is one");
                for key in [Some(first), keys.key(KeySlot::Next)].into_iter().flatten() {
                    assert!(is_a_key(key));
                }
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the test's own secrets")]
fn is_empty(secret: &llavero::config::secret::Secret) -> bool {
    secret.expose().is_empty()
}

#[expect(clippy::disallowed_methods, reason = "the test's own secrets")]
fn is_a_key(secret: &llavero::config::secret::Secret) -> bool {
    let text = secret.expose();
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn clear(dir: &Path) {
    let _ = fs::remove_file(dir.join("carper.yaml"));
    let _ = fs::remove_dir_all(dir.join(TENANT));
}

/// The last line that a mistake may be in.
fn write_file(path: &Path, text: &[u8]) -> usize {
    let text = with_secrets(text);
    fs::write(path, &text).expect("can be written");
    lines(&text)
}

/// The same of the longest file.
fn write_directory(dir: &Path, files: &[u8]) -> usize {
    let dir = dir.join(TENANT);
    fs::create_dir(&dir).expect("can be made");
    let mut most = 1;
    for file in files.split(|&byte| byte == FILE).take(8) {
        let end = file.iter().position(|&byte| byte == b'\n');
        let (name, text) = end.map_or((file, &[][..]), |end| (&file[..end], &file[end + 1..]));
        let Ok(name) = std::str::from_utf8(name) else {
            continue;
        };
        let is_a_name = (1..=64).contains(&name.len())
            && !name.contains(['/', '\0'])
            && name != "."
            && name != "..";
        if is_a_name && !name.contains(SECRET) {
            let text = match name {
                "api-key" | "next-api-key" | "password" => [SECRET.as_bytes(), text].concat(),
                _ => with_secrets(text),
            };
            most = most.max(lines(&text));
            fs::write(dir.join(name), text).expect("can be written");
        }
    }
    most
}

fn lines(text: &[u8]) -> usize {
    let ends = text.iter().filter(|byte| matches!(byte, b'\n' | b'\r'));
    // What isn't closed is missed at the end, which counts as a line of its own.
    ends.count() + 2
}

/// The text with the secret wherever a key or a password begins: behind its name and whatever
/// quotes, brackets and blanks come next.
fn with_secrets(text: &[u8]) -> Vec<u8> {
    let mut planted = Vec::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let name = [&b"api_key:"[..], b"password:"]
            .into_iter()
            .find(|name| rest.starts_with(name));
        let Some(name) = name else {
            planted.push(rest[0]);
            rest = &rest[1..];
            continue;
        };
        let mut at = name.len();
        let mut is_block = false;
        while let Some(&byte) = rest.get(at) {
            is_block |= matches!(byte, b'|' | b'>');
            let is_before = b" \t\"'[{&!?|>-".contains(&byte) || (is_block && byte == b'\n');
            if !is_before {
                break;
            }
            at += 1;
        }
        // A reference has a name in its place, which isn't secret.
        if [&b"file:"[..], b"env:"]
            .into_iter()
            .any(|source| rest[at..].starts_with(source))
        {
            planted.extend_from_slice(&rest[..at]);
            rest = &rest[at..];
            continue;
        }
        planted.extend_from_slice(&rest[..at]);
        planted.extend_from_slice(SECRET.as_bytes());
        rest = &rest[at..];
    }
    planted
}
