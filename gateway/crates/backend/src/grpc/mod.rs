//! gRPC backends: the session protocol as a state machine, and what it speaks of. Owns `gateway.v1.Backend` as a client;
//! refuses to know shards beyond the commands and events of `bridge`.

pub mod order;
pub mod session;
pub mod stats;

pub use order::{Order, Refusal, Status};
pub use session::{Session, Sizes, StreamId, Told};
pub use stats::{GivenUp, SessionStats, StreamEnd};
