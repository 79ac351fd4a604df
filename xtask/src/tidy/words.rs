//! Rules about single lines: nothing unfinished, nothing unbounded, no test that sleeps and hopes.

use super::Finding;
use super::source::Source;

pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = unfinished(source);
    findings.extend(notes(source));
    findings.extend(ignored(source));
    findings.extend(unbounded(source));
    findings.extend(sleeps(source));
    findings.extend(unlimited_decoding(source));
    findings.retain(|finding| !source.allows(finding.rule, finding.line));
    findings.sort_by_key(|finding| finding.line);
    findings
}

fn unfinished(source: &Source) -> Vec<Finding> {
    let finish = ["todo", "unimplemented", "dbg"].into_iter().flat_map(|name| {
        let calls = source.words(name).filter(move |at| source.code().get(at + name.len()) == Some(&b'!'));
        calls.map(move |at| (at, format!("`{name}!` is not for committed code: finish it")))
    });
    finish.map(|(at, advice)| at_offset(source, at, "unfinished", advice)).collect()
}

fn notes(source: &Source) -> Vec<Finding> {
    let of_line = |line: usize| {
        let comment = source.comment(line);
        let mut words = comment.split(|c: char| !c.is_alphanumeric() && c != '_');
        let word = words.find(|word| [concat!("FIX", "ME"), concat!("XX", "X")].contains(word))?;
        let advice = format!("{word}: fix it, or write down as plain text what is missing and why");
        Some(Finding::new(source.path(), line, "unfinished", advice))
    };
    (1..=source.line_count()).filter_map(of_line).collect()
}

fn ignored(source: &Source) -> Vec<Finding> {
    let attributes = source.words("ignore").filter(|at| source.code()[..*at].ends_with(b"#["));
    let advice = "a test that does not run proves nothing: mend it or remove it";
    attributes.map(|at| at_offset(source, at, "ignored", advice)).collect()
}

fn unbounded(source: &Source) -> Vec<Finding> {
    let tokio = ["unbounded_channel", "UnboundedSender", "UnboundedReceiver"];
    let tokio = tokio.into_iter().flat_map(|name| source.words(name));
    let others = source.words("unbounded").filter(|at| source.code()[..*at].ends_with(b"::"));
    // The standard library's channel takes no capacity; tokio's, of the same name, must be given one.
    let std = source.words("mpsc").filter(|at| {
        let rest = String::from_utf8_lossy(&source.code()[at + 4..]);
        let call = rest.strip_prefix("::channel").map(|rest| match rest.strip_prefix("::<") {
            Some(generic) => generic.split_once(">(").map_or("", |(_, args)| args),
            None => rest.strip_prefix('(').unwrap_or_default(),
        });
        call.is_some_and(|args| args.trim_start().starts_with(')'))
    });
    let advice =
        "a queue without a bound grows until memory ends: give it a capacity and say what happens when full";
    tokio.chain(others).chain(std).map(|at| at_offset(source, at, "unbounded", advice)).collect()
}

/// Calls of a function named `sleep`, in tests. Under paused time a sleep is an event like any other, so the files whose
/// tests all run under it are free to use tokio's. Timers of the code under test are no matter of this rule.
fn sleeps(source: &Source) -> Vec<Finding> {
    let code = source.code();
    let paused = runs_under_paused_time(source);
    let calls = source.words("sleep").filter(|at| {
        let declared = code[..*at].ends_with(b"fn ");
        let harmless = declared || (paused && !code[..*at].ends_with(b"thread::"));
        code.get(at + 5) == Some(&b'(') && !harmless && source.is_test_line(source.line_of(*at))
    });
    let advice = "wait for the event itself, or run the test under paused time (`start_paused = true`)";
    calls.map(|at| at_offset(source, at, "sleep", advice)).collect()
}

fn runs_under_paused_time(source: &Source) -> bool {
    let attributes =
        source.words("tokio").map(|at| &source.code()[at..]).filter(|rest| rest.starts_with(b"tokio::test"));
    let pauses = |rest: &[u8]| {
        let end = rest.iter().position(|byte| *byte == b']').unwrap_or(rest.len());
        rest[..end].windows(12).any(|window| window == b"start_paused")
    };
    let attributes: Vec<bool> = attributes.map(pauses).collect();
    attributes.iter().all(|paused| *paused) && source.words("start_paused").next().is_some()
}

/// `wire::Message::decode(…)`: prost's own, which knows no limits. Tests may use it.
fn unlimited_decoding(source: &Source) -> Vec<Finding> {
    let code = source.code();
    let calls = source.words("wire").filter(|at| {
        let rest = &code[at + 4..];
        let path = rest
            .iter()
            .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'_'))
            .count();
        rest[..path].ends_with(b"::decode") && !source.is_test_line(source.line_of(*at))
    });
    let advice = "prost's decoder knows no limits: use `macula_proto::decode::<wire::…>`";
    calls.map(|at| at_offset(source, at, "decode", advice)).collect()
}

