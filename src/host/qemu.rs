//! The qemu process of a domain: found by the domain's uuid, and killed where a crash is played.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// The qemu that runs a domain on this machine, under whichever libvirt.
pub fn of_domain(uuid: &str) -> Option<Pid> {
    let processes = fs::read_dir("/proc").ok()?;
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| runs(*pid, uuid)).find_map(Pid::from_raw)
}

/// Ends it as a crash would: it comes to writing nothing back. False if there is none.
pub fn kill(uuid: &str) -> bool {
    of_domain(uuid).is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
}

fn runs(pid: i32, uuid: &str) -> bool {
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let words: Vec<_> = line.split(|byte| *byte == 0).collect();
    let program = words.first().and_then(|path| path.rsplit(|byte| *byte == b'/').next());
    program.is_some_and(|name| name.starts_with(b"qemu-system-") || name == b"qemu-kvm")
        && words.windows(2).any(|pair| pair[0] == b"-uuid" && pair[1] == uuid.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_qemu_is_never_found() {
        // this process has the words somewhere, but is no qemu
        assert_eq!(of_domain("00000000-0000-4000-8000-000000000000"), None);
        assert!(!kill("00000000-0000-4000-8000-000000000000"));
    }
}
