//! What can go wrong, as data, and the decision what goes wrong with one request. Carrying it out is `erp`'s part.

use std::collections::VecDeque;
use std::time::Duration;

use http::{Method, StatusCode};
use serde::{Deserialize, Deserializer, Serialize};
use tokio::{sync::watch, time::Instant};

use crate::reply::Reply;

/// Everything that can be made to go wrong for one tenant. Nothing does by default.
///
/// `delay` comes first, then `hold`. Of `hang`, `rate_limit`, `status`, `redirect`, `html` and `garbage` the first that is set
/// decides, in this order, before credentials are looked at; the request then changes nothing. The others alter
/// how a request is served.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Milliseconds to wait before anything else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<u64>,
    /// Keeps requests waiting until they are let go, whatever the faults are by then. They are then served as they
    /// would have been when they came.
    pub hold: bool,
    /// Never answers.
    pub hang: bool,
    /// Answers with a status instead of serving.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<StatusFault>,
    /// Answers 200 with an HTML page.
    pub html: bool,
    /// Answers 200 with JSON that doesn't parse.
    pub garbage: bool,
    /// Serves, announces the whole body in `Content-Length`, sends half of it and closes the connection.
    pub truncate: bool,
    /// Answers 302 to this address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect: Option<String>,
    /// `GET ordenes_servicio/{id}/` answers 200 with the order after the one asked for.
    pub wrong_record: bool,
    /// Every `Authorization: Bearer` is refused with 401, as if it had expired. Logging in still works.
    pub expired_tokens: bool,
    /// How a list's links lead on; `limit_offset` if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paging: Option<Paging>,
    /// A limit that no header tells of: what exceeds it is answered 429.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// Orders are answered in variations, by `id % 6`: 0 `status` a string, 1 `prioridad` missing, 2 `id` a string,
    /// 3 the unknown status 9, 4 an extra field `campo_nuevo`, 5 `sucursal` a string, `cliente` null and
    /// `bitacora_inicio_cliente` empty.
    pub odd_data: bool,
    /// Which requests are hit; all of the tenant's, logins included, if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub only: Option<Only>,
    /// A PATCH or an upload is carried out, and then nobody answers.
    pub accept_then_hang: bool,
}

impl Faults {
    /// Nobody is ever answered.
    pub fn hanging() -> Self {
        Self {
            hang: true,
            ..Self::default()
        }
    }

    /// Everybody waits until they are let go.
    pub fn holding() -> Self {
        Self {
            hold: true,
            ..Self::default()
        }
    }

    /// Everybody is answered with that status.
    pub fn answering(code: u16) -> Self {
        StatusFault::new(code).into()
    }
}

impl From<StatusFault> for Faults {
    fn from(status: StatusFault) -> Self {
        Self {
            status: Some(status),
            ..Self::default()
        }
    }
}

/// A status instead of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusFault {
    /// The status, 200 to 599.
    #[serde(deserialize_with = "status_code")]
    pub code: u16,
    /// The value of `Retry-After`, seconds or a date or nonsense; not sent if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<String>,
    /// How many requests are hit before it heals; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
}

impl StatusFault {
    /// This status for every request, without `Retry-After`.
    pub fn new(code: u16) -> Self {
        Self {
            code,
            retry_after: None,
            times: None,
        }
    }
}

/// A hidden limit over the last sixty seconds, for the whole tenant. Refused requests don't count towards it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Requests in any sixty seconds.
    pub per_minute: u32,
    /// Whether the 429 says in `Retry-After` when there is room again.
    #[serde(default)]
    pub retry_after: bool,
}

/// How a list's `next` and `previous` lead on. The `limit` is the size of a page in all three.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Paging {
    /// `?limit=50&offset=50`
    #[default]
    LimitOffset,
    /// `?page=2`; `offset` is ignored.
    Page,
    /// `?cursor=…`, which only the ERP can read; `offset` is ignored.
    Cursor,
}

/// Which requests are hit: those for which everything that is set here holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Only {
    /// The method, in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// A part of the path below `api/v2/`, such as `adjuntar_imagen` or `ordenes_servicio/11001/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_contains: Option<String>,
}

impl Only {
    fn hits(&self, method: &Method, path: &str) -> bool {
        let method_fits = match &self.method {
            Some(wanted) => wanted.eq_ignore_ascii_case(method.as_str()),
            None => true,
        };
        let path_fits = match &self.path_contains {
            Some(part) => path.contains(part.as_str()),
            None => true,
        };
        method_fits && path_fits
    }
}

fn status_code<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let code = u16::deserialize(deserializer)?;
    if (200..=599).contains(&code) {
        Ok(code)
    } else {
        Err(serde::de::Error::custom(format!(
            "status.code {code} is not a status between 200 and 599"
        )))
    }
}

/// A tenant's faults with what they have done so far.
#[derive(Default)]
pub(crate) struct ActiveFaults {
    faults: Faults,
    let_through: VecDeque<Instant>,
    /// Tells those who are held that they may go; so does its end.
    go: watch::Sender<()>,
}

/// What goes wrong with one request.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) delay: Option<Duration>,
    pub(crate) held: Option<Held>,
    pub(crate) instead: Option<Instead>,
    pub(crate) truncate: bool,
    pub(crate) wrong_record: bool,
    pub(crate) expired_tokens: bool,
    pub(crate) odd_data: bool,
    pub(crate) hang_after_write: bool,
    pub(crate) paging: Paging,
}

/// A wait that began when the request came.
pub(crate) struct Held(watch::Receiver<()>);

impl Held {
    /// Waits until it is let go.
    pub(crate) async fn ends(&mut self) {
        // Where the tenant has been replaced nobody else could let it go.
        let _ = self.0.changed().await;
    }
}

