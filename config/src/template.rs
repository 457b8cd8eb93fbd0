//! Owns the two patterns a route is written in: the path it answers to and the channels made from that path.
//! Refuses to match or to subscribe: the shard builds its own rules from the public segments and parts.
//! Called by `routes`; read by the program.

use std::fmt;

/// Most segments in a path pattern.
pub const PATH_SEGMENTS_MAX: usize = 16;
/// Most variables in a path pattern: what a shard keeps of a path while it makes channels of it.
pub const PATH_VARIABLES_MAX: usize = 8;
/// Longest literal segment, variable value and channel token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 64;
/// Longest variable name, in bytes.
pub const VARIABLE_BYTES_MAX: usize = 32;
/// The first token of every user's channel.
const USER_TOKEN: &str = "user";
/// Most tokens in a channel.
pub const CHANNEL_TOKENS_MAX: usize = 8;

/// One `/`-separated part of a path pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    /// Matches itself: `[A-Za-z0-9._~-]{1,64}`, not `.` or `..`.
    Literal(String),
    /// Matches any one segment that is `[A-Za-z0-9_-]{1,64}` after percent-decoding, and gives it this name.
    Variable(String),
}

/// The paths a route answers to, such as `/rooms/{room}`. `/` alone has no segments.
///
/// A path that fits several patterns belongs to the one with a literal at the first segment where they differ.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPattern {
    /// In the order of the path.
    pub segments: Vec<Segment>,
}

impl PathPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// The expected form, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rest = text
            .strip_prefix('/')
            .ok_or_else(|| "a path that begins with /, such as \"/rooms/{room}\"".to_owned())?;
        if rest.is_empty() {
            return Ok(Self { segments: Vec::new() });
        }
        let segments = rest.split('/').map(parse_segment).collect::<Result<Vec<_>, _>>()?;
        if segments.len() > PATH_SEGMENTS_MAX {
            return Err(format!("at most {PATH_SEGMENTS_MAX} segments"));
        }
        let pattern = Self { segments };
        if pattern.variables().count() > PATH_VARIABLES_MAX {
            return Err(format!("at most {PATH_VARIABLES_MAX} variables"));
        }
        match pattern.repeated_variable() {
            Some(name) => Err(format!("each variable once, {{{name}}} is there twice")),
            None => Ok(pattern),
        }
    }

    /// The names of the variables, in the order of the path.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Variable(name) => Some(name.as_str()),
            Segment::Literal(_) => None,
        })
    }

    /// The pattern without the names of its variables: equal for two patterns exactly when they match the same paths.
    pub(crate) fn shape(&self) -> String {
        let mut shape = String::new();
        for segment in &self.segments {
            shape.push('/');
            // A brace cannot occur in a literal, so the two never look alike.
            shape.push_str(match segment {
                Segment::Literal(text) => text,
                Segment::Variable(_) => "{}",
            });
        }
        shape
    }

    fn repeated_variable(&self) -> Option<&str> {
        let names: Vec<&str> = self.variables().collect();
        let again = names.iter().enumerate().find(|(position, name)| names[..*position].contains(name));
        again.map(|(_, name)| *name)
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.segments.is_empty() {
            return f.write_str("/");
        }
        self.segments.iter().try_for_each(|segment| match segment {
            Segment::Literal(text) => write!(f, "/{text}"),
            Segment::Variable(name) => write!(f, "/{{{name}}}"),
        })
    }
}

/// One token of a channel template.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Stands for itself: `[A-Za-z0-9_=-]{1,64}`.
    Literal(String),
    /// Replaced by the value of this path variable.
    Variable(String),
}

/// A channel named after a connection's path, such as `room.{room}`: 1–8 tokens joined by dots.
///
/// A token is a literal or a variable, never a mixture: the value of a variable is a token already, so every
/// rendering is a channel and none can be too long.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChannelTemplate {
    /// In the order of the channel.
    pub parts: Vec<Part>,
}

