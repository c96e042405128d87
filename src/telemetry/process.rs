//! What the process itself uses, from `/proc` (Linux; elsewhere the figures stay at 0).

use std::fs;

use super::{cells::Gauge, names, registry::Registry};

/// The handles of the `process_*` metrics.
#[derive(Debug)]
pub(super) struct ProcessGauges {
    cpu: Gauge,
    memory: Gauge,
    fds: Gauge,
    max_fds: Gauge,
    start: Gauge,
    threads: Gauge,
}

impl ProcessGauges {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            cpu: registry.resolve(&names::PROCESS_CPU, &[]),
            memory: registry.resolve(&names::PROCESS_MEMORY, &[]),
            fds: registry.resolve(&names::PROCESS_FDS, &[]),
            max_fds: registry.resolve(&names::PROCESS_MAX_FDS, &[]),
            start: registry.resolve(&names::PROCESS_START, &[]),
            threads: registry.resolve(&names::PROCESS_THREADS, &[]),
        }
    }

    /// Reads everything again. What cannot be read keeps its last value.
    pub(super) fn refresh(&self) {
        if let Some(stat) = read("/proc/self/stat").as_deref().and_then(Stat::parse) {
            // Of the right order of magnitude for any process: far from where f64 loses whole numbers.
            #[expect(clippy::cast_precision_loss, reason = "ticks and page counts are far below 2^52")]
            let (ticks, hertz) = (|n: u64| n as f64, rustix::param::clock_ticks_per_second() as f64);
            self.cpu.set(ticks(stat.user_ticks + stat.system_ticks) / hertz);
            self.threads.set(ticks(stat.threads));
            self.memory.set(ticks(stat.resident_pages * rustix::param::page_size() as u64));
            if let Some(boot) = read("/proc/stat").as_deref().and_then(boot_time) {
                self.start.set(ticks(boot) + ticks(stat.start_ticks) / hertz);
            }
        }
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            // The directory that is being read is one of them.
            self.fds.set(u32::try_from(entries.count().saturating_sub(1)).map_or(f64::INFINITY, f64::from));
        }
        if let Some(max) = read("/proc/self/limits").as_deref().and_then(max_fds) {
            self.max_fds.set(max);
        }
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// The fields of `proc_pid_stat(5)` that are of use here.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    user_ticks: u64,
    system_ticks: u64,
    threads: u64,
    start_ticks: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The command's name stands in brackets and may hold anything, brackets and spaces too.
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<_> = fields.split_ascii_whitespace().collect();
        // The manual counts from 1; the first field here is the third there.
        let number = |n: usize| fields.get(n - 3)?.parse().ok();
        Some(Self {
            user_ticks: number(14)?,
            system_ticks: number(15)?,
            threads: number(20)?,
            start_ticks: number(22)?,
            resident_pages: number(24)?,
        })
    }
}

/// When the machine started, in seconds since 1970.
fn boot_time(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// The soft limit of open files.
fn max_fds(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => Some(f64::INFINITY),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_command_is_called() {
        let line = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 9 0 1234 1000000 321 18446744073709551615 1";
        let expected =
            Stat { user_ticks: 150, system_ticks: 50, threads: 9, start_ticks: 1234, resident_pages: 321 };
        assert_eq!(Stat::parse(line), Some(expected));
        assert_eq!(Stat::parse("7 (a) S 1"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn limits_and_boot_time_are_found() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 524288               files\n";
        assert_eq!(max_fds(limits), Some(1024.0));
        assert_eq!(max_fds("Max open files  unlimited unlimited files"), Some(f64::INFINITY));
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\nprocesses 3\n"), Some(1_700_000_000));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_measured() {
        let gauges = ProcessGauges::new(&Registry::new(0, 100));
        gauges.refresh();
        assert!(gauges.memory.value() > 100_000.0);
        assert!(gauges.fds.value() >= 3.0 && gauges.fds.value() <= gauges.max_fds.value());
        assert!(gauges.threads.value() >= 1.0);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((now - gauges.start.value()).abs() < 24.0 * 3600.0, "started at {}", gauges.start.value());
    }
}
