use std::time::Duration;

use macula_proto::{NodeId, Realm};
use proptest::prelude::*;

use super::*;
use crate::announce::Records as _;
use crate::group::Scope;
use crate::interest::{self, Interests, Want};
use crate::message::{Content, Incoming};

fn filter(text: &str) -> Filter {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn order() -> Payload {
    let json = r#"{"amount": 12.5, "big": 9007199254740991, "who": {"name": "Änne", "tags": ["new", {"vip": true}]},
        "none": null, "off": false, "twice": 1, "twice": {"in": 2}, "a.b": "quoted"}"#;
    Payload::new(json)
        .header("kind", "order")
        .header("kind", "second")
        .header("prio", "7")
        .header("urgent", "true")
}

#[test]
fn fields_are_compared_as_the_documentation_says() {
    for text in [
        r#"header.kind == "order""#,
        r#"header.kind != "second""#,
        "header.prio > 6.5 && header.prio <= 7",
        r#"header.prio > "65""#,
        "header.urgent == true",
        r#"header.kind ^= "ord""#,
        "json.amount > 10 && json.amount < 13",
        "json.big == 9007199254740991",
        r#"json.who.name == "Änne""#,
        r#"json.who.name ^= "Än""#,
        r#"json.who.tags.0 == "new""#,
        "json.who.tags.1.vip",
        "json.who && json.who.tags",
        "json.none == null && !json.none",
        "!json.off && json.off == false",
        "json.twice.in == 2 && !(json.twice == 1)",
        r#"json."a.b" == "quoted""#,
        r#"header."kind" >= "order""#,
        "json.amount != null && json.absent != 3",
        "  ( header.none || header.kind )\n&& !header.none ",
    ] {
        assert!(filter(text).accepts(&order()), "{text}");
    }
    for text in [
        r#"header.kind == "second""#,
        "header.kind > 3",
        "header.none == null",
        r#"json.amount == "12.5""#,
        "json.amount.deeper == 12.5",
        "json.who == null",
        "json.who.tags.2",
        "json.who.tags.name",
        "json.absent < 3 || json.absent >= 3",
        "json.none || json.off",
        r#"json.amount ^= "1""#,
        "header.kind && json.absent || header.none",
    ] {
        assert!(!filter(text).accepts(&order()), "{text}");
    }
}

#[test]
fn content_that_is_no_json_has_no_fields() {
    for content in ["", "{", r#"{"a": 1} x"#, r#"{"a": 1"#, "\u{1}", r#"{"a": 1e999}"#] {
        assert!(!filter("json.a == 1").accepts(&Payload::new(content)), "{content}");
        assert!(filter("!json.a && json.a != 1").accepts(&Payload::new(content)), "{content}");
    }
    assert!(filter("json.1 == 2").accepts(&Payload::new("[1, 2]")));
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(filter("json.0").accepts(&Payload::new(deep.clone())), "what nobody asks for is skipped");
    let bottom = filter(&format!("json{}", ".0".repeat(200)));
    assert!(!bottom.accepts(&Payload::new(deep)), "deeper than the reader goes");
}

#[test]
fn and_binds_more_than_or() {
    let payload = Payload::new("").header("a", "").header("b", "");
    assert!(filter("header.a || header.x && header.x").accepts(&payload));
    assert!(!filter("(header.a || header.x) && header.x").accepts(&payload));
    assert!(filter("!header.x && header.b").accepts(&payload));
}

