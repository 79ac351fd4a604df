use super::*;

fn code(text: &str) -> String {
    let source = Source::new("a/src/x.rs", text);
    String::from_utf8(source.code().to_vec()).unwrap()
}

fn squeezed(text: &str) -> String {
    code(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn comments_and_literals_are_not_code() {
    assert_eq!(squeezed("a /* b /* c */ d */ e // f\ng"), "a e g");
    assert_eq!(squeezed(r#"a("b \" c"); d"#), "a( ); d");
    assert_eq!(squeezed("x(r#\"a \" b\"#, br\"c\\\", y)"), "x( , , y)");
    assert_eq!(squeezed("r#fn + for_r"), "r#fn + for_r");
}

#[test]
fn characters_are_told_from_lifetimes() {
    assert_eq!(squeezed("f::<'a>('{', '\\'', 'é', b'}') { }"), "f::< a>( , , , b ) { }");
}

#[test]
fn all_views_keep_the_lines() {
    let text = "a\n/* b\n c */ d\n\"e\nf\" g\n";
    assert_eq!(code(text).len(), text.len());
    let source = Source::new("a/src/x.rs", text);
    assert_eq!(source.line_count(), 5);
    assert_eq!(source.words("d").map(|at| source.line_of(at)).collect::<Vec<_>>(), [3]);
    assert_eq!(source.words("g").map(|at| source.line_of(at)).collect::<Vec<_>>(), [5]);
    assert_eq!(source.comment(2), "/* b");
}

#[test]
fn items_end_at_their_brace_or_semicolon() {
    let text = "fn f(a: [u8; 3]) -> bool { if a { b } else { c } } fn g();";
    let source = Source::new("a/src/x.rs", text);
    let first = source.item_end(0).unwrap();
    assert_eq!(&text[..first], "fn f(a: [u8; 3]) -> bool { if a { b } else { c } }");
    assert_eq!(source.item_end(first), Some(text.len()));
    assert_eq!(source.item_end(text.len()), None);
}

#[test]
fn test_items_are_found() {
    let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n";
    let source = Source::new("a/src/x.rs", text);
    let of_tests: Vec<bool> = (1..=6).map(|line| source.is_test_line(line)).collect();
    assert_eq!(of_tests, [false, true, true, true, true, false]);
    assert!(Source::new("a/tests/x.rs", text).is_test_line(1));
    assert!(Source::new("a/src/x_test.rs", text).is_test_line(1));
}

#[test]
fn a_rule_is_lifted_only_with_a_reason() {
    let text =
        "a // tidy: allow(sleep): the child has no signal\nb // tidy: allow(sleep):\nc // tidy: allow(sleep)";
    let source = Source::new("a/src/x.rs", text);
    assert!(source.allows("sleep", 1));
    assert!(!source.allows("length", 1));
    assert!(!source.allows("sleep", 2));
    assert!(!source.allows("sleep", 3));
}

#[test]
fn a_comment_above_lifts_a_rule_as_well() {
    let source = Source::new(
        "a/src/x.rs",
        "// tidy: allow(sleep): no signal\na\nb // tidy: allow(sleep): here only\nc",
    );
    let allowed: Vec<bool> = (1..=4).map(|line| source.allows("sleep", line)).collect();
    assert_eq!(allowed, [true, true, true, false]);
}
