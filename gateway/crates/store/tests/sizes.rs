//! What an idle connection costs, to the byte: the record, and the slot it sits in. Holds in debug and release builds.
#![allow(clippy::unwrap_used)]

use std::io::PipeReader;
use std::os::fd::OwnedFd;

use store::{Conn, Conns, Key, Queue, WheelLink};

/// Shaped like the socket of production: a descriptor and an index.
#[expect(dead_code, reason = "only its size matters")]
struct Socket {
    descriptor: OwnedFd,
    tls: u32,
}

/// Shaped like the proof of admission.
#[expect(dead_code, reason = "only its size matters")]
struct Admission(u32);

fn socket() -> Socket {
    let (reader, _): (PipeReader, _) = std::io::pipe().unwrap();
    Socket { descriptor: reader.into(), tls: u32::MAX }
}

#[test]
fn a_record_is_64_bytes() {
    assert_eq!(size_of::<Conn<Socket, Admission>>(), 64);
}

#[test]
fn a_slot_of_the_table_is_64_bytes() {
    let mut conns = Conns::new(3);
    for _ in 0..3 {
        assert!(conns.insert(socket(), Admission(0), 0).is_ok());
    }
    let address = |index| std::ptr::from_ref(conns.at(index).unwrap()) as usize;
    assert_eq!((address(1) - address(0), address(2) - address(1)), (64, 64));
}

#[test]
fn keys_links_and_queues_stay_small() {
    assert_eq!((size_of::<Key>(), size_of::<Option<Key>>()), (8, 8));
    assert_eq!((size_of::<WheelLink>(), size_of::<Queue>()), (12, 20));
}
