//! From the ERP's work order to ours.

use std::collections::BTreeMap;

use utoipa::ToSchema;

use crate::{
    exchange::Unfit,
    resources::members::{Members, to_bytes},
};

use super::codigo::{Codes, PRIORIDAD, Reading, STATUS, UNKNOWN};

/// A work order. It may have more fields than these: whatever else the ERP sends passes unchanged.
#[derive(ToSchema)]
#[schema(example = json!(Orden::example()))]
#[expect(dead_code, reason = "describes the form; values are never made")]
pub(super) struct Orden {
    /// The internal number that addresses the order. Null only in a list, for a row
    /// that the ERP sent without a readable one.
    #[schema(example = 11448, minimum = 1, required = true)]
    id: Option<u64>,
    /// `desconocido` stands for a code that this version doesn't know; null where the ERP sent none.
    #[schema(example = "confirmada", required = true)]
    status: Option<Status>,
    /// What the ERP sent as status; only where `status` is `desconocido`.
    #[schema(required = false)]
    status_codigo: Option<serde_json::Value>,
    /// Null where none is set.
    #[schema(example = "alta", required = true)]
    prioridad: Option<Prioridad>,
    /// What the ERP sent as prioridad; only where `prioridad` is `desconocido`.
    #[schema(required = false)]
    prioridad_codigo: Option<serde_json::Value>,
    /// The ERP's own words for `status`.
    #[schema(example = "Confirmada", required = false)]
    status_display: Option<String>,
    /// The ERP's own words for `prioridad`.
    #[schema(example = "Alta", required = false)]
    prioridad_display: Option<String>,
    /// When work at the customer's began.
    #[schema(example = "2026-01-01T09:44:27-06:00", required = false)]
    bitacora_inicio_cliente: Option<String>,
    /// When the crew was back at the base.
    #[schema(example = "2026-01-27T09:44:27-06:00", required = false)]
    bitacora_llegada_base: Option<String>,
    /// HTML, as the ERP keeps it: clean it before you show it.
    #[schema(example = "<p>FALTA DE AGUA</p>", required = false)]
    descripcion: Option<String>,
    /// The order's own folio; nothing to do with the account.
    #[schema(example = "7136-1-1/1", required = false)]
    clave: Option<String>,
    #[schema(example = "Mensual", required = false)]
    periodicidad: Option<String>,
    #[schema(example = "TRABAJOS CORRECTIVOS", required = false)]
    tipo_servicio: Option<String>,
    /// The customer's site: an object with `id`, `nombre`, `municipio`, `direccion` and more. Some
    /// accounts have a plain text here, and it passes as it is.
    #[schema(required = false)]
    sucursal: Option<serde_json::Value>,
    /// The customer: an object with `id`, `nombre`, `rfc`, `telefono` and more, or a plain text.
    #[schema(required = false)]
    cliente: Option<serde_json::Value>,
    /// The crew; only in the answer for one order.
    #[schema(required = false)]
    empleados: Option<Vec<BTreeMap<String, serde_json::Value>>>,
    /// The photos and files; only in the answer for one order.
    #[schema(required = false)]
    archivos: Option<Vec<Archivo>>,
}

impl Orden {
    /// The same in a list, which leaves the crew and the files out.
    pub(super) fn listed_example() -> serde_json::Value {
        let mut orden = Self::example();
        if let Some(members) = orden.as_object_mut() {
            members.retain(|name, _| !matches!(name.as_str(), "empleados" | "archivos"));
        }
        orden
    }

    /// One as the ERP's documentation has them.
    pub(super) fn example() -> serde_json::Value {
        serde_json::json!({
            "id": 11001,
            "status": "confirmada",
            "prioridad": null,
            "bitacora_inicio_cliente": "2026-01-01T09:44:27-06:00",
            "bitacora_llegada_base": "2026-01-27T09:44:27-06:00",
            "descripcion": "<p>FALTA DE AGUA</p>",
            "status_display": "Confirmada",
            "clave": "7136-1-1/1",
            "periodicidad": "-----",
            "prioridad_display": null,
            "tipo_servicio": "TRABAJOS CORRECTIVOS",
            "sucursal": {"id": 228, "municipio": "Carmen", "nombre": "CD DEL CARMEN", "cliente": "MICLIENTE", "direccion": "Calle 31"},
            "cliente": {"id": 1547, "rfc": "XAXX010101000", "razon_social": "MICLIENTE", "nombre": "MICLIENTE", "telefono": "(999) 181-4338"},
            "empleados": [{"id": 1650, "nombre": "NOMBRE", "apellido_paterno": "DEL", "apellido_materno": "EMPLEADO"}],
            "archivos": [Archivo::example()]
        })
    }
}

