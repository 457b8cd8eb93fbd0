//! The shadow: who is in which channel, what was said, and what each client must have heard.
//!
//! A *line* is one message, a *stream* everything one speaker says to one place: a client to its room (or its echo), the
//! API to a channel, the API to one connection. Each stream is heard in order, without repeats, by nobody outside of
//! its channel, and without gaps by whoever was in it all the time. Knows nothing of the shard; told by the world.

use std::collections::HashMap;

use crate::frames::TEXT;

/// Where a stream leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Channel(String),
    /// Back to the client, or from the API to it.
    Client(usize),
    Nowhere,
}

#[derive(Debug)]
struct Line {
    payload: Vec<u8>,
    opcode: u8,
    /// The step at which it was complete.
    at: u64,
    /// The API was told that it did not get through.
    refused: bool,
    /// It does not say what it is, so routes may.
    is_undeclared: bool,
}

impl Line {
    /// What it is to a client whose route asks for this; `None` where it cannot be that.
    fn opcode_for(&self, asked: Option<u8>) -> Option<u8> {
        match asked {
            Some(TEXT) if self.is_undeclared => (self.opcode == TEXT).then_some(TEXT),
            Some(asked) if self.is_undeclared => Some(asked),
            _ => Some(self.opcode),
        }
    }
}

#[derive(Debug)]
struct Stream {
    place: Place,
    /// The client that must not hear it.
    excluded: Option<usize>,
    lines: Vec<Line>,
    /// How many of its lines the shard has taken, once its speaker has ended.
    taken: Option<usize>,
    /// Lines may be dropped for a rate: any, but then for everybody.
    drops: bool,
}

#[derive(Debug)]
struct Membership {
    channel: String,
    from: u64,
    until: Option<u64>,
}

/// The shadow.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// Counts what happens: everything in one step happened at once.
    pub(crate) step: u64,
    streams: Vec<Stream>,
    memberships: HashMap<usize, Vec<Membership>>,
    /// The line numbers of each stream that each client has heard.
    heard: HashMap<(usize, usize), Vec<usize>>,
    /// Clients that may miss messages of channels.
    missing: std::collections::HashSet<usize>,
    /// What the routes of clients ask of lines that do not say what they are, as an opcode.
    asked: HashMap<usize, u8>,
}

impl Model {
    pub(crate) fn stream(&mut self, place: Place, excluded: Option<usize>) -> usize {
        self.streams.push(Stream { place, excluded, lines: Vec::new(), taken: None, drops: false });
        self.streams.len() - 1
    }

    /// Lines of this stream may be dropped.
    pub(crate) fn may_drop(&mut self, stream: usize) {
        self.streams[stream].drops = true;
    }

    /// Lines of a stream.
    pub(crate) fn count_said(&self, stream: usize) -> usize {
        self.streams[stream].lines.len()
    }

    /// Whether anybody has heard a line, and so it was not dropped.
    fn is_known(&self, stream: usize, line: usize) -> bool {
        self.heard.iter().any(|((_, id), heard)| *id == stream && heard.binary_search(&line).is_ok())
    }

    /// So many lines of a stream were taken: nobody has heard more, and who could hear all has heard as many.
    pub(crate) fn check_taken(&self, id: usize, taken: usize, live: &[usize]) -> Result<(), String> {
        let stream = &self.streams[id];
        let lines = stream.lines.len();
        let known = (0..lines).filter(|line| self.is_known(id, *line)).count();
        let Some(first) = stream.lines.first() else { return Ok(()) };
        let hears_all = |client: usize| match &stream.place {
            Place::Client(place) => *place == client,
            Place::Channel(channel) => {
                let from_the_start = |m: &Membership| m.channel == *channel && m.from < first.at;
                stream.excluded != Some(client)
                    && !self.missing.contains(&client)
                    && self.memberships.get(&client).is_some_and(|all| {
                        all.iter().any(from_the_start) && all.iter().all(|m| m.until.is_none())
                    })
            }
            Place::Nowhere => false,
        };
        for client in live.iter().copied().filter(|client| hears_all(*client)) {
            let heard = self.heard.get(&(client, id)).map_or(0, Vec::len);
            if heard != taken {
                return Err(format!("stream {id}: client {client} heard {heard} of {taken} that were taken"));
            }
        }
        if known > taken || taken > lines {
            return Err(format!("stream {id}: {known} heard of {taken} taken of {lines}"));
        }
        Ok(())
    }

