//! Owns the way of one call: which method, token, a place, the call itself, the answer. The order matters: a stranger
//! costs neither a place nor memory before the token. It refuses to know sockets and what calls do.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use backend::proto::gateway_server::GatewayServer;
use hyper::body::Incoming;
use hyper::header;
use hyper::{Request, Response};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service as _;

use super::answers::Answers;
use super::health::{Health, LOOK_INTERVAL};
use super::service::Calls;
use super::status::{code_of, with_reason};
use crate::admin::auth::{Access, Scope};
use crate::admin::{Admin, Role};
use crate::api::{Error, Reason};

/// The service by its whole name.
pub(super) const SERVICE: &str = "gateway.v1.Gateway";
const HEALTH: &str = "grpc.health.v1.Health";
const REFLECTION: &str = "grpc.reflection.v1.ServerReflection";
/// Calls that are being read or done at the same time; more wait their turn, within the deadline.
pub(super) const CALLS_MAX: usize = 128;
/// How long a call may take, the arrival of its request and the wait for a place included.
const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// A request of a client that reflects is a name.
const REFLECTION_BYTES_MAX: usize = 4096;

/// A method of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Publish,
    PublishBatch,
    Send,
    SendToUser,
    Close,
    CloseUser,
    Subscribe,
    Unsubscribe,
    GetConnection,
    ListConnections,
    Drain,
}

impl Method {
    /// Every method.
    pub(super) const ALL: [Self; 11] = [
        Self::Publish,
        Self::PublishBatch,
        Self::Send,
        Self::SendToUser,
        Self::Close,
        Self::CloseUser,
        Self::Subscribe,
        Self::Unsubscribe,
        Self::GetConnection,
        Self::ListConnections,
        Self::Drain,
    ];

    /// Its name in paths and metrics.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Publish => "Publish",
            Self::PublishBatch => "PublishBatch",
            Self::Send => "Send",
            Self::SendToUser => "SendToUser",
            Self::Close => "Close",
            Self::CloseUser => "CloseUser",
            Self::Subscribe => "Subscribe",
            Self::Unsubscribe => "Unsubscribe",
            Self::GetConnection => "GetConnection",
            Self::ListConnections => "ListConnections",
            Self::Drain => "Drain",
        }
    }

    /// What it demands of its caller.
    const fn access(self) -> Access {
        match self {
            Self::Publish
            | Self::PublishBatch
            | Self::Send
            | Self::SendToUser
            | Self::Subscribe
            | Self::Unsubscribe => Access::Api(Scope::Publish),
            Self::Close | Self::CloseUser => Access::Api(Scope::Close),
            Self::GetConnection | Self::ListConnections => Access::Api(Scope::Read),
            Self::Drain => Access::Admin,
        }
    }
}

/// The listener's view of the node.
pub(super) struct Desk {
    admin: Arc<Admin>,
    is_loopback: bool,
    calls: Semaphore,
    health: Health,
    reflection: Reflection,
}

/// The reflection service, whose type has no name.
type Reflection =
    Box<dyn Fn(Request<Incoming>) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> + Send + Sync>;

impl Desk {
    /// A listener at this address.
    ///
    /// # Errors
    /// The compiled descriptors cannot be read: a fault of the build.
    pub(super) fn new(admin: Arc<Admin>, address: SocketAddr) -> Result<Self, String> {
        Ok(Self {
            admin,
            is_loopback: address.ip().to_canonical().is_loopback(),
            calls: Semaphore::new(CALLS_MAX),
            health: Health::new(),
            reflection: reflection()?,
        })
    }

    /// Where what it answers is counted.
    pub(super) fn answers(&self) -> &Answers {
        &self.admin.answers
    }

    /// Keeps those informed who watch the health, for ever.
    pub(super) async fn follow(self: Arc<Self>) {
        loop {
            self.health.refresh(&self.admin).await;
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Ends the streams of those who watch the health.
    pub(super) async fn forget_health(&self) {
        self.health.forget().await;
    }

    /// Answers one call; whatever goes wrong is an answer, too.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/'));
        let (service, name) = path.map_or((String::new(), ""), |(service, name)| (service.to_owned(), name));
        let method = Method::ALL.into_iter().find(|method| service == SERVICE && method.name() == name);
        let response = match timeout(CALL_DEADLINE, self.call(&service, method, request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => Status::from(error).into_http(),
            Err(_) => Status::from(Error::new(
                Reason::SlowRequest,
                format!("The call took longer than {} s; make it again.", CALL_DEADLINE.as_secs()),
            ))
            .into_http(),
        };
        self.answers().given(method, code_of(&response));
        response
    }

    /// What streams answers has its place until the first of them.
    async fn call(
        &self,
        service: &str,
        method: Option<Method>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Error> {
        if let Some(method) = method {
            self.admit(method, &request)?;
        }
        // Never closed.
        let _place = self.calls.acquire().await;
        match (method, service) {
            (Some(_), _) => Ok(self.perform(request).await),
            (None, HEALTH) => {
                self.health.refresh(&self.admin).await;
                Ok(infallible(self.health.server().call(request).await))
            }
            (None, REFLECTION) => Ok((self.reflection)(request).await),
            (None, _) => Err(Error::new(
                Reason::NotFound,
                format!(
                    "No such method; {SERVICE}, {HEALTH} and {REFLECTION} are here, and the last lists them."
                ),
            )),
        }
    }

    /// Whether the caller may make the call.
    fn admit(&self, method: Method, request: &Request<Incoming>) -> Result<(), Error> {
        let live = self.admin.live.now();
        if method.access() == Access::Admin && !self.is_loopback && !live.tokens.guards(Role::Admin) {
            return Err(Error::new(
                Reason::NotFound,
                "Off loopback this method takes a token, and there is none; set admin.token_file.",
            ));
        }
        Ok(live.tokens.allow(method.access(), request.headers().get(header::AUTHORIZATION))?)
    }

    async fn perform(&self, request: Request<Incoming>) -> Response<Body> {
        let bytes_max = self.admin.live.now().settings.http.request_bytes.as_usize();
        let calls = Calls::new(Arc::clone(&self.admin));
        let mut server = GatewayServer::new(calls).max_decoding_message_size(bytes_max);
        with_reason(infallible(server.call(request).await), bytes_max)
    }
}

fn reflection() -> Result<Reflection, String> {
    let server = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(backend::proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // The package has services of app servers besides, which are not here.
        .with_service_name(SERVICE)
        .with_service_name(HEALTH)
        .with_service_name(REFLECTION)
        .build_v1()
        .map_err(|error| format!("the descriptors of gRPC cannot be read: {error}"))?
        .max_decoding_message_size(REFLECTION_BYTES_MAX);
    Ok(Box::new(move |request| {
        let mut server = server.clone();
        Box::pin(async move { infallible(server.call(request).await) })
    }))
}

fn infallible<T>(result: Result<T, Infallible>) -> T {
    match result {
        Ok(value) => value,
        Err(never) => match never {},
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_method_of_the_service_is_known_by_its_name() {
        let set = String::from_utf8_lossy(backend::proto::DESCRIPTORS);
        for (number, method) in Method::ALL.into_iter().enumerate() {
            assert_eq!(method as usize, number);
            assert!(set.contains(&format!(".gateway.v1.{}Request", method.name())), "{method:?}");
        }
    }

    #[test]
    fn only_a_drain_is_of_the_admin_role() {
        for method in Method::ALL {
            assert_eq!(method.access() == Access::Admin, method == Method::Drain);
            assert_ne!(method.access(), Access::Open);
        }
    }
}
