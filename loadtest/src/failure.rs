//! Why a run could not be done at all, said so that one sees whose fault it is.
//!
//! It owns the errors that end the program with status 2. It refuses what a server does wrong during a run:
//! that is a [`Fault`](crate::fault::Fault), counted and reported.

use std::fmt;
use std::io;

/// A run that could not be done; the program ends with status 2.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line asks for something that cannot be.
    Asked(String),
    /// This machine refused: descriptors, memory, a file, a process that did not start.
    Machine(String, io::Error),
    /// The server did not do what a measurement needs, so there is no figure to show.
    Server(String),
}

impl Failure {
    /// Names what was being done when the machine refused, for `map_err`.
    pub(crate) fn machine(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Failure {
        let doing = doing.into();
        move |error| Failure::Machine(doing, error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Asked(what) => write!(f, "cannot be asked: {what}"),
            Failure::Machine(doing, error) => write!(f, "{doing}: {error}"),
            Failure::Server(what) => write!(f, "the server: {what}"),
        }
    }
}

impl std::error::Error for Failure {}
