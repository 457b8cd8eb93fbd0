//! Which processors the server gets and which the harness, so that neither is measured in the other's stead.
//!
//! It owns the affinity of this thread, which children inherit. It refuses to pin threads one by one. Used by
//! `compare`.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::failure::Failure;

/// Who runs where. Children inherit the affinity of this thread, so it is set before each is started.
pub(crate) struct Processors {
    all: CpuSet,
    /// Server and harness; `None`: everybody everywhere.
    split: Option<(CpuSet, CpuSet)>,
    servers: usize,
}

impl Processors {
    /// The first `servers` processors for the server.
    ///
    /// # Errors
    /// There are not enough processors to leave one for the harness.
    pub(crate) fn split(servers: usize) -> Result<Processors, Failure> {
        let failed = || Failure::machine("processor affinity");
        let all = sched_getaffinity(Pid::from_raw(0)).map_err(|errno| failed()(errno.into()))?;
        if servers == 0 {
            return Ok(Processors { all, split: None, servers });
        }
        let (mut server, mut harness) = (CpuSet::new(), CpuSet::new());
        let mut seen = 0;
        for processor in (0..CpuSet::count()).filter(|&processor| all.is_set(processor).unwrap_or(false)) {
            let side = if seen < servers { &mut server } else { &mut harness };
            side.set(processor).map_err(|errno| failed()(errno.into()))?;
            seen += 1;
        }
        if seen <= servers {
            let wrong =
                format!("--server-processors {servers}: {seen} at hand, one must be left for the harness");
            return Err(Failure::Asked(wrong));
        }
        Ok(Processors { all, split: Some((server, harness)), servers })
    }

    /// From now on children are servers.
    pub(crate) fn be_server(&self) -> Result<(), Failure> {
        Self::be(self.split.as_ref().map_or(&self.all, |(server, _)| server))
    }

    /// From now on children are harnesses, and so is this thread.
    pub(crate) fn be_harness(&self) -> Result<(), Failure> {
        Self::be(self.split.as_ref().map_or(&self.all, |(_, harness)| harness))
    }

    fn be(set: &CpuSet) -> Result<(), Failure> {
        let this = Pid::from_raw(0);
        sched_setaffinity(this, set).map_err(|errno| Failure::machine("processor affinity")(errno.into()))
    }
}

impl std::fmt::Display for Processors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.servers {
            0 => f.write_str("shared by all"),
            servers => write!(f, "{servers} for the server, the rest for the harness"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_processor_for_the_server_leaves_none_for_the_harness() {
        assert!(Processors::split(CpuSet::count()).is_err());
        assert!(Processors::split(0).is_ok_and(|processors| processors.split.is_none()));
    }
}
