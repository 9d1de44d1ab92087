//! Walks a parsed TOML document and collects every problem instead of stopping at the first, as
//! serde would.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::files::Files;
use super::guess::nearest;
use super::problem::{Problem, quoted};
use super::sources::{Exposure, Sources, path_from};

/// What reading a configuration needs at hand and what it finds.
pub(super) struct Reader<'a> {
    text: &'a str,
    base: &'a Path,
    pub(super) sources: &'a dyn Sources,
    /// Key path of the first secret written into the configuration file itself.
    pub(super) inline_secret: RefCell<Option<(String, Range<usize>)>>,
    /// What is to be watched of what the configuration names.
    pub(super) files: RefCell<Files>,
    /// The paths of all keys, without places, for who has put one into another section.
    keys: Vec<String>,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
    /// In which line each included file begins.
    begins: &'a [(usize, PathBuf)],
    /// Line counting goes on from the place asked for last: (byte, line from 1). Problems come
    /// roughly in the order of the file.
    counted: Cell<(usize, usize)>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        text: &'a str,
        base: &'a Path,
        sources: &'a dyn Sources,
        keys: Vec<String>,
        begins: &'a [(usize, PathBuf)],
    ) -> Self {
        Self {
            begins,
            text,
            base,
            sources,
            keys,
            inline_secret: RefCell::default(),
            files: RefCell::default(),
            problems: RefCell::default(),
            warnings: RefCell::default(),
            counted: Cell::new((0, 1)),
        }
    }

    /// A path beside the configuration file.
    pub(super) fn beside(&self, path: &str) -> PathBuf {
        path_from(self.base, path, self.sources)
    }

    pub(super) fn problem(&self, key: &str, span: &Range<usize>, message: impl Into<String>) {
        let problem = self.located(key, span, message);
        self.problems.borrow_mut().push(problem);
    }

    /// What can be used and is probably not meant.
    pub(super) fn warning(&self, key: &str, span: &Range<usize>, message: impl Into<String>) {
        let warning = self.located(key, span, message);
        self.warnings.borrow_mut().push(warning);
    }

    fn located(&self, key: &str, span: &Range<usize>, message: impl Into<String>) -> Problem {
        let (key, line) = (key.to_owned(), Some(self.line(span.start)));
        self.in_its_file(Problem { key, line, column: None, message: message.into() })
    }

    /// Of an included file the message tells name and line: lines are the configuration's.
    fn in_its_file(&self, problem: Problem) -> Problem {
        let Some(line) = problem.line else { return problem };
        let Some((begin, file)) = self.begins.iter().rfind(|(begin, _)| *begin <= line) else {
            return problem;
        };
        let message = format!("{}:{}: {}", file.display(), line - begin + 1, problem.message);
        Problem { line: None, column: None, message, ..problem }
    }

    pub(super) fn syntax(&self, error: &toml::de::Error) {
        // Not `to_string()`: that quotes the source line, which may hold a secret.
        let message = error.message().to_owned();
        let start = error.span().map_or(self.text.len(), |s| s.start.min(self.text.len()));
        let before = self.text.get(..start).unwrap_or_default();
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let problem = Problem {
            key: String::new(),
            line: Some(self.line(start)),
            column: Some(column),
            message,
        };
        self.problems.borrow_mut().push(self.in_its_file(problem));
    }

    /// Problems and warnings.
    pub(super) fn finish(self) -> (Vec<Problem>, Vec<Problem>) {
        (self.problems.into_inner(), self.warnings.into_inner())
    }

    /// The sections in which a key of this name may stand, as they are spelled.
    fn sections_with(&self, name: &str) -> Vec<String> {
        let sections = self
            .keys
            .iter()
            .filter_map(|path| path.strip_suffix(name)?.strip_suffix('.').map(spelled));
        sections.collect()
    }

    /// Line of a byte offset, from 1.
    fn line(&self, byte: usize) -> usize {
        let byte = byte.min(self.text.len());
        let (from, line) = match self.counted.get() {
            (from, line) if from <= byte => (from, line),
            _ => (0, 1),
        };
        let line = line + self.text.as_bytes()[from..byte].iter().filter(|&&b| b == b'\n').count();
        self.counted.set((byte, line));
        line
    }
}

/// One value with the path that leads to it.
pub(super) struct Value<'r> {
    pub(super) reader: &'r Reader<'r>,
    pub(super) path: String,
    pub(super) span: Range<usize>,
    value: &'r DeValue<'r>,
}

impl<'r> Value<'r> {
    fn new(reader: &'r Reader<'r>, path: String, value: &'r Spanned<DeValue<'r>>) -> Self {
        Self { reader, path, span: value.span(), value: value.get_ref() }
    }

