//! Owns the forms a value can have: what is expected in words, how it is read, how it is written back.
//! Refuses to know keys, sections or lines: those belong to `sections`, `routes` and `reader`, its callers.

use std::fmt::Display;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use crate::units::{Bytes, parse_bytes, parse_duration, print_duration};

/// A setting the program can work out by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AutoOr<T> {
    /// Written `"auto"`: the program decides at start.
    #[default]
    Auto,
    /// What the operator wants.
    Set(T),
}

impl<T> AutoOr<T> {
    /// The operator's value, or what `decide` finds.
    pub fn unwrap_or_else(self, decide: impl FnOnce() -> T) -> T {
        match self {
            Self::Auto => decide(),
            Self::Set(value) => value,
        }
    }
}

/// One form of value.
pub(crate) trait Form<T> {
    /// In words, with an example where the words alone leave a doubt.
    fn expected(&self) -> String;
    /// The typed value, or what was expected instead.
    fn read(&self, value: &DeValue<'_>) -> Result<T, String>;
    /// As TOML; `None` where the key is best left out.
    fn write(&self, value: &T) -> Option<String>;
}

/// An integer that is never zero.
pub(crate) struct Count {
    pub(crate) min: u32,
    pub(crate) max: u32,
}

impl Form<NonZeroU32> for Count {
    fn expected(&self) -> String {
        format!("an integer from {} to {}", self.min, self.max)
    }

    fn read(&self, value: &DeValue<'_>) -> Result<NonZeroU32, String> {
        let Self { min, max } = *self;
        Number { min, max }.read(value).ok().and_then(NonZeroU32::new).ok_or_else(|| self.expected())
    }

    fn write(&self, value: &NonZeroU32) -> Option<String> {
        Some(value.to_string())
    }
}

/// An integer; zero has a meaning.
pub(crate) struct Number {
    pub(crate) min: u32,
    pub(crate) max: u32,
}

impl Form<u32> for Number {
    fn expected(&self) -> String {
        format!("an integer from {} to {}", self.min, self.max)
    }

    fn read(&self, value: &DeValue<'_>) -> Result<u32, String> {
        let number = integer(value).and_then(|number| u32::try_from(number).ok());
        number.filter(|number| (self.min..=self.max).contains(number)).ok_or_else(|| self.expected())
    }

    fn write(&self, value: &u32) -> Option<String> {
        Some(value.to_string())
    }
}

/// `true` or `false`.
pub(crate) struct Flag;

impl Form<bool> for Flag {
    fn expected(&self) -> String {
        "true or false".to_owned()
    }

    fn read(&self, value: &DeValue<'_>) -> Result<bool, String> {
        value.as_bool().ok_or_else(|| self.expected())
    }

    fn write(&self, value: &bool) -> Option<String> {
        Some(value.to_string())
    }
}

/// A number of bytes: `"64KiB"` or a plain integer.
pub(crate) struct Size {
    pub(crate) min: Bytes,
    pub(crate) max: Bytes,
}

impl Form<Bytes> for Size {
    fn expected(&self) -> String {
        format!("a size in bytes, KiB, MiB or GiB from \"{}\" to \"{}\"", self.min, self.max)
    }

    fn read(&self, value: &DeValue<'_>) -> Result<Bytes, String> {
        let bytes = match value.as_str() {
            Some(text) => parse_bytes(text).ok(),
            None => integer(value).map(Bytes::new),
        };
        bytes.filter(|bytes| (self.min..=self.max).contains(bytes)).ok_or_else(|| self.expected())
    }

    fn write(&self, value: &Bytes) -> Option<String> {
        Some(quoted(&value.to_string()))
    }
}

/// A duration: `"25s"`.
pub(crate) struct Time {
    pub(crate) min: Duration,
    pub(crate) max: Duration,
}

impl Form<Duration> for Time {
    fn expected(&self) -> String {
        let (min, max) = (print_duration(self.min), print_duration(self.max));
        format!("a duration in ms, s, m or h from \"{min}\" to \"{max}\"")
    }

    fn read(&self, value: &DeValue<'_>) -> Result<Duration, String> {
        let duration = value.as_str().and_then(|text| parse_duration(text).ok());
        duration.filter(|duration| (self.min..=self.max).contains(duration)).ok_or_else(|| self.expected())
    }

    fn write(&self, value: &Duration) -> Option<String> {
        Some(quoted(&print_duration(*value)))
    }
}

/// An address with a port, never a host name: what a name resolves to may change between check and start.
pub(crate) struct Address;

impl Form<SocketAddr> for Address {
    fn expected(&self) -> String {
        "an IP address and port, such as \"127.0.0.1:8080\" or \"[::]:8080\"".to_owned()
    }

    fn read(&self, value: &DeValue<'_>) -> Result<SocketAddr, String> {
        value.as_str().and_then(|text| text.parse().ok()).ok_or_else(|| self.expected())
    }

    fn write(&self, value: &SocketAddr) -> Option<String> {
        Some(quoted(&value.to_string()))
    }
}

/// The path of a file. Whether the file is there is found out by who reads it.
pub(crate) struct FilePath;

impl Form<PathBuf> for FilePath {
    fn expected(&self) -> String {
        "the path of a file, such as \"/etc/gateway/tokens\"".to_owned()
    }

    fn read(&self, value: &DeValue<'_>) -> Result<PathBuf, String> {
        let path = value.as_str().filter(|text| !text.is_empty() && !text.contains('\0'));
        path.map(PathBuf::from).ok_or_else(|| self.expected())
    }

