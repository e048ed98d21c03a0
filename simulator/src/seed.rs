//! What a tenant starts with: its users, and work orders that look like real ones and are the same at every start.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

use crate::imagenes::{archivo, timestamp};
use crate::ordenes::{prioridad_display, status_display};

/// What a tenant is made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantSeed {
    /// The account's subdomain, one DNS label.
    pub clave: String,
    /// Who may log in.
    pub users: Vec<UserSeed>,
    /// How many orders there are at the start.
    pub orders: usize,
    /// The first order's id; the others follow without gaps. 1 if nothing is said.
    pub first_id: u64,
    /// How long an access token is good for; 300 if nothing is said.
    pub access_seconds: u64,
    /// How long a refresh token is good for; a day if nothing is said.
    pub refresh_seconds: u64,
    /// What tokens look like.
    pub token_form: TokenForm,
    /// Whether a refresh gives a new refresh token too, and the old one is good no more.
    pub rotate_refresh: bool,
}

impl Default for TenantSeed {
    fn default() -> Self {
        Self {
            clave: String::new(),
            users: Vec::new(),
            orders: 0,
            first_id: 1,
            access_seconds: 300,
            refresh_seconds: 86_400,
            token_form: TokenForm::default(),
            rotate_refresh: false,
        }
    }
}

impl TenantSeed {
    /// A tenant with this clave, without users and orders.
    pub fn new(clave: impl Into<String>) -> Self {
        Self {
            clave: clave.into(),
            ..Self::default()
        }
    }

    /// With one more user.
    #[must_use]
    pub fn user(mut self, user: UserSeed) -> Self {
        self.users.push(user);
        self
    }

    /// With this many orders, the first of which has this id.
    #[must_use]
    pub fn orders(mut self, orders: usize, first_id: u64) -> Self {
        self.orders = orders;
        self.first_id = first_id;
        self
    }
}

/// A user of one tenant. A key belongs to a user, not to the account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserSeed {
    /// The name to log in with.
    pub username: String,
    /// The password to log in with.
    pub password: String,
    /// The value of `Api-key`.
    pub api_key: String,
    /// The ids of the orders that this user sees; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visible_orders: Option<Vec<u64>>,
}

impl UserSeed {
    /// A user who sees every order.
    pub fn new(
        username: impl Into<String>,
        password: impl Into<String>,
        api_key: impl Into<String>,
    ) -> Self {
        Self {
            username: username.into(),
            password: password.into(),
            api_key: api_key.into(),
            visible_orders: None,
        }
    }

    /// A user who sees these orders only.
    #[must_use]
    pub fn seeing(mut self, orders: impl IntoIterator<Item = u64>) -> Self {
        self.visible_orders = Some(orders.into_iter().collect());
        self
    }

    pub(crate) fn sees(&self, id: u64) -> bool {
        match &self.visible_orders {
            Some(visible) => visible.contains(&id),
            None => true,
        }
    }
}

/// What changes about a user; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UserChange {
    /// The new password. Tokens that were given out before stay good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// The new key; the old one is good no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
}

/// What tokens look like. The ERP knows them by heart either way and reads nothing out of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenForm {
    /// A JWT with `exp`, as the vendor gives out.
    #[default]
    Jwt,
    /// Random text.
    Opaque,
}

pub(crate) fn demo_tenants() -> [TenantSeed; 3] {
    [
        ("carper", 127, 11_001),
        ("norte", 83, 21_001),
        ("bahia", 64, 31_001),
    ]
    .map(|(clave, orders, first_id)| {
        let key = |user: &str| format!("sim-key-{clave}-{user}");
        let every_other = (first_id..first_id + orders).step_by(2);
        TenantSeed::new(clave)
            .orders(orders as usize, first_id)
            .user(UserSeed::new("app-default", "demo", key("default")))
            .user(UserSeed::new("app-tecnicos", "demo", key("tecnicos")).seeing(every_other))
    })
}

struct Cliente {
    nombre: &'static str,
    razon_social: &'static str,
    colonia: &'static str,
    direccion: &'static str,
}

