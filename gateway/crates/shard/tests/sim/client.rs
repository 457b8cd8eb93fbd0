//! A WebSocket client by script: it shakes hands well or badly, speaks, breaks rules, answers or not, and leaves.
//!
//! Owns what one client knows and has done ([`Facts`]), and checks every byte it is sent as it comes: valid frames, only
//! behind a 101, nothing behind a close frame, pongs for its pings in their order, no frame cut in half by an end.
//! Refuses to know other clients. Driven by the world once a tick at least, so that a healthy one is never late.

use std::collections::VecDeque;
use std::net::IpAddr;

use bridge::id::{Address, ConnId};

use crate::frames::{self, Decoder, Said};
use crate::script::{Stream, Tcp};

/// How far a client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Waits for the answer to its request.
    Greeting,
    /// Has read a 101.
    Open,
    /// Has read another status.
    Refused(u16),
}

/// What it has done, and so what may be done to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// Left pings unanswered.
    pub(crate) mute: bool,
    /// Did not read for a while.
    pub(crate) stopped_reading: bool,
    /// The close code of the rule it broke.
    pub(crate) violated: Option<u16>,
    /// Sent a close frame, with this code.
    pub(crate) said_close: Option<u16>,
    pub(crate) hung_up: bool,
    pub(crate) reset: bool,
    /// Codes by which others asked to close it.
    pub(crate) api_codes: Vec<u16>,
    /// Statuses that its request has earned; none: it is a good one.
    pub(crate) refusals: Vec<u16>,
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) number: usize,
    pub(crate) shard: usize,
    pub(crate) peer: IpAddr,
    pub(crate) path: String,
    pub(crate) tcp: Tcp,
    pub(crate) stage: Stage,
    pub(crate) facts: Facts,
    pub(crate) id: Option<Address>,
    /// The close frame it has read, with its code.
    pub(crate) close: Option<Option<u16>>,
    pub(crate) stream: Stream,
    pub(crate) reading: bool,
    /// Ticks it takes to answer a ping; `None` for never.
    pub(crate) answers: Option<u32>,
    /// Bytes of its request that it sends at a time.
    pub(crate) pace: usize,
    request: VecDeque<u8>,
    answer: Vec<u8>,
    decoder: Decoder,
    /// The rest of a frame, sent at this tick.
    tail: Option<(u32, Vec<u8>)>,
    pongs: VecDeque<(u32, Vec<u8>)>,
    pings: VecDeque<Vec<u8>>,
    /// Pings may be dropped for a rate, and so many were.
    pub(crate) drops: bool,
    pings_lost: usize,
    /// Everything it was told, in order.
    pub(crate) heard: VecDeque<Said>,
    pub(crate) pings_heard: usize,
}

/// The request of a client for a path.
pub(crate) fn request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: sim\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

impl Client {
    /// A client that will send this request.
    pub(crate) fn new(
        number: usize,
        shard: usize,
        peer: IpAddr,
        path: &str,
        request: &[u8],
        capacity: usize,
    ) -> Self {
        Self {
            number,
            shard,
            peer,
            path: path.into(),
            tcp: Tcp::new(capacity),
            stage: Stage::Greeting,
            facts: Facts::default(),
            id: None,
            close: None,
            stream: Stream::Open,
            reading: true,
            answers: Some(0),
            pace: usize::MAX,
            request: request.iter().copied().collect(),
            answer: Vec::new(),
            decoder: Decoder::default(),
            tail: None,
            pongs: VecDeque::new(),
            pings: VecDeque::new(),
            drops: false,
            pings_lost: 0,
            heard: VecDeque::new(),
            pings_heard: 0,
        }
    }

    /// Does what is due at this tick: sends more of its request, reads, answers. An error is the server's.
    pub(crate) fn act(&mut self, now: u32) -> Result<(), String> {
        self.send_request();
        if self.tail.as_ref().is_some_and(|(due, _)| *due <= now) {
            self.finish_frame();
        }
        if self.reading {
            self.read(now, usize::MAX)?;
        }
        while self.may_speak() && self.pongs.front().is_some_and(|(due, _)| *due <= now) {
            let (_, payload) = self.pongs.pop_front().unwrap();
            self.tcp.send(&frames::whole(frames::PONG, &payload));
        }
        Ok(())
    }

    /// Whether bytes still go to the shard.
    fn is_connected(&self) -> bool {
        !self.facts.hung_up && !self.facts.reset && self.stream == Stream::Open
    }

    fn send_request(&mut self) {
        if self.is_connected() {
            let count = self.pace.min(self.request.len());
            let part: Vec<u8> = self.request.drain(..count).collect();
            self.tcp.send(&part);
        }
    }

    /// Reads up to so many bytes and checks them.
    pub(crate) fn read(&mut self, now: u32, most: usize) -> Result<(), String> {
        let (bytes, stream) = self.tcp.receive(most);
        if self.facts.reset {
            return Ok(());
        }
        self.take(&bytes, now)?;
        if self.stream == Stream::Open && stream != Stream::Open {
            self.stream = stream;
            if stream == Stream::Ended && !self.decoder.is_between_frames() {
                return Err("the stream ended inside a frame".into());
            }
            self.tail = None;
            self.tcp.hang_up(true);
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8], now: u32) -> Result<(), String> {
        match self.stage {
            Stage::Greeting | Stage::Refused(_) => {
                self.answer.extend_from_slice(bytes);
                if self.stage == Stage::Greeting {
                    return self.greeted(now);
                }
                Ok(())
            }
            Stage::Open => {
                self.decoder.feed(bytes);
                self.listen(now)
            }
        }
    }

