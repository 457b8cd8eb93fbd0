//! Owns the figures of gRPC: how many calls of each method were answered with which code, and how many connections there
//! are. Labels are bounded: the methods of the service, and the codes of gRPC. Counted by the dispatch, read by the
//! metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use tonic::Code;

use super::dispatch::Method;

/// Labels of the codes, by number.
const CODES: [&str; 17] = [
    "ok",
    "cancelled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
];

/// The label of what is no method of the service: health, reflection, unknown paths.
const OTHER: &str = "other";

/// The counters; several threads write them.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    given: [[AtomicU64; CODES.len()]; Method::ALL.len() + 1],
    connections: AtomicU64,
}

/// A connection that is held; it is counted until this is dropped.
#[derive(Debug)]
pub(super) struct Held<'a>(&'a Answers);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Answers {
    /// A call of a method, or of none, was answered.
    pub(super) fn given(&self, method: Option<Method>, code: Code) {
        let method = method.map_or(Method::ALL.len(), |method| method as usize);
        self.given[method][code as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A connection was accepted.
    pub(super) fn hold(&self) -> Held<'_> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Held(self)
    }

    /// Connections held.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Every series: its place, method and code.
    pub(crate) fn series() -> impl Iterator<Item = (usize, usize, &'static str, &'static str)> {
        let methods = Method::ALL.into_iter().map(Method::name).chain([OTHER]);
        methods.enumerate().flat_map(|(method, name)| {
            CODES.into_iter().enumerate().map(move |(code, label)| (method, code, name, label))
        })
    }

    /// The value at a place of [`Answers::series`].
    pub(crate) fn value(&self, method: usize, code: usize) -> u64 {
        self.given[method][code].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_under_its_method_and_code() {
        let answers = Answers::default();
        answers.given(Some(Method::Publish), Code::Unauthenticated);
        answers.given(None, Code::Ok);
        let counted: Vec<_> = Answers::series()
            .filter(|(method, code, ..)| answers.value(*method, *code) > 0)
            .map(|(_, _, method, code)| (method, code))
            .collect();
        assert_eq!(counted, [("Publish", "unauthenticated"), ("other", "ok")]);
    }

    #[test]
    fn codes_stand_in_the_order_of_their_numbers() {
        for (number, label) in CODES.into_iter().enumerate() {
            let named = format!("{:?}", Code::from_i32(number as i32)).to_lowercase();
            assert_eq!(named, label.replace('_', ""));
        }
    }
}