impl ChannelTemplate {
    /// Reads a template. Whether its variables exist is up to the path: see [`ChannelTemplate::stranger`].
    ///
    /// # Errors
    /// The expected form, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split('.').map(parse_part).collect::<Option<Vec<_>>>();
        match parts {
            Some(parts) if parts.len() <= CHANNEL_TOKENS_MAX => Ok(Self { parts }),
            _ => Err(Self::EXPECTED.to_owned()),
        }
    }

    pub(crate) const EXPECTED: &str = "1 to 8 tokens joined by dots, each [A-Za-z0-9_=-]{1,64} or one {variable}, \
        such as \"room.{room}\"";

    /// Whether it begins as the channels of users do, which nobody joins but by being authorised.
    pub(crate) fn is_reserved(&self) -> bool {
        matches!(self.parts.first(), Some(Part::Literal(token)) if token == USER_TOKEN)
    }

    /// The first variable that `path` does not have.
    #[must_use]
    pub fn stranger(&self, path: &PathPattern) -> Option<&str> {
        self.parts.iter().find_map(|part| match part {
            Part::Variable(name) if !path.variables().any(|known| known == name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// The channel for these values, given as name and value. `None` when one is missing: that is a template
    /// from another route.
    #[must_use]
    pub fn render(&self, variables: &[(&str, &str)]) -> Option<String> {
        let mut channel = String::new();
        for (position, part) in self.parts.iter().enumerate() {
            if position > 0 {
                channel.push('.');
            }
            channel.push_str(match part {
                Part::Literal(text) => text,
                Part::Variable(name) => variables.iter().find(|(known, _)| known == name)?.1,
            });
        }
        Some(channel)
    }
}

impl fmt::Display for ChannelTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, part) in self.parts.iter().enumerate() {
            if position > 0 {
                f.write_str(".")?;
            }
            match part {
                Part::Literal(text) => f.write_str(text)?,
                Part::Variable(name) => write!(f, "{{{name}}}")?,
            }
        }
        Ok(())
    }
}

fn parse_segment(text: &str) -> Result<Segment, String> {
    if let Some(name) = variable_name(text) {
        return Ok(Segment::Variable(name.to_owned()));
    }
    let literal = |b: u8| b.is_ascii_alphanumeric() || b"._~-".contains(&b);
    let fits = (1..=TOKEN_BYTES_MAX).contains(&text.len()) && text.bytes().all(literal);
    if fits && text != "." && text != ".." {
        return Ok(Segment::Literal(text.to_owned()));
    }
    Err("segments that are [A-Za-z0-9._~-]{1,64} or one {variable} of [a-z][a-z0-9_]*, such as \"/rooms/{room}\""
        .to_owned())
}

fn parse_part(text: &str) -> Option<Part> {
    if let Some(name) = variable_name(text) {
        return Some(Part::Variable(name.to_owned()));
    }
    let literal = |b: u8| b.is_ascii_alphanumeric() || b"_=-".contains(&b);
    let fits = (1..=TOKEN_BYTES_MAX).contains(&text.len()) && text.bytes().all(literal);
    fits.then(|| Part::Literal(text.to_owned()))
}

/// The name inside `{name}`, when it is one.
fn variable_name(text: &str) -> Option<&str> {
    let name = text.strip_prefix('{')?.strip_suffix('}')?;
    let fits = (1..=VARIABLE_BYTES_MAX).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    fits.then_some(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_pattern_prints_as_it_was_written() {
        for text in ["/", "/echo", "/rooms/{room}", "/a/{b}/c.d/{e_1}", "/-/~/_"] {
            assert_eq!(PathPattern::parse(text).unwrap().to_string(), text);
        }
        for text in ["room.{room}", "a", "{a}.{b}", "user.=C3=A9", "1.2.3.4.5.6.7.8"] {
            assert_eq!(ChannelTemplate::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_path_outside_the_grammar_is_refused() {
        let long = format!("/{}", "a".repeat(65));
        let deep = "/a".repeat(17);
        let varied: String = (0..9).map(|n| format!("/{{v{n}}}")).collect();
        for text in [
            "", "rooms", "//", "/rooms/", "/a//b", "/a b", "/%20", "/..", "/./a", "/x{a}", "/{A}", "/{}",
            "/{1a}", "/*", &long, &deep, &varied,
        ] {
            assert!(PathPattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_variable_occurs_once_in_a_path() {
        assert!(PathPattern::parse("/{a}/{b}/{a}").unwrap_err().contains("{a}"));
    }

    #[test]
    fn patterns_that_match_the_same_paths_have_one_shape() {
        let shape = |text| PathPattern::parse(text).unwrap().shape();
        assert_eq!(shape("/a/{x}"), shape("/a/{y}"));
        assert_ne!(shape("/rooms/lobby"), shape("/rooms/{room}"));
        assert_ne!(shape("/"), shape("/{a}"));
    }

    #[test]
    fn a_channel_outside_the_grammar_is_refused() {
        let long = "a".repeat(65);
        for text in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a b",
            "a.*",
            "a>",
            "room-{room}",
            "{Room}",
            "1.2.3.4.5.6.7.8.9",
            &long,
        ] {
            assert!(ChannelTemplate::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_rendered_template_is_the_channel_of_that_path() {
        let template = ChannelTemplate::parse("room.{room}.{side}").unwrap();
        assert_eq!(template.render(&[("side", "left"), ("room", "42")]).as_deref(), Some("room.42.left"));
        assert_eq!(template.render(&[("room", "42")]), None);
        assert_eq!(template.stranger(&PathPattern::parse("/rooms/{room}").unwrap()), Some("side"));
        assert_eq!(template.stranger(&PathPattern::parse("/{side}/{room}").unwrap()), None);
    }
}