const CLIENTES: [Cliente; 8] = [
    Cliente {
        nombre: "BANCO DEL VALLE",
        razon_social: "BANCO DEL VALLE INSTITUCION DE BANCA MULTIPLE SA",
        colonia: "Juárez",
        direccion: "Av. Paseo de la Reforma 1200, Piso 9, Col. Juárez, CP 06600, Ciudad de México",
    },
    Cliente {
        nombre: "TELEFONIA MAYAB",
        razon_social: "TELEFONIA MAYAB SAB DE CV",
        colonia: "Ampliación Granada",
        direccion: "Lago Ejemplo 245, Col. Ampliación Granada, CP 11529, Ciudad de México",
    },
    Cliente {
        nombre: "SUPERMERCADOS LA CEIBA",
        razon_social: "OPERADORA DE SUPERMERCADOS LA CEIBA SA DE CV",
        colonia: "Hipódromo Condesa",
        direccion: "Calle Ejemplo 31, Col. Hipódromo Condesa, CP 06170, Ciudad de México",
    },
    Cliente {
        nombre: "FARMACIAS SAN LAZARO",
        razon_social: "FARMACIAS SAN LAZARO DEL SURESTE SA DE CV",
        colonia: "Centro",
        direccion: "Calle 60 No. 401 x 45, Col. Centro, CP 97000, Mérida, Yucatán",
    },
    Cliente {
        nombre: "HOTELES COSTA NUEVA",
        razon_social: "GRUPO HOTELERO COSTA NUEVA S DE RL DE CV",
        colonia: "Zona Hotelera",
        direccion: "Blvd. Ejemplo Km 12.5, Zona Hotelera, CP 77500, Benito Juárez, Quintana Roo",
    },
    Cliente {
        nombre: "CINES ESTELAR",
        razon_social: "EXHIBIDORA ESTELAR DE MEXICO SA DE CV",
        colonia: "Del Valle",
        direccion: "Av. Ejemplo 870, Col. Del Valle, CP 66220, San Pedro Garza García, Nuevo León",
    },
    Cliente {
        nombre: "GASOLINERAS EL FARO",
        razon_social: "COMBUSTIBLES Y SERVICIOS EL FARO SA DE CV",
        colonia: "Industrial",
        direccion: "Carretera Internacional Km 3, Col. Industrial, CP 82000, Mazatlán, Sinaloa",
    },
    Cliente {
        nombre: "CLINICA SANTA ELENA",
        razon_social: "SERVICIOS MEDICOS SANTA ELENA SC",
        colonia: "Roma Norte",
        direccion: "Calle Ejemplo 118, Col. Roma Norte, CP 06700, Ciudad de México",
    },
];

/// Municipalities by region; a tenant works in one, chosen by the ten-thousands of its first id.
const MUNICIPIOS: [[&str; 6]; 3] = [
    [
        "Mazatlán",
        "Puerto Vallarta",
        "La Paz",
        "Ensenada",
        "Los Cabos",
        "Manzanillo",
    ],
    [
        "Mérida",
        "Carmen",
        "Campeche",
        "Benito Juárez",
        "Centro",
        "Tuxtla Gutiérrez",
    ],
    [
        "Monterrey",
        "Saltillo",
        "Chihuahua",
        "Torreón",
        "Reynosa",
        "Durango",
    ],
];

