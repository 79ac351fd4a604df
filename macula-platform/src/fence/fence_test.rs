use std::fs;

use super::file::Damage;
use super::*;

fn token(text: &str) -> FencingToken {
    text.parse().unwrap()
}

fn name(name: &str) -> Name {
    name.parse().unwrap()
}

fn old<E>(of: &str, given: &str, seen: &str) -> Result<(), FenceError<E>> {
    Err(FenceError::Old { name: name(of), given: token(given), seen: token(seen) })
}

#[test]
fn older_tokens_are_refused_by_name() {
    let mut gate = FencedStore::new(MemoryFences::default());
    assert_eq!(gate.admit(&name("a"), token("0.7")), Ok(()));
    assert_eq!(gate.admit(&name("a"), token("0.7")), Ok(()), "the same holder comes again");
    assert_eq!(gate.admit(&name("b"), token("0.3")), Ok(()), "another name");
    assert_eq!(gate.admit(&name("a"), token("0.6")), old("a", "0.6", "0.7"));
    assert_eq!(gate.admit(&name("a"), token("1.2")), Ok(()), "a new epoch");
    assert_eq!(gate.admit(&name("a"), token("0.9")), old("a", "0.9", "1.2"));
}

#[test]
fn those_who_share_come_in_any_order_but_not_before_one_alone() {
    let mut gate = FencedStore::new(MemoryFences::default());
    let a = name("a");
    gate.admit(&a, token("0.5")).unwrap();
    assert_eq!(gate.admit_shared(&a, token("0.9")), Ok(()));
    assert_eq!(gate.admit_shared(&a, token("0.7")), Ok(()));
    assert_eq!(gate.admit_shared(&a, token("0.4")), old("a", "0.4", "0.5"));
    assert_eq!(
        gate.admit(&a, token("0.8")),
        old("a", "0.8", "0.9"),
        "it was given back before 0.9 was granted"
    );
    assert_eq!(gate.admit(&a, token("0.10")), Ok(()));
    assert_eq!(gate.admit_shared(&a, token("0.9")), old("a", "0.9", "0.10"));
}

#[test]
fn a_file_remembers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fences");
    let open = || FencedStore::new(FileFences::open(&path).unwrap());
    let mut gate = open();
    gate.admit(&name("a"), token("0.7")).unwrap();
    gate.admit_shared(&name("b.c"), token("2.1")).unwrap();
    // What a process that was killed while writing left behind.
    fs::write(path.with_extension("new"), "macula").unwrap();
    let mut again = open();
    assert_eq!(again.seen(&name("a")), Seen { exclusive: token("0.7"), any: token("0.7") });
    assert_eq!(again.seen(&name("b.c")), Seen { exclusive: token("0.0"), any: token("2.1") });
    assert!(matches!(again.admit(&name("a"), token("0.6")), Err(FenceError::Old { .. })));
    assert!(again.admit(&name("a"), token("0.8")).is_ok());
    assert_eq!(open().seen(&name("a")).any, token("0.8"));
}

#[test]
fn a_file_that_is_not_whole_lets_nobody_in() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fences");
    let mut gate = FencedStore::new(FileFences::open(&path).unwrap());
    gate.admit(&name("a"), token("0.7")).unwrap();
    gate.admit(&name("b"), token("0.8")).unwrap();
    let whole = fs::read_to_string(&path).unwrap();
    assert_eq!(whole, "macula fences 1\n0.7 0.7 a\n0.8 0.8 b\nend 2\n");
    for (text, at, expected) in [
        ("", 1, Damage::Title),
        ("macula fences 1\n", 2, Damage::End),
        ("macula fences 1\n0.7 0.7 a\nend 2\n", 3, Damage::End),
        ("macula fences 1\n0.7 0.7\nend 1\n", 2, Damage::Parts),
        (
            "macula fences 1\n0.7 0.7 a..b\nend 1\n",
            2,
            Damage::Name(macula_proto::NameError::EmptySegment("a..b".into())),
        ),
    ] {
        fs::write(&path, text).unwrap();
        match FileFences::open(&path) {
            Err(FileFencesError::Damaged { line, cause, .. }) => {
                assert_eq!((line, cause), (at, expected), "{text}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn a_token_that_cannot_be_kept_is_not_let_in() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gone").join("fences");
    let mut gate = FencedStore::new(FileFences::open(&path).unwrap());
    let refused = gate.admit(&name("a"), token("0.7"));
    assert!(matches!(refused, Err(FenceError::Keep(FileFencesError::Io { .. }))), "{refused:?}");
    fs::create_dir(folder.path().join("gone")).unwrap();
    let refused = gate.admit(&name("a"), token("0.8"));
    assert!(
        matches!(refused, Err(FenceError::Keep(FileFencesError::Broken(_)))),
        "a failed write is not tried again"
    );
    let mut gate = FencedStore::new(FileFences::open(&path).unwrap());
    assert!(gate.admit(&name("a"), token("0.8")).is_ok());
}

#[test]
fn a_file_has_room_for_so_many_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fences");
    let lines: String = (0..FENCES_MAX).map(|n| format!("0.1 0.1 n{n}\n")).collect();
    fs::write(&path, format!("macula fences 1\n{lines}end {FENCES_MAX}\n")).unwrap();
    let mut gate = FencedStore::new(FileFences::open(&path).unwrap());
    let refused = gate.admit(&name("one.more"), token("0.7"));
    assert!(matches!(refused, Err(FenceError::Keep(FileFencesError::Full(_)))), "{refused:?}");
    assert!(gate.admit(&name("n7"), token("0.7")).is_ok());
}
