//! Logins and refreshes on the wire: what is sent, exactly; what is read, tolerantly.

use std::time::{Duration, Instant, SystemTime};

use base64_simd::URL_SAFE_NO_PAD;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry as MetricRegistry,
};
use serde_json::{Value, json};

use crate::{
    clock::Clock,
    config::secret::Secret,
    tenants::{Clave, CredentialId, Login, LoginMode},
};

use super::{Failure, Target, client::Client, session::Granted};

/// The life of an access token that doesn't say: a guess, after the usual default of the
/// framework that the ERP seems to be made with.
const GUESSED_LIFE: Duration = Duration::from_secs(5 * 60);
/// No token is believed to live longer.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3600);
/// The longest token or key that is kept, in bytes.
const MAX_SECRET_BYTES: usize = 8 * 1024;

/// Logs in, and counts how that goes.
pub(super) struct Logins {
    logins: Family<ResultLabel, Counter>,
    refreshes: Family<ResultLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// Who logs in where, and until when.
#[derive(Clone, Copy)]
pub(super) struct Entrance<'a> {
    pub(super) client: &'a Client,
    pub(super) clock: &'a Clock,
    pub(super) clave: &'a Clave,
    pub(super) id: &'a CredentialId,
    pub(super) until: Instant,
}

impl Logins {
    pub(super) fn new(metrics: &mut MetricRegistry) -> Self {
        let (logins, refreshes) = (Family::<ResultLabel, Counter>::default(), Family::default());
        metrics.register(
            "llavero_logins",
            "Logins at the ERP with a user's name and password",
            logins.clone(),
        );
        metrics.register(
            "llavero_login_refreshes",
            "Refreshes of a login's token",
            refreshes.clone(),
        );
        // Every series is there from the start, so that a first event is an increase.
        for counters in [&logins, &refreshes] {
            for result in ["ok", "refused", "failed"] {
                let _ = counters.get_or_create(&ResultLabel { result });
            }
        }
        Self { logins, refreshes }
    }

    /// A new session: by refreshing where that can be done, else by logging in.
    ///
    /// # Errors
    /// [`Failure::CredentialRejected`] where the ERP refuses the login, [`Failure::RateLimited`],
    /// or [`Failure::Login`] around what else went wrong.
    pub(super) async fn renew(
        &self,
        entrance: Entrance<'_>,
        login: &Login,
        refresh: Option<&Secret>,
    ) -> Result<Granted, Failure> {
        if let Some(refresh) = refresh {
            let refreshed = of_session(ask_refresh(entrance, refresh).await);
            count(&self.refreshes, &refreshed);
            match refreshed {
                Ok(granted) => return Ok(granted),
                Err(failure) if says_no(&failure) => tracing::debug!(
                    tenant = entrance.id.tenant().as_str(),
                    credential = &**entrance.id.name(),
                    "the ERP refreshes no more: logging in"
                ),
                Err(failure) => return Err(failure),
            }
        }
        let granted = of_session(log_in(entrance, login).await);
        count(&self.logins, &granted);
        granted
    }
}

fn count(counters: &Family<ResultLabel, Counter>, outcome: &Result<Granted, Failure>) {
    let result = match outcome {
        Ok(_) => "ok",
        Err(failure) if says_no(failure) => "refused",
        Err(_) => "failed",
    };
    counters.get_or_create(&ResultLabel { result }).inc();
}

/// Whether the ERP understood and refused.
fn says_no(failure: &Failure) -> bool {
    matches!(failure, Failure::CredentialRejected(_))
}

/// A failure as one of the way to a session: nothing of the request itself was sent.
fn of_session<T>(outcome: Result<T, Failure>) -> Result<T, Failure> {
    outcome.map_err(|failure| match failure {
        Failure::Rejected { status, .. } => Failure::CredentialRejected(status),
        // Locked, disabled, not paid for: whatever it calls it, it is this user that it refuses.
        Failure::Status(status @ 400..=499) if status != 408 => Failure::CredentialRejected(status),
        // No record was asked for, and no photo sent.
        Failure::NotFound => Failure::Login(Box::new(Failure::Status(404))),
        Failure::TooLarge => Failure::Login(Box::new(Failure::Status(413))),
        Failure::CredentialRejected(_)
        | Failure::RateLimited { .. }
        | Failure::Address
        | Failure::Login(_) => failure,
        other => Failure::Login(Box::new(other)),
    })
}

async fn log_in(entrance: Entrance<'_>, login: &Login) -> Result<Granted, Failure> {
    let target = match login.mode() {
        LoginMode::Jwt => Target::collection("token"),
        LoginMode::ApiKey => Target::collection("usuarios").child("login_usuario"),
    };
    #[expect(clippy::disallowed_methods, reason = "the wire is what it is for")]
    let body = json!({"username": login.username(), "password": login.password().expose()});
    let asked_at = entrance.clock.instant();
    let answer = send(entrance, &target, &body).await?;
    match login.mode() {
        LoginMode::Jwt => read_tokens(&answer, asked_at, entrance.clock.wall()),
        LoginMode::ApiKey => read_key(&answer, asked_at),
    }
}

async fn ask_refresh(entrance: Entrance<'_>, refresh: &Secret) -> Result<Granted, Failure> {
    #[expect(clippy::disallowed_methods, reason = "the wire is what it is for")]
    let body = json!({"refresh": refresh.expose()});
    let asked_at = entrance.clock.instant();
    let answer = send(entrance, &Target::collection("refresh"), &body).await;
    let answer = match answer {
        // Whatever it has against it, it isn't taken: a login will tell.
        Err(
            Failure::NotFound
            | Failure::Rejected { .. }
            | Failure::TooLarge
            | Failure::Status(300..=499),
        ) => return Err(Failure::CredentialRejected(400)),
        answer => answer?,
    };
    let mut granted = read_tokens(&answer, asked_at, entrance.clock.wall())
        .map_err(|_| Failure::CredentialRejected(400))?;
    granted.refresh = granted.refresh.or_else(|| Some(refresh.clone()));
    Ok(granted)
}

