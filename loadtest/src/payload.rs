//! Messages that can be recognised: who sent it and the how-manieth it is, filled up to a size.
//!
//! It owns their shape, which is ASCII so that they go as text or binary. It refuses to keep copies: a
//! message is checked against what it must be. Used by `echo` and `fanout`.

/// Shortest message: sender and sequence number in hexadecimal.
pub(crate) const SHORTEST: usize = 16;

/// Writes message `sequence` of `sender` to `out`, `size` bytes; a size below [`SHORTEST`] is raised to it.
pub(crate) fn write(out: &mut Vec<u8>, sender: u32, sequence: u32, size: usize) {
    out.clear();
    push_hex(out, sender);
    push_hex(out, sequence);
    out.resize(size.max(SHORTEST), b'.');
}

/// Reads sender and sequence number; `None` for what is not a message of ours of that size, byte by byte.
pub(crate) fn read(payload: &[u8], size: usize) -> Option<(u32, u32)> {
    if payload.len() != size.max(SHORTEST) {
        return None;
    }
    let (sender, rest) = payload.split_at(8);
    let (sequence, filler) = rest.split_at(8);
    filler.iter().all(|&byte| byte == b'.').then_some(())?;
    Some((hex(sender)?, hex(sequence)?))
}

fn push_hex(out: &mut Vec<u8>, value: u32) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend((0..8).rev().map(|digit| DIGITS[(value >> (4 * digit) & 15) as usize]));
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |value, &digit| Some(value << 4 | char::from(digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let mut out = Vec::new();
        for (sender, sequence, size) in [(0, 0, 16), (7, u32::MAX, 128), (u32::MAX, 1, 3)] {
            write(&mut out, sender, sequence, size);
            assert_eq!(out.len(), size.max(SHORTEST));
            assert_eq!(read(&out, size), Some((sender, sequence)));
        }
    }

    #[test]
    fn one_changed_byte_makes_it_a_stranger() {
        let mut out = Vec::new();
        write(&mut out, 1, 2, 64);
        for at in 0..out.len() {
            let mut changed = out.clone();
            changed[at] ^= 1;
            assert_ne!(read(&changed, 64), Some((1, 2)), "byte {at}");
        }
        assert_eq!(read(&out, 65), None);
        assert_eq!(read(b"", 16), None);
    }
}
