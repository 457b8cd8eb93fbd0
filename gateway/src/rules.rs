//! From the configuration to what shards obey. Owns the units (durations become ticks) and nothing else: what is
//! allowed was checked when the configuration was read.

use std::time::Duration;

use bridge::message::Kind;
use config::{Part, Settings};
use shard::rules::{
    AutoReply, Inbound, Life, OnBusLoss, Piece, Route, Rules, Segment, SlowConsumer, Template,
};
use shard::trust::Trust;
use store::QueueLimit;
use wire::http::ForwardedBy;
use wire::ws::Limits;
use wire::ws::frame::HEADER_MAX;
use wire::ws::handshake::OriginPattern;

use crate::upstreams::{Upstreams, Whom};

/// The rules of these settings.
///
/// # Errors
/// An origin that the handshake does not understand, a network that is none of peers, or an upstream that is not there,
/// named.
pub(crate) fn rules(settings: &Settings) -> Result<Rules, String> {
    // A message of the full size waits with its frame header.
    let backlog_bytes = settings.backlog.bytes.as_u64() + HEADER_MAX as u64;
    let upstreams = Upstreams::of(settings);
    Ok(Rules {
        routes: settings.routes.iter().map(|one| route(one, &upstreams)).collect::<Result<_, _>>()?,
        handshake_ticks: ticks(settings.timeouts.handshake),
        close_ticks: ticks(settings.timeouts.close),
        linger_ticks: ticks(settings.timeouts.linger),
        head_bytes: settings.limits.head_bytes.as_usize(),
        subscriptions: settings.limits.subscriptions_per_connection.get(),
        backlog: QueueLimit {
            entries: settings.backlog.frames.get(),
            bytes: u32::try_from(backlog_bytes).unwrap_or(u32::MAX),
        },
        trust: trust(settings),
        limits: crate::limits::limits(settings)?,
    })
}

fn trust(settings: &Settings) -> Trust {
    let networks = settings.trust.networks.iter().map(|network| (network.address(), network.prefix()));
    let field = match settings.trust.header {
        config::PeerHeader::None => None,
        config::PeerHeader::Forwarded => Some(ForwardedBy::Forwarded),
        config::PeerHeader::XForwardedFor => Some(ForwardedBy::XForwardedFor),
    };
    Trust::new(networks, settings.listen.proxy_protocol, field)
}

/// Ticks in a duration, rounded up. The tick under way counts, so a deadline may come up to one tick early.
pub(crate) fn ticks(duration: Duration) -> u32 {
    let ticks = duration.as_millis().div_ceil(u128::from(shard::TICK_MS));
    u32::try_from(ticks).unwrap_or(u32::MAX)
}

fn route(route: &config::Route, upstreams: &Upstreams<'_>) -> Result<Route, String> {
    let variables: Vec<&str> = route.path.variables().collect();
    let template = |template: &config::ChannelTemplate| self::template(template, &variables);
    Ok(Route {
        name: route.name.as_str().into(),
        path: path(&route.path),
        subscribe: route.subscribe.iter().map(template).collect(),
        inbound: match &route.inbound {
            config::Inbound::Echo => Inbound::Echo,
            config::Inbound::Ignore => Inbound::Ignore,
            config::Inbound::Publish(channel) => Inbound::Publish(template(channel)),
            config::Inbound::Backend(name) => Inbound::Upstream(upstreams.number(Whom::Name(name))?),
            config::Inbound::Bus => Inbound::Upstream(upstreams.number(Whom::Bus)?),
        },
        authorize: route.authorize.as_ref().map(|name| upstreams.authorizer(name)).transpose()?,
        exclude_self: route.exclude_self,
        origins: origins(&route.origins)?,
        protocols: route.subprotocols.iter().map(|protocol| protocol.as_str().into()).collect(),
        limits: Limits {
            message_bytes: route.message_bytes.as_usize(),
            frame_bytes: route.frame_bytes.as_usize(),
            fragments: route.fragments.get(),
        },
        life: Life {
            ping_ticks: ticks(route.heartbeat.interval),
            pong_ticks: ticks(route.heartbeat.pong_deadline),
            idle_ticks: route.idle_timeout.map(ticks),
            age_ticks: route.max_age.map(ticks),
            jitter_ticks: ticks(route.max_age_jitter),
        },
        slow_consumer: match route.slow_consumer {
            config::SlowConsumer::Close => SlowConsumer::Close,
            config::SlowConsumer::DropNewest => SlowConsumer::DropNewest,
            config::SlowConsumer::DropOldest => SlowConsumer::DropOldest,
            config::SlowConsumer::KeepLatest => SlowConsumer::KeepLatest,
        },
        on_bus_loss: match route.on_bus_loss {
            config::OnBusLoss::Pause => OnBusLoss::Pause,
            config::OnBusLoss::Drop => OnBusLoss::Drop,
            config::OnBusLoss::Close => OnBusLoss::Close,
        },
        kind: match route.kind {
            config::PayloadKind::Auto => None,
            config::PayloadKind::Text => Some(Kind::Text),
            config::PayloadKind::Binary => Some(Kind::Binary),
        },
        auto_replies: route.auto_reply.iter().map(auto_reply).collect(),
    })
}

