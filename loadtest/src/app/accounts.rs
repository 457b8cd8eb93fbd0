//! What an app server was told: counts, the order of events by connection, and a journal of them.
//!
//! It owns the check of what the gateway promises within the life of this process: events of one connection come in the
//! order of their sequence, and only those come again that say so. It refuses to judge across processes; for that there
//! is the journal.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use crate::payload;
use crate::proto::Event;
use crate::proto::event::Occurrence;
use crate::proto::message::Payload;

/// The accounts of all streams.
#[derive(Debug)]
pub(crate) struct Accounts(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    journal: Option<File>,
    /// Lines of the journal that are not written yet.
    lines: Vec<u8>,
    /// The highest sequence of every connection that is open.
    highest: HashMap<String, u32>,
    counts: Counts,
}

/// Sums over all streams.
#[derive(Debug, Default)]
struct Counts {
    streams: u64,
    events: u64,
    opened: u64,
    messages: u64,
    closed: u64,
    /// Events that said that they may be repetitions.
    again: u64,
    /// Events that this process had had before.
    duplicates: u64,
    /// Events that left out others of their connection, or that were repetitions and did not say so.
    violations: u64,
    /// Positions in a stream that were not the next one.
    misplaced: u64,
    gaps: u64,
    decisions: u64,
    deciding: u64,
    deciding_most: u64,
}

impl Accounts {
    /// Empty ones, with a journal that is appended to.
    ///
    /// # Errors
    /// The journal cannot be opened.
    pub(super) fn new(journal: Option<&Path>) -> io::Result<Accounts> {
        let journal = journal.map(|path| File::options().create(true).append(true).open(path)).transpose()?;
        Ok(Accounts(Mutex::new(Book { journal, ..Book::default() })))
    }

    fn with<R>(&self, act: impl FnOnce(&mut Book) -> R) -> R {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A stream has begun.
    pub(super) fn begin_stream(&self) {
        self.with(|book| book.counts.streams += 1);
    }

    /// The gateway has given up events.
    pub(super) fn note_gap(&self) {
        self.with(|book| book.counts.gaps += 1);
    }

    /// An event came, in a stream whose last position was `before`.
    pub(super) fn note(&self, event: &Event, before: u64) {
        self.with(|book| book.note(event, before));
    }

    /// Writes the journal as far as it goes: only then may events be acknowledged.
    ///
    /// # Errors
    /// The file takes no more.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.with(|book| {
            if let Some(journal) = &mut book.journal
                && !book.lines.is_empty()
            {
                journal.write_all(&book.lines)?;
                book.lines.clear();
            }
            Ok(())
        })
    }

    /// A decision about a newcomer is begun.
    pub(super) fn begin_decision(&self) {
        self.with(|book| {
            book.counts.decisions += 1;
            book.counts.deciding += 1;
            book.counts.deciding_most = book.counts.deciding_most.max(book.counts.deciding);
        });
    }

    /// A decision is made, or nobody waits for it any more.
    pub(super) fn end_decision(&self) {
        self.with(|book| book.counts.deciding -= 1);
    }

    /// All of it.
    pub(super) fn to_json(&self) -> Value {
        self.with(|book| {
            let counts = &book.counts;
            json!({
                "streams": counts.streams,
                "events": counts.events,
                "opened": counts.opened,
                "messages": counts.messages,
                "closed": counts.closed,
                "again": counts.again,
                "duplicates": counts.duplicates,
                "violations": counts.violations,
                "misplaced": counts.misplaced,
                "gaps": counts.gaps,
                "decisions": counts.decisions,
                "decisions_at_once": counts.deciding_most,
                "still_open": book.highest.len(),
            })
        })
    }
}

impl Book {
    fn note(&mut self, event: &Event, before: u64) {
        let counts = &mut self.counts;
        counts.events += 1;
        counts.again += u64::from(event.again);
        counts.misplaced += u64::from(event.position != before + 1);
        let highest = self.highest.get(&event.connection).copied();
        match highest {
            Some(highest) if event.sequence <= highest => {
                counts.duplicates += 1;
                counts.violations += u64::from(!event.again);
            }
            Some(highest) => counts.violations += u64::from(event.sequence != highest + 1),
            // It may have been another app server's before; but nothing is before opened.
            None => {
                counts.violations += u64::from(
                    (event.sequence == 1) != matches!(event.occurrence, Some(Occurrence::Opened(_))),
                );
            }
        }
        if matches!(event.occurrence, Some(Occurrence::Closed(_))) {
            self.highest.remove(&event.connection);
        } else if let Some(highest) = self.highest.get_mut(&event.connection) {
            *highest = event.sequence.max(*highest);
        } else {
            self.highest.insert(event.connection.clone(), event.sequence);
        }
        let (kind, sender) = match &event.occurrence {
            Some(Occurrence::Opened(_)) => {
                counts.opened += 1;
                ("opened", None)
            }
            Some(Occurrence::Message(message)) => {
                counts.messages += 1;
                ("message", message.payload.as_ref().and_then(sender_of))
            }
            Some(Occurrence::Closed(_)) => {
                counts.closed += 1;
                ("closed", None)
            }
            None => ("nothing", None),
        };
        if self.journal.is_some() {
            let (sender, number) = sender.unwrap_or_default();
            let Event { connection, sequence, .. } = event;
            // A vector takes every line.
            let _ = writeln!(self.lines, "{kind} {connection} {sequence} {sender} {number}");
        }
    }
}

/// Who sent a message of the harness, and the how-manieth it is.
pub(super) fn sender_of(payload: &Payload) -> Option<(u32, u32)> {
    let bytes = match payload {
        Payload::Text(text) => text.as_bytes(),
        Payload::Binary(bytes) => bytes,
    };
    payload::read(bytes, bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Closed, Message, Opened};

    fn event(connection: &str, sequence: u32, again: bool, occurrence: Occurrence) -> Event {
        Event {
            connection: connection.into(),
            sequence,
            again,
            occurrence: Some(occurrence),
            ..Event::default()
        }
    }

    fn told(events: &[Event]) -> Value {
        let accounts = Accounts::new(None).unwrap();
        for (position, event) in (1..).zip(events) {
            accounts.note(&Event { position, ..event.clone() }, position - 1);
        }
        accounts.to_json()
    }

    fn opened() -> Occurrence {
        Occurrence::Opened(Opened::default())
    }

    fn message() -> Occurrence {
        Occurrence::Message(Message::default())
    }

    #[test]
    fn events_in_order_violate_nothing_and_closed_ones_are_forgotten() {
        let closed = Occurrence::Closed(Closed::default());
        let counts = told(&[
            event("a", 1, false, opened()),
            event("b", 7, false, message()),
            event("a", 2, false, message()),
            event("a", 2, true, message()),
            event("a", 3, false, closed),
        ]);
        assert_eq!(counts["violations"], 0, "{counts}");
        assert_eq!((&counts["again"], &counts["duplicates"]), (&json!(1), &json!(1)));
        assert_eq!(counts["still_open"], 1);
    }

    #[test]
    fn what_is_left_out_or_repeated_in_silence_or_before_opened_is_a_violation() {
        for wrong in [
            vec![event("a", 1, false, opened()), event("a", 3, false, message())],
            vec![event("a", 5, false, message()), event("a", 5, false, message())],
            vec![event("a", 1, false, message())],
            vec![event("a", 2, false, opened())],
        ] {
            assert_eq!(told(&wrong)["violations"], 1, "{wrong:?}");
        }
    }
}