#[test]
fn errors_say_where_and_which_rule() {
    for (text, says) in [
        ("", "a filter has 1 to 512 bytes, not 0"),
        ("   ", "character 4: the filter ends where a field, `!` or `(` should stand"),
        ("kind == 3", "character 1: a field begins with `header.` or `json.`, which `kind` does not"),
        ("header == 3", "character 1: a field begins with `header.` or `json.`, which `header` does not"),
        ("header.kind = 3", "character 13: a comparison is one of == != < <= > >= ^=, which `=` is not"),
        ("header.", "character 8: the filter ends where a name should stand"),
        ("header.a.b", "character 9: a header has one name; quote it if there are dots in it"),
        (
            "json.a == é",
            "character 11: here stands a number, a text in quotes, true, false or null, which `é` is not",
        ),
        ("json.é", "character 6: here stands a name, which `é` is not"),
        (
            "json.a ==",
            "character 10: the filter ends where a number, a text in quotes, true, false or null should stand",
        ),
        ("json.a == \"x", "character 13: a text ends with a quote, and knows only \\\" and \\\\ as escapes"),
        (r#"json.ä == "x""#, "character 6: here stands a name, which `ä` is not"),
        (
            r#"json."ä" == "\n""#,
            "character 15: a text ends with a quote, and knows only \\\" and \\\\ as escapes",
        ),
        ("json.a == 01", "character 11: `01` is no number as in JSON, or too large"),
        ("json.a == 1e999", "character 11: `1e999` is no number as in JSON, or too large"),
        ("json.a < true", "character 10: `<`, `<=`, `>` and `>=` compare with a number or a text"),
        ("json.a ^= 1", "character 11: `^=` compares with a text"),
        ("(json.a", "character 8: the filter ends where `)`, `&&` or `||` should stand"),
        ("json.a json.b", "character 8: here stands `&&`, `||` or the end, which `json.b` is not"),
        ("json.a)", "character 7: here stands `&&`, `||` or the end, which `)` is not"),
        ("json.a & json.b", "character 8: here stands `&&`, `||` or the end, which `&` is not"),
    ] {
        assert_eq!(text.parse::<Filter>().unwrap_err().to_string(), says, "{text}");
    }
}

#[test]
fn length_depth_and_number_of_tests_are_bounded() {
    let nested = |depth: usize| format!("{}json.a{}", "(".repeat(depth), ")".repeat(depth));
    assert!(nested(FILTER_DEPTH_MAX).parse::<Filter>().is_ok());
    let refused = nested(FILTER_DEPTH_MAX + 1).parse::<Filter>();
    assert_eq!(refused, Err(FilterError::Depth { at: FILTER_DEPTH_MAX + 2 }));
    let negated = format!("{}json.a", "!".repeat(400)).parse::<Filter>();
    assert_eq!(negated, Err(FilterError::Depth { at: FILTER_DEPTH_MAX + 2 }));
    let tests = |count: usize| vec!["json.a"; count].join("||");
    assert!(tests(FILTER_TESTS_MAX).parse::<Filter>().is_ok());
    assert_eq!(tests(FILTER_TESTS_MAX + 1).parse::<Filter>(), Err(FilterError::Tests { at: 257 }));
    let long = format!("json.{}", "x".repeat(FILTER_BYTES_MAX));
    assert_eq!(long.parse::<Filter>(), Err(FilterError::Length(FILTER_BYTES_MAX + 5)));
}

/// Filters that parse, with few different fields and values, so that both outcomes are common.
pub(crate) fn any_filter() -> impl Strategy<Value = String> {
    let field = prop_oneof![
        Just("header.a"),
        Just("header.b"),
        Just("json.a"),
        Just("json.b.c"),
        Just("json.b.0"),
        Just("json.none"),
    ];
    let equality = prop_oneof![Just("=="), Just("!=")];
    let order = prop_oneof![Just("<"), Just("<="), Just(">"), Just(">="), Just("=="), Just("!=")];
    let anything = prop_oneof![Just("1"), Just("2"), Just("\"x\""), Just("true"), Just("null")];
    let ordered = prop_oneof![Just("1"), Just("2.5"), Just("\"x\"")];
    let test = prop_oneof![
        field.clone().prop_map(str::to_owned),
        (field.clone(), equality, anything)
            .prop_map(|(field, operator, value)| format!("{field} {operator} {value}")),
        (field.clone(), order, ordered)
            .prop_map(|(field, operator, value)| format!("{field}{operator}{value}")),
        field.prop_map(|field| format!("{field} ^= \"x\"")),
    ];
    test.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|inner| format!("!({inner})")),
            prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" && "))),
            prop::collection::vec(inner, 2..4).prop_map(|parts| format!("({})", parts.join(" || "))),
        ]
    })
}

pub(crate) fn any_payload() -> impl Strategy<Value = Payload> {
    let scalar =
        prop_oneof![Just("1"), Just("2.5"), Just("\"x\""), Just("\"xy\""), Just("true"), Just("null")];
    let value = prop_oneof![
        scalar.clone().prop_map(str::to_owned),
        scalar.clone().prop_map(|scalar| format!("{{\"c\": {scalar}}}")),
        scalar.clone().prop_map(|scalar| format!("[{scalar}]")),
    ];
    let json = (value.clone(), value).prop_map(|(a, b)| format!("{{\"a\": {a}, \"b\": {b}}}"));
    let content = prop_oneof![4 => json, 1 => "[a-z{}\"]{0,9}"];
    (content, prop::option::of("[x12]{0,2}"), prop::option::of("true|false|x")).prop_map(|(content, a, b)| {
        let payload = a.into_iter().fold(Payload::new(content), |payload, a| payload.header("a", a));
        b.into_iter().fold(payload, |payload, b| payload.header("b", b))
    })
}

