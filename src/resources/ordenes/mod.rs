//! Work orders (*órdenes de servicio*, "OT"): list, read, change, attach photos.
//!
//! Vendor page: "Ordenes de trabajo", `api/v2/ordenes_servicio/`.

mod codigo;
mod get;
mod imagenes;
mod list;
mod patch;
mod representation;

pub use list::{ByStatus, ORDENES};
pub use patch::DescripcionField;

use utoipa_axum::{
    router::{OpenApiRouter, UtoipaMethodRouterExt as _},
    routes,
};

use crate::{app::AppState, extract::RecordId, layers::permit::permitted, upstream::Target};

/// The ERP's collection, and the name of its records in the cache's generations.
const COLLECTION: &str = "ordenes_servicio";

/// This resource's routes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list::list).map(permitted(&list::LIST)))
        .routes(routes!(get::get).map(permitted(&get::GET)))
        .routes(routes!(patch::patch).map(permitted(&patch::PATCH)))
        .routes(routes!(imagenes::attach).map(permitted(&imagenes::ATTACH)))
}

/// One order at the ERP.
fn orden(id: RecordId) -> Target {
    Target::collection(COLLECTION).child(id)
}
