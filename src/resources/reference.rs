//! The reference document: `/openapi.json`, `/openapi.yaml`, `/docs`, and the parts of the document that every operation shares.

use std::collections::BTreeMap;

use axum::{
    Router,
    extract::{Request, State},
    http::HeaderValue,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use utoipa::{
    IntoResponses, Modify, OpenApi,
    openapi::{
        Components, ContentBuilder, HeaderBuilder, Info, License, ObjectBuilder, Ref, RefOr,
        Required, Response as DocumentedResponse, ResponseBuilder, ServerBuilder,
        example::ExampleBuilder,
        path::{Operation, Parameter, ParameterBuilder, ParameterIn},
        schema::{Schema, SchemaType, Type},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_swagger_ui::SwaggerUi;

use crate::problem::{Asked, Code, FieldError, Problem, ProblemDetails};

use super::problems;

/// The scheme's name in the document.
const BEARER: &str = "bearer";

/// What is the same for the whole document.
#[derive(OpenApi)]
#[openapi(
    paths(
        problems::all,
        problems::one,
        openapi_json,
        openapi_yaml
    ),
    components(schemas(ProblemDetails, FieldError)),
    tags(
        (name = "me", description = "Who is calling."),
        (name = "ordenes", description = "Work orders (órdenes de servicio) of the tenant's ERP."),
        (name = "reference", description = "What explains this API; no token is needed.")
    ),
    modifiers(&Shared)
)]
pub struct Document;

struct Shared;

impl Modify for Shared {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let mut info = Info::new("Llavero", env!("CARGO_PKG_VERSION"));
        info.description = Some(
            "A gateway to Admintotal's work orders. Send a JWT of your identity provider as \
             `Authorization: Bearer`; the tenant's Api-key stays here.\n\n\
             Start with `GET /v1/me`: it says which tenants the token allows and which scopes it has. \
             Where it allows several, choose one with the header `Llavero-Tenant`. Then list \
             the orders, and follow `next`.\n\n\
             Every error is `application/problem+json` with a stable `code`; \
             [/problems](/problems) explains them all. This document: \
             [/openapi.yaml](/openapi.yaml), [/openapi.json](/openapi.json)."
                .to_owned(),
        );
        let mut license = License::new("Apache-2.0");
        license.identifier = Some("Apache-2.0".to_owned());
        info.license = Some(license);
        document.info = info;
        document.servers = Some(vec![
            ServerBuilder::new()
                .url("/")
                .description(Some("This gateway"))
                .build(),
        ]);
        document.security = Some(vec![SecurityRequirement::new(BEARER, [] as [String; 0])]);
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .description(Some("A token of one of the configured issuers."))
            .build();
        document
            .components
            .get_or_insert_with(Components::new)
            .add_security_scheme(BEARER, SecurityScheme::Http(bearer));
    }
}

/// Completes a document whose operations are all in: what every operation takes and answers.
#[must_use]
pub fn complete(mut document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    for (path, item) in &mut document.paths.paths {
        if !path.starts_with("/v1/") {
            item.get.iter_mut().for_each(complete_reference);
            continue;
        }
        for (operation, kind) in [
            (&mut item.get, Kind::Read),
            (&mut item.patch, Kind::Change),
            (&mut item.post, Kind::Addition),
        ] {
            operation
                .iter_mut()
                .for_each(|operation| complete_operation(operation, kind));
        }
    }
    document
}

/// What an operation does to its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    /// Its answer is the record, with its validator.
    Change,
    Addition,
}

/// An operation that anybody may call.
fn complete_reference(operation: &mut Operation) {
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response {
            add_headers(response, status, Kind::Read, false, false);
        }
    }
}

fn complete_operation(operation: &mut Operation, kind: Kind) {
    // Only who asks about themselves needs no tenant.
    let for_a_tenant = operation.tags.as_deref() != Some(&["me".to_owned()]);
    let parameters = operation.parameters.get_or_insert_default();
    let pages = parameters
        .iter()
        .any(|it| matches!(it, RefOr::T(it) if it.name == "cursor"));
    for parameter in parameters.iter_mut() {
        if let RefOr::T(parameter) = parameter {
            never_null(parameter);
        }
    }
    if for_a_tenant {
        parameters.push(header_parameter(
            "Llavero-Tenant",
            "Chooses among the tenants that the token allows; needed where it allows several.",
            string(),
        ));
    }
    let cached = kind == Kind::Read && for_a_tenant;
    if cached {
        parameters.push(header_parameter(
            "If-None-Match",
            "The `ETag` of an answer that the caller has: 304 where it still holds.",
            string(),
        ));
        parameters.push(header_parameter(
            "Cache-Control",
            "`no-cache` or `max-age=0` asks the ERP; `max-age=N` does where the kept answer is older; `only-if-cached` never does.",
            string(),
        ));
        let not_modified = ResponseBuilder::new()
            .description("What the caller has still holds.")
            .build();
        let responses = &mut operation.responses.responses;
        responses.insert("304".to_owned(), RefOr::T(not_modified));
    }
    parameters.push(header_parameter(
        "X-Request-Id",
        "Names the request in the gateway's log; one is made where none is sent.",
        ObjectBuilder::new()
            .schema_type(SchemaType::new(Type::String))
            .pattern(Some("^[A-Za-z0-9_-]{1,64}$"))
            .build()
            .into(),
    ));
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response {
            add_headers(response, status, kind, cached, pages);
            // A 401 is for nobody who is known.
            if status != "401" {
                add_limits(response);
            }
        }
    }
}

