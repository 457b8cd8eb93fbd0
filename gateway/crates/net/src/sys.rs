//! The calls into the system that no dependency wraps, and all the `unsafe` there is.

use std::io;
use std::os::fd::RawFd;

/// Gives the calling thread a descriptor table of its own and closes everything from `first` on in it; what lies above
/// is not even copied. `close_range(2)`, Linux 5.9; unlike `unshare(2)` it is allowed by containers' default filters.
///
/// # Errors
/// The kernel is older, or a filter forbids it.
pub(crate) fn close_range_unshare(first: RawFd) -> io::Result<()> {
    let first = libc::c_uint::try_from(first).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the call takes three integers and touches no memory of ours. That descriptors which safe code believes
    // to own are closed is the caller's contract: it is made at the start of a thread that owns none of them.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_UNSHARE) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives pages that hold nothing but freed memory back to the system, in every arena of the allocator; `false` when there
/// were none. `malloc_trim(3)`, glibc. Each arena is locked while it is gone through.
#[cfg(target_env = "gnu")]
pub(crate) fn trim_heap() -> bool {
    // SAFETY: the call takes an integer, locks what it reads, and changes no memory that is in use.
    unsafe { libc::malloc_trim(0) != 0 }
}

/// Other allocators give back by themselves, or have no such call.
#[cfg(not(target_env = "gnu"))]
pub(crate) const fn trim_heap() -> bool {
    false
}
