//! Owns the reading of a query string (`application/x-www-form-urlencoded`) against the keys a call knows. An
//! unknown key or one given twice is refused: a misspelt `exclude` must not deliver to everybody. Called by the
//! calls of the api.

use percent_encoding::percent_decode_str;

use super::problem::{Problem, Reason};

/// The values of known keys.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(&'static str, String)>);

impl Query {
    /// Reads a query.
    ///
    /// # Errors
    /// 400 with an unknown key, a repeated one, or a value that is not UTF-8.
    pub(super) fn parse(query: Option<&str>, known: &[&'static str]) -> Result<Self, Problem> {
        let mut values = Self::default();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(name) = known.iter().copied().find(|known| decode(name).as_deref() == Some(known))
            else {
                return Err(bad(if known.is_empty() {
                    "This call takes no query parameters; leave them out.".to_owned()
                } else {
                    format!("A query parameter is unknown; this call knows {}.", known.join(", "))
                }));
            };
            if values.value(name).is_some() {
                return Err(bad(format!("The query parameter {name} is given twice; give it once.")));
            }
            let value = decode(value)
                .ok_or_else(|| bad(format!("The query parameter {name} is not percent-encoded UTF-8.")))?;
            values.0.push((name, value));
        }
        Ok(values)
    }

    /// The value of a key, if given.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// The value of a key as a number, if given.
    ///
    /// # Errors
    /// 400 when it is no number or outside of the range.
    pub(super) fn number(
        &self,
        name: &'static str,
        range: std::ops::RangeInclusive<u16>,
    ) -> Result<Option<u16>, Problem> {
        let Some(text) = self.value(name) else { return Ok(None) };
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse().ok().filter(|number| digits && range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(bad(format!(
                "{name} is an integer from {} to {}; mend the query.",
                range.start(),
                range.end()
            ))),
        }
    }

    /// The value of a key as a fraction from 0 to 1, in ten-thousandths, if given.
    ///
    /// # Errors
    /// 400 when it is no such fraction, or a finer one.
    pub(super) fn fraction(&self, name: &'static str) -> Result<Option<u16>, Problem> {
        let Some(text) = self.value(name) else { return Ok(None) };
        let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
        let value: Option<u16> = match whole {
            "0" | "1" if digits(rest) => format!("{whole}{rest:0<4}").parse().ok(),
            _ => None,
        };
        match value.filter(|parts| *parts <= 10_000) {
            Some(parts) => Ok(Some(parts)),
            None => Err(bad(format!(
                "{name} is a number from 0 to 1 with at most four decimals; mend the query."
            ))),
        }
    }
}

fn bad(detail: String) -> Problem {
    Problem::new(Reason::BadRequest, detail)
}

fn decode(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn values_are_decoded_as_forms_are() {
        let query = Query::parse(Some("reason=going+away%21&code=1001"), &["code", "reason"]).unwrap();
        assert_eq!(query.value("reason"), Some("going away!"));
        assert_eq!(query.number("code", 1000..=4999).unwrap(), Some(1001));
        assert_eq!(Query::parse(None, &["code"]).unwrap().number("code", 1..=2).unwrap(), None);
    }

    #[test]
    fn a_fraction_is_read_to_the_last_of_its_decimals() {
        let read = |text: &str| {
            Query::parse(Some(&format!("fraction={text}")), &["fraction"]).unwrap().fraction("fraction")
        };
        for (text, parts) in
            [("0", 0), ("0.25", 2500), ("0.0001", 1), ("1", 10_000), ("1.0", 10_000), ("0.", 0)]
        {
            assert_eq!(read(text).unwrap(), Some(parts), "{text}");
        }
        for bad in ["", "2", "1.0001", "-0.1", "+1", "0.00001", ".5", "50%25", "0,5", "1e-1"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_call_does_not_know_is_refused() {
        for bad in ["exlude=a", "exclude=a&exclude=b", "exclude=%ff"] {
            assert_eq!(
                Query::parse(Some(bad), &["exclude"]).unwrap_err().reason,
                Reason::BadRequest,
                "{bad}"
            );
        }
        assert!(Query::parse(Some("a=1"), &[]).is_err());
        for bad in ["", "+1", "0", "3", "x", "99999"] {
            let query = format!("size={bad}");
            assert!(Query::parse(Some(&query), &["size"]).unwrap().number("size", 1..=2).is_err(), "{bad}");
        }
    }
}
