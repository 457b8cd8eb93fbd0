//! The machine a figure was measured on, so that nobody compares figures of two.
//!
//! It owns the fingerprint in every report. It refuses host names and addresses. Used by `report` and by the
//! results of a comparison.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::probe::kib_field;

/// The machine a figure was measured on.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Machine {
    /// Processor model.
    pub(crate) processor: String,
    /// Processors this process may use.
    pub(crate) processors: usize,
    /// Kernel release.
    pub(crate) kernel: String,
    /// Memory, bytes.
    pub(crate) memory_bytes: u64,
    /// Version of this program, and the revision that it was built from where that is known.
    pub(crate) loadtest: String,
}

impl Machine {
    /// The machine at hand; what cannot be read is left empty.
    pub(crate) fn here() -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = cpuinfo
            .lines()
            .find_map(|line| {
                line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim().to_owned())
            })
            .unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
        Machine {
            processor,
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            kernel,
            memory_bytes: kib_field(&meminfo, "MemTotal:").unwrap_or(0) * 1024,
            loadtest: concat!(env!("CARGO_PKG_VERSION"), env!("LOADTEST_REVISION")).to_owned(),
        }
    }

    /// The same in words, for tables.
    pub(crate) fn rows(&self) -> Vec<(String, String)> {
        let rows = [
            ("processor", self.processor.clone()),
            ("processors", self.processors.to_string()),
            ("kernel", self.kernel.clone()),
            ("memory", format!("{:.1} GiB", self.memory_bytes as f64 / f64::from(1 << 30))),
            ("loadtest", self.loadtest.clone()),
        ];
        rows.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_fingerprint() {
        let machine = Machine::here();
        assert!(machine.processors > 0 && machine.memory_bytes > 0 && !machine.kernel.is_empty());
        assert_eq!(machine.rows().len(), 5);
    }
}