/// The state of an order.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes the form; values are never made")]
pub(super) enum Status {
    Abierta,
    EnProceso,
    Terminada,
    Cancelada,
    Confirmada,
    Desconocido,
}

/// The priority of an order.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes the form; values are never made")]
pub(super) enum Prioridad {
    Alta,
    Media,
    Baja,
    Desconocido,
}

/// A file of an order.
#[derive(ToSchema)]
#[schema(example = json!(Archivo::example()))]
#[expect(dead_code, reason = "describes the form; values are never made")]
pub(super) struct Archivo {
    #[schema(example = 554877)]
    id: Option<u64>,
    /// Where the file can be fetched.
    url: Option<String>,
    #[schema(example = "Antes del servicio - 20260127_150310.jpg")]
    titulo: Option<String>,
    #[schema(example = "2026-01-27T22:20:56.787815+00:00")]
    creado: Option<String>,
}

impl Archivo {
    fn example() -> serde_json::Value {
        serde_json::json!({
            "id": 554877,
            "url": "https://archivos.example.net/554877.jpg",
            "titulo": "Antes del servicio - 20260127_150310.jpg",
            "creado": "2026-01-27T22:20:56.787815+00:00"
        })
    }
}

/// Rewrites what differs between the ERP's order and ours, in place.
pub(super) fn translate(orden: &mut Members<'_>) -> Result<(), Unfit> {
    let id = orden.number("id");
    orden.set("id", &id)?;
    name_code(orden, "status", "status_codigo", &STATUS)?;
    name_code(orden, "prioridad", "prioridad_codigo", &PRIORIDAD)
}

fn name_code(
    orden: &mut Members<'_>,
    field: &str,
    code_field: &str,
    codes: &Codes,
) -> Result<(), Unfit> {
    match codes.read(&orden.value(field)) {
        Reading::Nothing => orden.set(field, &()),
        Reading::Named(name) => orden.set(field, &name),
        Reading::Unknown(code) => {
            orden.set(field, &UNKNOWN)?;
            orden.set(code_field, &code)
        }
    }
}

/// The public body of one order, which must be the one that was asked for.
pub(super) fn detail(body: &[u8], asked: u64) -> Result<Vec<u8>, Unfit> {
    let mut orden = Members::read(Members::text(body)?)?;
    if orden.number("id") != Some(asked) {
        return Err(Unfit::Mismatch);
    }
    translate(&mut orden)?;
    for list in ["empleados", "archivos"] {
        if orden.get(list).is_none_or(|json| json == "null") {
            orden.set(list, &[(); 0])?;
        }
    }
    to_bytes(&orden)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn shown(erp: &str) -> Value {
        let body = detail(erp.as_bytes(), 7).expect("a detail");
        serde_json::from_slice(&body).expect("JSON")
    }

    #[test]
    fn what_is_not_known_passes_to_the_last_digit() {
        let erp = r#"{"id":"7","status":"5","campo_nuevo":1.10,"grande":123456789012345678901234567890,"prioridad":null,"x":{"a" : [ ]}}"#;
        let body = String::from_utf8(detail(erp.as_bytes(), 7).expect("a detail")).expect("UTF-8");
        assert_eq!(
            body,
            r#"{"id":7,"status":"confirmada","campo_nuevo":1.10,"grande":123456789012345678901234567890,"prioridad":null,"x":{"a" : [ ]},"empleados":[],"archivos":[]}"#
        );
    }

    #[test]
    fn an_unknown_code_keeps_its_number_beside() {
        let orden = shown(r#"{"id":7,"status":9,"prioridad":"8"}"#);
        assert_eq!(orden["status"], "desconocido");
        assert_eq!(orden["status_codigo"], 9);
        assert_eq!(orden["prioridad"], "desconocido");
        assert_eq!(orden["prioridad_codigo"], 8);
    }

    #[test]
    fn a_missing_code_is_null() {
        let orden = shown(r#"{"id":7,"prioridad":""}"#);
        assert_eq!(
            (&orden["status"], &orden["prioridad"]),
            (&json!(null), &json!(null))
        );
        assert!(orden.get("status_codigo").is_none());
    }

    #[test]
    fn another_record_or_none_is_no_answer() {
        for erp in [
            r#"{"id":8}"#,
            r#"{"id":null}"#,
            "{}",
            r#"{"id":"7x"}"#,
            r#"{"id":7.5}"#,
        ] {
            assert_eq!(detail(erp.as_bytes(), 7), Err(Unfit::Mismatch), "{erp}");
        }
        for erp in ["", "[]", "<html>", "{\"id\":7", "{\"id\":7}}", "\u{feff}"] {
            assert_eq!(detail(erp.as_bytes(), 7), Err(Unfit::Unreadable), "{erp}");
        }
        assert!(detail("\u{feff}{\"id\":7}".as_bytes(), 7).is_ok());
    }
}
