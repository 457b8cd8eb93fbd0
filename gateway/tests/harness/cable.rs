//! A cable between a gateway and a server, which a test can cut: connections through it end at once, and none is made until it
//! is mended.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Lives for as long as the test.
pub(crate) struct Cable {
    /// Where it begins, on loopback.
    pub(crate) port: u16,
    ends: Arc<Ends>,
}

#[derive(Default)]
struct Ends {
    is_cut: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Cable {
    /// To a server on loopback.
    #[track_caller]
    pub(crate) fn to(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let ends = Arc::<Ends>::default();
        let there = Arc::clone(&ends);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                there.join(near, server);
            }
        });
        Self { port, ends }
    }

    /// Cuts it.
    pub(crate) fn cut(&self) {
        let mut open = self.ends.open.lock().unwrap();
        self.ends.is_cut.store(true, Ordering::SeqCst);
        open.drain(..).for_each(|end| drop(end.shutdown(Shutdown::Both)));
    }

    /// Mends it.
    pub(crate) fn mend(&self) {
        self.ends.is_cut.store(false, Ordering::SeqCst);
    }
}

impl Ends {
    /// Carries what is said either way; hangs up while it is cut, or nobody is there.
    fn join(&self, near: TcpStream, server: u16) {
        let mut open = self.open.lock().unwrap();
        if self.is_cut.load(Ordering::SeqCst) {
            return;
        }
        let Ok(far) = TcpStream::connect(("127.0.0.1", server)) else { return };
        for (from, to) in [(&near, &far), (&far, &near)] {
            let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            std::thread::spawn(move || carry(from, to));
        }
        open.extend([near, far]);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = [0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
