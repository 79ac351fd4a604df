//! Reads a few fields of a JSON text in one pass, without building the rest.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The names from the content down to a field.
pub(super) type Path = Vec<Box<str>>;

/// What a field holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(Box<str>),
    Number(f64),
    Bool(bool),
    Null,
    /// An object or an array.
    Whole,
}

/// What stands at each path; nothing anywhere if the content is no JSON.
pub(super) fn read(content: &[u8], paths: &[Path]) -> Vec<Option<Value>> {
    let mut found = vec![None; paths.len()];
    let wanted = paths.iter().enumerate().map(|(number, path)| (number, path.as_slice())).collect();
    let mut json = serde_json::Deserializer::from_slice(content);
    let read = Seek { wanted, found: &mut found }.deserialize(&mut json);
    if read.and_then(|()| json.end()).is_err() {
        found.fill(None);
    }
    found
}

/// What is looked for below one value: the number of each path, and what is left of it.
type Wanted<'p> = Vec<(usize, &'p [Box<str>])>;

/// Looks for several fields below one value.
struct Seek<'p, 'f> {
    wanted: Wanted<'p>,
    found: &'f mut [Option<Value>],
}

impl Seek<'_, '_> {
    /// Notes the value at which the search has arrived. What leads further down is not there, as far as is known yet; that
    /// also undoes what an earlier field of the same name had.
    fn arrive(&mut self, value: &Value) {
        for (number, rest) in &self.wanted {
            self.found[*number] = rest.is_empty().then(|| value.clone());
        }
    }
}

/// The searches that go on below the child that `is_next` recognises by its name.
fn below<'p>(wanted: &Wanted<'p>, is_next: impl Fn(&str) -> bool) -> Wanted<'p> {
    let split = wanted.iter().filter_map(|(number, path)| Some((*number, path.split_first()?)));
    split.filter(|(_, (first, _))| is_next(first)).map(|(number, (_, rest))| (number, rest)).collect()
}

/// Reads the name of a field, and gives what is looked for below it.
struct Name<'s, 'p>(&'s Wanted<'p>);

impl<'de, 'p> DeserializeSeed<'de> for Name<'_, 'p> {
    type Value = Wanted<'p>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Wanted<'p>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'p> Visitor<'_> for Name<'_, 'p> {
    type Value = Wanted<'p>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E>(self, name: &str) -> Result<Wanted<'p>, E> {
        Ok(below(self.0, |wanted| wanted == name))
    }
}

impl<'de> DeserializeSeed<'de> for Seek<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.wanted.is_empty() {
            return deserializer.deserialize_ignored_any(IgnoredAny).map(|_| ());
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seek<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.arrive(&Value::Whole);
        while let Some(wanted) = map.next_key_seed(Name(&self.wanted))? {
            map.next_value_seed(Seek { wanted, found: &mut *self.found })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<(), A::Error> {
        self.arrive(&Value::Whole);
        for index in 0_usize.. {
            let wanted = below(&self.wanted, |name| name.parse() == Ok(index));
            if elements.next_element_seed(Seek { wanted, found: &mut *self.found })?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_str<E>(mut self, text: &str) -> Result<(), E> {
        self.arrive(&Value::Text(text.into()));
        Ok(())
    }

    fn visit_f64<E>(mut self, number: f64) -> Result<(), E> {
        self.arrive(&Value::Number(number));
        Ok(())
    }

    fn visit_u64<E>(mut self, number: u64) -> Result<(), E> {
        self.arrive(&Value::Number(number as f64));
        Ok(())
    }

    fn visit_i64<E>(mut self, number: i64) -> Result<(), E> {
        self.arrive(&Value::Number(number as f64));
        Ok(())
    }

    fn visit_bool<E>(mut self, flag: bool) -> Result<(), E> {
        self.arrive(&Value::Bool(flag));
        Ok(())
    }

    fn visit_unit<E>(mut self) -> Result<(), E> {
        self.arrive(&Value::Null);
        Ok(())
    }
}
