//! A client that says whatever bytes a test wants, and hears bytes. Nothing is answered by itself.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, Instant};

use nix::libc::linger;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, setsockopt, socket,
    sockopt,
};

use super::PATIENCE;

/// Opcodes (RFC 6455, section 11.8).
pub(crate) const TEXT: u8 = 1;
/// See [`TEXT`].
pub(crate) const BINARY: u8 = 2;
/// See [`TEXT`].
pub(crate) const CLOSE: u8 = 8;
/// See [`TEXT`].
pub(crate) const PING: u8 = 9;
/// See [`TEXT`].
pub(crate) const PONG: u8 = 10;

/// A TCP connection.
pub(crate) struct Raw {
    stream: TcpStream,
}

/// A masked client frame whose first byte is this one.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | length as u8),
        length @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A good request for this path, with the key of RFC 6455, section 1.3.
pub(crate) fn upgrade_request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: gateway.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

impl Raw {
    /// Connects.
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).unwrap())
    }

    /// Connects from an address of this machine, such as another one of loopback.
    #[track_caller]
    pub(crate) fn connect_from(source: IpAddr, address: SocketAddr) -> Self {
        let socket =
            socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp).unwrap();
        bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0))).unwrap();
        connect(socket.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
        Self::over(socket.into())
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    /// Makes the kernel take little on its behalf, so that a writer soon finds no room.
    pub(crate) fn take_little(&self) {
        setsockopt(&self.stream.as_fd(), sockopt::RcvBuf, &4096).unwrap();
    }

    /// Sends bytes.
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Goes on sending these bytes round and round, of which `sent` have left already, until the kernel takes no more
    /// for this long. How many have left then.
    pub(crate) fn send_until_stuck(&mut self, bytes: &[u8], mut sent: usize, stuck: Duration) -> usize {
        self.stream.set_write_timeout(Some(stuck)).unwrap();
        while let Ok(more) = self.stream.write(&bytes[sent % bytes.len()..]) {
            sent += more;
        }
        sent
    }

    /// Upgrades on this path, and gives the head of the answer.
    #[track_caller]
    pub(crate) fn upgrade(&mut self, path: &str) -> String {
        self.send(upgrade_request(path).as_bytes());
        let head = self.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        head
    }

    /// Reads the head of an answer, and nothing behind it.
    #[track_caller]
    pub(crate) fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).unwrap_or_else(|error| {
                panic!("{error} after {:?}", String::from_utf8_lossy(&head));
            });
            head.extend(byte);
        }
        String::from_utf8(head).unwrap()
    }

    /// Reads a whole answer that ends with the connection: its status, and all of it.
    #[track_caller]
    pub(crate) fn refusal(&mut self) -> (u16, String) {
        let all = String::from_utf8(self.rest()).unwrap();
        let status = all.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("no answer: {all:?}")), all)
    }

    /// Reads one frame: its first byte and its payload.
    #[track_caller]
    pub(crate) fn frame(&mut self) -> (u8, Vec<u8>) {
        self.next_frame().unwrap_or_else(|error| panic!("no frame: {error}"))
    }

    /// The same, or why there was none.
    pub(crate) fn next_frame(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head)?;
        assert_eq!(head[1] & 0x80, 0, "servers do not mask");
        let length = match head[1] {
            126 => {
                let mut length = [0; 2];
                self.stream.read_exact(&mut length)?;
                u64::from(u16::from_be_bytes(length))
            }
            127 => {
                let mut length = [0; 8];
                self.stream.read_exact(&mut length)?;
                u64::from_be_bytes(length)
            }
            length => u64::from(length),
        };
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload)?;
        Ok((head[0], payload))
    }

    /// Expects a goodbye as the next frame: its code and reason.
    #[track_caller]
    pub(crate) fn goodbye(&mut self) -> (u16, String) {
        let (first, payload) = self.frame();
        assert_eq!(first, 0x80 | CLOSE, "not a close frame: {payload:?}");
        (u16::from_be_bytes([payload[0], payload[1]]), String::from_utf8(payload[2..].to_vec()).unwrap())
    }

    /// Everything until the other side ends the connection, by FIN or by reset.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let (mut all, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
        let started = Instant::now();
        // Each read is bounded, but pings could go on for ever.
        while started.elapsed() < PATIENCE {
            match self.stream.read(&mut piece) {
                Ok(0) => return all,
                Ok(bytes) => all.extend_from_slice(&piece[..bytes]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return all,
                Err(error) => panic!("the connection does not end: {error}"),
            }
        }
        panic!("the connection does not end, and goes on to say {} bytes", all.len());
    }

    /// Whether nothing arrives for this long.
    pub(crate) fn is_quiet_for(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).unwrap();
        let quiet = matches!(
            self.stream.peek(&mut [0]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
        );
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        quiet
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        let abort = linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&self.stream.as_fd(), sockopt::Linger, &abort).unwrap();
    }
}
