//! What the examples that are typed at share.

use tokio::sync::mpsc;

/// What is typed, from a thread of its own: reading a terminal blocks.
pub(crate) fn typed_lines() -> mpsc::Receiver<String> {
    let (lines, typed) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                break;
            }
        }
    });
    typed
}