fn auto_reply(reply: &config::AutoReply) -> AutoReply {
    AutoReply { question: reply.question.as_bytes().into(), answer: reply.answer.as_bytes().into() }
}

fn path(pattern: &config::PathPattern) -> Vec<Segment> {
    if pattern.segments.is_empty() {
        // To the shard, `/` is one empty segment.
        return vec![Segment::Literal("".into())];
    }
    let segment = |segment: &config::Segment| match segment {
        config::Segment::Literal(text) => Segment::Literal(text.as_str().into()),
        config::Segment::Variable(_) => Segment::Variable,
    };
    pattern.segments.iter().map(segment).collect()
}

fn template(template: &config::ChannelTemplate, variables: &[&str]) -> Template {
    let mut pieces = Vec::with_capacity(template.parts.len() * 2);
    for (place, part) in template.parts.iter().enumerate() {
        if place > 0 {
            pieces.push(Piece::Literal(".".into()));
        }
        pieces.push(match part {
            Part::Literal(text) => Piece::Literal(text.as_str().into()),
            // The configuration refuses a template whose variable its path does not have.
            Part::Variable(name) => {
                Piece::Variable(variables.iter().position(|known| known == name).unwrap_or(usize::MAX))
            }
        });
    }
    Template(pieces)
}

fn origins(origins: &config::Origins) -> Result<Vec<OriginPattern>, String> {
    match origins {
        config::Origins::Any => Ok(vec![OriginPattern::parse("*")?]),
        config::Origins::Only(only) => only.iter().map(|one| OriginPattern::parse(one.as_str())).collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn load(text: &str) -> Rules {
        rules(&config::load(text, []).unwrap()).unwrap()
    }

    #[test]
    fn the_defaults_become_rules() {
        let rules = rules(&Settings::default()).unwrap();
        let life = rules.routes[0].life;
        assert_eq!(
            (life.ping_ticks, life.pong_ticks, life.idle_ticks, life.age_ticks),
            (250, 200, None, None)
        );
        let (number, variables) = rules.route("/rooms/lobby").unwrap();
        let Inbound::Publish(template) = &rules.routes[usize::from(number)].inbound else { unreachable!() };
        assert_eq!(template.render(&variables).unwrap().as_str(), "room.lobby");
    }

    #[test]
    fn a_route_tells_the_backend_of_its_name_wherever_that_stands() {
        let backend = |name: &str| format!("[[backend]]\nname = '{name}'\nendpoints = ['http://{name}:1']\n");
        let route = "[[route]]\nname = 'a'\npath = '/a'\ninbound = { backend = 'chat' }\n";
        let number = |text: String| match load(&text).routes[0].inbound {
            Inbound::Upstream(upstream) => upstream.0,
            _ => panic!("{text}"),
        };
        assert_eq!(number(format!("{}{}{route}", backend("chat"), backend("game"))), 0);
        assert_eq!(number(format!("{}{}{route}", backend("game"), backend("chat"))), 1);
    }

    #[test]
    fn nobody_is_trusted_unless_the_configuration_says_so() {
        let proxy = "10.1.2.3".parse().unwrap();
        assert!(!rules(&Settings::default()).unwrap().trust.contains(proxy));
        let trust = load("[trust]\nnetworks = ['10.1.0.0/16']\nheader = 'forwarded'\n").trust;
        assert!(trust.contains(proxy) && !trust.contains("10.2.0.0".parse().unwrap()));
    }

    #[test]
    fn every_path_form_arrives() {
        let text = |path: &str| format!("[[route]]\nname = 'a'\npath = '{path}'\ninbound = 'echo'\n");
        assert!(load(&text("/")).route("/").is_some());
        assert!(load(&text("/a/{b}/c")).route("/a/x/c").is_some());
    }

    #[test]
    fn every_origin_the_configuration_takes_is_understood_by_the_handshake() {
        for origin in [
            "https://example.org",
            "http://a:81",
            "https://*.example.org",
            "null",
            "app://x",
            "http://[::1]:8080",
        ] {
            let text =
                format!("[[route]]\nname = 'a'\npath = '/'\ninbound = 'echo'\norigins = ['{origin}']\n");
            assert_eq!(load(&text).routes[0].origins.len(), 1, "{origin}");
        }
    }

    #[test]
    fn a_duration_is_rounded_up_to_ticks() {
        assert_eq!(ticks(Duration::from_millis(101)), 2);
        assert_eq!(ticks(Duration::from_millis(200)), 2);
        assert_eq!(ticks(Duration::ZERO), 0);
    }
}