async fn send(entrance: Entrance<'_>, target: &Target, body: &Value) -> Result<Value, Failure> {
    let Entrance {
        client, clave, id, ..
    } = entrance;
    let body = body.to_string().into_bytes();
    let answer = client
        .log_in(clave, id.tenant(), target, body, entrance.until)
        .await?;
    let answer: Value =
        serde_json::from_slice(&answer.body).map_err(|_| Failure::LoginUnreadable)?;
    match &answer["ok"] {
        Value::Bool(false) => Err(Failure::CredentialRejected(200)),
        _ => Ok(answer),
    }
}

/// `{"access": …, "refresh": …}`.
fn read_tokens(answer: &Value, asked_at: Instant, now: SystemTime) -> Result<Granted, Failure> {
    let secret = presentable(&answer["access"]).ok_or(Failure::LoginUnreadable)?;
    Ok(Granted {
        mode: LoginMode::Jwt,
        refresh: presentable(&answer["refresh"]).map(Secret::from),
        asked_at,
        life: Some(life(&secret, now)),
        secret: secret.into(),
    })
}

/// `{"usuario": {"api_key": …}}`.
fn read_key(answer: &Value, asked_at: Instant) -> Result<Granted, Failure> {
    let secret = presentable(&answer["usuario"]["api_key"]).ok_or(Failure::LoginUnreadable)?;
    Ok(Granted {
        secret: secret.into(),
        mode: LoginMode::ApiKey,
        refresh: None,
        asked_at,
        life: None,
    })
}

/// A text or number that a header can carry.
fn presentable(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let is_good = (1..=MAX_SECRET_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_good.then_some(text)
}

/// How long a token lives, by its own word (RFC 7519 §4.1). Its signature is the ERP's business:
/// whoever could forge the answer could forge anything. From `iat` to `exp`, since the ERP's clock may
/// differ from ours.
fn life(token: &str, now: SystemTime) -> Duration {
    let seconds = || {
        let payload = token.split('.').nth(1)?.trim_end_matches('=');
        let payload = URL_SAFE_NO_PAD.decode_to_vec(payload.as_bytes()).ok()?;
        let claims: Value = serde_json::from_slice(&payload).ok()?;
        let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let begin = claims["iat"].as_f64().unwrap_or(now.as_secs_f64());
        Some(claims["exp"].as_f64()? - begin)
    };
    match seconds() {
        Some(seconds) if seconds >= 1.0 => {
            Duration::from_secs_f64(seconds.min(LONGEST_LIFE.as_secs_f64()))
        }
        _ => GUESSED_LIFE,
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do")]
mod tests {
    use super::*;

    fn token(claims: &Value) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode_to_string(text.as_bytes());
        format!("{}.{}.{}", part("{}"), part(&claims.to_string()), part("x"))
    }

    #[test]
    fn a_tokens_life_is_its_own_word_within_reason() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (token, seconds) in [
            (token(&json!({"exp": 1_000_060})), 60),
            (token(&json!({"exp": 5_000_090, "iat": 5_000_000})), 90),
            (token(&json!({"exp": 1_000_060.5, "iat": 1_000_000})), 60),
            (token(&json!({"exp": 99_000_000})), 24 * 3600),
            (token(&json!({"exp": 999_000})), 300),
            (token(&json!({"exp": 1e300})), 24 * 3600),
            (token(&json!({"exp": "soon"})), 300),
            (token(&json!([])), 300),
            ("opaque".to_owned(), 300),
            ("a.b.c".to_owned(), 300),
        ] {
            assert_eq!(life(&token, now).as_secs(), seconds, "{token}");
        }
    }

    #[test]
    fn what_is_no_token_or_key_is_not_presented() {
        let at = Instant::now();
        let tokens = |answer: &Value| {
            let granted = read_tokens(answer, at, SystemTime::now()).ok()?;
            Some((
                granted.secret.expose().to_owned(),
                granted.refresh.is_some(),
            ))
        };
        let good = json!({"access": " abc\n", "refresh": "r", "more": 1});
        assert_eq!(tokens(&good), Some(("abc".to_owned(), true)));
        assert_eq!(
            tokens(&json!({"access": "abc"})),
            Some(("abc".to_owned(), false))
        );
        for answer in [
            json!({"refresh": "r"}),
            json!({"access": null}),
            json!({"access": ""}),
            json!({"access": "a b"}),
            json!({"access": "a\r\nX-Evil: 1"}),
            json!({"access": "ñ"}),
            json!({"access": "a".repeat(MAX_SECRET_BYTES + 1)}),
            json!({"access": {"access": "a"}}),
            json!("abc"),
            json!([]),
            Value::Null,
        ] {
            assert_eq!(tokens(&answer), None, "{answer}");
        }
        let key = |answer: &Value| Some(read_key(answer, at).ok()?.secret.expose().to_owned());
        for (api_key, read) in [
            (json!("k"), Some("k")),
            (json!(123), Some("123")),
            (json!(null), None),
            (json!([1]), None),
        ] {
            let answer = json!({"ok": true, "usuario": {"api_key": api_key}});
            assert_eq!(key(&answer).as_deref(), read, "{answer}");
        }
        assert_eq!(key(&json!({"ok": true})), None);
    }
}