    /// The payload of the next line, with so much padding behind what identifies it.
    pub(crate) fn compose(&self, stream: usize, opcode: u8, padding: usize) -> Vec<u8> {
        let number = self.streams[stream].lines.len();
        let mut payload = format!("{stream} {number} ").into_bytes();
        if opcode == crate::frames::TEXT {
            payload.extend("é".bytes().cycle().take(padding & !1));
        } else {
            payload.extend((0..padding).map(|place| (place * 7 + number) as u8));
        }
        payload
    }

    /// A line was said. Its number.
    pub(crate) fn said(&mut self, stream: usize, opcode: u8, payload: Vec<u8>) -> usize {
        let line = Line { payload, opcode, at: self.step, refused: false, is_undeclared: false };
        self.streams[stream].lines.push(line);
        self.streams[stream].lines.len() - 1
    }

    /// The line that was said last does not say what it is.
    pub(crate) fn said_without_a_kind(&mut self, stream: usize) {
        if let Some(line) = self.streams[stream].lines.last_mut() {
            line.is_undeclared = true;
        }
    }

    /// The route of a client asks for this opcode.
    pub(crate) fn asks(&mut self, client: usize, opcode: u8) {
        self.asked.insert(client, opcode);
    }

    /// A line that was complete only later.
    pub(crate) fn completed(&mut self, stream: usize) {
        let step = self.step;
        if let Some(line) = self.streams[stream].lines.last_mut() {
            line.at = step;
        }
    }

    pub(crate) fn refused(&mut self, stream: usize, line: usize) {
        self.streams[stream].lines[line].refused = true;
    }

    /// The speaker has ended, and so many of its messages had been taken.
    pub(crate) fn ended(&mut self, stream: usize, taken: usize) -> Result<(), String> {
        let lines = self.streams[stream].lines.len();
        self.streams[stream].taken = Some(taken);
        // A message that was never finished is among the lines, and never among those taken.
        if taken > lines { Err(format!("took {taken} of {lines} messages")) } else { Ok(()) }
    }

    pub(crate) fn joined(&mut self, client: usize, channel: &str) {
        let from = self.step;
        let memberships = self.memberships.entry(client).or_default();
        if !memberships.iter().any(|m| m.channel == channel && m.until.is_none()) {
            memberships.push(Membership { channel: channel.into(), from, until: None });
        }
    }

    /// How many lines a client has heard.
    pub(crate) fn count_heard(&self, client: usize) -> usize {
        self.heard.iter().filter(|((who, _), _)| *who == client).map(|(_, lines)| lines.len()).sum()
    }

    /// A client may miss messages of its channels, and nothing else, from now on.
    pub(crate) fn may_miss(&mut self, client: usize) {
        self.missing.insert(client);
    }

    /// Whether it ever was in a channel.
    pub(crate) fn knows(&self, client: usize) -> bool {
        self.memberships.contains_key(&client)
    }

    pub(crate) fn left(&mut self, client: usize, channel: &str) {
        let until = Some(self.step);
        let memberships = self.memberships.entry(client).or_default();
        for membership in memberships.iter_mut().filter(|m| m.channel == channel && m.until.is_none()) {
            membership.until = until;
        }
    }

