//! Just enough of Rust's lexical grammar to tell code from what is said about it. Owns the blanking of comments and
//! literals and the splitting into words; knows nothing of rules. Used by every check that looks for a word.

/// `text` with every comment, string and character literal replaced by spaces; lines stay where they were.
pub(crate) fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let inside_word = out.chars().next_back().is_some_and(is_word);
        match opaque_length(rest, inside_word) {
            Some(length) => {
                let (hidden, after) = rest.split_at(length);
                out.extend(hidden.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
                rest = after;
            }
            None => {
                out.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    out
}

/// The words of blanked code in order, each with its line number from 1.
pub(crate) fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.lines().enumerate().flat_map(|(index, line)| {
        line.split(|c| !is_word(c)).filter(|word| !word.is_empty()).map(move |word| (index + 1, word))
    })
}

/// The lines (from 1) on which `phrase` stands in blanked code, not as a part of a longer word.
pub(crate) fn lines_with<'a>(code: &'a str, phrase: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.lines().enumerate().filter(|(_, line)| stands_in(line, phrase)).map(|(index, _)| index + 1)
}

fn stands_in(line: &str, phrase: &str) -> bool {
    line.match_indices(phrase).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + phrase.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Length in bytes of the comment or literal that `rest` starts with. An unterminated one reaches to the end.
fn opaque_length(rest: &str, inside_word: bool) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment_length(rest));
    }
    if let Some(body) = rest.strip_prefix('"') {
        return Some(1 + quoted_length(body, '"'));
    }
    if let Some(after) = rest.strip_prefix('\'') {
        return character_length(after).map(|length| 1 + length);
    }
    if inside_word { None } else { raw_string_length(rest) }
}

fn block_comment_length(rest: &str) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// Up to and with the first `end` that no backslash precedes.
fn quoted_length(rest: &str, end: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == end => return at + c.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

/// What follows an apostrophe: a character literal, or else a lifetime, which is code.
fn character_length(after: &str) -> Option<usize> {
    if after.starts_with('\\') {
        return Some(quoted_length(after, '\''));
    }
    let first = after.chars().next()?;
    after[first.len_utf8()..].starts_with('\'').then_some(first.len_utf8() + 1)
}

/// `r"…"`, `r#"…"#` and the same after `b` or `c`.
fn raw_string_length(rest: &str) -> Option<usize> {
    let marker = ["br", "cr", "r"].into_iter().find(|marker| rest.starts_with(marker))?;
    let hashes = rest[marker.len()..].chars().take_while(|&c| c == '#').count();
    let open = marker.len() + hashes;
    rest[open..].starts_with('"').then(|| {
        let close = format!("\"{}", "#".repeat(hashes));
        let body = &rest[open + 1..];
        body.find(&close).map_or(rest.len(), |at| open + 1 + at + close.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_code_stays() {
        let blanked = |text: &str| blank(text).split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(blanked("a // unsafe\nb"), "a b");
        assert_eq!(blanked("a /* x /* unsafe */ y */ b"), "a b");
        assert_eq!(blanked(r#"a("un\"safe", b"unsafe") c"#), "a( , b ) c");
        assert_eq!(blanked("a(r#\"un\"safe\"#, br\"x\") c"), "a( , ) c");
        assert_eq!(blanked(r"a('x', '\'', '\u{1F600}', 'é') b"), "a( , , , ) b");
        assert_eq!(blanked("fn f<'a>(x: &'a str) -> r#type"), "fn f<'a>(x: &'a str) -> r#type");
        assert_eq!(blanked("var\"unsafe\" x"), "var x");
    }

    #[test]
    fn blanking_keeps_every_line_where_it_was() {
        let text = "a\n/* x\ny */\n\"p\nq\"\nend";
        assert_eq!(blank(text).lines().count(), text.lines().count());
        assert_eq!(lines_with(&blank(text), "end").collect::<Vec<_>>(), [6]);
    }

    #[test]
    fn a_phrase_is_not_found_inside_a_longer_word() {
        assert_eq!(lines_with("my_async\nasync fn\nasync_std", "async").collect::<Vec<_>>(), [2]);
        assert_eq!(lines_with("std::time::Instant::now()", "Instant::now").count(), 1);
        assert_eq!(words("fn a_b(c)\nd").collect::<Vec<_>>(), [(1, "fn"), (1, "a_b"), (1, "c"), (2, "d")]);
    }
}
