//! Exactly one ioctl for each exit, counted by strace from outside beside the counter that users see.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::process::Command;

#[test]
fn test_run_thousand_exits_make_one_ioctl_each() {
    let log = std::env::temp_dir().join(format!("hyperpy-ioctls-{}", std::process::id()));
    let traced = Command::new("strace")
        .args(["-f", "-e", "trace=ioctl", "-e", "signal=none", "-o"])
        .arg(&log)
        .args([env!("CARGO_BIN_EXE_hyperpy-bench"), "drive", "1000"])
        .output()
        .unwrap();
    let calls = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_file(&log).unwrap();
    let said = String::from_utf8(traced.stdout).unwrap();
    assert!(traced.status.success(), "{said}");
    let ioctls: Vec<&str> = calls.lines().filter(|line| line.contains(" ioctl(")).collect();
    let is_run = |line: &&str| line.contains(", KVM_RUN, ");
    let first = ioctls.iter().position(is_run).unwrap();
    let last = ioctls.iter().rposition(is_run).unwrap();
    // From the first entry to the last, on whatever descriptor: nothing but entries.
    let between = &ioctls[first..=last];
    assert!(between.iter().all(is_run), "{between:#?}");
    // The tick interrupts an entry now and then: that is an entry without an access.
    let accesses = between.iter().filter(|line| line.ends_with("= 0")).count();
    assert_eq!(accesses, 1000);
    assert_eq!(said.trim(), between.len().to_string());
}
