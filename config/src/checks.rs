//! Owns what must hold between keys, each rule once. Refuses single values: those are their form's business.
//! Called by `load` after everything was read.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::forms::{AutoOr, quoted};
use crate::inbound::Inbound;
use crate::limits;
use crate::reader::Reader;
use crate::sections::{PeerHeader, Settings};
use crate::units::print_duration;
use crate::{backends, bus, redis};

/// Notes every contradiction between keys.
pub(crate) fn check(settings: &Settings, reader: &mut Reader<'_>) {
    connections_reach_every_shard(settings, reader);
    one_backlog_fits_the_node(settings, reader);
    a_message_fits_the_backlog(settings, reader);
    a_route_stays_within_its_subscriptions(settings, reader);
    a_question_fits_its_route(settings, reader);
    only_a_publisher_is_excluded(settings, reader);
    jitter_has_an_age(settings, reader);
    a_drain_tells_everybody_to_go(settings, reader);
    what_commands_is_guarded(settings, reader);
    listeners_do_not_collide(settings, reader);
    trust_has_an_object(settings, reader);
    limits::check(settings, reader);
    bus::check(settings, reader);
    redis::check(settings, reader);
    backends::check(&settings.backends, reader);
    routes_tell_somebody_who_is_there(settings, reader);
    decisions_come_in_time(settings, reader);
}

fn routes_tell_somebody_who_is_there(settings: &Settings, reader: &mut Reader<'_>) {
    let names: Vec<String> = settings.backends.iter().map(|backend| quoted(backend.name.as_str())).collect();
    let expected = match &names[..] {
        [] => "the name of a [[backend]], of which there is none".to_owned(),
        names => format!("the name of a [[backend]]: {}", names.join(", ")),
    };
    for (position, route) in settings.routes.iter().enumerate() {
        let told = match &route.inbound {
            Inbound::Backend(name) => Some(("inbound.backend", name)),
            _ => None,
        };
        let asked = route.authorize.as_ref().map(|name| ("authorize", name));
        for (key, name) in told.into_iter().chain(asked) {
            if settings.backends.iter().all(|backend| backend.name != *name) {
                let key = format!("route[{position}].{key}");
                reader.contradiction(&[&key], &key, quoted(name.as_str()), expected.clone());
            }
        }
    }
}

/// Else the handshake would always be over before a slow decision is.
fn decisions_come_in_time(settings: &Settings, reader: &mut Reader<'_>) {
    let bound = settings.timeouts.handshake;
    for (position, backend) in settings.backends.iter().enumerate() {
        let is_asked = settings.routes.iter().any(|route| route.authorize.as_ref() == Some(&backend.name));
        if is_asked && backend.authorize.timeout >= bound {
            let key = format!("backend[{position}].authorize.timeout");
            reader.contradiction(
                &[&key, "timeouts.handshake"],
                &key,
                quoted(&print_duration(backend.authorize.timeout)),
                format!("less than timeouts.handshake, which is \"{}\"", print_duration(bound)),
            );
        }
    }
}

fn connections_reach_every_shard(settings: &Settings, reader: &mut Reader<'_>) {
    if let (AutoOr::Set(connections), AutoOr::Set(shards)) =
        (settings.limits.connections, settings.shards.count)
        && connections < shards
    {
        reader.contradiction(
            &["limits.connections", "shards.count"],
            "limits.connections",
            connections.to_string(),
            format!("at least one for each shard: shards.count is {shards}"),
        );
    }
}

fn one_backlog_fits_the_node(settings: &Settings, reader: &mut Reader<'_>) {
    let (one, all) = (settings.backlog.bytes, settings.backlog.node_bytes);
    if one > all {
        reader.contradiction(
            &["backlog.bytes", "backlog.node_bytes"],
            "backlog.bytes",
            quoted(&one.to_string()),
            format!("at most backlog.node_bytes, which is \"{all}\""),
        );
    }
}

/// Else the first long message would end every client whose socket does not take it at one go.
fn a_message_fits_the_backlog(settings: &Settings, reader: &mut Reader<'_>) {
    let bound = settings.backlog.bytes;
    for (position, route) in settings.routes.iter().enumerate() {
        let answers = matches!(route.inbound, Inbound::Echo | Inbound::Publish(_));
        if answers && route.message_bytes > bound {
            let key = format!("route[{position}].message_bytes");
            reader.contradiction(
                &[&key, "websocket.message_bytes", "backlog.bytes"],
                &key,
                quoted(&route.message_bytes.to_string()),
                format!("at most backlog.bytes, which is \"{bound}\", since the message is sent on"),
            );
        }
    }
}

fn a_route_stays_within_its_subscriptions(settings: &Settings, reader: &mut Reader<'_>) {
    let bound = settings.limits.subscriptions_per_connection.get() as usize;
    for (position, route) in settings.routes.iter().enumerate() {
        if route.subscribe.len() > bound {
            let key = format!("route[{position}].subscribe");
            reader.contradiction(
                &[&key, "limits.subscriptions_per_connection"],
                &key,
                format!("{} channels", route.subscribe.len()),
                format!("at most limits.subscriptions_per_connection, which is {bound}"),
            );
        }
    }
}

/// A longer one closes with 1009 before anybody could compare it.
fn a_question_fits_its_route(settings: &Settings, reader: &mut Reader<'_>) {
    for (position, route) in settings.routes.iter().enumerate() {
        let bound = route.message_bytes;
        for reply in route.auto_reply.iter().filter(|reply| reply.question.len() > bound.as_usize()) {
            let key = format!("route[{position}].auto_reply.{}", quoted(&reply.question));
            reader.contradiction(
                &[&key, &format!("route[{position}].message_bytes"), "websocket.message_bytes"],
                &key,
                format!("a message of {} bytes", reply.question.len()),
                format!("messages of at most message_bytes of the route, which is \"{bound}\""),
            );
        }
    }
}

