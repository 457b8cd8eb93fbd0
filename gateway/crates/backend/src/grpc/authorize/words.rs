//! Between the shards' questions and `gateway.v1`: how a question is put, and what an answer says. Owns every rule about
//! what an answer may say; refuses to count. Called by the authorizer's task.

use std::time::Duration;

use bridge::authorize::{Allowed, Refused};
use bridge::principal::STATE_BYTES_MAX;
use bridge::{Authorize, Channel, ConnId, Decision, Epoch, NodeName, User};

use crate::grpc::translate::RouteNames;
use crate::proto::authorize_response::Decision as Answer;
use crate::proto::{Allow, AuthorizeRequest, AuthorizeResponse, Header, Refuse};

/// Most channels of one answer.
const CHANNELS_MAX: usize = 1024;
/// Longest reason for a client's eyes, in bytes.
const REASON_BYTES_MAX: usize = 256;
/// What a refusal without a status is.
const FORBIDDEN: u16 = 403;

/// Puts questions.
pub(super) struct Words {
    node: NodeName,
    epoch: Epoch,
    route_names: RouteNames,
}

impl Words {
    pub(super) const fn new(node: NodeName, epoch: Epoch, route_names: RouteNames) -> Self {
        Self { node, epoch, route_names }
    }

    /// The question, as it is put.
    pub(super) fn request(&self, question: &Authorize) -> AuthorizeRequest {
        let header = |(name, value): &(Box<str>, bytes::Bytes)| Header {
            name: name.to_string(),
            value: value.clone(),
        };
        let id = ConnId { node: self.node.clone(), epoch: self.epoch, address: question.address };
        AuthorizeRequest {
            connection: id.to_string(),
            route: (self.route_names)(question.route),
            path: question.path.to_string(),
            query: question.query.as_deref().map(str::to_owned),
            peer: question.peer.to_string(),
            headers: question.headers.iter().map(header).collect(),
            subprotocols: question.protocols.iter().map(ToString::to_string).collect(),
        }
    }
}

/// What an answer says.
///
/// # Errors
/// Which rule of the proto it breaks.
pub(super) fn decision(question: &Authorize, answer: AuthorizeResponse) -> Result<Decision, &'static str> {
    match answer.decision {
        None => Err("no decision"),
        Some(Answer::Allow(allow)) => allowed(question, allow).map(Decision::Allow),
        Some(Answer::Refuse(refuse)) => refused(&refuse).map(Decision::Refuse),
    }
}

fn allowed(question: &Authorize, allow: Allow) -> Result<Allowed, &'static str> {
    let Allow { user, channels, state, expires_seconds, subprotocol } = allow;
    if state.len() > STATE_BYTES_MAX {
        return Err("a state of more than 256 bytes");
    }
    if channels.len() > CHANNELS_MAX {
        return Err("too many channels");
    }
    let user = user.map(|user| User::parse(&user)).transpose().map_err(|_| "a user that is none")?;
    let channel = |name: &String| Channel::parse(name).ok().filter(|channel| !channel.is_reserved());
    let channels: Option<Vec<Channel>> = channels.iter().map(channel).collect();
    let offered = |chosen: &String| question.protocols.iter().any(|offer| **offer == **chosen);
    if subprotocol.as_ref().is_some_and(|chosen| !offered(chosen)) {
        return Err("a subprotocol that the client does not offer");
    }
    Ok(Allowed {
        user,
        channels: channels.ok_or("a channel that is none, or a user's")?,
        state,
        expires: (expires_seconds > 0).then(|| Duration::from_secs(expires_seconds.into())),
        protocol: subprotocol.map(Into::into),
    })
}

