//! gRPC backends: the session protocol as a state machine, and what it speaks of. Owns `gateway.v1.Backend` as a client;
//! refuses to know shards beyond the commands and events of `bridge`.

pub mod authorize;
pub mod client;
pub mod dial;
mod health;
pub mod order;
mod publish;
pub mod session;
mod slot;
pub mod stats;
pub mod translate;

pub use authorize::{AuthorizeStats, Authorizer, DURATION_BOUNDS_US, Outcome};
pub use client::{Parts, run};
pub use dial::{Calls, Server, TlsTexts};
pub use order::{Order, Refusal, Status};
pub use session::{Session, Sizes, StreamId, Told};
pub use stats::{GivenUp, SessionStats, StreamEnd};