/// Nobody else would hear itself by way of a channel: an echo is an answer, and app servers say to whom they speak.
fn only_a_publisher_is_excluded(settings: &Settings, reader: &mut Reader<'_>) {
    for (position, route) in settings.routes.iter().enumerate() {
        if route.exclude_self && !matches!(route.inbound, Inbound::Publish(_)) {
            let key = format!("route[{position}].exclude_self");
            let expected = "false, or inbound = { publish = \"room.{room}\" } beside it".to_owned();
            reader.contradiction(&[&key], &key, "true".to_owned(), expected);
        }
    }
}

/// What the listeners take of the deadline, goodbyes lack.
fn a_drain_tells_everybody_to_go(settings: &Settings, reader: &mut Reader<'_>) {
    let (accept, deadline) = (settings.drain.accept_seconds, settings.drain.deadline);
    if Duration::from_secs(u64::from(accept)) * 2 > deadline {
        reader.contradiction(
            &["drain.accept_seconds", "drain.deadline"],
            "drain.accept_seconds",
            accept.to_string(),
            format!(
                "at most half of drain.deadline, which is \"{}\": the rest is for goodbyes",
                print_duration(deadline)
            ),
        );
    }
}

fn jitter_has_an_age(settings: &Settings, reader: &mut Reader<'_>) {
    for (position, route) in settings.routes.iter().enumerate() {
        if route.max_age.is_none() && !route.max_age_jitter.is_zero() {
            let key = format!("route[{position}].max_age_jitter");
            let found = quoted(&print_duration(route.max_age_jitter));
            reader.contradiction(&[&key], &key, found, "max_age beside it, to which it is added".to_owned());
        }
    }
}

/// Whoever reaches these roles can speak for the app and end connections, so off loopback they ask for a token.
fn what_commands_is_guarded(settings: &Settings, reader: &mut Reader<'_>) {
    let api = (settings.api_address(), settings.api.tokens_file.is_some(), "api.address", "api.tokens_file");
    let admin =
        (settings.admin_address(), settings.admin.token_file.is_some(), "admin.address", "admin.token_file");
    // Whoever may not drain by a token may not drain off loopback at all, so the token of the admin role is not asked for.
    let grpc = settings.grpc.address.map(|address| (address, api.1, "grpc.address", "api.tokens_file"));
    for (address, guarded, own, file) in [api, admin].into_iter().chain(grpc) {
        if !guarded && !address.ip().to_canonical().is_loopback() {
            reader.contradiction(
                &[own, "http.address", file],
                file,
                "nothing".to_owned(),
                format!(
                    "the path of a file, such as \"/etc/gateway/tokens\", because {address} is not loopback"
                ),
            );
        }
    }
}

/// A word that nobody is believed, or a believed network that has no way to say anything, would change nothing and look
/// as if it did.
fn trust_has_an_object(settings: &Settings, reader: &mut Reader<'_>) {
    let (by_protocol, header) = (settings.listen.proxy_protocol, settings.trust.header);
    if !settings.trust.networks.is_empty() {
        if !by_protocol && header == PeerHeader::None {
            reader.contradiction(
                &["trust.networks", "trust.header", "listen.proxy_protocol"],
                "trust.networks",
                "networks that tell the peer in no way".to_owned(),
                "[], or a trust.header other than \"none\", or listen.proxy_protocol = \"on\"".to_owned(),
            );
        }
        return;
    }
    let of_nobody = [("listen.proxy_protocol", by_protocol), ("trust.header", header != PeerHeader::None)];
    for (key, _) in of_nobody.into_iter().filter(|(_, asks)| *asks) {
        reader.contradiction(
            &[key, "trust.networks"],
            "trust.networks",
            "[]".to_owned(),
            format!("the networks of the proxies, such as [\"10.0.0.0/8\"], because {key} is set"),
        );
    }
}

/// Roles of HTTP may share one address exactly; anything else on the same port would fail when it is bound.
fn listeners_do_not_collide(settings: &Settings, reader: &mut Reader<'_>) {
    let clients = ("listen.address", settings.listen.address);
    let roles = [
        ("http.address", Some(settings.http.address)),
        ("health.address", settings.health.address),
        ("api.address", settings.api.address),
        ("admin.address", settings.admin.address),
    ];
    let roles: Vec<_> = roles.into_iter().filter_map(|(key, address)| Some((key, address?))).collect();
    for (position, (key, address)) in roles.iter().enumerate() {
        let earlier =
            roles[..position].iter().find(|(_, other)| other != address && overlap(*other, *address));
        let taken = Some(&clients).filter(|(_, other)| overlap(*other, *address)).or(earlier);
        if let Some((other_key, other)) = taken {
            reader.contradiction(
                &[key, other_key],
                key,
                quoted(&address.to_string()),
                format!("another port than {other_key}, which is \"{other}\""),
            );
        }
    }
    let Some(grpc) = settings.grpc.address else { return };
    if let Some((other_key, other)) =
        std::iter::once(&clients).chain(&roles).find(|(_, other)| overlap(*other, grpc))
    {
        reader.contradiction(
            &["grpc.address", other_key],
            "grpc.address",
            quoted(&grpc.to_string()),
            format!("another port than {other_key}, which is \"{other}\""),
        );
    }
}

/// Whether the kernel would refuse to bind both. Port 0 never collides.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |wide: IpAddr, narrow: IpAddr| wide.is_unspecified() && (wide.is_ipv6() || narrow.is_ipv4());
    let (a, b) = (one.ip(), other.ip());
    one.port() != 0 && one.port() == other.port() && (a == b || covers(a, b) || covers(b, a))
}
