//! Owns what gRPC says of errors: the code of each reason, the reason in the metadata, and reasons for what tonic refuses
//! before a call is read.

use hyper::Response;
use hyper::header::HeaderValue;
use tonic::body::Body;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::api::{Error, Reason};

/// The metadata key of the reason.
const REASON: &str = "gateway-reason";

impl Reason {
    /// The code.
    pub(super) const fn code(self) -> Code {
        match self {
            Self::BadRequest
            | Self::BadChannel
            | Self::BadConnectionId
            | Self::BadUser
            | Self::BadPayload
            | Self::BadNetwork
            | Self::BadClose
            | Self::UnsupportedType => Code::InvalidArgument,
            Self::Unauthorized => Code::Unauthenticated,
            Self::MissingScope | Self::ForeignHost | Self::ForeignOrigin => Code::PermissionDenied,
            Self::Gone | Self::NotBlocked => Code::NotFound,
            Self::NotFound | Self::MethodNotAllowed => Code::Unimplemented,
            Self::SlowRequest => Code::DeadlineExceeded,
            Self::BlocksFull | Self::ChannelsFull | Self::TooLarge => Code::ResourceExhausted,
            Self::Draining | Self::CannotChange | Self::BadConfiguration => Code::FailedPrecondition,
            Self::Busy | Self::ShardSilent | Self::NodeSilent | Self::BusAway => Code::Unavailable,
            Self::Internal => Code::Internal,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let mut metadata = MetadataMap::new();
        metadata.insert(REASON, MetadataValue::from_static(error.reason.label()));
        if let Some(seconds) = error.retry_after_s {
            metadata.insert("retry-after", MetadataValue::from(seconds));
        }
        Self::with_metadata(error.reason.code(), error.detail, metadata)
    }
}

/// The code of an answer whose head is here. Calls with one answer fail in the head or not at all.
pub(super) fn code_of(response: &Response<Body>) -> Code {
    response.headers().get("grpc-status").map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}

/// Gives a refusal of tonic's own, which has no reason, the one that we have for it: it could not read the request.
pub(super) fn with_reason(response: Response<Body>, message_bytes_max: usize) -> Response<Body> {
    if response.headers().contains_key(REASON) {
        return response;
    }
    let unreadable = |detail: &str| {
        let said = response.headers().get("grpc-message").map(HeaderValue::as_bytes).unwrap_or_default();
        let said = percent_encoding::percent_decode(said).decode_utf8_lossy().into_owned();
        Error::new(Reason::BadRequest, format!("{detail}: {said}"))
    };
    let error = match code_of(&response) {
        Code::OutOfRange => Error::new(
            Reason::TooLarge,
            format!(
                "A request has at most {message_bytes_max} bytes (http.request_bytes); send less at once."
            ),
        ),
        Code::Internal => unreadable("The request is no message of this method"),
        Code::Unimplemented => unreadable("The request is encoded in a way that is not taken here"),
        _ => return response,
    };
    Status::from(error).into_http()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_error_keeps_its_reason_and_when_to_come_back() {
        let status = Status::from(Error::busy());
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(status.metadata().get(REASON).unwrap(), "busy");
        assert_eq!(status.metadata().get("retry-after").unwrap(), "1");
        assert!(Status::from(Error::gone()).metadata().get("retry-after").is_none());
    }

    #[test]
    fn what_tonic_refuses_gets_a_reason_and_what_has_one_keeps_it() {
        let reason = |status: Status| {
            let response = with_reason(status.into_http(), 100);
            (
                code_of(&response),
                response.headers().get(REASON).map(|reason| reason.to_str().unwrap().to_owned()),
            )
        };
        assert_eq!(
            reason(Status::out_of_range("x")),
            (Code::ResourceExhausted, Some("too_large".to_owned()))
        );
        assert_eq!(reason(Status::internal("x")), (Code::InvalidArgument, Some("bad_request".to_owned())));
        assert_eq!(reason(Status::cancelled("x")), (Code::Cancelled, None));
        let ours = Error::new(Reason::Internal, "x");
        assert_eq!(reason(ours.into()), (Code::Internal, Some("internal".to_owned())));
        assert_eq!(code_of(&Response::new(Body::empty())), Code::Ok);
    }
}
