//! Single cases: each a promise that the random runs keep only on average.

use backend::grpc::{Status, StreamEnd, StreamId};

use crate::world::{Note, SIZES, Word, World, address};

/// Opens a stream and answers its Hello.
fn ready(world: &mut World, endpoint: usize) -> StreamId {
    let id = world.open(endpoint);
    world.say(id, 1);
    world.hear(id, Word::Ack(0, Vec::new()));
    id
}

/// Lets the gateway say all it may; returns the positions of events.
fn read(world: &mut World, id: StreamId) -> Vec<u64> {
    while world.say(id, 100) > 0 {}
    let notes = world.wires.get_mut(&id).unwrap().to_app.drain(..);
    notes.filter_map(|note| if let Note::Event(position) = note { Some(position) } else { None }).collect()
}

/// A slot whose partition this stream owns.
fn slot_of(world: &World, id: StreamId) -> u32 {
    (1000..2000).find(|slot| world.session.owner(address(*slot)) == Some(id)).unwrap()
}

#[test]
fn a_slow_handler_holds_up_its_connection_and_nobody_else() {
    let mut world = World::new();
    let id = ready(&mut world, 0);
    for _ in 0..12 {
        world.take_in(1, 10, false);
    }
    assert_eq!(read(&mut world, id), [1, 2, 3, 4], "the window of the connection");
    for round in 0..200 {
        world.take_in(2 + round % 7, 10, false);
        let positions = read(&mut world, id);
        assert_eq!(positions.len(), 1);
        world.hear(id, Word::Ack(0, vec![(positions[0], positions[0])]));
        world.pass(20);
    }
    assert_eq!(world.unsettled(1), 12);
    world.hear(id, Word::Ack(1, Vec::new()));
    assert_eq!(read(&mut world, id).len(), 1, "one is done, one goes");
    assert!(world.condemned.is_empty());
}

#[test]
fn a_connection_that_is_never_acknowledged_is_given_up_and_its_end_is_told() {
    let mut world = World::new();
    let id = ready(&mut world, 0);
    for _ in 0..6 {
        world.take_in(1, 10, false);
    }
    read(&mut world, id);
    for _ in 0..SIZES.ack_timeout_ms / 100 + 10 {
        world.take_in(2, 10, false);
        let positions = read(&mut world, id);
        world.hear(id, Word::Ack(0, vec![(positions[0], positions[0])]));
        world.pass(100);
    }
    assert_eq!(world.condemned, [address(1)]);
    assert_eq!((world.unsettled(1), world.stats.given_up[0].value()), (0, 6));
    assert!(world.ended.is_empty(), "the stream goes on");
    world.take_in(1, 0, true);
    assert_eq!(read(&mut world, id).len(), 1, "the closed event");
    let late = ready(&mut world, 1);
    world.wires.get_mut(&late).unwrap().to_app.clear();
    let next = world.open(2);
    world.say(next, 10);
    let notes = &world.wires[&next].to_app;
    assert!(matches!(notes[1], Note::Gap(6)), "a new stream is told of the gap: {notes:?}");
}

#[test]
fn a_backend_that_says_nothing_loses_its_stream_and_then_those_who_wait() {
    let mut world = World::new();
    let first = ready(&mut world, 0);
    world.take_in(1, 10, false);
    read(&mut world, first);
    for _ in 0..60 {
        world.pass(100);
    }
    assert_eq!(world.ended, [(first, StreamEnd::Silent)]);
    assert!(world.condemned.is_empty(), "another stream may do better");
    let second = ready(&mut world, 0);
    assert_eq!(read(&mut world, second).len(), 1);
    for _ in 0..60 {
        world.pass(100);
    }
    assert_eq!(world.ended[1], (second, StreamEnd::Silent));
    assert_eq!(world.condemned, [address(1)]);
}

