//! Owns the way of one request: host and origin, path and method, token, body, call, answer. The order matters: a
//! stranger learns nothing before the guard, and costs no body before the token. Called by the server for every
//! request of a listener; it refuses to know sockets.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Body;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::call::{Answer, Call};
use super::guard::{Guard, Names};
use super::problem::{Problem, Reason};
use super::router::{Action, NoRoute, Route, route};
use super::{Admin, Requests, Role, RoleSet, blocks, connections, endings, health, node, page, publish, top};

/// How long a body may take to arrive, the wait for a place included.
const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// Bodies that are being read at the same time on one listener; more wait their turn, within the deadline.
const BODIES_MAX: usize = 64;

/// One listener's view of the node.
pub(super) struct Endpoint {
    admin: Arc<Admin>,
    roles: RoleSet,
    guard: Guard,
    bodies: Semaphore,
}

impl Endpoint {
    /// A listener with these roles at this address.
    pub(super) fn new(admin: Arc<Admin>, roles: RoleSet, address: SocketAddr) -> Self {
        Self { admin, roles, guard: Guard::new(address), bodies: Semaphore::new(BODIES_MAX) }
    }

    /// Where what it answers is counted.
    pub(super) fn requests(&self) -> &Requests {
        &self.admin.requests
    }

    /// Answers one request; whatever goes wrong is an answer too.
    pub(super) async fn answer<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let found = route(&head.method, head.uri.path(), self.roles);
        let role = found.as_ref().ok().map(|route| route.entry.role);
        let answer = self.admit_and_call(head, found, body).await;
        let mut response = answer.unwrap_or_else(Problem::into_response);
        self.admin.requests.answered(role, response.status());
        for (name, value) in [
            (header::CACHE_CONTROL, "no-store"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        ] {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }

    async fn admit_and_call<B>(&self, head: Parts, found: Result<Route, NoRoute>, body: B) -> Answer
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let names = self.names(found.as_ref().ok());
        self.guard.check(head.version, &head.uri, &head.headers, names)?;
        let Route { entry, variables } = found.map_err(|missing| self.not_routed(missing))?;
        self.admin.live.now().tokens.allow(entry.access, head.headers.get(header::AUTHORIZATION))?;
        let body = match entry.action {
            Action::Publish | Action::PublishMany | Action::Send | Action::SendToUser => {
                self.read(body).await?
            }
            _ => Bytes::new(),
        };
        let query = head.uri.query().map(str::to_owned);
        let call = Call { variables, query, headers: head.headers, body };
        perform(&self.admin, entry.action, call).await
    }

    /// Whether the names in `Host` are the token's affair rather than the guard's.
    fn names(&self, found: Option<&Route>) -> Names {
        match found.map(|route| route.entry.role) {
            Some(role) if role != Role::Health && !self.admin.live.now().tokens.guards(role) => Names::None,
            _ => Names::Any,
        }
    }

    fn not_routed(&self, missing: NoRoute) -> Problem {
        match missing {
            NoRoute::Path => Problem::new(
                Reason::NotFound,
                format!(
                    "No such path here; WebSocket routes are at ws://{}, this listener has the roles {}.",
                    self.admin.websocket_address,
                    self.roles.iter().map(Role::label).collect::<Vec<_>>().join(", ")
                ),
            ),
            NoRoute::Role(role) => Problem::new(
                Reason::NotFound,
                format!("This path is of the role {}, which has a listener of its own.", role.label()),
            ),
            NoRoute::Method(allow) => {
                let problem = Problem::new(Reason::MethodNotAllowed, format!("This path takes {allow}."));
                match HeaderValue::try_from(allow) {
                    Ok(allow) => problem.with(header::ALLOW, allow),
                    Err(_) => problem,
                }
            }
        }
    }

    async fn read<B>(&self, body: B) -> Result<Bytes, Problem>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let bytes_max = self.admin.live.now().settings.http.request_bytes.as_usize();
        let too_large = || {
            Problem::new(
                Reason::TooLarge,
                format!(
                    "A request body has at most {bytes_max} bytes (http.request_bytes); send less at once."
                ),
            )
        };
        // What announces itself as too large is not read at all.
        if body.size_hint().lower() > bytes_max as u64 {
            return Err(too_large());
        }
        let reading = async {
            let _place = self.bodies.acquire().await;
            Limited::new(body, bytes_max).collect().await
        };
        match timeout(BODY_DEADLINE, reading).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
            Ok(Err(_)) => Err(Problem::new(Reason::BadRequest, "The body ended early or is badly framed.")),
            Err(_) => Err(Problem::new(
                Reason::SlowRequest,
                format!("The body did not arrive within {} s; send it again.", BODY_DEADLINE.as_secs()),
            )),
        }
    }
}

async fn perform(admin: &Arc<Admin>, action: Action, call: Call) -> Answer {
    match action {
        Action::Livez => health::livez(admin),
        Action::Readyz => health::readyz(admin),
        Action::Metrics => health::metrics(admin).await,
        Action::Publish => publish::publish(admin, call).await,
        Action::PublishMany => publish::publish_many(admin, call).await,
        Action::SendToUser => publish::send_to_user(admin, call).await,
        Action::Send => connections::send(admin, call).await,
        Action::Describe => connections::describe(admin, &call).await,
        Action::List => connections::list(admin, &call).await,
        Action::Endings => endings::list(admin, &call),
        Action::Top => top::top(admin, &call).await,
        Action::Close => connections::close(admin, &call).await,
        Action::CloseUser => connections::close_user(admin, &call).await,
        Action::Block => blocks::put(admin, &call).await,
        Action::Unblock => blocks::lift(admin, &call).await,
        Action::Blocked => blocks::describe(admin, &call),
        Action::Blocks => blocks::list(admin, &call),
        Action::Subscribe => connections::subscribe(admin, &call).await,
        Action::Unsubscribe => connections::unsubscribe(admin, &call).await,
        Action::Page => Ok(page::page(admin)),
        Action::Node => node::describe(admin),
        Action::Drain => node::drain(admin, &call),
        Action::Shed => node::shed(admin, &call).await,
        Action::Reload => node::reload(admin, &call).await,
    }
}