    /// Reports a problem of this value and gives `None`, for `return value.refuse(…)`.
    pub(super) fn refuse<T>(&self, message: impl Into<String>) -> Option<T> {
        self.reader.problem(&self.path, &self.span, message);
        None
    }

    fn wrong_type<T>(&self, accepted: &str) -> Option<T> {
        // The value itself is not told: it may be a secret in the wrong place.
        self.refuse(format!("{accepted} is expected here, not {}", type_name(self.value)))
    }

    pub(super) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    pub(super) fn is_string(&self) -> bool {
        self.value.is_str()
    }

    pub(super) fn string(&self) -> Option<&'r str> {
        match self.value {
            DeValue::String(text) => Some(text),
            _ => self.wrong_type("a string"),
        }
    }

    /// A string for which `valid` holds; `accepted` ends the sentence "… is not accepted: ".
    pub(super) fn string_where(
        &self,
        accepted: &str,
        valid: impl Fn(&str) -> bool,
    ) -> Option<&'r str> {
        let text = self.string()?;
        if valid(text) {
            Some(text)
        } else {
            self.refuse(format!("{} is not accepted: {accepted}", quoted(text)))
        }
    }

    pub(super) fn integer(&self, unit: &str, accepted: RangeInclusive<u64>) -> Option<u64> {
        let DeValue::Integer(digits) = self.value else { return self.wrong_type("an integer") };
        let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
        match u64::from_str_radix(digits.as_str(), digits.radix()) {
            Ok(number) if accepted.contains(&number) => Some(number),
            // Not parsed: negative, or beyond 64 bits.
            _ => self.refuse(format!(
                "{:.40} is out of bounds: {} to {}{unit} are accepted",
                digits.to_string(),
                accepted.start(),
                accepted.end()
            )),
        }
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        match self.value {
            DeValue::Boolean(value) => Some(*value),
            _ => self.wrong_type("true or false"),
        }
    }

    /// A moment, in Unix seconds.
    pub(super) fn moment(&self) -> Option<i64> {
        let accepted = "a date and time with its offset, as in 2026-11-28T12:00:00Z";
        let DeValue::Datetime(moment) = self.value else { return self.wrong_type(accepted) };
        match OffsetDateTime::parse(&moment.to_string(), &Rfc3339) {
            Ok(moment) => Some(moment.unix_timestamp()),
            Err(_) => self.refuse(format!("{moment} is not {accepted}")),
        }
    }

    /// A path, relative ones taken from the configuration file's directory.
    pub(super) fn path(&self) -> Option<PathBuf> {
        let text = self.string_where("a path is not empty and has no NUL", |t| {
            !t.is_empty() && !t.contains('\0')
        })?;
        Some(self.reader.beside(text))
    }

    /// A path of a file whose content comes into force by a reload, and by itself where files are
    /// watched. To be called before it is read: what it holds from then on is seen.
    pub(super) fn watched(&self) -> Option<PathBuf> {
        let path = self.path()?;
        self.watch(&path);
        Some(path)
    }

    /// As [`Value::watched`], of a path that does not stand here.
    pub(super) fn watch(&self, path: &Path) {
        let digest = self.reader.sources.digest(path);
        self.reader.files.borrow_mut().insert(path.to_owned(), digest);
    }

    /// A path of a file that others may read.
    pub(super) fn file(&self) -> Option<PathBuf> {
        self.checked_file(Exposure::Public)
    }

    /// A path of a PEM file of authorities, for a connection that this process makes.
    pub(super) fn trust_anchors(&self) -> Option<PathBuf> {
        let path = self.file()?;
        match self.reader.sources.check_trust_anchors(&path) {
            Ok(()) => Some(path),
            Err(why) => self.refuse(why),
        }
    }

    /// As [`Value::file`], of one that is loaded once and for all: a library.
    pub(super) fn library(&self) -> Option<PathBuf> {
        let path = self.path()?;
        match self.reader.sources.check_file(&path, Exposure::Public) {
            Ok(()) => Some(path),
            Err(why) => self.refuse(format!("{} {why}", path.display())),
        }
    }

    /// A path of a file that holds private keys.
    pub(super) fn private_file(&self) -> Option<PathBuf> {
        self.checked_file(Exposure::Private)
    }

    fn checked_file(&self, exposure: Exposure) -> Option<PathBuf> {
        let path = self.watched()?;
        match self.reader.sources.check_file(&path, exposure) {
            Ok(()) => Some(path),
            Err(why) => self.refuse(format!("{} {why}", path.display())),
        }
    }

    /// The elements of an array.
    pub(super) fn elements(&self) -> Option<Vec<Value<'r>>> {
        let array = match self.value {
            DeValue::Array(array) => array,
            DeValue::Table(_) => {
                return self
                    .wrong_type("an array (sections that may repeat have double brackets: [[…]])");
            }
            _ => return self.wrong_type("an array"),
        };
        Some(
            array
                .iter()
                .enumerate()
                .map(|(i, value)| Value::new(self.reader, format!("{}[{i}]", self.path), value))
                .collect(),
        )
    }

    /// The elements of an array with at least one, read by `read`; `None` as soon as one of them is
    /// wrong, after all were looked at.
    pub(super) fn one_or_more<T>(&self, read: impl Fn(&Value<'r>) -> Option<T>) -> Option<Vec<T>> {
        let elements = self.elements()?;
        if elements.is_empty() {
            return self.refuse("at least one is needed");
        }
        all(elements.iter().map(read))
    }

    /// Like [`Value::one_or_more`] for strings, of which none may come twice.
    pub(super) fn distinct_strings(
        &self,
        read: impl Fn(&Value<'r>) -> Option<&'r str>,
    ) -> Option<Vec<String>> {
        let seen = RefCell::new(Vec::new());
        self.one_or_more(|value| {
            let text = read(value)?;
            if seen.borrow().contains(&text) {
                return value.refuse(format!("{} stands here twice", quoted(text)));
            }
            seen.borrow_mut().push(text);
            Some(text.to_owned())
        })
    }

    /// Names and values of a table in which any key may stand.
    pub(super) fn entries(&self) -> Option<Vec<(&'r str, Value<'r>)>> {
        let DeValue::Table(table) = self.value else { return self.wrong_type("a table") };
        let entries = table.iter().map(|(name, value)| {
            let name = name.get_ref().as_ref();
            (name, Value::new(self.reader, join(&self.path, name), value))
        });
        Some(entries.collect())
    }

    /// The string under `key`, if this is a table and has one. Reports nothing: for relations
    /// between tables, which are looked at whether or not each table is right in itself.
    pub(super) fn peek(&self, key: &str) -> Option<&'r str> {
        let DeValue::Table(table) = self.value else { return None };
        table.get(key)?.get_ref().as_str()
    }

    /// Where the value of `key` stands, or this table where there is none.
    pub(super) fn span_of(&self, key: &str) -> Range<usize> {
        let DeValue::Table(table) = self.value else { return self.span.clone() };
        table.get(key).map_or_else(|| self.span.clone(), Spanned::span)
    }

    /// A problem of the value of `key` in this table.
    pub(super) fn problem_of(&self, key: &str, message: impl Into<String>) {
        self.reader.problem(&join(&self.path, key), &self.span_of(key), message);
    }

    /// Warns of this value.
    pub(super) fn warn(&self, message: impl Into<String>) {
        self.reader.warning(&self.path, &self.span, message);
    }

    /// A table in which only the keys `accepted` may stand.
    pub(super) fn section(&self, accepted: &[&'static str]) -> Option<Section<'r>> {
        let DeValue::Table(table) = self.value else { return self.wrong_type("a table") };
        Some(Section::new(self.reader, self.path.clone(), self.span.clone(), table, accepted))
    }
}

/// One table with the path that leads to it.
pub(super) struct Section<'r> {
    pub(super) reader: &'r Reader<'r>,
    path: String,
    span: Range<usize>,
    table: &'r DeTable<'r>,
    /// What may stand here.
    accepted: Vec<&'static str>,
}

impl<'r> Section<'r> {
    fn new(
        reader: &'r Reader<'r>,
        path: String,
        span: Range<usize>,
        table: &'r DeTable<'r>,
        accepted: &[&'static str],
    ) -> Self {
        let section = Self { reader, path, span, table, accepted: accepted.to_vec() };
        for key in table.keys().filter(|key| !accepted.contains(&key.get_ref().as_ref())) {
            let message = section.unknown(key.get_ref());
            reader.problem(&section.join(key.get_ref()), &key.span(), message);
        }
        section
    }

    /// The whole document.
    pub(super) fn root(
        reader: &'r Reader<'r>,
        table: &'r DeTable<'r>,
        accepted: &[&'static str],
    ) -> Self {
        Self::new(reader, String::new(), 0..0, table, accepted)
    }

    fn unknown(&self, key: &str) -> String {
        let accepted = self.accepted.join(", ");
        let known = self.reader.sections_with(key);
        if known.contains(&spelled(&without_places(&self.path))) {
            format!("unknown key with this kind; accepted here: {accepted}")
        } else if !known.is_empty() {
            format!("unknown key; it belongs to {}. Accepted here: {accepted}", known.join(" or "))
        } else if let Some(meant) = nearest(key, self.accepted.iter().copied()) {
            format!("unknown key; did you mean {meant:?}? Accepted here: {accepted}")
        } else {
            format!("unknown key; accepted here: {accepted}")
        }
    }

    fn join(&self, key: &str) -> String {
        join(&self.path, key)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The value of `key`, if it is there.
    pub(super) fn optional(&self, key: &str) -> Option<Value<'r>> {
        debug_assert!(self.accepted.contains(&key), "{key} of {:?} is in no table", self.path);
        self.table.get(key).map(|value| Value::new(self.reader, self.join(key), value))
    }

    /// The value of `key`; its absence is a problem. `what` tells what it is.
    pub(super) fn required(&self, key: &str, what: &str) -> Option<Value<'r>> {
        let value = self.optional(key);
        if value.is_none() {
            self.reader.problem(&self.join(key), &self.span, format!("missing: {what}"));
        }
        value
    }

    /// What `read` makes of the value of `key`, or `default` where the key is left out; `None` if
    /// the value is wrong.
    pub(super) fn or<T>(
        &self,
        key: &str,
        default: T,
        read: impl FnOnce(&Value<'r>) -> Option<T>,
    ) -> Option<T> {
        self.optional(key).map_or(Some(default), |value| read(&value))
    }

    /// What `read` makes of the value of a key that must be there.
    pub(super) fn must<T>(
        &self,
        key: &str,
        what: &str,
        read: impl FnOnce(&Value<'r>) -> Option<T>,
    ) -> Option<T> {
        self.required(key, what).and_then(|value| read(&value))
    }

    /// Reports a problem of this table and gives `None`.
    pub(super) fn refuse<T>(&self, message: impl Into<String>) -> Option<T> {
        self.reader.problem(&self.path, &self.span, message);
        None
    }

    /// A problem of a key inside this section, given by its whole path.
    pub(super) fn problem_at(&self, key: &str, message: &str) {
        self.reader.problem(key, &self.span_at(key), message);
    }

    /// Warns of a key inside this section, given by its whole path.
    pub(super) fn warn_at(&self, key: &str, message: &str) {
        self.reader.warning(key, &self.span_at(key), message);
    }

    /// Where the value of a key inside this section stands, or else what is around it.
    fn span_at(&self, key: &str) -> Range<usize> {
        let inside = key.strip_prefix(self.path.as_str()).unwrap_or_default();
        let (mut table, mut span) = (Some(self.table), self.span.clone());
        for part in inside.split('.').filter(|part| !part.is_empty()) {
            let (name, place) = part.split_once('[').unwrap_or((part, ""));
            let Some(mut value) = table.and_then(|table| table.get(name)) else { break };
            if let Ok(place) = place.trim_end_matches(']').parse::<usize>() {
                let Some(element) = value.get_ref().as_array().and_then(|a| a.get(place)) else {
                    break;
                };
                value = element;
            }
            span = value.span();
            table = value.get_ref().as_table();
        }
        span
    }
}

/// All values, or `None` if one is missing. Unlike `collect::<Option<_>>` it looks at every one, so
/// that each can report its problems.
pub(super) fn all<T>(values: impl Iterator<Item = Option<T>>) -> Option<Vec<T>> {
    values.collect::<Vec<_>>().into_iter().collect()
}

/// Whether no two tables have the same string under `key`; each later one is reported.
pub(super) fn distinct(tables: &[Value<'_>], key: &str) -> bool {
    let mut seen: HashMap<&str, &str> = HashMap::new();
    let mut distinct = true;
    for table in tables {
        let Some(text) = table.peek(key) else { continue };
        if let Some(first) = seen.get(text) {
            table.problem_of(key, format!("{} is taken: {first} has it too", quoted(text)));
            distinct = false;
        } else {
            seen.insert(text, &table.path);
        }
    }
    distinct
}

/// Path of the key `key` in the table at `path`, in TOML's spelling.
fn join(path: &str, key: &str) -> String {
    let bare =
        !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let key = if bare && key.len() <= 64 { key.to_owned() } else { quoted(key) };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// `keystore.key` of `keystore[0].key[1]`.
fn without_places(path: &str) -> String {
    let parts = path.split('.').map(|part| part.split_once('[').map_or(part, |(name, _)| name));
    parts.collect::<Vec<_>>().join(".")
}

/// The path of a section as its heading is written.
fn spelled(section: &str) -> String {
    if section.starts_with("key") || section == "audit.witness" {
        format!("[[{section}]]")
    } else {
        format!("[{section}]")
    }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
