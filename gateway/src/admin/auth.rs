//! Owns the bearer tokens of the api and admin roles (RFC 6750): reading their files, and saying whether a request
//! may make a call. It refuses to show a token, in errors and in debug output alike. Loaded at start; asked by the
//! dispatch before a body is read.

use std::hint::black_box;
use std::path::Path;

use hyper::header::{self, HeaderValue};

use super::Role;
use super::problem::{Problem, Reason};

/// Shortest token, in bytes: what is shorter can be guessed.
pub(crate) const TOKEN_BYTES_MIN: usize = 16;
/// Longest token, in bytes.
pub(crate) const TOKEN_BYTES_MAX: usize = 512;
/// Most tokens in a file; each request is compared with all of them.
pub(crate) const TOKENS_MAX: usize = 1024;

/// What a token of the api may be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Make messages reach people: publish, send, subscribe, unsubscribe.
    Publish,
    /// See who is connected.
    Read,
    /// End connections.
    Close,
}

impl Scope {
    const ALL: [Self; 3] = [Self::Publish, Self::Read, Self::Close];

    /// Its name in a tokens file.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Read => "read",
            Self::Close => "close",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// What a call demands of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing.
    Open,
    /// A token of the api with this scope.
    Api(Scope),
    /// A token of the admin role.
    Admin,
}

/// The tokens of both roles. A role without a tokens file is open to whoever reaches its listener; the
/// configuration allows that on loopback only.
pub(crate) struct Tokens {
    api: Option<Vec<Token>>,
    admin: Option<Vec<Token>>,
}

struct Token {
    secret: Box<[u8]>,
    scopes: u8,
}

impl Tokens {
    /// No tokens: every call is allowed. What [`Tokens::load`] gives without files.
    #[cfg(test)]
    pub(crate) const fn none() -> Self {
        Self { api: None, admin: None }
    }

    /// Reads the files. One token a line; in the api's file its scopes follow after a space, joined by commas;
    /// empty lines and those that start with `#` are skipped.
    ///
    /// # Errors
    /// Says which file and line is wrong and what belongs there.
    pub(crate) fn load(api_file: Option<&Path>, admin_file: Option<&Path>) -> Result<Self, String> {
        let read = |file: &Path, role: Role| {
            let text = std::fs::read_to_string(file)
                .map_err(|error| format!("{}: cannot read the tokens file: {error}", file.display()))?;
            parse(&text, role).map_err(|mistake| format!("{}: {mistake}", file.display()))
        };
        Ok(Self {
            api: api_file.map(|file| read(file, Role::Api)).transpose()?,
            admin: admin_file.map(|file| read(file, Role::Admin)).transpose()?,
        })
    }

    /// Whether a role asks for tokens.
    pub(crate) const fn guards(&self, role: Role) -> bool {
        match role {
            Role::Health => false,
            Role::Api => self.api.is_some(),
            Role::Admin => self.admin.is_some(),
        }
    }

    /// Whether a request with this `Authorization` may make a call.
    ///
    /// # Errors
    /// 401 without a known token, 403 without the scope.
    pub(crate) fn allow(&self, access: Access, authorization: Option<&HeaderValue>) -> Result<(), Problem> {
        let (tokens, needed) = match access {
            Access::Open => return Ok(()),
            Access::Api(scope) => (&self.api, Some(scope)),
            Access::Admin => (&self.admin, None),
        };
        let Some(tokens) = tokens else { return Ok(()) };
        let Some(presented) = authorization.and_then(bearer) else {
            return Err(unauthorized(
                "Send the header Authorization: Bearer <token> with a token from the tokens file.",
                "Bearer realm=\"gateway\"",
            ));
        };
        let Some(scopes) = scopes_of(tokens, presented) else {
            return Err(unauthorized(
                "The token is not in the tokens file of this role; the file is read at start and at each reload.",
                "Bearer realm=\"gateway\", error=\"invalid_token\"",
            ));
        };
        match needed {
            Some(scope) if scopes & scope.bit() == 0 => Err(Problem::new(
                Reason::MissingScope,
                format!(
                    "Use a token with the scope {}, or add it to this one in the tokens file.",
                    scope.label()
                ),
            )
            .with(header::WWW_AUTHENTICATE, insufficient(scope))),
            _ => Ok(()),
        }
    }
}