    fn greeted(&mut self, now: u32) -> Result<(), String> {
        let Some(end) = self.answer.windows(4).position(|window| window == b"\r\n\r\n") else {
            return Ok(());
        };
        let rest = self.answer.split_off(end + 4);
        let head = String::from_utf8(self.answer.clone()).map_err(|error| error.to_string())?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        match status {
            Some(101) => {
                let id = head.lines().find_map(|line| line.strip_prefix("Gateway-Connection: "));
                let id: ConnId = id.ok_or("no id")?.parse().map_err(|error| format!("{error}"))?;
                self.id = Some(id.address);
                self.stage = Stage::Open;
                self.decoder.feed(&rest);
                self.listen(now)
            }
            Some(status) => {
                self.stage = Stage::Refused(status);
                self.answer = rest;
                Ok(())
            }
            None => Err(format!("an answer that is none: {head}")),
        }
    }

    fn listen(&mut self, now: u32) -> Result<(), String> {
        while let Some(said) = self.decoder.next()? {
            match &said {
                Said::Ping(payload) => {
                    self.pings_heard += 1;
                    if let Some(delay) = self.answers {
                        self.pongs.push_back((now + delay, payload.clone()));
                    }
                }
                Said::Pong(payload) => {
                    let of = |ping: &Vec<u8>| ping == payload;
                    match self.pings.iter().position(of) {
                        Some(lost) if lost == 0 || self.drops => {
                            self.pings.drain(..=lost);
                            self.pings_lost += lost;
                        }
                        _ => return Err("a pong that answers no ping, or not the oldest".into()),
                    }
                }
                Said::Close(code) => self.told_to_close(*code),
                Said::Message { .. } => {}
            }
            self.heard.push_back(said);
        }
        Ok(())
    }

    /// Answers a close frame, unless it was the answer.
    fn told_to_close(&mut self, code: Option<u16>) {
        self.close = Some(code);
        self.pongs.clear();
        if self.may_speak() && self.answers.is_some() {
            self.say_close(code.unwrap_or(1000));
        }
    }

    /// Whether it may put a whole frame on the wire.
    pub(crate) fn may_speak(&self) -> bool {
        self.stage == Stage::Open
            && self.close.is_none_or(|_| self.facts.said_close.is_none())
            && self.may_send()
    }

    /// Whether it may send bytes behind those it has sent.
    fn may_send(&self) -> bool {
        let facts = &self.facts;
        self.is_connected()
            && facts.said_close.is_none()
            && facts.violated.is_none()
            && self.tail.is_none()
            && self.request.is_empty()
    }

    /// Bytes of whole frames.
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        assert!(self.may_send());
        self.tcp.send(bytes);
    }

    /// The first bytes of a frame now, the others at a tick.
    pub(crate) fn say_in_halves(&mut self, bytes: &[u8], cut: usize, due: u32) {
        self.say(&bytes[..cut]);
        self.tail = Some((due, bytes[cut..].to_vec()));
    }

    fn finish_frame(&mut self) {
        if let Some((_, rest)) = self.tail.take()
            && self.is_connected()
        {
            self.tcp.send(&rest);
        }
    }

    /// Whether half a frame is out.
    pub(crate) fn is_between_halves(&self) -> bool {
        self.tail.is_some()
    }

    pub(crate) fn ping(&mut self, payload: &[u8]) -> Vec<u8> {
        self.pings.push_back(payload.to_vec());
        frames::whole(frames::PING, payload)
    }

    /// Pings it waits for the pongs of.
    pub(crate) fn pings_open(&self) -> usize {
        self.pings.len()
    }

    /// Pings that later ones were answered before.
    pub(crate) fn pings_lost(&self) -> usize {
        self.pings_lost
    }

    pub(crate) fn say_close(&mut self, code: u16) {
        self.say(&frames::close(code));
        self.facts.said_close = Some(code);
    }

    /// Sends what no client may, and nothing after it.
    pub(crate) fn violate(&mut self, bytes: &[u8], code: u16) {
        self.say(bytes);
        self.facts.violated = Some(code);
    }

    pub(crate) fn hang_up(&mut self, for_good: bool) {
        self.facts.hung_up = true;
        self.tcp.hang_up(for_good);
    }

    pub(crate) fn reset(&mut self, lose: bool) {
        self.facts.reset = true;
        self.tcp.reset(lose);
    }

    pub(crate) fn stop_reading(&mut self) {
        self.reading = false;
        self.facts.stopped_reading = true;
    }

    pub(crate) fn go_mute(&mut self) {
        self.answers = None;
        self.pongs.clear();
        self.facts.mute = true;
    }

    /// Whether it still takes part: neither side has ended it.
    pub(crate) fn is_live(&self) -> bool {
        self.stage == Stage::Open
            && self.stream == Stream::Open
            && self.close.is_none()
            && !self.facts.hung_up
            && !self.facts.reset
            && self.facts.said_close.is_none()
            && self.facts.violated.is_none()
    }

    /// Whether nothing more will come from or to it.
    pub(crate) fn is_over(&self) -> bool {
        self.tcp.closed().is_some() && (self.stream != Stream::Open || self.facts.reset)
    }
}
