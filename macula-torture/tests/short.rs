//! A short run under all faults, and a bug that is found.

use std::process::{Command, Output};

fn torture(args: &[&str]) -> Output {
    let run = Command::new(env!("CARGO_BIN_EXE_macula-torture")).args(args).output();
    run.expect("the program was built for this test")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn nothing_is_wrong_after_kills_pauses_cuts_jumps_and_bad_disks() {
    let run = torture(&["--minutes", "0.2", "--nodes", "3"]);
    assert!(run.status.success(), "{}", said(&run));
}

#[test]
fn a_store_that_does_not_sync_is_found() {
    let run = torture(&["--minutes", "0.1", "--nodes", "3", "--plant", "skip-fsync"]);
    assert!(run.status.success() && said(&run).contains("skip-fsync: found"), "{}", said(&run));
}
