//! The ERP's front door: which tenant, what goes wrong, whose credential, which endpoint.

use std::sync::Arc;

use axum::Router;
use axum::body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HOST, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::{self, Instant};

use crate::faults::Plan;
use crate::journal::Ticket;
use crate::paging::Query;
use crate::reply::{FieldErrors, Reply};
use crate::state::{Shared, Tenant, TokenKind};
use crate::{imagenes, login, ordenes};

/// The largest body that is read.
const MAX_BODY: usize = 64 << 20;

#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) shared: Arc<Shared>,
    /// Turns true when the server is to stop.
    pub(crate) closing: watch::Receiver<bool>,
}

pub(crate) fn routes(entry: Entry) -> Router {
    Router::new().fallback(dated).with_state(entry)
}

/// Serves under the ERP's own clock.
async fn dated(State(entry): State<Entry>, request: Request) -> Response {
    let shared = entry.shared.clone();
    let mut response = serve(entry, request).await;
    let date = httpdate::fmt_http_date(shared.now().into());
    if let Ok(date) = HeaderValue::try_from(date) {
        response.headers_mut().insert(DATE, date);
    }
    response
}

async fn serve(entry: Entry, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Some(address) = Address::of(&entry.shared, &parts) else {
        let reply = Reply::html(StatusCode::NOT_FOUND, "Not Found");
        Ticket::open(&entry.shared, &parts, None, None).answered(reply.status);
        return reply.into_response();
    };
    let arrival = entry.shared.with(&address.clave, |tenant| {
        let plan = tenant
            .faults
            .plan(&parts.method, &address.path, Instant::now());
        let credential = Credential::of(tenant, &parts, &plan);
        (plan, credential)
    });
    let (mut plan, credential) = arrival.unwrap_or_default();
    let ticket = Ticket::open(
        &entry.shared,
        &parts,
        Some(&address.clave),
        credential.user(),
    );

    let body = match body::to_bytes(body, MAX_BODY).await {
        Ok(body) => body,
        Err(_) => {
            let detail = "Cuerpo incompleto o de más de 64 MiB.";
            let reply = Reply::detail(StatusCode::PAYLOAD_TOO_LARGE, detail);
            ticket.answered(reply.status);
            return reply.into_response();
        }
    };
    ticket.body_arrived(body.len());

    if let Some(delay) = plan.delay {
        tokio::select! {
            () = time::sleep(delay) => {}
            () = entry.closed() => {}
        }
    }
    if let Some(held) = &mut plan.held {
        tokio::select! {
            () = held.ends() => {}
            () = entry.closed() => {}
        }
    }
    if let Some(instead) = &plan.instead {
        return match instead.reply() {
            Some(reply) => {
                ticket.answered(reply.status);
                reply.into_response()
            }
            None => entry.hang().await,
        };
    }

    let call = Call {
        shared: &entry.shared,
        clave: &address.clave,
        parts: &parts,
        body,
        plan: &plan,
        ticket: &ticket,
    };
    let served = call.serve(&address.path, &credential);
    if plan.hang_after_write && served.wrote {
        return entry.hang().await;
    }
    ticket.answered(served.reply.status);
    if plan.truncate {
        served.reply.into_truncated()
    } else {
        served.reply.into_response()
    }
}

impl Entry {
    async fn closed(&self) {
        let mut closing = self.closing.clone();
        if closing.wait_for(|closing| *closing).await.is_err() {
            // Whoever could have closed is gone, so nobody will.
            std::future::pending().await
        }
    }

    /// Keeps the client waiting until it leaves or the server stops.
    async fn hang(&self) -> Response {
        self.closed().await;
        Reply::of_status(StatusCode::SERVICE_UNAVAILABLE, None).into_response()
    }
}

/// The tenant that a request is for, and the path below its `api/v2/`.
struct Address {
    clave: String,
    path: String,
}

