//! A simulated Admintotal ERP: the vendor's work-order API, in memory, with faults on demand.
//!
//! A request comes in through `erp`, which finds the tenant in its path or its `Host`, writes it into the
//! `journal`, asks `faults` what is to go wrong with it and checks its credential. What is left is served by
//! `ordenes`, `imagenes` or `login`, from the tenants in `state` that `seed` has made. `paging` holds the three
//! ways in which a list can lead on, `reply` the words and shapes that the ERP answers with. `control` is the side
//! door `/_sim/`, through which a test says what is to go wrong and reads what arrived.
//!
//! The crate shares no types with the gateway: it is the other party, and a mistake about the vendor's API must
//! not be made twice in the same place.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use llavero_simulator::{Faults, Simulator};
//!
//! let simulator = Simulator::with_demo_tenants();
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8081").await?;
//! simulator.set_faults("norte", Faults { hang: true, ..Faults::default() });
//! simulator.run(listener, std::future::pending()).await
//! # }
//! ```
#![forbid(unsafe_code)]

mod control;
mod erp;
mod faults;
mod imagenes;
mod journal;
mod login;
mod ordenes;
mod paging;
mod reply;
mod seed;
mod simulator;
mod state;

pub use faults::{Faults, Only, Paging, RateLimit, StatusFault};
pub use journal::ReceivedRequest;
pub use seed::{TenantSeed, TokenForm, UserChange, UserSeed};
pub use simulator::Simulator;
pub use state::TokenKind;