/// What happens instead of serving.
#[derive(Debug, PartialEq)]
pub(crate) enum Instead {
    Hang,
    Status {
        code: u16,
        retry_after: Option<String>,
    },
    Redirect(String),
    Html,
    Garbage,
}

impl Instead {
    /// The answer, or `None` if there is none.
    pub(crate) fn reply(&self) -> Option<Reply> {
        match self {
            Self::Hang => None,
            Self::Status { code, retry_after } => {
                let status =
                    StatusCode::from_u16(*code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                Some(Reply::of_status(status, retry_after.as_deref()))
            }
            Self::Redirect(to) => Some(Reply::redirect(StatusCode::FOUND, to)),
            Self::Html => Some(Reply::html(StatusCode::OK, "Admintotal")),
            Self::Garbage => Some(Reply::garbage()),
        }
    }
}

impl ActiveFaults {
    const WINDOW: Duration = Duration::from_secs(60);

    pub(crate) fn set(&mut self, faults: Faults) {
        self.faults = faults;
        self.let_through.clear();
    }

    /// Lets those go that are held.
    pub(crate) fn let_go(&self) {
        self.go.send_replace(());
    }

    /// The faults as they stand: a status that has healed is gone.
    pub(crate) fn current(&self) -> &Faults {
        &self.faults
    }

    /// What goes wrong with a request to a path below `api/v2/`. Counts it.
    pub(crate) fn plan(&mut self, method: &Method, path: &str, now: Instant) -> Plan {
        if let Some(only) = &self.faults.only
            && !only.hits(method, path)
        {
            return Plan::default();
        }
        Plan {
            delay: self.faults.delay.map(Duration::from_millis),
            held: self.faults.hold.then(|| Held(self.go.subscribe())),
            instead: self.instead(now),
            truncate: self.faults.truncate,
            wrong_record: self.faults.wrong_record,
            expired_tokens: self.faults.expired_tokens,
            odd_data: self.faults.odd_data,
            hang_after_write: self.faults.accept_then_hang,
            paging: self.faults.paging.unwrap_or_default(),
        }
    }

    fn instead(&mut self, now: Instant) -> Option<Instead> {
        if self.faults.hang {
            return Some(Instead::Hang);
        }
        if let Some(refusal) = self.over_limit(now) {
            return Some(refusal);
        }
        if let Some(status) = self.spend_status() {
            return Some(status);
        }
        if let Some(to) = &self.faults.redirect {
            return Some(Instead::Redirect(to.clone()));
        }
        if self.faults.html {
            return Some(Instead::Html);
        }
        self.faults.garbage.then_some(Instead::Garbage)
    }

    fn over_limit(&mut self, now: Instant) -> Option<Instead> {
        let limit = self.faults.rate_limit.as_ref()?;
        while let Some(oldest) = self.let_through.front()
            && now.duration_since(*oldest) >= Self::WINDOW
        {
            self.let_through.pop_front();
        }
        if self.let_through.len() < limit.per_minute as usize {
            self.let_through.push_back(now);
            return None;
        }
        let room_in = match self.let_through.front() {
            Some(oldest) => Self::WINDOW - now.duration_since(*oldest),
            None => Self::WINDOW,
        };
        Some(Instead::Status {
            code: 429,
            retry_after: limit
                .retry_after
                .then(|| room_in.as_secs_f64().ceil().to_string()),
        })
    }

    fn spend_status(&mut self) -> Option<Instead> {
        let status = self.faults.status.as_mut()?;
        if let Some(left) = &mut status.times {
            let Some(fewer) = left.checked_sub(1) else {
                self.faults.status = None;
                return None;
            };
            *left = fewer;
        }
        let hit = Instead::Status {
            code: status.code,
            retry_after: status.retry_after.clone(),
        };
        if status.times == Some(0) {
            self.faults.status = None;
        }
        Some(hit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn active(faults: Faults) -> ActiveFaults {
        let mut active = ActiveFaults::default();
        active.set(faults);
        active
    }

    fn hit(active: &mut ActiveFaults, now: Instant) -> Option<Instead> {
        active.plan(&Method::GET, "ordenes_servicio/", now).instead
    }

    #[test]
    fn a_status_heals_after_its_times() {
        let mut active = active(Faults {
            status: Some(StatusFault {
                times: Some(2),
                ..StatusFault::new(503)
            }),
            ..Faults::default()
        });
        let now = Instant::now();
        assert!(hit(&mut active, now).is_some());
        assert!(hit(&mut active, now).is_some());
        assert_eq!(hit(&mut active, now), None);
        assert_eq!(active.current(), &Faults::default());
    }

    #[test]
    fn the_hidden_limit_has_room_again_after_a_minute() {
        let mut active = active(Faults {
            rate_limit: Some(RateLimit {
                per_minute: 1,
                retry_after: true,
            }),
            ..Faults::default()
        });
        let start = Instant::now();
        assert_eq!(hit(&mut active, start), None);
        assert_eq!(
            hit(&mut active, start + Duration::from_millis(14_500)),
            Some(Instead::Status {
                code: 429,
                retry_after: Some("46".to_owned())
            })
        );
        assert_eq!(hit(&mut active, start + Duration::from_secs(60)), None);
    }

    #[test]
    fn only_spares_the_other_requests() {
        let mut active = active(Faults {
            hang: true,
            only: Some(Only {
                method: Some("post".to_owned()),
                path_contains: Some("adjuntar".to_owned()),
            }),
            ..Faults::default()
        });
        assert_eq!(hit(&mut active, Instant::now()), None);
        let upload = active.plan(
            &Method::POST,
            "ordenes_servicio/1/adjuntar_imagen/",
            Instant::now(),
        );
        assert_eq!(upload.instead, Some(Instead::Hang));
    }
}