fn at_offset(source: &Source, at: usize, rule: &'static str, advice: impl Into<String>) -> Finding {
    Finding::new(source.path(), source.line_of(at), rule, advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<(usize, &'static str)> {
        check(&Source::new(path, text)).iter().map(|finding| (finding.line, finding.rule)).collect()
    }

    fn in_source(text: &str) -> Vec<(usize, &'static str)> {
        found("a/src/x.rs", text)
    }

    #[test]
    fn unfinished_code_is_found_but_not_in_strings() {
        assert_eq!(in_source("fn f() {\n    todo!()\n}"), [(2, "unfinished")]);
        assert_eq!(in_source("fn f() { unimplemented!(\"x\"); dbg!(1) }").len(), 2);
        assert_eq!(in_source("// todo! later\nlet s = \"dbg!\"; my_todo!(); todo();"), []);
    }

    #[test]
    fn notes_to_self_are_found_in_comments() {
        assert_eq!(
            in_source(concat!("let a = 1; // FIX", "ME: no\n/* XX", "X */")),
            [(1, "unfinished"), (2, "unfinished")]
        );
        assert_eq!(in_source(concat!("let FIX", "ME = 1; // XX", "XL\n")), []);
    }

    #[test]
    fn ignored_tests_are_found() {
        assert_eq!(in_source("#[test]\n#[ignore]\nfn f() {}"), [(2, "ignored")]);
        assert_eq!(in_source("#[ignore = \"slow\"]\nfn f() {}"), [(1, "ignored")]);
        assert_eq!(in_source("fn ignore() {}"), []);
    }

    #[test]
    fn channels_without_a_bound_are_found() {
        for bad in [
            "mpsc::unbounded_channel()",
            "x: UnboundedSender<u8>",
            "flume::unbounded()",
            "std::sync::mpsc::channel()",
        ] {
            assert_eq!(in_source(bad), [(1, "unbounded")], "{bad}");
        }
        assert_eq!(in_source("mpsc::channel::<u8>()"), [(1, "unbounded")]);
        for good in ["mpsc::channel(8)", "mpsc::channel::<u8>(8)", "oneshot::channel()", "watch::channel(0)"]
        {
            assert_eq!(in_source(good), [], "{good}");
        }
    }

    #[test]
    fn tests_do_not_sleep() {
        assert_eq!(
            found("a/tests/x.rs", "std::thread::sleep(d);\ntokio::time::sleep(d).await;"),
            [(1, "sleep"), (2, "sleep")]
        );
        assert_eq!(in_source("#[cfg(test)]\nmod tests {\n    fn f() { sleep(d) }\n}"), [(3, "sleep")]);
        assert_eq!(in_source("fn f() { sleep(d) }"), []);
        assert_eq!(found("a/tests/x.rs", "sleep_until(d); fn sleep(d: u8) {}"), []);
    }

    #[test]
    fn under_paused_time_tests_may_sleep() {
        let paused = "#[tokio::test(start_paused = true)]\nasync fn f() { tokio::time::sleep(d).await; }";
        assert_eq!(found("a/tests/x.rs", paused), []);
        assert_eq!(
            found("a/tests/x.rs", &format!("{paused}\n#[tokio::test]\nasync fn g() {{}}")),
            [(2, "sleep")]
        );
        assert_eq!(
            found("a/tests/x.rs", &format!("{paused}\nfn g() {{ thread::sleep(d) }}")),
            [(3, "sleep")]
        );
    }

    #[test]
    fn messages_are_decoded_under_limits() {
        assert_eq!(in_source("let body = wire::AliveBody::decode(bytes)?;"), [(1, "decode")]);
        assert_eq!(in_source("wire::AliveBody::decode(bytes)?; // tidy: allow(decode): our own file"), []);
        assert_eq!(in_source("decode::<wire::AliveBody>(bytes)?; wire::AliveBody::default();"), []);
        assert_eq!(found("a/src/x_test.rs", "wire::AliveBody::decode(bytes)"), []);
    }

    #[test]
    fn a_line_may_be_allowed_with_a_reason() {
        let line = "sleep(d); // tidy: allow(sleep): the kernel gives no event for this";
        assert_eq!(found("a/tests/x.rs", line), []);
        assert_eq!(found("a/tests/x.rs", "sleep(d); // tidy: allow(sleep):"), [(1, "sleep")]);
        assert_eq!(found("a/tests/x.rs", "sleep(d); // tidy: allow(unbounded): no"), [(1, "sleep")]);
    }
}