impl Address {
    /// Reads `/{clave}/api/v2/…`, or else `/api/v2/…` with the clave as the host's first label.
    fn of(shared: &Shared, parts: &Parts) -> Option<Self> {
        let whole = parts.uri.path().strip_prefix('/')?;
        let (clave, path) = match whole.strip_prefix("api/v2/") {
            Some(path) => (host(parts)?.split(['.', ':']).next()?, path),
            None => whole.split_once("/api/v2/")?,
        };
        shared.knows(clave).then(|| Self {
            clave: clave.to_owned(),
            path: path.to_owned(),
        })
    }
}

fn host(parts: &Parts) -> Option<&str> {
    match parts.headers.get(HOST) {
        Some(host) => host.to_str().ok(),
        None => parts.uri.authority().map(|authority| authority.as_str()),
    }
}

/// What a request says about who sends it.
#[derive(Default)]
enum Credential {
    #[default]
    Missing,
    WrongKey,
    WrongToken,
    User(String),
}

impl Credential {
    fn of(tenant: &Tenant, parts: &Parts, plan: &Plan) -> Self {
        let text = |name: &str| parts.headers.get(name)?.to_str().ok();
        if let Some(key) = text("api-key") {
            return match tenant.user_with_key(key) {
                Some(user) => Self::User(user.username.clone()),
                None => Self::WrongKey,
            };
        }
        let Some(token) =
            text(AUTHORIZATION.as_str()).and_then(|value| value.strip_prefix("Bearer "))
        else {
            return Self::Missing;
        };
        match tenant.tokens.owner(TokenKind::Access, token) {
            Some(username) if !plan.expired_tokens => Self::User(username.to_owned()),
            _ => Self::WrongToken,
        }
    }

    fn user(&self) -> Option<&str> {
        match self {
            Self::User(username) => Some(username),
            _ => None,
        }
    }

    fn required(&self) -> Result<&str, Reply> {
        match self {
            Self::User(username) => Ok(username),
            Self::Missing => Err(Reply::unauthorized(
                "Las credenciales de autenticación no se proveyeron.",
            )),
            Self::WrongKey => Err(Reply::unauthorized("Api-key inválida.")),
            Self::WrongToken => Err(login::token_not_valid(
                "El token dado no es valido para ningun tipo de token",
            )),
        }
    }
}

/// The vendor's endpoints.
enum Endpoint<'a> {
    Ordenes,
    Orden(&'a str),
    AdjuntarImagen(&'a str),
    LoginUsuario,
    Token,
    Refresh,
}

impl<'a> Endpoint<'a> {
    /// Reads a path below `api/v2/` without its last slash.
    fn at(path: &'a str) -> Option<Self> {
        let is_id = |id: &str| !id.is_empty() && !id.contains('.');
        let mut segments = path.split('/');
        match (
            segments.next()?,
            segments.next(),
            segments.next(),
            segments.next(),
        ) {
            ("ordenes_servicio", None, None, None) => Some(Self::Ordenes),
            ("ordenes_servicio", Some(id), None, None) if is_id(id) => Some(Self::Orden(id)),
            ("ordenes_servicio", Some(id), Some("adjuntar_imagen"), None) if is_id(id) => {
                Some(Self::AdjuntarImagen(id))
            }
            ("usuarios", Some("login_usuario"), None, None) => Some(Self::LoginUsuario),
            ("token", None, None, None) => Some(Self::Token),
            ("refresh", None, None, None) => Some(Self::Refresh),
            _ => None,
        }
    }
}

/// A request for one tenant, whole, with what is to go wrong while it is served.
pub(crate) struct Call<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) clave: &'a str,
    pub(crate) parts: &'a Parts,
    pub(crate) body: Bytes,
    pub(crate) plan: &'a Plan,
    pub(crate) ticket: &'a Ticket,
}

struct Served {
    reply: Reply,
    /// An order was changed, or got an image.
    wrote: bool,
}