/// A parameter that may be left out can still not be null.
fn never_null(parameter: &mut Parameter) {
    if let Some(RefOr::T(Schema::Object(schema))) = &mut parameter.schema
        && let SchemaType::Array(types) = &schema.schema_type
        && let Some(only) = types.iter().find(|it| **it != Type::Null)
    {
        schema.schema_type = SchemaType::new(only.clone());
    }
}

fn header_parameter(name: &str, description: &str, schema: Schema) -> RefOr<Parameter> {
    let parameter = ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .description(Some(description))
        .required(Required::False)
        .schema(Some(schema))
        .build();
    RefOr::T(parameter)
}

/// The fields of an answer that was counted.
fn add_limits(response: &mut DocumentedResponse) {
    for (name, description) in [
        (
            "RateLimit-Policy",
            "How many requests (`q`) in how many seconds (`w`), and how many at once (`llavero-burst`), the user and the tenant may send (draft-ietf-httpapi-ratelimit-headers). Not on a 429 for an address without a good token.",
        ),
        (
            "RateLimit",
            "How many could be sent now (`r`), and in how many seconds all of them are back (`t`), for the user and for the tenant.",
        ),
    ] {
        let header = HeaderBuilder::new()
            .schema(Some(string()))
            .description(Some(description))
            .build();
        response.headers.insert(name.to_owned(), header.into());
    }
}

fn add_headers(
    response: &mut DocumentedResponse,
    status: &str,
    kind: Kind,
    cached: bool,
    pages: bool,
) {
    let validated = cached || kind == Kind::Change;
    let mut add = |name: &str, description: &str, schema: Schema| {
        let header = HeaderBuilder::new()
            .schema(Some(schema))
            .description(Some(description))
            .build();
        response.headers.insert(name.to_owned(), header.into());
    };
    add(
        "X-Request-Id",
        "Names the request in the gateway's log.",
        string(),
    );
    let succeeded = status.starts_with(['2', '3']);
    if succeeded {
        add(
            "Server-Timing",
            "How long it took, in milliseconds.",
            string(),
        );
        add("Cache-Control", "Who may keep it, and how long.", string());
        add("Vary", "What an answer depends on.", string());
    }
    if succeeded && validated {
        add("ETag", "A strong validator of the bytes.", string());
    }
    if succeeded && cached {
        add("Age", "Seconds since the ERP answered.", integer(0));
        add(
            "Cache-Status",
            "How the cache handled the request (RFC 9211).",
            string(),
        );
    }
    if succeeded && pages {
        add("Link", "The pages after and before (RFC 8288).", string());
    }
    match status {
        "401" | "403" => add("WWW-Authenticate", "What is missing (RFC 6750).", string()),
        "405" => add("Allow", "The methods that there are.", string()),
        "409" | "429" | "503" => add("Retry-After", "Seconds to wait, at least 1.", integer(1)),
        "502" | "504" if kind != Kind::Read => add(
            "Retry-After",
            "Seconds to wait, where the request can be sent again as it is and the ERP is asked what became of it first: an upload, or a change with an `Idempotency-Key`, that may have been made.",
            integer(1),
        ),
        _ => {}
    }
}

fn string() -> Schema {
    ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::String))
        .build()
        .into()
}

fn integer(minimum: usize) -> Schema {
    ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::Integer))
        .minimum(Some(minimum))
        .build()
        .into()
}

/// Documents the problems of an operation from the catalog, grouped by status.
fn problems(asked: Asked, codes: &[Code]) -> BTreeMap<String, RefOr<DocumentedResponse>> {
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in codes {
        by_status
            .entry(code.status().as_u16())
            .or_default()
            .push(*code);
    }
    by_status
        .into_iter()
        .map(|(status, codes)| {
            let names: Vec<String> = codes
                .iter()
                .map(|code| format!("`{}`: {}", code.as_str(), code.title()))
                .collect();
            let examples = codes.iter().map(|code| {
                let (_, body) =
                    Problem::example(*code, asked).render("0192f7a2-6d3c-7c11-9d5f-3f1d3c1b2a10");
                let value: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
                let example = ExampleBuilder::new()
                    .summary(code.title())
                    .value(Some(value))
                    .build();
                (code.as_str(), RefOr::T(example))
            });
            let content = ContentBuilder::new()
                .schema(Some(RefOr::Ref(Ref::from_schema_name("Problem"))))
                .examples_from_iter(examples)
                .build();
            let response = ResponseBuilder::new()
                .description(format!("{}.", names.join("; ")))
                .content("application/problem+json", content)
                .build();
            (status.to_string(), RefOr::T(response))
        })
        .collect()
}

