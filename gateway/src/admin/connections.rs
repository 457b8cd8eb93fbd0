//! Translates the calls about connections between HTTP and [`crate::api`].

use hyper::StatusCode;

use super::Admin;
use super::call::{Answer, Call, empty, json};
use super::problem::Problem;
use super::publish::message;
use super::query::Query;
use crate::api::connections::{self, Goodbye};
use crate::api::list::{self, PAGE_SIZE_MAX};
use crate::api::users;

/// `POST /v1/connections/{id}/messages`: the body is the payload. 202 says that the connection was there, not that
/// it has read the message.
pub(super) async fn send(admin: &Admin, call: Call) -> Answer {
    Query::parse(call.query.as_deref(), &[])?;
    let message = message(&call)?;
    let id = call.variable(0).to_owned();
    drop(call);
    connections::send(admin, &id, message).await?;
    Ok(empty(StatusCode::ACCEPTED))
}

/// `DELETE /v1/connections/{id}?code=&reason=`. 202: the close handshake has begun.
pub(super) async fn close(admin: &Admin, call: &Call) -> Answer {
    let query = Query::parse(call.query.as_deref(), &["code", "reason"])?;
    connections::close(admin, call.variable(0), goodbye(&query)?).await?;
    Ok(empty(StatusCode::ACCEPTED))
}

/// `DELETE /v1/users/{user}/connections?code=&reason=`. 202 says how many there were: their close handshakes begin.
pub(super) async fn close_user(admin: &Admin, call: &Call) -> Answer {
    let query = Query::parse(call.query.as_deref(), &["code", "reason"])?;
    let users::ClosedUser { connections, silent } =
        users::close(admin, call.variable(0), goodbye(&query)?).await?;
    json(StatusCode::ACCEPTED, &serde_json::json!({ "connections": connections, "silent": silent }))
}

/// How to close, by `?code=&reason=`.
fn goodbye(query: &Query) -> Result<Goodbye<'_>, Problem> {
    let code = query.number("code", 1000..=4999)?;
    Ok(Goodbye { code, reason: query.value("reason").unwrap_or_default() })
}

/// `PUT /v1/connections/{id}/channels/{channel}`. 204 also when it was subscribed already.
pub(super) async fn subscribe(admin: &Admin, call: &Call) -> Answer {
    Query::parse(call.query.as_deref(), &[])?;
    connections::subscribe(admin, call.variable(0), call.variable(1)).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `DELETE /v1/connections/{id}/channels/{channel}`. 204 also when it was not subscribed.
pub(super) async fn unsubscribe(admin: &Admin, call: &Call) -> Answer {
    Query::parse(call.query.as_deref(), &[])?;
    connections::unsubscribe(admin, call.variable(0), call.variable(1)).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `GET /v1/connections/{id}`.
pub(super) async fn describe(admin: &Admin, call: &Call) -> Answer {
    Query::parse(call.query.as_deref(), &[])?;
    json(StatusCode::OK, &connections::describe(admin, call.variable(0)).await?)
}

/// `GET /v1/connections?page_size=&page_token=`: node by node, shard by shard, in slot order. Connections that come and go
/// meanwhile may or may not be seen; one that stays is seen once.
pub(super) async fn list(admin: &Admin, call: &Call) -> Answer {
    let query = Query::parse(call.query.as_deref(), &["page_size", "page_token"])?;
    let size = query.number("page_size", 1..=PAGE_SIZE_MAX)?;
    json(StatusCode::OK, &list::list(admin, size, query.value("page_token")).await?)
}
