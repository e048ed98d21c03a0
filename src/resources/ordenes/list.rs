//! `GET /v1/ordenes`.

use axum::extract::State;
use utoipa::ToSchema;

use crate::{
    caller::Permit,
    exchange::{Exchange, Served},
    extract::{CacheControl, Query, Values},
    operation::{Effect, FreshnessClass, Operation, Scope},
    problem::Problem,
    resources::{
        paged::{self, Asked, Filter},
        reference::ReadProblems,
    },
};

use super::{
    COLLECTION,
    codigo::STATUS,
    representation::{Orden, translate},
};

/// Lists orders.
pub(super) static LIST: Operation = Operation {
    name: "listar_ordenes",
    scope: Scope::OrdenesRead,
    effect: Effect::Read(FreshnessClass::List),
};

/// A page of work orders.
#[derive(ToSchema)]
#[schema(as = PaginaDeOrdenes, example = json!({
    "count": 23,
    "next": "/v1/ordenes?status=confirmada&limit=1&offset=1",
    "previous": null,
    "results": [Orden::listed_example()]
}))]
#[expect(dead_code, reason = "describes the form; values are never made")]
struct OrdenPage {
    /// How many orders there are in all; null where the ERP doesn't say.
    #[schema(example = 23, minimum = 0, required = true)]
    count: Option<u64>,
    /// The path of the next page on this gateway; null on the last one.
    #[schema(
        example = "/v1/ordenes?status=confirmada&limit=50&offset=50",
        required = true
    )]
    next: Option<String>,
    /// The path of the page before; null on the first one.
    #[schema(required = true)]
    previous: Option<String>,
    results: Vec<Orden>,
}

/// Orders, as a list.
pub static ORDENES: paged::List = paged::List {
    path: "/v1/ordenes",
    collection: COLLECTION,
    translate,
};

/// Orders in one state.
#[derive(Debug, Clone)]
pub struct ByStatus(Option<u8>);

impl Filter for ByStatus {
    const NAMES: &'static [&'static str] = &["status"];

    fn read(values: &mut Values<'_>) -> Self {
        Self(values.take("status", STATUS.expected, |word| STATUS.code(word)))
    }

    fn theirs(&self) -> Vec<(&'static str, String)> {
        let code = self.0.map(|code| ("status", code.to_string()));
        code.into_iter().collect()
    }

    fn ours(&self) -> Vec<(&'static str, String)> {
        let name = self.0.and_then(|code| STATUS.name(u64::from(code)));
        name.map(|name| ("status", name.to_owned()))
            .into_iter()
            .collect()
    }
}

/// List work orders
///
/// A page of the tenant's work orders, as its credential sees them. Follow `next` until it is null.
/// Answers are kept for a few seconds; `Cache-Control: no-cache` asks the ERP. Needs the scope `ordenes:read`.
#[utoipa::path(
    get,
    path = "/v1/ordenes",
    operation_id = "listar_ordenes",
    tag = "ordenes",
    params(
        ("status" = Option<String>, Query, description = "Only orders in that state: a name (or the ERP's code 1 to 5).",
            pattern = "^(abierta|en_proceso|terminada|cancelada|confirmada|[1-5])$", example = "abierta"),
        ("limit" = Option<u64>, Query, description = "Orders a page; 50 where it isn't given.", minimum = 1, maximum = 100, example = 50),
        ("offset" = Option<u64>, Query, description = "Orders before the page.", minimum = 0),
        ("cursor" = Option<String>, Query, description = "From a `next` or `previous` link; stands alone."),
    ),
    responses((status = 200, description = "A page of orders.", body = OrdenPage), ReadProblems)
)]
pub(super) async fn list(
    permit: Permit,
    Query(asked): Query<Asked<ByStatus>>,
    CacheControl(wanted): CacheControl,
    State(exchange): State<Exchange>,
) -> Result<Served, Problem> {
    ORDENES.read(&exchange, &permit, asked, wanted).await
}
