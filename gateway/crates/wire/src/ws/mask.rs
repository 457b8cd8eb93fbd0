//! The mask of client frames (RFC 6455 section 5.3).
//!
//! Owns one XOR, fast. Refuses to choose masks: servers never mask. Called by `Assembly` for each piece of
//! payload.

/// Bytes per step: two registers of the x86-64 baseline, so that the compiler vectorises the inner loop.
const STEP: usize = 32;

/// Unmasks (or masks: it is its own inverse) `payload`, whose first byte is the `offset`th of its frame.
#[inline]
pub fn unmask(payload: &mut [u8], mut mask: [u8; 4], offset: usize) {
    mask.rotate_left(offset % 4);
    let mut wide = [0; STEP];
    for quad in wide.as_chunks_mut::<4>().0 {
        *quad = mask;
    }
    let (steps, rest) = payload.as_chunks_mut::<STEP>();
    for step in steps {
        for (byte, key) in step.iter_mut().zip(&wide) {
            *byte ^= key;
        }
    }
    let (words, tail) = rest.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(mask)).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(&mask) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_and_phase_agrees_with_byte_by_byte() {
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        for len in 0..200 {
            for offset in 0..9 {
                let plain: Vec<u8> = (0..len).map(|i| (i * 7 + 3) as u8).collect();
                let expected: Vec<u8> =
                    plain.iter().enumerate().map(|(i, byte)| byte ^ mask[(i + offset) % 4]).collect();
                let mut masked = plain;
                unmask(&mut masked, mask, offset);
                assert_eq!(masked, expected, "length {len}, offset {offset}");
            }
        }
    }

    #[test]
    fn the_rfc_example_reads_hello() {
        let mut payload = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
        unmask(&mut payload, [0x37, 0xfa, 0x21, 0x3d], 0);
        assert_eq!(&payload, b"Hello");
    }
}
