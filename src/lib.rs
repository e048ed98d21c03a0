//! Llavero stands between internal apps and the Admintotal ERP: it knows callers by
//! their JWT, acts for their tenant with an Api-key that they never see, answers
//! from its cache while it can, and speaks a simple API with clear errors.
//!
//! A request goes one way: [`server`] takes the connection, [`router`] has the one
//! list of routes and layers, [`layers`] recognise the caller ([`identity`],
//! [`tenants`], [`caller`]) and grant a permit for an [`operation`], a handler in
//! [`resources`] says what it wants ([`extract`]), and [`exchange`] gets it from the
//! [`cache`] or from the [`upstream`]. What fails on the way becomes a [`problem`].
//! [`app`] builds all of it from a [`config`]; [`cli`] is the way in.
//!
//! `docs/architecture.md` has the map, the life of a request, and the decisions.

pub mod admin;
pub mod app;
pub mod cache;
pub mod caller;
pub mod cli;
pub mod clock;
pub mod config;
pub mod exchange;
pub mod extract;
mod fair;
pub mod i_json;
pub mod idempotency;
pub mod identity;
pub mod images;
pub mod in_flight;
pub mod layers;
pub mod limits;
pub mod operation;
pub mod problem;
pub mod process;
pub mod reload;
pub mod resources;
pub mod router;
pub mod server;
pub mod telemetry;
pub mod tenants;
pub mod tls;
pub mod upstream;
pub mod watchlist;