impl Call<'_> {
    fn serve(&self, path: &str, credential: &Credential) -> Served {
        let result = self.dispatch(path, credential);
        let is_write = matches!(self.parts.method, Method::PATCH | Method::POST);
        Served {
            wrote: is_write && result.is_ok() && path.starts_with("ordenes_servicio/"),
            reply: result.unwrap_or_else(|refusal| refusal),
        }
    }

    fn dispatch(&self, path: &str, credential: &Credential) -> Result<Reply, Reply> {
        let method = match &self.parts.method {
            head if head == Method::HEAD => &Method::GET,
            other => other,
        };
        let without_slash = path.strip_suffix('/');
        let endpoint = Endpoint::at(without_slash.unwrap_or(path))
            .ok_or_else(|| Reply::html(StatusCode::NOT_FOUND, "Not Found"))?;
        if without_slash.is_none() {
            return Err(self.missing_slash(method));
        }
        let not_allowed = |allow| Err(Reply::method_not_allowed(&self.parts.method, allow));
        match endpoint {
            Endpoint::Ordenes => {
                let user = credential.required()?;
                match *method {
                    Method::GET => ordenes::list(self, user),
                    _ => not_allowed("GET, HEAD, OPTIONS"),
                }
            }
            Endpoint::Orden(id) => {
                let user = credential.required()?;
                match *method {
                    Method::GET => ordenes::detail(self, user, number(id)?),
                    Method::PATCH => ordenes::patch(self, user, number(id)?),
                    _ => not_allowed("GET, PATCH, HEAD, OPTIONS"),
                }
            }
            Endpoint::AdjuntarImagen(id) => {
                let user = credential.required()?;
                match *method {
                    Method::POST => imagenes::adjuntar(self, user, number(id)?),
                    _ => not_allowed("POST, OPTIONS"),
                }
            }
            Endpoint::LoginUsuario if method == Method::POST => login::login_usuario(self),
            Endpoint::Token if method == Method::POST => login::token(self),
            Endpoint::Refresh if method == Method::POST => login::refresh(self),
            Endpoint::LoginUsuario | Endpoint::Token | Endpoint::Refresh => {
                not_allowed("POST, OPTIONS")
            }
        }
    }

    /// Django leads a reader to the address with the slash; a body it can't lead anywhere.
    fn missing_slash(&self, method: &Method) -> Reply {
        if method != Method::GET {
            return Reply::html(StatusCode::INTERNAL_SERVER_ERROR, "Server Error (500)");
        }
        let path = self.parts.uri.path();
        let to = match self.parts.uri.query() {
            Some(query) => format!("{path}/?{query}"),
            None => format!("{path}/"),
        };
        Reply::redirect(StatusCode::MOVED_PERMANENTLY, &to)
    }

    pub(crate) fn query(&self) -> Query {
        Query::parse(self.parts.uri.query())
    }

    /// This request's own absolute address with another query.
    pub(crate) fn address_with(&self, query: &str) -> String {
        let host = host(self.parts).unwrap_or("localhost");
        let path = self.parts.uri.path();
        let mark = if query.is_empty() { "" } else { "?" };
        format!("http://{host}{path}{mark}{query}")
    }

    /// What `f` makes of the tenant. It was there when the request arrived and can have been replaced, not removed.
    pub(crate) fn with_tenant<T>(&self, f: impl FnOnce(&mut Tenant) -> T) -> Result<T, Reply> {
        self.shared.with(self.clave, f).ok_or_else(Reply::not_found)
    }

    /// The body as a JSON object.
    pub(crate) fn object(&self) -> Result<Map<String, Value>, Reply> {
        let content_type = match self.parts.headers.get(CONTENT_TYPE) {
            Some(value) => value.to_str().unwrap_or_default(),
            None => "",
        };
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let detail = format!("Tipo de medio \"{content_type}\" incompatible en la solicitud.");
            return Err(Reply::detail(StatusCode::UNSUPPORTED_MEDIA_TYPE, &detail));
        }
        match serde_json::from_slice(&self.body) {
            Ok(Value::Object(object)) => Ok(object),
            Ok(_) => {
                let message = "Datos inválidos. Se esperaba un diccionario.";
                Err(Reply::invalid(FieldErrors::one(
                    "non_field_errors",
                    message,
                )))
            }
            Err(error) => {
                let detail = format!("JSON parse error - {error}");
                Err(Reply::json(
                    StatusCode::BAD_REQUEST,
                    &json!({ "detail": detail }),
                ))
            }
        }
    }
}

fn number(id: &str) -> Result<u64, Reply> {
    id.parse().map_err(|_| Reply::not_found())
}