#[test]
fn nobody_waits_longer_for_a_rolling_restart_than_the_handover() {
    let mut world = World::new();
    let mut streams: Vec<StreamId> = (0..3).map(|endpoint| ready(&mut world, endpoint)).collect();
    world.pass(300);
    for endpoint in 0..3 {
        for slot in 0..60 {
            world.take_in(slot, 1, false);
        }
        for id in &streams {
            read(&mut world, *id);
        }
        // It says goodbye and acknowledges nothing any more.
        let leaving = streams[endpoint];
        world.hear(leaving, Word::GoAway);
        world.pass(SIZES.handover_ms);
        assert!((0..60).all(|slot| world.session.owner(address(slot)) != Some(leaving)));
        assert!(world.wires[&leaving].half_closed);
        for id in streams.clone() {
            let sent = world.wires[&id].sent;
            if id != leaving {
                while !read(&mut world, id).is_empty() || world.wires[&id].sent > sent {
                    let sent = world.wires[&id].sent;
                    world.hear(id, Word::Ack(sent, Vec::new()));
                    if read(&mut world, id).is_empty() {
                        break;
                    }
                }
                let sent = world.wires[&id].sent;
                world.hear(id, Word::Ack(sent, Vec::new()));
            }
        }
        assert_eq!(world.session.events(), 0, "all of it was sent again elsewhere");
        world.lose(leaving);
        streams[endpoint] = ready(&mut world, endpoint);
        world.pass(SIZES.handover_ms);
    }
    assert!(world.stats.sent_again.value() > 0);
}

#[test]
fn a_newcomer_gets_its_share_once_those_before_it_have_acknowledged() {
    let mut world = World::new();
    let first = ready(&mut world, 0);
    for slot in 0..20 {
        world.take_in(slot, 1, false);
    }
    let positions = read(&mut world, first);
    assert_eq!(positions.len(), 20);
    let second = ready(&mut world, 1);
    world.hear(first, Word::Ack(20, Vec::new()));
    let owned =
        |world: &World, id| (0..1000).filter(|slot| world.session.owner(address(*slot)) == Some(id)).count();
    assert!((400..600).contains(&owned(&world, second)), "{}", owned(&world, second));
    assert_eq!(world.stats.sent_again.value(), 0, "nothing was sent twice for it");
}

#[test]
fn orders_are_obeyed_once_and_by_the_owner_alone() {
    let mut world = World::new();
    let (first, second) = (ready(&mut world, 0), ready(&mut world, 1));
    world.pass(300);
    let (mine, theirs) = (slot_of(&world, first), slot_of(&world, second));
    world.hear(first, Word::Order(7, World::send_order(mine)));
    world.hear(first, Word::Order(7, World::send_order(mine)));
    world.hear(first, Word::Order(8, World::send_order(theirs)));
    world.hear(second, Word::Order(8, World::send_order(theirs)));
    read_results(
        &mut world,
        first,
        &[(7, Status::Ok), (7, Status::AlreadyExists), (8, Status::FailedPrecondition)],
    );
    read_results(&mut world, second, &[(8, Status::Ok)]);
    world.pass(60_000);
    let again = ready(&mut world, 0);
    let mine = slot_of(&world, again);
    world.hear(again, Word::Order(7, World::send_order(mine)));
    read_results(&mut world, again, &[(7, Status::Ok)]);
}

fn read_results(world: &mut World, id: StreamId, expected: &[(u64, Status)]) {
    while world.say(id, 100) > 0 {}
    let notes = world.wires.get_mut(&id).unwrap().to_app.drain(..);
    let results: Vec<(u64, Status)> = notes
        .filter_map(|note| if let Note::Result(id, status) = note { Some((id, status)) } else { None })
        .collect();
    assert_eq!(results, expected);
}

#[test]
fn a_stream_that_is_not_answered_gets_no_events_and_is_given_up() {
    let mut world = World::new();
    let id = world.open(0);
    world.take_in(1, 1, false);
    world.say(id, 100);
    assert_eq!(world.wires[&id].to_app.len(), 1, "only Hello");
    world.pass(SIZES.greet_ms);
    assert_eq!(world.ended, [(id, StreamEnd::Unanswered)]);
}