fn unauthorized(detail: &'static str, challenge: &'static str) -> Problem {
    Problem::new(Reason::Unauthorized, detail)
        .with(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
}

fn insufficient(scope: Scope) -> HeaderValue {
    HeaderValue::from_static(match scope {
        Scope::Publish => "Bearer realm=\"gateway\", error=\"insufficient_scope\", scope=\"publish\"",
        Scope::Read => "Bearer realm=\"gateway\", error=\"insufficient_scope\", scope=\"read\"",
        Scope::Close => "Bearer realm=\"gateway\", error=\"insufficient_scope\", scope=\"close\"",
    })
}

/// The token in `Bearer <token>`; the scheme's case does not matter (RFC 9110, section 11.1).
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let value = value.as_bytes();
    let (scheme, rest) = value.split_at_checked(6)?;
    let token = rest.strip_prefix(b" ")?.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer") && !token.is_empty()).then_some(token)
}

/// The scopes of a token, or `None` for an unknown one. Compares with every token to its end, so that the time
/// taken says nothing about what was nearly right.
fn scopes_of(tokens: &[Token], presented: &[u8]) -> Option<u8> {
    let mut found = None;
    for token in tokens {
        if black_box(is_equal(&token.secret, presented)) {
            found = Some(token.scopes);
        }
    }
    found
}

/// Compares without leaving early. Lengths are no secret.
fn is_equal(secret: &[u8], presented: &[u8]) -> bool {
    if secret.len() != presented.len() {
        return false;
    }
    let mut difference = 0;
    for (ours, theirs) in secret.iter().zip(presented) {
        difference = black_box(difference | (ours ^ theirs));
    }
    difference == 0
}

fn parse(text: &str, role: Role) -> Result<Vec<Token>, String> {
    let mut tokens: Vec<Token> = Vec::new();
    for (number, line) in text.lines().enumerate().map(|(place, line)| (place + 1, line.trim())) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mistake = |expected: String| format!("line {number}: {expected}");
        let mut words = line.split_ascii_whitespace();
        let secret = words.next().unwrap_or_default();
        check_secret(secret).map_err(mistake)?;
        let scopes = match role {
            Role::Api => check_scopes(words.next()).map_err(mistake)?,
            Role::Health | Role::Admin => 0,
        };
        if words.next().is_some() {
            return Err(mistake(if role == Role::Api {
                "after the token and its scopes nothing may follow; join scopes by commas without spaces"
                    .to_owned()
            } else {
                "an admin token stands alone on its line, it has no scopes".to_owned()
            }));
        }
        if scopes_of(&tokens, secret.as_bytes()).is_some() {
            return Err(mistake("this token stands above already; give every line its own".to_owned()));
        }
        tokens.push(Token { secret: secret.as_bytes().into(), scopes });
        if tokens.len() > TOKENS_MAX {
            return Err(mistake(format!("a tokens file has at most {TOKENS_MAX} tokens")));
        }
    }
    if tokens.is_empty() {
        return Err("no token in it, so nobody could call; write one token a line".to_owned());
    }
    Ok(tokens)
}

fn check_secret(secret: &str) -> Result<(), String> {
    // The alphabet of a bearer token: RFC 6750, section 2.1.
    let fits = secret.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte));
    if fits && (TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&secret.len()) {
        Ok(())
    } else {
        Err(format!(
            "a token is {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} of A-Z a-z 0-9 - . _ ~ + / =, \
             for example the output of `openssl rand -hex 32`"
        ))
    }
}

