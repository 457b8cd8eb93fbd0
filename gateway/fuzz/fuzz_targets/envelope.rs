//! What comes over Redis publish/subscribe: nothing panics, and what was read means the same when it is written again.
#![no_main]

use backend::redis::envelope::{decode, encode};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(first) = decode(Bytes::copy_from_slice(data)) else { return };
    let origin = first.origin.as_ref().map(|(node, epoch)| (node.as_str(), *epoch));
    let written = encode(origin, first.connection.as_ref(), first.exclude.as_ref(), &first.message);
    let again = decode(Bytes::from(written)).expect("what we write is ours");
    assert_eq!(again.origin, first.origin);
    assert_eq!(again.connection, first.connection);
    assert_eq!(again.exclude, first.exclude);
    assert_eq!(again.message.kind(), first.message.kind());
    assert_eq!(again.message.payload(), first.message.payload());
});
