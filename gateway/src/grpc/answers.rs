//! Under which labels calls over gRPC are counted: the methods of the service, and the codes of gRPC. Owns their order;
//! the cells are those of [`crate::answers`]. Counted by the dispatch.

use tonic::Code;

use super::dispatch::Method;
use crate::answers::{self, Labels};

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

/// Labels of the methods, and of what is none: health, reflection, unknown paths.
const METHODS: [&str; Method::ALL.len() + 1] = {
    let mut labels = ["other"; Method::ALL.len() + 1];
    let mut place = 0;
    while place < Method::ALL.len() {
        labels[place] = Method::ALL[place].name();
        place += 1;
    }
    labels
};

/// A call, by its method.
#[derive(Debug)]
pub(crate) enum Calls {}

impl Labels for Calls {
    const ASKED: &'static [&'static str] = &METHODS;
    const ANSWERED: &'static [&'static str] = &CODES;
}

/// What was answered over gRPC.
pub(crate) type Answers = answers::Answers<Calls>;

impl Answers {
    /// A call of a method, or of none, was answered.
    pub(super) fn given(&self, method: Option<Method>, code: Code) {
        let method = method.map_or(METHODS.len() - 1, |method| method as usize);
        self.count(method, code as usize);
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
        assert_eq!(answers.counted(), [("Publish", "unauthenticated", 1), ("other", "ok", 1)]);
    }

    #[test]
    fn codes_and_methods_stand_in_the_order_of_their_numbers() {
        for (number, label) in CODES.into_iter().enumerate() {
            let named = format!("{:?}", Code::from_i32(number as i32)).to_lowercase();
            assert_eq!(named, label.replace('_', ""));
        }
        for method in Method::ALL {
            assert_eq!(METHODS[method as usize], method.name());
        }
    }
}
