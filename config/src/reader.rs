//! Owns the walk through a configuration text and its environment: it hands out typed values and collects mistakes.
//! Refuses to stop early and to know what a key means. Called by the sections, by `routes` and by `checks`.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::forms::Form;
use crate::mistake::{Mistake, Source};
use crate::suggestion;

/// Most characters of a value that a mistake repeats.
const FOUND_CHARS_MAX: usize = 60;

/// What became of one key.
pub(crate) enum Field<T> {
    /// It is not there.
    Absent,
    /// It is there and unusable; the mistake is noted.
    Refused,
    /// It is there.
    Read(T),
}

impl<T> Field<T> {
    /// The value, or the default: a refused key keeps it, so that reading goes on to the next mistake.
    pub(crate) fn or(self, default: T) -> T {
        self.read().unwrap_or(default)
    }

    /// The value, when there is a usable one.
    pub(crate) fn read(self) -> Option<T> {
        match self {
            Self::Read(value) => Some(value),
            Self::Absent | Self::Refused => None,
        }
    }
}

/// A table of the text that is being read: a section, a route, an inline table.
pub(crate) struct Spot<'t> {
    prefix: String,
    table: Option<&'t DeTable<'t>>,
    line: Option<u32>,
}

impl Spot<'_> {
    /// The full name of a key of this table.
    pub(crate) fn path(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }
}

struct Place {
    source: Source,
    line: Option<u32>,
    refused: bool,
}

/// One reading of one text.
pub(crate) struct Reader<'t> {
    text: &'t str,
    root: Option<&'t DeTable<'t>>,
    /// Offset of the first byte of each line.
    line_starts: Vec<usize>,
    /// Key to variable and value; what has been read is taken out.
    environment: BTreeMap<String, (String, String)>,
    places: BTreeMap<String, Place>,
    /// Whether all of the text was TOML.
    whole: bool,
    /// Lines that are not TOML: what the parser made of them deserves no second mistake.
    broken_lines: BTreeSet<u32>,
    mistakes: Vec<Mistake>,
}

impl<'t> Reader<'t> {
    /// Reads nothing: every key keeps its default.
    pub(crate) fn empty() -> Self {
        Self {
            text: "",
            root: None,
            line_starts: vec![0],
            environment: BTreeMap::new(),
            places: BTreeMap::new(),
            whole: true,
            broken_lines: BTreeSet::new(),
            mistakes: Vec::new(),
        }
    }

    /// Reads `root`, which was parsed from `text`.
    pub(crate) fn new(text: &'t str, root: &'t DeTable<'t>) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let line_starts = std::iter::once(0).chain(newlines.map(|(offset, _)| offset + 1)).collect();
        Self { text, root: Some(root), line_starts, ..Self::empty() }
    }

    /// Lets `variable` override `key`.
    pub(crate) fn overrule(&mut self, key: String, variable: String, value: String) {
        self.environment.insert(key, (variable, value));
    }

    /// Notes a place that is not TOML.
    pub(crate) fn broken(&mut self, message: &str, span: Option<Range<usize>>) {
        let line = span.map(|span| self.line(&span));
        self.whole = false;
        self.broken_lines.extend(line);
        let found = format!("text that is not TOML ({})", shortened(message));
        let expected = "lines such as [limits] and head_bytes = \"8KiB\"".to_owned();
        self.mistakes.push(Mistake { key: String::new(), line, source: Source::File, found, expected });
    }

