//! Clients behind proxies, and such as only say so: what they send in front of their request and in it, and single
//! cases. Owns the addresses of proxies and of liars. What must follow is checked by the world: an ending tells the
//! peer that a client really has, and the address that liars name is never counted.

use std::net::IpAddr;

use fastrand::Rng;
use shard::trust::Trust;
use wire::http::ForwardedBy;

use crate::client::{Stage, request};
use crate::weather::Weather;
use crate::world::World;

/// What liars name.
pub(crate) const NOBODY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 66, 6, 6));

/// How clients of one run come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Proxies {
    pub(crate) proxy_protocol: bool,
    pub(crate) field: Option<ForwardedBy>,
}

/// What a client is to send, and from where.
pub(crate) struct Approach {
    /// The address of its socket.
    pub(crate) socket: IpAddr,
    pub(crate) bytes: Vec<u8>,
    /// Whether what it sends in front is not as it has to be.
    pub(crate) is_broken: bool,
}

impl Proxies {
    pub(crate) fn random(rng: &mut Rng) -> Self {
        let fields = [None, Some(ForwardedBy::Forwarded), Some(ForwardedBy::XForwardedFor)];
        Self { proxy_protocol: rng.bool(), field: fields[rng.usize(..3)] }
    }

    pub(crate) fn trust(self) -> Trust {
        Trust::new([(proxy(0), 16)], self.proxy_protocol, self.field)
    }

    fn works(self) -> bool {
        self.proxy_protocol || self.field.is_some()
    }

    /// A request of this peer as it arrives: from the peer itself or by way of proxies, rightly or with lies.
    pub(crate) fn approach(self, rng: &mut Rng, peer: IpAddr, request: &[u8]) -> Approach {
        let mut bytes = request.to_vec();
        if !self.works() || rng.bool() {
            // A stranger may write what he likes into his request, and is not to send a PROXY header.
            if rng.bool() {
                bytes = with_fields(&bytes, &[NOBODY]);
            }
            let is_broken = rng.u8(..10) == 0;
            if is_broken {
                bytes = [header(rng, Some(NOBODY)), bytes].concat();
            }
            return Approach { socket: peer, bytes, is_broken };
        }
        if self.field.is_some() {
            // The last that each proxy has seen, behind what the client made up.
            let list = [NOBODY, peer, proxy(rng.u8(..)), proxy(rng.u8(..))];
            bytes = with_fields(&bytes, &list[..2 + rng.usize(..3)]);
        }
        let mut is_broken = false;
        if self.proxy_protocol {
            is_broken = rng.u8(..10) == 0;
            let named = match self.field {
                // An inner proxy for an outer one, or for itself.
                Some(_) => [Some(proxy(7)), None][rng.usize(..2)],
                None => Some(peer),
            };
            if !is_broken {
                bytes = [header(rng, named), bytes].concat();
            }
        }
        Approach { socket: proxy(rng.u8(..)), bytes, is_broken }
    }
}

fn proxy(number: u8) -> IpAddr {
    IpAddr::from([10, 8, 0, number])
}

/// Of either version.
fn header(rng: &mut Rng, source: Option<IpAddr>) -> Vec<u8> {
    let Some(IpAddr::V4(source)) = source else {
        return if rng.bool() {
            b"PROXY UNKNOWN\r\n".to_vec()
        } else {
            b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec()
        };
    };
    if rng.bool() {
        return format!("PROXY TCP4 {source} 10.8.0.1 1 2\r\n").into_bytes();
    }
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f"[..], &source.octets(), &[10, 8, 0, 1, 0, 1, 0, 2, 4, 0, 0]]
        .concat()
}

/// Both fields, as one list or in two pieces.
fn with_fields(request: &[u8], list: &[IpAddr]) -> Vec<u8> {
    let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") else { return request.to_vec() };
    let (mut forwarded, mut x): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    for address in list {
        forwarded.push(format!("for=\"{address}:1\""));
        x.push(address.to_string());
    }
    let fields = format!(
        "\r\nForwarded: {}\r\nForwarded: {}\r\nX-Forwarded-For: {}",
        forwarded[0],
        forwarded[1..].join(","),
        x.join(", ")
    );
    let fields = if list.len() > 1 { fields } else { fields.replace("\r\nForwarded: \r\n", "\r\n") };
    [&request[..end], fields.as_bytes(), &request[end..]].concat()
}

fn world(proxy_protocol: bool, field: Option<ForwardedBy>) -> World {
    let mut weather = Weather::fair();
    weather.proxies = Proxies { proxy_protocol, field };
    weather.rules.trust = weather.proxies.trust();
    World::new(weather, 1)
}

fn live(world: &World, peer: IpAddr) -> u32 {
    world.gate.peers().live(peer)
}

/// A client behind the first proxy that sends this.
fn come(world: &mut World, bytes: &[u8]) -> usize {
    world.come_by(proxy(1), 0, "/room/a", bytes, 1 << 20)
}

