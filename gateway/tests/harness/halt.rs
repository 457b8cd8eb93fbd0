//! Holding up one thread of the program while all others go on: a shard that does not get its turn.

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::Gateway;

/// A thread that stands still until this is dropped. Stays in the test's thread: only the tracer may let go.
pub(crate) struct Halted {
    thread: Pid,
    _here: std::marker::PhantomData<*const ()>,
}

impl Halted {
    /// Halts the thread of this name.
    #[track_caller]
    pub(crate) fn thread(gateway: &Gateway, name: &str) -> Self {
        let threads = std::fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap();
        let mut threads = threads.map(|thread| thread.unwrap());
        let is_named = |thread: &std::fs::DirEntry| {
            std::fs::read_to_string(thread.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        };
        let found = threads.find(is_named).unwrap_or_else(|| panic!("no thread {name}"));
        let thread = Pid::from_raw(found.file_name().to_str().unwrap().parse().unwrap());
        ptrace::seize(thread, ptrace::Options::empty()).expect("this system lets a parent trace its child");
        ptrace::interrupt(thread).unwrap();
        let stopped = waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        assert!(matches!(stopped, WaitStatus::PtraceEvent(..) | WaitStatus::Stopped(..)), "{stopped:?}");
        Self { thread, _here: std::marker::PhantomData }
    }
}

impl Drop for Halted {
    fn drop(&mut self) {
        let _ = ptrace::detach(self.thread, None);
    }
}