    /// Opens a section; notes unknown keys in it.
    pub(crate) fn section(&mut self, name: &str, keys: &[&str]) -> Spot<'t> {
        let value = match name.split_once('.') {
            Some((outer, inner)) => self.nested_value(outer, inner),
            None => self.root_value(name),
        };
        let line = value.map(|value| self.line(&value.span()));
        let table = value.and_then(|value| value.get_ref().as_table());
        let spot = Spot { prefix: name.to_owned(), table, line };
        if let (Some(value), None) = (value, table) {
            let found = self.found(value);
            self.mistake(name, line, found, format!("a table, written [{name}]"));
        }
        self.unknown_keys(&spot, keys);
        spot
    }

    /// Opens a table inside another.
    pub(crate) fn table(
        &mut self,
        prefix: String,
        value: &'t Spanned<DeValue<'t>>,
        keys: &[&str],
    ) -> Option<Spot<'t>> {
        let table = value.get_ref().as_table()?;
        let spot = Spot { prefix, table: Some(table), line: Some(self.line(&value.span())) };
        self.unknown_keys(&spot, keys);
        Some(spot)
    }

    /// The key of the root that is not a section.
    pub(crate) fn root_value(&self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.root?.get(key)
    }

    /// The same, inside a section.
    pub(crate) fn nested_value(&self, section: &str, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.root?.get(section)?.get_ref().as_table()?.get(key)
    }

    /// The value of a key as it was parsed, for what has no single form.
    pub(crate) fn value(&self, spot: &Spot<'t>, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        spot.table?.get(key)
    }

    /// Notes keys of the root that mean nothing.
    pub(crate) fn unknown_sections(&mut self) {
        for (key, _) in self.root.into_iter().flatten() {
            let name: &str = key.get_ref();
            if !suggestion::is_section(name) {
                let line = self.line(&key.span());
                self.mistake(name, Some(line), "an unknown key".to_owned(), suggestion::for_section(name));
            }
        }
    }

    fn unknown_keys(&mut self, spot: &Spot<'t>, keys: &[&str]) {
        for (key, _) in spot.table.into_iter().flatten() {
            let name: &str = key.get_ref();
            if !keys.contains(&name) && !suggestion::is_subsection(&spot.prefix, name) {
                let line = self.line(&key.span());
                let expected = suggestion::for_key(name, keys);
                self.mistake(&spot.path(name), Some(line), "an unknown key".to_owned(), expected);
            }
        }
    }

    /// Reads a key; the environment goes before the text, and both are checked.
    pub(crate) fn field<T>(&mut self, spot: &Spot<'t>, key: &str, form: &impl Form<T>) -> Field<T> {
        let path = spot.path(key);
        let field = match self.value(spot, key) {
            Some(value) => self.read_value(&path, value, form),
            None => Field::Absent,
        };
        match self.environment.remove(&path) {
            Some((variable, text)) => self.read_variable(&path, variable, &text, form),
            None => field,
        }
    }

    /// Reads a key that has no default.
    pub(crate) fn required<T>(&mut self, spot: &Spot<'t>, key: &str, form: &impl Form<T>) -> Option<T> {
        let field = self.field(spot, key, form);
        if matches!(field, Field::Absent) {
            self.missing(spot, key, form.expected());
        }
        field.read()
    }

    /// Notes that a key is missing. In a text with holes it may be what fell into one.
    pub(crate) fn missing(&mut self, spot: &Spot<'t>, key: &str, expected: String) {
        if self.whole {
            self.mistake(&spot.path(key), spot.line, "nothing".to_owned(), expected);
        }
    }

    /// Reads a list of at most `max` different values.
    pub(crate) fn list<T: PartialEq>(
        &mut self,
        spot: &Spot<'t>,
        key: &str,
        form: &impl Form<T>,
        max: usize,
    ) -> Field<Vec<T>> {
        let Some(value) = self.value(spot, key) else { return Field::Absent };
        let path = spot.path(key);
        let list = match value.get_ref().as_array() {
            Some(list) if list.len() <= max => list,
            _ => {
                let expected = format!("a list in brackets, at most {max} values, each {}", form.expected());
                return self.refuse(&path, value, expected);
            }
        };
        let mut values = Vec::with_capacity(list.len());
        for (position, value) in list.iter().enumerate() {
            let path = format!("{path}[{position}]");
            match self.read_value(&path, value, form) {
                Field::Read(typed) if values.contains(&typed) => {
                    self.refuse::<T>(&path, value, "each value once".to_owned());
                }
                Field::Read(typed) => values.push(typed),
                Field::Absent | Field::Refused => {}
            }
        }
        if values.len() < list.len() {
            return Field::Refused;
        }
        self.place(path, value, false);
        Field::Read(values)
    }

    /// Reads one value.
    pub(crate) fn read_value<T>(
        &mut self,
        path: &str,
        value: &Spanned<DeValue<'_>>,
        form: &impl Form<T>,
    ) -> Field<T> {
        match form.read(value.get_ref()) {
            Ok(typed) => {
                self.place(path.to_owned(), value, false);
                Field::Read(typed)
            }
            Err(expected) => self.refuse(path, value, expected),
        }
    }

    /// Notes that a value cannot be used.
    pub(crate) fn refuse<T>(
        &mut self,
        path: &str,
        value: &Spanned<DeValue<'_>>,
        expected: String,
    ) -> Field<T> {
        self.place(path.to_owned(), value, true);
        let (line, found) = (self.line(&value.span()), self.found(value));
        self.mistake(path, Some(line), found, expected);
        Field::Refused
    }

    /// Notes where a value stands, for contradictions that it is part of.
    pub(crate) fn place(&mut self, path: String, value: &Spanned<DeValue<'_>>, refused: bool) {
        let line = Some(self.line(&value.span()));
        self.places.insert(path, Place { source: Source::File, line, refused });
    }

    /// A variable holds a TOML value, or plain text where that is what the key wants.
    fn read_variable<T>(
        &mut self,
        path: &str,
        variable: String,
        text: &str,
        form: &impl Form<T>,
    ) -> Field<T> {
        let plain = DeValue::String(Cow::Borrowed(text));
        let read = match DeValue::parse(text) {
            Ok(value) => {
                form.read(value.get_ref()).or_else(|expected| form.read(&plain).map_err(|_| expected))
            }
            Err(_) => form.read(&plain),
        };
        let source = Source::Env(variable);
        let place = Place { source: source.clone(), line: None, refused: read.is_err() };
        self.places.insert(path.to_owned(), place);
        match read {
            Ok(typed) => Field::Read(typed),
            Err(expected) => {
                let found = if text.is_empty() { "nothing".to_owned() } else { shortened(text) };
                self.mistakes.push(Mistake { key: path.to_owned(), line: None, source, found, expected });
                Field::Refused
            }
        }
    }

    /// Notes a variable that overrides nothing.
    pub(crate) fn unknown_variable(&mut self, variable: String, key: String, expected: String) {
        let (source, found) = (Source::Env(variable), "an unknown variable".to_owned());
        self.mistakes.push(Mistake { key, line: None, source, found, expected });
    }

    /// Notes that values which are right each for itself are wrong together. `among` are the keys at fault, the
    /// likeliest first; the mistake points at the first that was set. Where one of them was refused already, the
    /// comparison means nothing and no mistake is noted.
    pub(crate) fn contradiction(&mut self, among: &[&str], key: &str, found: String, expected: String) {
        let mut places = among.iter().filter_map(|key| self.places.get(*key));
        if places.clone().any(|place| place.refused) {
            return;
        }
        let (source, line) =
            places.next().map_or((Source::File, None), |place| (place.source.clone(), place.line));
        self.mistakes.push(Mistake { key: key.to_owned(), line, source, found, expected });
    }

    /// Whether the whole text was TOML.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole
    }

    /// The line of a key that was read.
    pub(crate) fn line_of(&self, path: &str) -> Option<u32> {
        self.places.get(path)?.line
    }

    /// All mistakes: those of the text in its order, then those of the environment.
    pub(crate) fn finish(self) -> Vec<Mistake> {
        let mut mistakes = self.mistakes;
        mistakes.sort_by_cached_key(|mistake| {
            let from_environment = mistake.source != Source::File;
            (from_environment, mistake.line, mistake.key.clone())
        });
        mistakes
    }

    fn mistake(&mut self, key: &str, line: Option<u32>, found: String, expected: String) {
        if line.is_some_and(|line| self.broken_lines.contains(&line)) {
            return;
        }
        self.mistakes.push(Mistake { key: key.to_owned(), line, source: Source::File, found, expected });
    }

    /// The line, from 1, on which a span begins.
    fn line(&self, span: &Range<usize>) -> u32 {
        let lines_before = self.line_starts.partition_point(|start| *start <= span.start);
        u32::try_from(lines_before).unwrap_or(u32::MAX)
    }

    /// A value as it was written; in a word where that would be long.
    fn found(&self, value: &Spanned<DeValue<'_>>) -> String {
        let written = self.text.get(value.span()).unwrap_or_default();
        match value.get_ref() {
            DeValue::Table(_) if !written.starts_with('{') => "a table".to_owned(),
            DeValue::Array(_) if !written.starts_with('[') || written.starts_with("[[") => {
                "a list of tables".to_owned()
            }
            _ => shortened(written),
        }
    }
}

/// The beginning of what was written, on one line.
fn shortened(written: &str) -> String {
    let mut short = String::new();
    for (count, letter) in written.chars().enumerate() {
        if count == FOUND_CHARS_MAX {
            short.push('…');
            break;
        }
        short.push(if letter.is_control() { ' ' } else { letter });
    }
    short
}