/// A refusal stands, whatever its words: they are made printable rather than let the client come again and again.
fn refused(refuse: &Refuse) -> Result<Refused, &'static str> {
    let status = match refuse.status {
        0 => FORBIDDEN,
        status @ 400..600 => status as u16,
        _ => return Err("a status that is no refusal"),
    };
    let printable = |letter: char| if letter == ' ' || letter.is_ascii_graphic() { letter } else { '?' };
    let reason: String = refuse.reason.chars().take(REASON_BYTES_MAX).map(printable).collect();
    let retry_after_s = (refuse.retry_after_seconds > 0).then_some(refuse.retry_after_seconds);
    Ok(Refused { status, reason: reason.into(), retry_after_s, is_ours: false })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bridge::{Address, Upstream};
    use bytes::Bytes;

    use super::*;

    fn question() -> Authorize {
        Authorize {
            upstream: Upstream(0),
            address: Address { shard: 1, slot: 2, generation: 3 },
            route: 4,
            peer: "192.0.2.7".parse().unwrap(),
            path: "/a".into(),
            query: None,
            headers: vec![("cookie".into(), Bytes::from_static(b"\xff"))],
            protocols: vec!["v1".into()],
        }
    }

    fn allow(change: impl FnOnce(&mut Allow)) -> Result<Decision, &'static str> {
        let mut allow = Allow {
            user: Some("bob".to_owned()),
            channels: vec!["room.a".to_owned()],
            state: Bytes::from(vec![0; 256]),
            expires_seconds: 60,
            subprotocol: Some("v1".to_owned()),
        };
        change(&mut allow);
        decision(&question(), AuthorizeResponse { decision: Some(Answer::Allow(allow)) })
    }

    fn refuse(status: u32, reason: &str) -> Result<Decision, &'static str> {
        let refuse = Refuse { status, reason: reason.to_owned(), retry_after_seconds: 0 };
        decision(&question(), AuthorizeResponse { decision: Some(Answer::Refuse(refuse)) })
    }

    #[test]
    fn a_question_is_put_in_full() {
        let names: RouteNames = Box::new(|route| format!("route{route}"));
        let words = Words::new(NodeName::parse("n").unwrap(), Epoch(5), names);
        let request = words.request(&question());
        assert_eq!((request.route.as_str(), request.peer.as_str()), ("route4", "192.0.2.7"));
        let id: ConnId = request.connection.parse().unwrap();
        assert_eq!((id.epoch, id.address), (Epoch(5), question().address));
        assert_eq!(request.headers[0].value, Bytes::from_static(b"\xff"));
    }

    #[test]
    fn what_an_answer_allows_is_taken_over() {
        let Ok(Decision::Allow(allowed)) = allow(|_| {}) else { panic!() };
        assert_eq!(allowed.user.unwrap().as_str(), "bob");
        assert_eq!(
            (allowed.expires, allowed.protocol.as_deref()),
            (Some(Duration::from_secs(60)), Some("v1"))
        );
        let Ok(Decision::Allow(allowed)) = allow(|allow| allow.expires_seconds = 0) else { panic!() };
        assert_eq!(allowed.expires, None);
    }

    #[test]
    fn an_answer_that_breaks_the_rules_is_none() {
        assert!(allow(|allow| allow.state = Bytes::from(vec![0; 257])).is_err());
        assert!(allow(|allow| allow.user = Some(String::new())).is_err());
        assert!(allow(|allow| allow.user = Some("ü".repeat(20))).is_err());
        for channel in ["", "a..b", "user.bob", "user", "a b"] {
            assert!(allow(|allow| allow.channels = vec![channel.to_owned()]).is_err(), "{channel}");
        }
        assert!(allow(|allow| allow.channels = vec!["a".to_owned(); 1025]).is_err());
        assert!(allow(|allow| allow.subprotocol = Some("v2".to_owned())).is_err());
        assert!(decision(&question(), AuthorizeResponse { decision: None }).is_err());
        for status in [1, 101, 200, 399, 600] {
            assert!(refuse(status, "").is_err(), "{status}");
        }
    }

    #[test]
    fn a_refusal_stands_whatever_its_words() {
        let words = |status, reason: &str| match refuse(status, reason) {
            Ok(Decision::Refuse(refused)) => (refused.status, refused.reason.to_string()),
            other => panic!("{other:?}"),
        };
        assert_eq!(words(0, "no"), (403, "no".to_owned()));
        assert_eq!(words(401, "für\r\nX: y"), (401, "f?r??X: y".to_owned()));
        assert_eq!(words(599, &"x".repeat(300)).1.len(), 256);
    }
}
