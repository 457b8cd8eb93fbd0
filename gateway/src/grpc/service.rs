//! Translates the calls of `gateway.v1.Gateway` to and from [`crate::api`]: names and numbers as Protobuf has them to
//! requests, answers and errors back. It decides nothing.

use std::sync::Arc;
use std::time::Duration;

use backend::proto as wire;
use bridge::Delivered;
use tonic::{Request, Response, Status};

use crate::admin::Admin;
use crate::api::connections;
use crate::api::node::{self, SECONDS_MAX};
use crate::api::protobuf::{goodbye, message, shown};
use crate::api::publish::{self, Outcome, Publish};
use crate::api::{Error, Reason, list, users};

/// The methods, for one call.
pub(super) struct Calls {
    admin: Arc<Admin>,
}

impl Calls {
    pub(super) fn new(admin: Arc<Admin>) -> Self {
        Self { admin }
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl wire::gateway_server::Gateway for Calls {
    async fn publish(&self, request: Request<wire::PublishRequest>) -> Answer<wire::PublishResponse> {
        let outcome = publish::publish(&self.admin, request_of(request.get_ref())?).await?;
        Ok(Response::new(published(outcome)))
    }

    async fn publish_batch(
        &self,
        request: Request<wire::PublishBatchRequest>,
    ) -> Answer<wire::PublishBatchResponse> {
        let messages = request.get_ref().messages.iter().map(request_of);
        let outcomes = publish::publish_batch(&self.admin, messages).await?;
        let refused = outcomes.iter().filter(|outcome| outcome.is_err()).count() as u32;
        let results = outcomes.into_iter().map(result).collect();
        Ok(Response::new(wire::PublishBatchResponse { results, refused }))
    }

    async fn send(&self, request: Request<wire::SendRequest>) -> Answer<wire::SendResponse> {
        let wire::SendRequest { connection, message: sent } = request.get_ref();
        connections::send(&self.admin, connection, message(sent.as_ref())?).await?;
        Ok(Response::new(wire::SendResponse {}))
    }

    async fn send_to_user(
        &self,
        request: Request<wire::SendToUserRequest>,
    ) -> Answer<wire::SendToUserResponse> {
        let wire::SendToUserRequest { user, message: sent, exclude } = request.get_ref();
        let message = message(sent.as_ref())?;
        let outcome = users::send(&self.admin, user, message, set(exclude)).await?;
        Ok(Response::new(wire::SendToUserResponse { delivery: outcome.map(delivery) }))
    }

    async fn close(&self, request: Request<wire::CloseRequest>) -> Answer<wire::CloseResponse> {
        let wire::CloseRequest { connection, code, reason } = request.get_ref();
        connections::close(&self.admin, connection, goodbye(*code, reason)?).await?;
        Ok(Response::new(wire::CloseResponse {}))
    }

    async fn close_user(&self, request: Request<wire::CloseUserRequest>) -> Answer<wire::CloseUserResponse> {
        let wire::CloseUserRequest { user, code, reason } = request.get_ref();
        let closed = users::close(&self.admin, user, goodbye(*code, reason)?).await?;
        let users::ClosedUser { connections, silent } = closed;
        Ok(Response::new(wire::CloseUserResponse { connections, silent }))
    }

    async fn subscribe(&self, request: Request<wire::SubscribeRequest>) -> Answer<wire::SubscribeResponse> {
        let wire::SubscribeRequest { connection, channel } = request.get_ref();
        connections::subscribe(&self.admin, connection, channel).await?;
        Ok(Response::new(wire::SubscribeResponse {}))
    }

    async fn unsubscribe(
        &self,
        request: Request<wire::UnsubscribeRequest>,
    ) -> Answer<wire::UnsubscribeResponse> {
        let wire::UnsubscribeRequest { connection, channel } = request.get_ref();
        connections::unsubscribe(&self.admin, connection, channel).await?;
        Ok(Response::new(wire::UnsubscribeResponse {}))
    }

    async fn get_connection(
        &self,
        request: Request<wire::GetConnectionRequest>,
    ) -> Answer<wire::GetConnectionResponse> {
        let found = connections::describe(&self.admin, &request.get_ref().connection).await?;
        Ok(Response::new(wire::GetConnectionResponse { connection: Some(shown(found)) }))
    }

    async fn list_connections(
        &self,
        request: Request<wire::ListConnectionsRequest>,
    ) -> Answer<wire::ListConnectionsResponse> {
        let wire::ListConnectionsRequest { page_size, page_token } = request.get_ref();
        // What does not fit is too large in any case, and the call says so.
        let size = (*page_size > 0).then(|| u16::try_from(*page_size).unwrap_or(u16::MAX));
        let page = list::list(&self.admin, size, set(page_token)).await?;
        Ok(Response::new(wire::ListConnectionsResponse {
            connections: page.connections.into_iter().map(shown).collect(),
            next_page_token: page.next_page_token.unwrap_or_default(),
            node: self.admin.node.to_string(),
            epoch: self.admin.epoch.0,
            silent: page.silent,
        }))
    }

    async fn drain(&self, request: Request<wire::DrainRequest>) -> Answer<wire::DrainResponse> {
        let within = request.get_ref().seconds.map(seconds).transpose()?;
        node::drain(&self.admin, within)?;
        Ok(Response::new(wire::DrainResponse {}))
    }
}

fn request_of(request: &wire::PublishRequest) -> Result<Publish<'_>, Error> {
    let wire::PublishRequest { channel, message: sent, exclude } = request;
    Ok(Publish { channel, message: message(sent.as_ref())?, exclude: set(exclude) })
}

/// Protobuf says nothing of a text that is not set but that it is empty.
fn set(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn seconds(seconds: u32) -> Result<Duration, Error> {
    if seconds > u32::from(SECONDS_MAX) {
        return Err(Error::new(Reason::BadRequest, format!("seconds is 0 to {SECONDS_MAX}; ask for less.")));
    }
    Ok(Duration::from_secs(seconds.into()))
}

fn published(outcome: Outcome) -> wire::PublishResponse {
    wire::PublishResponse { delivery: outcome.map(delivery) }
}

fn delivery(counts: Delivered) -> wire::Delivery {
    let Delivered { subscribers, queued, dropped } = counts;
    wire::Delivery { subscribers, queued, dropped }
}

fn result(outcome: Result<Outcome, Error>) -> wire::PublishBatchResult {
    use wire::publish_batch_result::Outcome as Is;
    let outcome = match outcome {
        Ok(outcome) => Is::Published(published(outcome)),
        Err(error) => Is::Failure(wire::Failure {
            reason: error.reason.label().to_owned(),
            detail: error.detail.into_owned(),
        }),
    };
    wire::PublishBatchResult { outcome: Some(outcome) }
}
