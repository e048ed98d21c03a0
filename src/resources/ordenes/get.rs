//! `GET /v1/ordenes/{id}`.

use axum::extract::State;

use crate::{
    cache::Representation,
    caller::Permit,
    exchange::{Exchange, Read, Served, Subject, Unfit, Wanted},
    extract::{CacheControl, Id, NoParameters, Query, RecordId},
    operation::{Effect, FreshnessClass, Operation, Scope},
    problem::Problem,
    resources::reference::ReadProblems,
};

use super::{
    COLLECTION, orden,
    representation::{Orden, detail},
};

/// Reads one order.
pub(super) static GET: Operation = Operation {
    name: "ver_orden",
    scope: Scope::OrdenesRead,
    effect: Effect::Read(FreshnessClass::Detail),
};

/// Read one work order
///
/// With its crew (`empleados`) and its files (`archivos`). Its `ETag` can go into `If-Match` of a change.
/// Needs the scope `ordenes:read`.
#[utoipa::path(
    get,
    path = "/v1/ordenes/{id}",
    operation_id = "ver_orden",
    tag = "ordenes",
    params(("id" = u64, Path, description = "The order's internal `id`, not its `clave`.", minimum = 1, example = 11001)),
    responses((status = 200, description = "The order.", body = Orden), ReadProblems)
)]
pub(super) async fn get(
    permit: Permit,
    Id(id): Id,
    _: Query<NoParameters>,
    CacheControl(wanted): CacheControl,
    State(exchange): State<Exchange>,
) -> Result<Served, Problem> {
    let served = exchange
        .read(&permit, of(id, wanted), move |body| {
            translate(body, id.get())
        })
        .await?;
    Ok(served)
}

/// The read of one order.
pub(super) fn of(id: RecordId, wanted: Wanted) -> Read {
    Read {
        target: orden(id),
        subject: Subject::Record(COLLECTION, id.get()),
        wanted,
    }
}

/// One order as it is served.
pub(super) fn translate(body: &[u8], id: u64) -> Result<Representation, Unfit> {
    detail(body, id).map(Representation::new)
}