    fn write(&self, value: &PathBuf) -> Option<String> {
        Some(quoted(&value.to_string_lossy()))
    }
}

/// Text with a grammar of its own.
pub(crate) struct Word<T> {
    pub(crate) expected: &'static str,
    pub(crate) parse: fn(&str) -> Option<T>,
}

impl<T: Display> Form<T> for Word<T> {
    fn expected(&self) -> String {
        self.expected.to_owned()
    }

    fn read(&self, value: &DeValue<'_>) -> Result<T, String> {
        value.as_str().and_then(self.parse).ok_or_else(|| self.expected())
    }

    fn write(&self, value: &T) -> Option<String> {
        Some(quoted(&value.to_string()))
    }
}

/// Text with a grammar of its own, whose parser says what it missed.
pub(crate) struct Pattern<T> {
    pub(crate) expected: &'static str,
    pub(crate) parse: fn(&str) -> Result<T, String>,
}

impl<T: Display> Form<T> for Pattern<T> {
    fn expected(&self) -> String {
        self.expected.to_owned()
    }

    fn read(&self, value: &DeValue<'_>) -> Result<T, String> {
        value.as_str().ok_or_else(|| self.expected()).and_then(self.parse)
    }

    fn write(&self, value: &T) -> Option<String> {
        Some(quoted(&value.to_string()))
    }
}

/// One of a few words, each with its meaning.
pub(crate) struct OneOf<T: 'static>(pub(crate) &'static [(&'static str, T)]);

impl<T: Copy + PartialEq> Form<T> for OneOf<T> {
    fn expected(&self) -> String {
        let words: Vec<String> = self.0.iter().map(|(word, _)| quoted(word)).collect();
        format!("one of {}", words.join(", "))
    }

    fn read(&self, value: &DeValue<'_>) -> Result<T, String> {
        let meaning = value.as_str().and_then(|text| self.0.iter().find(|(word, _)| *word == text));
        meaning.map(|(_, meaning)| *meaning).ok_or_else(|| self.expected())
    }

    fn write(&self, value: &T) -> Option<String> {
        self.0.iter().find(|(_, meaning)| meaning == value).map(|(word, _)| quoted(word))
    }
}

/// Another form, or `"auto"`.
pub(crate) struct OrAuto<F>(pub(crate) F);

impl<T, F: Form<T>> Form<AutoOr<T>> for OrAuto<F> {
    fn expected(&self) -> String {
        format!("{}, or \"auto\"", self.0.expected())
    }

    fn read(&self, value: &DeValue<'_>) -> Result<AutoOr<T>, String> {
        match value.as_str() {
            Some("auto") => Ok(AutoOr::Auto),
            _ => self.0.read(value).map(AutoOr::Set).map_err(|_| self.expected()),
        }
    }

    fn write(&self, value: &AutoOr<T>) -> Option<String> {
        match value {
            AutoOr::Auto => Some(quoted("auto")),
            AutoOr::Set(value) => self.0.write(value),
        }
    }
}

/// Another form, or `"off"`.
pub(crate) struct OrOff<F>(pub(crate) F);

impl<T, F: Form<T>> Form<Option<T>> for OrOff<F> {
    fn expected(&self) -> String {
        format!("{}, or \"off\"", self.0.expected())
    }

    fn read(&self, value: &DeValue<'_>) -> Result<Option<T>, String> {
        match value.as_str() {
            Some("off") => Ok(None),
            _ => self.0.read(value).map(Some).map_err(|_| self.expected()),
        }
    }

    fn write(&self, value: &Option<T>) -> Option<String> {
        match value {
            None => Some(quoted("off")),
            Some(value) => self.0.write(value),
        }
    }
}

/// Another form; absence has a meaning that no value has.
pub(crate) struct Optional<F>(pub(crate) F);

impl<T, F: Form<T>> Form<Option<T>> for Optional<F> {
    fn expected(&self) -> String {
        self.0.expected()
    }

    fn read(&self, value: &DeValue<'_>) -> Result<Option<T>, String> {
        self.0.read(value).map(Some)
    }

    fn write(&self, value: &Option<T>) -> Option<String> {
        value.as_ref().and_then(|value| self.0.write(value))
    }
}

/// A list of values of one form, at most `max`.
pub(crate) struct List<F> {
    pub(crate) each: F,
    pub(crate) max: usize,
}

impl<T, F: Form<T>> Form<Vec<T>> for List<F> {
    fn expected(&self) -> String {
        format!("a list in brackets, at most {} values, each {}", self.max, self.each.expected())
    }

    fn read(&self, value: &DeValue<'_>) -> Result<Vec<T>, String> {
        let list = value.as_array().filter(|list| list.len() <= self.max).ok_or_else(|| self.expected())?;
        let wrong = |number: usize, expected| format!("value {} of the list to be {expected}", number + 1);
        let read = |(number, value): (usize, &Spanned<DeValue<'_>>)| {
            self.each.read(value.get_ref()).map_err(|expected| wrong(number, expected))
        };
        list.iter().enumerate().map(read).collect()
    }

    fn write(&self, value: &Vec<T>) -> Option<String> {
        let values: Vec<String> = value.iter().filter_map(|value| self.each.write(value)).collect();
        Some(format!("[{}]", values.join(", ")))
    }
}

/// Text as a TOML string.
pub(crate) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// The value as a non-negative integer, in whatever base it was written.
fn integer(value: &DeValue<'_>) -> Option<u64> {
    let digits = value.as_integer()?;
    u64::from_str_radix(digits.as_str(), digits.radix()).ok()
}