    /// A client was told something.
    pub(crate) fn hear(&mut self, client: usize, opcode: u8, payload: &[u8]) -> Result<(), String> {
        let mut parts = payload.splitn(3, |byte| *byte == b' ');
        let mut number = || -> Option<usize> { str::from_utf8(parts.next()?).ok()?.parse().ok() };
        let (Some(id), Some(number)) = (number(), number()) else {
            return Err(format!("client {client} heard what nobody said"));
        };
        let stream = self.streams.get(id).ok_or("a stream that does not exist")?;
        let line =
            stream.lines.get(number).ok_or_else(|| format!("stream {id}: line {number} was not said"))?;
        let what = format!("client {client}, stream {id}, line {number}");
        if line.payload != payload || line.opcode_for(self.asked.get(&client).copied()) != Some(opcode) {
            return Err(format!("{what}: changed on its way"));
        }
        if stream.excluded == Some(client) {
            return Err(format!("{what}: hears itself"));
        }
        let allowed = match &stream.place {
            Place::Channel(channel) => self.memberships.get(&client).is_some_and(|memberships| {
                memberships.iter().any(|m| m.channel == *channel && m.until.is_none_or(|end| end >= line.at))
            }),
            Place::Client(other) => *other == client,
            Place::Nowhere => false,
        };
        if !allowed {
            return Err(format!("{what}: is not meant for it ({:?})", stream.place));
        }
        let heard = self.heard.entry((client, id)).or_default();
        let last = heard.last().copied();
        heard.push(number);
        match last {
            Some(last) if number <= last => Err(format!("{what}: heard behind line {last}")),
            Some(last) if number > last + 1 && !self.may_skip(client, id, last + 1..number) => {
                Err(format!("{what}: a gap behind line {last}"))
            }
            None if number > 0 && !matches!(self.streams[id].place, Place::Channel(_)) => {
                let fine = self.may_skip(client, id, 0..number);
                if fine { Ok(()) } else { Err(format!("{what}: does not begin at the beginning")) }
            }
            _ => Ok(()),
        }
    }

    /// Which line of which stream this is.
    pub(crate) fn find(&self, opcode: u8, payload: &[u8]) -> Result<(usize, usize), String> {
        let mut parts = payload.splitn(3, |byte| *byte == b' ');
        let mut number = || -> Option<usize> { str::from_utf8(parts.next()?).ok()?.parse().ok() };
        let (Some(id), Some(number)) = (number(), number()) else { return Err("nobody said that".into()) };
        let line = self.streams.get(id).and_then(|stream| stream.lines.get(number));
        let line = line.ok_or_else(|| format!("stream {id}: line {number} was not said"))?;
        let is_same = line.payload == payload && line.opcode == opcode;
        if is_same {
            Ok((id, number))
        } else {
            Err(format!("stream {id}, line {number}: changed on its way"))
        }
    }

    /// Lines said so far.
    pub(crate) fn lines(&self, stream: usize) -> usize {
        self.streams[stream].lines.len()
    }

    /// Whether a client may miss these lines: they did not get through, or it was away meanwhile.
    fn may_skip(&self, client: usize, stream: usize, lines: std::ops::Range<usize>) -> bool {
        let stream = &self.streams[stream];
        let was_away = match &stream.place {
            Place::Channel(channel) => self
                .memberships
                .get(&client)
                .is_some_and(|m| m.iter().any(|m| m.channel == *channel && m.until.is_some())),
            _ => false,
        };
        let misses = matches!(stream.place, Place::Channel(_)) && self.missing.contains(&client);
        let asked = self.asked.get(&client).copied();
        let is_not_for_it = |line: &Line| line.refused || line.opcode_for(asked).is_none();
        was_away || misses || stream.drops || stream.lines[lines].iter().all(is_not_for_it)
    }

    /// Everything has come to rest: a client that lives has heard all it should have.
    pub(crate) fn check_complete(&self, client: usize) -> Result<(), String> {
        for (id, stream) in self.streams.iter().enumerate() {
            let from = match &stream.place {
                Place::Client(place) if *place == client => 0,
                Place::Channel(channel) if stream.excluded != Some(client) => {
                    let memberships = self.memberships.get(&client).map_or(&[][..], |m| &m[..]);
                    match memberships.iter().find(|m| m.channel == *channel && m.until.is_none()) {
                        Some(membership) => membership.from,
                        None => continue,
                    }
                }
                _ => continue,
            };
            let taken = stream.taken.filter(|_| !stream.drops).unwrap_or(stream.lines.len());
            let heard = self.heard.get(&(client, id));
            for (number, line) in stream.lines[..taken].iter().enumerate() {
                let misses = matches!(stream.place, Place::Channel(_)) && self.missing.contains(&client);
                let due = line.at > from
                    && !line.refused
                    && line.opcode_for(self.asked.get(&client).copied()).is_some()
                    && !misses
                    && (!stream.drops || self.is_known(id, number));
                let was_heard = heard.is_some_and(|heard| heard.binary_search(&number).is_ok());
                if due && !was_heard {
                    return Err(format!("client {client} never heard line {number} of stream {id}"));
                }
            }
        }
        Ok(())
    }
}
