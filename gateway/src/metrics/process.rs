//! Owns the figures of the process as a whole, under the names that every Prometheus client library uses: memory,
//! descriptors, CPU time, start. Read from the kernel at each scrape; what cannot be read keeps its last value.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use metrics::{Gauge, Key, KeyName, Recorder};
use metrics_exporter_prometheus::PrometheusRecorder;
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeVal;
use nix::unistd::{SysconfVar, sysconf};

use super::METADATA;

/// How the process's descriptor tables are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Descriptors {
    /// All threads share one.
    Shared,
    /// Every thread whose name starts with this has its own; all others share the main thread's.
    PerThread {
        /// For instance `shard-`; at most 15 bytes of a thread's name are seen.
        prefix: &'static str,
    },
}

const CPU_SECONDS: &str = "process_cpu_seconds_total";

/// The gauges, and the way to their values.
pub(super) struct Process {
    descriptors: Descriptors,
    resident_bytes: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
}

impl Process {
    /// Describes and registers them.
    pub(super) fn new(recorder: &PrometheusRecorder, descriptors: Descriptors) -> Self {
        let gauge = |name: &'static str, help: &'static str| {
            recorder.describe_gauge(KeyName::from_const_str(name), None, help.into());
            recorder.register_gauge(&Key::from_static_name(name), &METADATA)
        };
        // The clock of the machine, not a kernel file: it differs by the few milliseconds the start has taken.
        let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        gauge("process_start_time_seconds", "When the process started, in seconds since 1970.").set(start);
        Self {
            descriptors,
            resident_bytes: gauge("process_resident_memory_bytes", "Resident memory of the process."),
            open_fds: gauge("process_open_fds", "Open descriptors, summed over all tables of the process."),
            max_fds: gauge("process_max_fds", "Descriptors that may be open, summed over all tables."),
        }
    }

    /// Reads the gauges anew.
    pub(super) fn sample(&self) {
        if let Some(bytes) = resident_bytes() {
            self.resident_bytes.set(bytes as f64);
        }
        let (tables, open) = open_descriptors(self.descriptors);
        self.open_fds.set(open as f64);
        if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
            self.max_fds.set(soft as f64 * tables as f64);
        }
    }

    /// Appends the CPU time: a counter with a fraction, which the recorder's counters do not have.
    #[expect(clippy::unused_self, reason = "reads the process it stands for")]
    pub(super) fn write(&self, exposition: &mut String) {
        let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return };
        let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        let total = seconds(usage.user_time()) + seconds(usage.system_time());
        let _ = writeln!(
            exposition,
            "# HELP {CPU_SECONDS} CPU time of the process, user and system.\n\
             # TYPE {CPU_SECONDS} counter\n{CPU_SECONDS} {total:.6}"
        );
    }
}

/// Resident memory of the process.
pub(crate) fn resident_bytes() -> Option<u64> {
    let pages: u64 = fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    let page_bytes = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(page_bytes).ok()?)
}

/// Number of descriptor tables, and open descriptors in all of them.
fn open_descriptors(descriptors: Descriptors) -> (usize, u64) {
    let main = count(Path::new("/proc/self/fd"));
    let Descriptors::PerThread { prefix } = descriptors else { return (1, main) };
    let Ok(threads) = fs::read_dir("/proc/self/task") else { return (1, main) };
    let owners = threads.flatten().map(|thread| thread.path()).filter(|thread| {
        // A thread may end between two looks at it.
        fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.starts_with(prefix))
    });
    owners.fold((1, main), |(tables, open), thread| (tables + 1, open + count(&thread.join("fd"))))
}

/// Descriptors in one table. Linux 6.2 and later tell it as the folder's size; before, the entries are counted.
fn count(folder: &Path) -> u64 {
    match fs::metadata(folder) {
        Ok(metadata) if metadata.len() > 0 => metadata.len(),
        Ok(_) => fs::read_dir(folder).map_or(0, |entries| entries.count() as u64),
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn resident_memory_is_that_of_a_running_process() {
        let bytes = resident_bytes().unwrap();
        assert!((100_000..1 << 40).contains(&bytes), "{bytes}");
    }

    #[test]
    fn only_threads_with_a_table_of_their_own_are_added() {
        let (started, has_started) = sync_channel::<()>(0);
        let (done, is_done) = sync_channel::<()>(0);
        let thread = std::thread::Builder::new().name("owner-0".to_owned());
        let thread = thread.spawn(move || {
            started.send(()).unwrap();
            let _ = is_done.recv();
        });
        has_started.recv().unwrap();
        assert_eq!(open_descriptors(Descriptors::Shared).0, 1);
        let (tables, open) = open_descriptors(Descriptors::PerThread { prefix: "owner-" });
        assert_eq!(tables, 2);
        assert!(open >= 6, "both look at the same table here, which has at least the standard three: {open}");
        assert_eq!(open_descriptors(Descriptors::PerThread { prefix: "nobody-" }).0, 1);
        drop(done);
        thread.unwrap().join().unwrap();
    }
}