macro_rules! documented_problems {
    ($( $(#[$doc:meta])* $name:ident of $asked:ident: $($code:ident)*; )*) => {
        $(
            $(#[$doc])*
            pub struct $name;

            impl IntoResponses for $name {
                fn responses() -> BTreeMap<String, RefOr<DocumentedResponse>> {
                    problems(Asked::$asked, &[$(Code::$code),*])
                }
            }
        )*
    };
}

documented_problems! {
    /// What can go wrong before any operation.
    CallerProblems of Read: UnknownParameter InvalidParameter MissingToken InvalidToken IdentityUnavailable RateLimited TenantNotAllowed
        NotFound MethodNotAllowed Internal;
    /// What can go wrong with a read.
    ReadProblems of Read: UnknownParameter InvalidParameter TenantRequired MissingToken InvalidToken IdentityUnavailable RateLimited
        InsufficientScope TenantNotAllowed NotFound MethodNotAllowed UpstreamValidation Internal UpstreamError
        UpstreamMismatch UpstreamCredentialRejected Overloaded UpstreamRateLimited
        UpstreamUnavailable UpstreamTimeout NotCached;
    /// What can go wrong with a change.
    ChangeProblems of Change: UnknownParameter InvalidParameter TenantRequired MalformedBody RequestTimeout MissingToken
        InvalidToken IdentityUnavailable RateLimited InsufficientScope TenantNotAllowed NotFound MethodNotAllowed
        IdempotencyConflict PreconditionFailed PayloadTooLarge UnsupportedMediaType ValidationFailed
        UpstreamValidation IdempotencyMismatch
        Internal UpstreamError UpstreamMismatch UpstreamCredentialRejected Overloaded
        UpstreamRateLimited UpstreamUnavailable UpstreamTimeout;
    /// What can go wrong with an upload.
    UploadProblems of Upload: UnknownParameter InvalidParameter TenantRequired MalformedBody RequestTimeout MissingToken
        InvalidToken IdentityUnavailable RateLimited InsufficientScope TenantNotAllowed NotFound MethodNotAllowed
        IdempotencyConflict PayloadTooLarge UnsupportedMediaType ValidationFailed InvalidImage UpstreamValidation
        IdempotencyMismatch Internal
        UpstreamError UpstreamMismatch UpstreamCredentialRejected Overloaded UpstreamRateLimited
        UpstreamUnavailable UpstreamTimeout;
}

/// The document in both its forms, made once.
#[derive(Debug, Clone)]
pub struct Rendered {
    json: Bytes,
    yaml: Bytes,
}

impl Rendered {
    /// Renders a document.
    #[must_use]
    pub fn new(document: &utoipa::openapi::OpenApi) -> Self {
        Self {
            json: document.to_pretty_json().unwrap_or_default().into(),
            yaml: document.to_yaml().unwrap_or_default().into(),
        }
    }

    /// As JSON.
    #[must_use]
    pub fn json(&self) -> &str {
        std::str::from_utf8(&self.json).unwrap_or_default()
    }

    /// As YAML.
    #[must_use]
    pub fn yaml(&self) -> &str {
        std::str::from_utf8(&self.yaml).unwrap_or_default()
    }
}

/// The routes, for everybody: no token.
pub fn routes<S: Clone + Send + Sync + 'static>(document: &utoipa::openapi::OpenApi) -> Router<S> {
    let page = SwaggerUi::new("/docs").config(
        utoipa_swagger_ui::Config::from("/openapi.json")
            .try_it_out_enabled(true)
            // One document, and nobody else is asked whether it is valid.
            .use_base_layout()
            .validator_url("none"),
    );
    let page: Router<Rendered> = page.into();
    Router::new()
        .merge(page.layer(middleware::from_fn(page_policy)))
        .route("/openapi.json", get(openapi_json))
        .route("/openapi.yaml", get(openapi_yaml))
        .with_state(Rendered::new(document))
}

/// The page's own scripts and styles, and calls to this gateway.
async fn page_policy(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
        ),
    );
    response
}

/// For what is the same for everybody.
pub(super) const PUBLIC: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// This document as JSON
///
/// OpenAPI 3.1.
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "openapi_json",
    tag = "reference",
    security(()),
    responses((status = 200, description = "The document.", body = serde_json::Value))
)]
async fn openapi_json(State(document): State<Rendered>) -> impl IntoResponse {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (CACHE_CONTROL, PUBLIC),
    ];
    (headers, document.json)
}

/// This document as YAML
///
/// OpenAPI 3.1.
#[utoipa::path(
    get,
    path = "/openapi.yaml",
    operation_id = "openapi_yaml",
    tag = "reference",
    security(()),
    responses((status = 200, description = "The document.", body = String, content_type = "application/yaml"))
)]
async fn openapi_yaml(State(document): State<Rendered>) -> impl IntoResponse {
    // RFC 9512.
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/yaml")),
        (CACHE_CONTROL, PUBLIC),
    ];
    (headers, document.yaml)
}
