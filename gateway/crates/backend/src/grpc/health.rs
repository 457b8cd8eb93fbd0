//! The question of `grpc.health.v1` whether a server serves. Owns the two messages, which are too small to be generated;
//! refuses to decide what follows from the answer.

use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use super::dial::Calls;

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct Question {
    /// Empty: the server as a whole.
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Answer {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `ServingStatus.SERVING`.
const SERVING: i32 = 1;

/// Whether a server says that it serves. One that does not know the question does.
pub(super) async fn serves(calls: &Calls, channel: Channel) -> bool {
    let mut client = tonic::client::Grpc::new(channel);
    let mut request = Request::new(Question { service: String::new() });
    *request.metadata_mut() = calls.metadata.clone();
    let asked = async {
        client.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        client.unary(request, path, ProstCodec::<Question, Answer>::default()).await
    };
    match tokio::time::timeout(calls.connect_timeout, asked).await {
        Ok(Ok(answer)) => answer.into_inner().status == SERVING,
        Ok(Err(status)) => status.code() == Code::Unimplemented,
        Err(_) => false,
    }
}
