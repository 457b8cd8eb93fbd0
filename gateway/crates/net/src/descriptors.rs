//! Descriptor limits and tables: raises the soft limit, and gives a thread a table of its own.
//!
//! With a table per shard the limit counts per shard, and accept and close share no lock. The order matters: every
//! poll and waker is made before the first thread takes its table, each thread takes it before it opens anything, and
//! the rest of the program opens nothing until all have. The wakers of an asynchronous runtime count: a shard that
//! answers a task wakes it by writing to a descriptor of the runtime's, by number. So do signal handlers, which write
//! to a pipe from whatever thread the signal found: [`block_signals`] keeps it off threads with a table of their own.

use std::io;
use std::os::fd::RawFd;

use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::SigSet;

use crate::sys;

/// Raises the soft descriptor limit of the process to the hard one, and returns it.
///
/// # Errors
/// The limits cannot be read or set.
pub fn raise_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// Keeps signals off the calling thread; others take them.
///
/// # Errors
/// As the system says.
pub fn block_signals() -> io::Result<()> {
    Ok(SigSet::all().thread_block()?)
}

/// Gives the calling thread a table of its own that holds the standard descriptors and `keep`. To be called at the
/// start of a thread, before it opens or owns any other descriptor.
///
/// # Errors
/// Neither `close_range` nor `unshare` is allowed here.
pub fn take_own_table(keep: &[RawFd]) -> io::Result<()> {
    let first = keep.iter().copied().max().unwrap_or(2).max(2) + 1;
    if sys::close_range_unshare(first).is_err() {
        unshare(CloneFlags::CLONE_FILES)?;
    }
    for descriptor in open_descriptors()? {
        if descriptor > 2 && !keep.contains(&descriptor) {
            nix::unistd::close(descriptor)?;
        }
    }
    Ok(())
}

/// The descriptors of the calling thread's table.
///
/// # Errors
/// `/proc` is not there.
pub fn open_descriptors() -> io::Result<Vec<RawFd>> {
    let table = std::path::Path::new("/proc/thread-self/fd");
    let names: Vec<_> =
        std::fs::read_dir(table)?.filter_map(Result::ok).map(|entry| entry.file_name()).collect();
    // The listing had a descriptor itself, closed by now, whose number the next one opened will have.
    let still_open = names.iter().filter(|name| table.join(name).symlink_metadata().is_ok());
    Ok(still_open.filter_map(|name| name.to_str()?.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_thread_with_its_own_table_keeps_only_what_it_names() {
        let (kept, other) =
            (std::fs::File::open("/dev/null").unwrap(), std::fs::File::open("/dev/null").unwrap());
        let (keep, gone) = (kept.as_raw_fd(), other.as_raw_fd());
        let seen = std::thread::spawn(move || {
            take_own_table(&[keep]).unwrap();
            open_descriptors().unwrap()
        });
        let seen = seen.join().unwrap();
        assert!(seen.contains(&keep) && !seen.contains(&gone), "{seen:?}");
        assert!(open_descriptors().unwrap().contains(&gone), "the rest of the process keeps its own");
        // The thread's table went with the thread; the file of this one is still usable.
        other.metadata().unwrap();
    }

    #[test]
    fn the_soft_limit_is_the_hard_one_afterwards() {
        let limit = raise_limit().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap().0, limit);
    }
}
