//! UTF-8 checked as it arrives (RFC 6455 section 8.1, RFC 3629).
//!
//! Owns the at most three bytes of a character cut by a read or by a fragment. Refuses to hold text. A wrong
//! byte fails in the call that brings it, not at the end of the message. Called by `Assembly` for every piece
//! of a text message.

/// The bytes fed so far cannot begin any UTF-8 text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid;

/// A check in progress, four bytes; `Default` is the start of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Utf8 {
    cut: [u8; 3],
    cut_len: u8,
}

impl Utf8 {
    /// At the start of a text.
    #[must_use]
    pub const fn new() -> Self {
        Self { cut: [0; 3], cut_len: 0 }
    }

    /// Takes the next bytes of the text.
    ///
    /// # Errors
    /// Some byte in here makes the text wrong whatever may follow. The check is then over.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Invalid> {
        let rest = if self.cut_len == 0 { bytes } else { self.complete(bytes)? };
        let Err(fault) = simdutf8::compat::from_utf8(rest) else { return Ok(()) };
        if fault.error_len().is_some() {
            return Err(Invalid);
        }
        let cut = &rest[fault.valid_up_to()..];
        debug_assert!(cut.len() <= 3 && self.cut_len == 0, "only the last character can be cut");
        for (kept, byte) in self.cut.iter_mut().zip(cut) {
            *kept = *byte;
        }
        self.cut_len = cut.len() as u8;
        Ok(())
    }

    /// Says that the text is over.
    ///
    /// # Errors
    /// It ended inside a character.
    #[inline]
    pub fn finish(&self) -> Result<(), Invalid> {
        if self.is_boundary() { Ok(()) } else { Err(Invalid) }
    }

    /// Whether the bytes so far end with a whole character.
    #[inline]
    #[must_use]
    pub const fn is_boundary(&self) -> bool {
        self.cut_len == 0
    }

    /// Adds bytes to the cut character until it is whole or they run out; gives back those that belong to the
    /// next.
    fn complete<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], Invalid> {
        let mut character = [0; 4];
        let had = usize::from(self.cut_len);
        character[..had].copy_from_slice(&self.cut[..had]);
        for (taken, byte) in bytes.iter().enumerate() {
            let len = had + taken + 1;
            character[len - 1] = *byte;
            match str::from_utf8(&character[..len]) {
                Ok(_) => {
                    self.cut_len = 0;
                    return Ok(&bytes[taken + 1..]);
                }
                Err(fault) if fault.error_len().is_some() => return Err(Invalid),
                // Four bytes are never merely cut, so a third is the last that is kept.
                Err(_) => {
                    self.cut[len - 1] = *byte;
                    self.cut_len = len as u8;
                }
            }
        }
        Ok(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many bytes are taken before the check fails, fed one by one.
    fn fails_at(bytes: &[u8]) -> Option<usize> {
        let mut check = Utf8::new();
        bytes.iter().position(|byte| check.feed(&[*byte]).is_err())
    }

    #[test]
    fn the_state_is_four_bytes() {
        assert!(size_of::<Utf8>() <= 4);
    }

    #[test]
    fn every_short_sequence_agrees_with_the_standard_library_at_the_earliest_byte() {
        let probes =
            [0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xec];
        let probes = [&probes[..], &[0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff]].concat();
        for a in &probes {
            for b in &probes {
                for c in &probes {
                    for d in &probes {
                        let bytes = [*a, *b, *c, *d];
                        let expected = (1..=4).position(|len| {
                            str::from_utf8(&bytes[..len]).is_err_and(|fault| fault.error_len().is_some())
                        });
                        assert_eq!(fails_at(&bytes), expected, "{bytes:x?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_character_may_be_cut_anywhere_but_not_at_the_end() {
        let text = "κόσμε €𝄞 plain";
        for cut in 0..=text.len() {
            let mut check = Utf8::new();
            assert_eq!(check.feed(&text.as_bytes()[..cut]), Ok(()));
            assert_eq!(check.is_boundary(), text.is_char_boundary(cut));
            assert_eq!(check.finish().is_ok(), text.is_char_boundary(cut));
            assert_eq!(check.feed(&text.as_bytes()[cut..]), Ok(()));
            assert_eq!(check.finish(), Ok(()));
        }
    }
}