const TRABAJOS: [(&str, &str); 14] = [
    ("TRABAJOS CORRECTIVOS", "<p>FALTA DE AGUA</p>"),
    (
        "TRABAJOS CORRECTIVOS",
        "<p>FUGA EN SANITARIO DE DAMAS, PLANTA BAJA</p>",
    ),
    (
        "TRABAJOS CORRECTIVOS",
        "<p>AIRE ACONDICIONADO NO ENFRÍA EN ÁREA DE CAJAS</p><p>Urge antes de apertura.</p>",
    ),
    (
        "TRABAJOS CORRECTIVOS",
        "<p>CORTINA METÁLICA ATORADA EN ACCESO PRINCIPAL</p>",
    ),
    (
        "TRABAJOS CORRECTIVOS",
        "<p>CORTO CIRCUITO EN TABLERO <strong>T-2</strong></p>",
    ),
    (
        "TRABAJOS CORRECTIVOS",
        "<p>FILTRACIÓN EN AZOTEA</p><ul><li>Revisar bajantes</li><li>Sellar grietas</li></ul>",
    ),
    (
        "MANO DE OBRA",
        "<p>MANTENIMIENTO A INMUEBLES MANO DE OBRA</p>",
    ),
    (
        "MANO DE OBRA",
        "<p>PINTURA DE FACHADA Y CAJONES DE ESTACIONAMIENTO</p>",
    ),
    (
        "MANO DE OBRA",
        "<p>CAMBIO DE LUMINARIAS A LED &amp; BALASTROS</p>",
    ),
    (
        "MANTENIMIENTO PREVENTIVO",
        "<p>SERVICIO A MINISPLIT 2 TR Y LIMPIEZA DE FILTROS</p>",
    ),
    (
        "MANTENIMIENTO PREVENTIVO",
        "<p>LIMPIEZA DE CISTERNA Y TINACOS</p>",
    ),
    (
        "MANTENIMIENTO PREVENTIVO",
        "<p>REVISIÓN DE PLANTA DE EMERGENCIA Y TRANSFERENCIA</p>",
    ),
    (
        "INSTALACIÓN",
        "<p>INSTALACIÓN DE CÁMARAS EN ALMACÉN (4 PZAS)</p>",
    ),
    ("INSTALACIÓN", ""),
];

const PERIODICIDADES: [&str; 4] = ["Mensual", "Bimestral", "Trimestral", "Semestral"];

const EMPLEADOS: [(&str, &str, &str); 8] = [
    ("JOSE LUIS", "CANUL", "PECH"),
    ("MARIA FERNANDA", "TREVIÑO", "GARZA"),
    ("CARLOS ALBERTO", "OSUNA", "LIZARRAGA"),
    ("JUAN MANUEL", "DZUL", "CHAN"),
    ("ANA LAURA", "MENDOZA", "RIOS"),
    ("ROBERTO", "SALINAS", "CANTU"),
    ("MIGUEL ANGEL", "NUÑEZ", ""),
    ("GUADALUPE", "HERNANDEZ", "CRUZ"),
];

/// How common each status is, and which ones have been visited and come back from.
const STATUS: [u64; 12] = [1, 1, 1, 2, 2, 3, 3, 3, 3, 4, 5, 5];

/// The tenant's orders, and the first file id that is free.
pub(crate) fn ordenes(seed: &TenantSeed) -> (BTreeMap<u64, Value>, u64) {
    let mut next_archivo = seed.first_id.saturating_add(500_000);
    let ordenes = (seed.first_id..)
        .take(seed.orders)
        .map(|id| (id, orden(id, seed.first_id, &mut next_archivo)))
        .collect();
    (ordenes, next_archivo)
}