#[test]
fn a_connection_counts_at_the_proxy_until_its_peer_is_named_and_never_again() {
    for rng in &mut [Rng::with_seed(1), Rng::with_seed(2)] {
        for field in [None, Some(ForwardedBy::Forwarded), Some(ForwardedBy::XForwardedFor)] {
            let mut world = world(true, field);
            let silent = come(&mut world, b"");
            let peer = world.clients[silent].peer;
            world.rest();
            assert_eq!((live(&world, proxy(1)), live(&world, peer)), (1, 0));
            let named = if field.is_some() { proxy(7) } else { peer };
            let list = [NOBODY, peer, proxy(3)];
            let request = with_fields(request("/room/a").as_bytes(), &list);
            let bytes = [header(rng, Some(named)), request].concat();
            world.clients[silent].tcp.send(&bytes[..bytes.len() - 1]);
            world.rest();
            assert_eq!((live(&world, proxy(1)), live(&world, named)), (0, 1));
            world.clients[silent].tcp.send(&bytes[bytes.len() - 1..]);
            world.rest();
            assert_eq!(world.clients[silent].stage, Stage::Open);
            assert_eq!((live(&world, proxy(7)), live(&world, peer)), (0, 1));
            assert_eq!(world.nodes[0].stats.cold.value(), 0, "nothing of it is kept");
            world.say(silent, 10);
            world.live(2);
            world.check_complete(&[silent]);
            world.drain(20);
        }
    }
}

#[test]
fn a_header_that_comes_by_the_byte_counts_as_soon_as_it_is_whole() {
    for seed in 0..4 {
        let mut world = world(true, None);
        let number = come(&mut world, b"");
        let peer = world.clients[number].peer;
        let header = header(&mut Rng::with_seed(seed), Some(peer));
        for (sent, byte) in header.iter().enumerate() {
            world.rest();
            assert_eq!((live(&world, proxy(1)), live(&world, peer)), (1, 0), "{sent} bytes of {header:?}");
            world.clients[number].tcp.send(&[*byte]);
        }
        world.rest();
        assert_eq!((live(&world, proxy(1)), live(&world, peer)), (0, 1));
        for byte in request("/room/a").bytes() {
            world.clients[number].tcp.send(&[byte]);
            world.rest();
        }
        assert_eq!(world.clients[number].stage, Stage::Open);
        world.drain(20);
    }
}

#[test]
fn who_is_not_trusted_names_nobody() {
    let mut world = world(false, Some(ForwardedBy::XForwardedFor));
    let bytes = with_fields(request("/room/a").as_bytes(), &[NOBODY, NOBODY]);
    let number = world.come(0, "/room/a", &bytes, 1 << 20);
    world.rest();
    assert_eq!(world.clients[number].stage, Stage::Open);
    assert_eq!((live(&world, World::peer_of(number)), live(&world, NOBODY)), (1, 0));
    world.drain(20);
}

#[test]
fn a_header_is_sent_by_those_who_have_to_and_by_no_others() {
    let mut rng = Rng::with_seed(1);
    let mut world = world(true, None);
    let request = request("/room/a").into_bytes();
    for _ in 0..8 {
        let without = come(&mut world, &request);
        let lie = [header(&mut rng, Some(NOBODY)), request.clone()].concat();
        let stranger = world.come(0, "/room/a", &lie, 1 << 20);
        let twice = [header(&mut rng, Some(World::peer_of(stranger + 1))), lie].concat();
        let twice = come(&mut world, &twice);
        for number in [without, stranger, twice] {
            world.clients[number].facts.refusals = vec![400];
        }
        world.rest();
        for number in [without, stranger, twice] {
            assert_eq!(world.clients[number].stage, Stage::Refused(400));
        }
    }
    world.drain(20);
}

#[test]
fn a_health_check_leaves_nothing() {
    let mut world = world(true, Some(ForwardedBy::Forwarded));
    for (seed, is_silent) in [(1, true), (1, false), (2, false), (3, false)] {
        let bytes = if is_silent { Vec::new() } else { header(&mut Rng::with_seed(seed), None) };
        let number = come(&mut world, &bytes);
        world.rest();
        world.clients[number].hang_up(true);
        world.rest();
        assert_eq!((world.nodes[0].shard.connections(), world.gate.peers().len()), (0, 0));
    }
    world.drain(20);
}

#[test]
fn who_finds_no_room_behind_a_proxy_is_told_so() {
    let mut weather = world(true, None).weather;
    weather.gate_connections = 0;
    let mut world = World::new(weather, 1);
    let bytes =
        [header(&mut Rng::with_seed(1), Some(World::peer_of(0))), request("/room/a").into_bytes()].concat();
    let number = come(&mut world, &bytes);
    world.rest();
    assert_eq!(world.clients[number].stage, Stage::Refused(503));
    world.live(2);
    assert!(world.gate.peers().is_empty());
    world.drain(20);
}