fn check_scopes(word: Option<&str>) -> Result<u8, String> {
    let expected = "after the token come its scopes joined by commas: publish, read, close";
    let mut scopes = 0;
    for label in word.ok_or(expected)?.split(',') {
        let scope = Scope::ALL.into_iter().find(|scope| scope.label() == label).ok_or(expected)?;
        scopes |= scope.bit();
    }
    Ok(scopes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ALL: &str = "all-0123456789abcdef";
    const READER: &str = "reader-0123456789abc";
    const ADMIN: &str = "admin-0123456789abcd";

    fn tokens() -> Tokens {
        let api = format!("# tokens\n\n{ALL} publish,read,close\n{READER}   read\n");
        Tokens { api: parse(&api, Role::Api).ok(), admin: parse(ADMIN, Role::Admin).ok() }
    }

    fn ask(access: Access, authorization: Option<&str>) -> Result<(), Reason> {
        let value = authorization.map(|text| HeaderValue::from_str(text).unwrap());
        tokens().allow(access, value.as_ref()).map_err(|problem| problem.reason)
    }

    #[test]
    fn a_token_opens_what_its_scopes_say_and_no_more() {
        let publish = Access::Api(Scope::Publish);
        assert_eq!(ask(publish, Some(&format!("Bearer {ALL}"))), Ok(()));
        assert_eq!(ask(Access::Api(Scope::Read), Some(&format!("bearer {READER}"))), Ok(()));
        assert_eq!(ask(publish, Some(&format!("Bearer {READER}"))), Err(Reason::MissingScope));
        assert_eq!(
            ask(Access::Api(Scope::Close), Some(&format!("Bearer {READER}"))),
            Err(Reason::MissingScope)
        );
        assert_eq!(ask(Access::Open, None), Ok(()));
    }

    #[test]
    fn roles_do_not_take_each_others_tokens() {
        assert_eq!(ask(Access::Admin, Some(&format!("Bearer {ADMIN}"))), Ok(()));
        assert_eq!(ask(Access::Admin, Some(&format!("Bearer {ALL}"))), Err(Reason::Unauthorized));
        let read = Access::Api(Scope::Read);
        assert_eq!(ask(read, Some(&format!("Bearer {ADMIN}"))), Err(Reason::Unauthorized));
    }

    #[test]
    fn what_is_not_a_whole_known_token_is_refused() {
        let mut long = ALL.to_owned();
        long.push('x');
        for bad in ["", "Bearer", "Bearer ", ALL, &format!("Basic {ALL}"), &format!("Bearer {}", &ALL[1..])] {
            assert_eq!(ask(Access::Api(Scope::Read), Some(bad)), Err(Reason::Unauthorized), "{bad}");
        }
        assert_eq!(ask(Access::Api(Scope::Read), Some(&format!("Bearer {long}"))), Err(Reason::Unauthorized));
        assert_eq!(ask(Access::Api(Scope::Read), None), Err(Reason::Unauthorized));
    }

    #[test]
    fn a_role_without_a_file_is_open() {
        let none = Tokens::none();
        assert!(
            none.allow(Access::Admin, None).is_ok() && none.allow(Access::Api(Scope::Close), None).is_ok()
        );
        assert!(!none.guards(Role::Api) && tokens().guards(Role::Api) && !tokens().guards(Role::Health));
    }

    #[test]
    fn a_mistake_in_a_file_is_told_with_its_line_and_without_the_token() {
        for (text, line) in [
            (format!("{ALL} publish\n{ALL} read"), "line 2: this token stands above"),
            (format!("\n{ALL}"), "line 2: after the token come its scopes"),
            (format!("{ALL} write"), "line 1: after the token come its scopes"),
            (format!("{ALL} publish, read"), "line 1: after the token come its scopes"),
            (format!("{ALL} publish read"), "line 1: after the token and its scopes nothing"),
            ("short read".to_owned(), "line 1: a token is 16 to 512"),
            ("0123456789abcdef\u{e9} read".to_owned(), "line 1: a token is 16 to 512"),
            ("# nothing\n".to_owned(), "no token in it"),
        ] {
            let mistake = parse(&text, Role::Api).err().unwrap();
            assert!(mistake.starts_with(line), "{mistake}");
            assert!(!mistake.contains(ALL), "{mistake}");
        }
        assert!(parse(&format!("{ADMIN} read"), Role::Admin).is_err());
    }

    #[test]
    fn files_are_read_and_missing_ones_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens");
        std::fs::write(&file, format!("{ALL} read\n")).unwrap();
        assert!(Tokens::load(Some(&file), None).unwrap().guards(Role::Api));
        let missing = folder.path().join("absent");
        let mistake = Tokens::load(None, Some(&missing)).err().unwrap();
        assert!(mistake.contains("absent: cannot read"), "{mistake}");
    }
}