fn orden(id: u64, first_id: u64, next_archivo: &mut u64) -> Value {
    let mut dice = Dice(id);
    let region = MUNICIPIOS[(first_id / 10_000 % 3) as usize];
    let municipio = *dice.pick(&region);
    let (tipo_servicio, descripcion) = *dice.pick(&TRABAJOS);
    let periodicidad = match tipo_servicio {
        "TRABAJOS CORRECTIVOS" | "INSTALACIÓN" => "-----",
        _ => dice.pick(&PERIODICIDADES),
    };
    let status = *dice.pick(&STATUS);
    let prioridad = match dice.below(5) {
        chosen @ 1..=3 => Some(chosen),
        _ => None,
    };

    let started = datetime!(2026-01-05 08:00 -6)
        + Duration::hours((id - first_id).cast_signed() * 7 % 4_000)
        + Duration::seconds(dice.below(3_600).cast_signed());
    let returned = started + Duration::minutes(45 + dice.below(300).cast_signed());
    let inicio = matches!(status, 2 | 3 | 5).then(|| rfc3339(started));
    let llegada = (matches!(status, 3 | 5) && dice.below(6) > 0).then(|| rfc3339(returned));

    let numero_cliente = dice.below(CLIENTES.len() as u64);
    let cliente = &CLIENTES[numero_cliente as usize];
    let sucursal = dice.below(40) + 1;
    let visita = dice.below(3) + 1;
    let visitas = visita + dice.below(2);

    let mut empleados = Vec::new();
    if status != 1 {
        for _ in 0..=dice.below(2) {
            empleados.push(empleado(dice.below(EMPLEADOS.len() as u64)));
        }
        empleados.dedup();
    }
    let mut archivos = Vec::new();
    if matches!(status, 3 | 5) {
        let procesos = ["Antes del", "Durante el", "Después del"];
        for proceso in &procesos[..=dice.below(3) as usize] {
            let stamp = format!(
                "{:04}{:02}{:02}_{:02}{:02}{:02}",
                started.year(),
                u8::from(started.month()),
                started.day(),
                started.hour(),
                started.minute(),
                started.second()
            );
            let titulo = format!("{proceso} servicio - {stamp}.jpg");
            archivos.push(archivo(*next_archivo, &titulo, &timestamp(returned)));
            *next_archivo += 1;
        }
    }

    json!({
        "id": id,
        "status": status,
        "prioridad": prioridad,
        "bitacora_inicio_cliente": inicio,
        "bitacora_llegada_base": llegada,
        "descripcion": descripcion,
        "status_display": status_display(status),
        "clave": format!("{}-{sucursal}-{visita}/{visitas}", 2_000 + dice.below(6_000)),
        "periodicidad": periodicidad,
        "prioridad_display": prioridad.and_then(prioridad_display),
        "tipo_servicio": tipo_servicio,
        "sucursal": {
            "id": first_id / 100 + sucursal,
            "municipio": municipio,
            "nombre": format!("{} {} {}", cliente.nombre, municipio.to_uppercase(), sucursal),
            "cliente": cliente.nombre,
            "direccion": format!("Calle Ejemplo {}, {municipio}", 100 + sucursal),
        },
        "cliente": {
            "id": first_id / 10 + numero_cliente,
            "regimen_fiscal": "601",
            "rfc": "XAXX010101000",
            "razon_social": cliente.razon_social,
            "direccion": cliente.direccion,
            "colonia": cliente.colonia,
            "nombre": cliente.nombre,
            "telefono": format!("(999) 555-01{numero_cliente:02}"),
            "email": if numero_cliente.is_multiple_of(3) { "" } else { "mantenimiento@example.com" },
            "representante_legal": cliente.nombre,
        },
        "empleados": empleados,
        "archivos": archivos,
    })
}

fn empleado(numero: u64) -> Value {
    let (nombre, apellido_paterno, apellido_materno) = EMPLEADOS[numero as usize];
    json!({
        "id": 1_650 + numero,
        "rfc": "XEXX010101000",
        "nombre": nombre,
        "apellido_paterno": apellido_paterno,
        "apellido_materno": apellido_materno,
    })
}

fn rfc3339(moment: OffsetDateTime) -> String {
    moment.format(&Rfc3339).unwrap_or_default()
}

/// Numbers that look random and follow from where they start (splitmix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demo_orders_are_the_same_at_every_start_and_never_shared() {
        let [carper, norte, bahia] = demo_tenants().map(|seed| ordenes(&seed).0);
        assert_eq!(carper, ordenes(&demo_tenants()[0]).0);
        assert!(carper.len() > 100 && carper.contains_key(&11_001));
        assert!(norte.contains_key(&21_001) && bahia.contains_key(&31_001));
        assert!(
            !carper
                .keys()
                .any(|id| norte.contains_key(id) || bahia.contains_key(id))
        );
    }

    #[test]
    fn demo_orders_are_of_every_kind() {
        for seed in demo_tenants() {
            let (ordenes, _) = ordenes(&seed);
            for status in 1..=5 {
                assert!(ordenes.values().any(|orden| orden["status"] == status));
            }
            for prioridad in [json!(null), json!(1), json!(2), json!(3)] {
                assert!(
                    ordenes
                        .values()
                        .any(|orden| orden["prioridad"] == prioridad)
                );
            }
            assert!(!json!(ordenes).to_string().contains(&seed.clave));
        }
    }
}
