//! What each connection has moved: counters beside the table, because most connections move next to nothing.
//!
//! Owns the counters and the rule that an idle connection costs none of their memory: they come in pages of 128, a page is
//! allocated when the first of its connections is counted, and reading an uncounted one touches nothing. (One zeroed array for
//! all would look cheaper, but the standard library fills an array of structs by writing it, and reading a zero page that was
//! never written makes it resident where huge pages are on.) Pages stay once they exist: at worst 24 bytes a connection.
//! Called by the connection table only, which clears a counter when its connection leaves.

const PAGE: usize = 128;

/// Totals of one connection since it was accepted. Bytes are those of payloads.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// Bytes read from the socket.
    pub bytes_in: u64,
    /// Bytes the socket has taken.
    pub bytes_out: u64,
    /// Messages received whole.
    pub messages_in: u32,
    /// Messages sent.
    pub messages_out: u32,
    /// Tick of the last message either way; 0 when there was none.
    pub last_message: u32,
}

#[derive(Debug)]
pub(crate) struct Tallies {
    pages: Vec<Option<Box<[Tally; PAGE]>>>,
}

impl Tallies {
    pub(crate) fn new(capacity: u32) -> Self {
        let mut pages = Vec::new();
        pages.resize_with((capacity as usize).div_ceil(PAGE), || None);
        Tallies { pages }
    }

    pub(crate) fn read(&self, index: u32) -> Tally {
        match &self.pages[index as usize / PAGE] {
            Some(page) => page[index as usize % PAGE],
            None => Tally::default(),
        }
    }

    pub(crate) fn write(&mut self, index: u32) -> &mut Tally {
        let page =
            self.pages[index as usize / PAGE].get_or_insert_with(|| Box::new([Tally::default(); PAGE]));
        &mut page[index as usize % PAGE]
    }

    /// Back to zero, without bringing a page into being for it.
    pub(crate) fn clear(&mut self, index: u32) {
        if let Some(page) = &mut self.pages[index as usize / PAGE] {
            page[index as usize % PAGE] = Tally::default();
        }
    }

    #[cfg(test)]
    fn pages_in_use(&self) -> usize {
        self.pages.iter().flatten().count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_counted_takes_memory() {
        let mut tallies = Tallies::new(1000);
        assert_eq!(tallies.read(999), Tally::default());
        tallies.clear(500);
        assert_eq!(tallies.pages_in_use(), 0);
        tallies.write(999).bytes_in = 7;
        assert_eq!((tallies.read(999).bytes_in, tallies.pages_in_use()), (7, 1));
        tallies.clear(999);
        assert_eq!(tallies.read(999), Tally::default());
    }

    #[test]
    fn a_tally_is_32_bytes() {
        assert_eq!(size_of::<Tally>(), 32);
    }
}