/// The meaning of a test, from a whole JSON document.
fn document(payload: &Payload) -> Option<serde_json::Value> {
    serde_json::from_slice(&payload.bytes).ok()
}

/// The message as the subscriber's node has it.
fn received(payload: &Payload) -> Payload {
    let publisher = NodeId::from_bytes([1; 32]);
    let topic = "a".parse().unwrap();
    let (realm, payload) = (Realm::default(), payload.clone());
    let content = Content { realm, topic, payload, publisher, epoch: 1, sequence: 1, retained_as: 0 };
    let frame = content.to_frame(Duration::ZERO, &Scope::default()).unwrap();
    Incoming::from_frame(publisher, frame).unwrap().content.payload
}

/// The filter as a publisher has it, from the subscriber's record.
fn announced(filter: &Filter) -> Filter {
    let want = Want { pattern: "a".parse().unwrap(), filter: Some(filter.clone()), group: None };
    let mut interests = Interests::default();
    let key = interests.add(&Realm::default(), &want).unwrap();
    let mut wants = interest::decode(&interests.value(&key).unwrap()).wants;
    wants.remove(0).filter.unwrap()
}

proptest! {
    #[test]
    fn a_filter_says_the_same_at_the_publisher_and_at_the_subscriber(
        text in any_filter(),
        payload in any_payload(),
    ) {
        prop_assume!(text.len() <= FILTER_BYTES_MAX);
        let here = filter(&text);
        prop_assert_eq!(announced(&here).accepts(&payload), here.accepts(&received(&payload)));
    }

    #[test]
    fn any_text_is_a_filter_or_an_error_within_it(text in prop_oneof![".{0,80}", "[header.json()!&|=<>^ \"\\\\0-9a-c]{0,80}"]) {
        match text.parse::<Filter>() {
            Ok(filter) => {
                prop_assert_eq!(filter.as_str(), &text);
                filter.accepts(&order());
            }
            Err(error) => {
                let said = error.to_string();
                if let Some(at) = said.strip_prefix("character ").and_then(|rest| rest.split(':').next()) {
                    let at: usize = at.parse().unwrap();
                    prop_assert!((1..=text.chars().count() + 1).contains(&at), "{}", said);
                } else {
                    prop_assert!(matches!(error, FilterError::Length(_)));
                }
            }
        }
    }

    #[test]
    fn a_mutated_filter_never_panics(
        text in any_filter(),
        at in any::<prop::sample::Index>(),
        with in "[ ()!&|=<>^\".a0é]{0,3}",
        payload in any_payload(),
    ) {
        let mut chars: Vec<char> = text.chars().collect();
        chars.splice(at.index(chars.len())..=at.index(chars.len()), with.chars());
        let mutated: String = chars.into_iter().collect();
        if let Ok(filter) = mutated.parse::<Filter>() {
            filter.accepts(&payload);
        }
    }

    #[test]
    fn parts_join_as_their_verdicts_do(a in any_filter(), b in any_filter(), payload in any_payload()) {
        prop_assume!(a.len() + b.len() < 400);
        let [in_a, in_b] = [&a, &b].map(|text| filter(text).accepts(&payload));
        prop_assert_eq!(filter(&format!("({a}) && ({b})")).accepts(&payload), in_a && in_b);
        prop_assert_eq!(filter(&format!("({a}) || ({b})")).accepts(&payload), in_a || in_b);
        prop_assert_eq!(filter(&format!("!({a})")).accepts(&payload), !in_a);
    }

    #[test]
    fn one_pass_finds_what_a_whole_document_holds(payload in any_payload()) {
        let document = document(&payload);
        let field = |pointer: &str| document.as_ref().and_then(|document| document.pointer(pointer));
        for (name, pointer) in [("json.a", "/a"), ("json.b.c", "/b/c"), ("json.b.0", "/b/0")] {
            let number = field(pointer).and_then(serde_json::Value::as_f64);
            prop_assert_eq!(filter(&format!("{name} > 2")).accepts(&payload), number.is_some_and(|n| n > 2.0));
            let text = field(pointer).and_then(serde_json::Value::as_str);
            prop_assert_eq!(filter(&format!("{name} == \"x\"")).accepts(&payload), text == Some("x"));
            let set = field(pointer).is_some_and(|value| !value.is_null() && value.as_bool() != Some(false));
            prop_assert_eq!(filter(name).accepts(&payload), set);
        }
    }
}
