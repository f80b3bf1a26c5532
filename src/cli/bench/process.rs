//! Owns reading a process's CPU time and memory from `/proc`. Must not know what it is read for.

use std::io;

/// Clock ticks a second in `/proc/PID/stat`: 100 on every Linux that people run.
const TICKS_PER_SECOND: u64 = 100;

/// CPU time of a process so far, user and system, in microseconds.
pub fn cpu_micros(pid: u32) -> io::Result<u64> {
    cpu_of(&std::fs::read_to_string(format!("/proc/{pid}/stat"))?)
        .ok_or_else(|| io::Error::other("/proc/PID/stat is not as expected"))
}

/// Resident memory of a process in bytes.
pub fn resident_bytes(pid: u32) -> io::Result<u64> {
    resident_of(&std::fs::read_to_string(format!("/proc/{pid}/status"))?)
        .ok_or_else(|| io::Error::other("/proc/PID/status is not as expected"))
}

fn cpu_of(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses and may hold anything, parentheses included.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) * 1_000_000 / TICKS_PER_SECOND)
}

fn resident_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_be_called_anything() {
        let stat = "42 (a) 7 (b) S 1 42 42 0 -1 4194560 901 0 0 0 150 50 0 0 20 0 5 0 100 1 1";
        assert_eq!(cpu_of(stat), Some(2_000_000));
        assert_eq!(cpu_of("42 (a"), None);
    }

    #[test]
    fn memory_is_in_kibibytes() {
        assert_eq!(resident_of("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2 * 1024 * 1024));
        assert!(cpu_micros(std::process::id()).is_ok() && resident_bytes(std::process::id()).is_ok());
    }
}
