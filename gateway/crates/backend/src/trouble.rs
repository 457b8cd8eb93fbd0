//! Why a bus is away, as far as its client can tell: a closed set for metrics and readiness, found in what libraries and
//! servers say in words, because that is all they give while they try again and again. Refuses to be exact: what is not
//! known counts as unreachable, which is what people look into first. Also says what to do about it, for buses that name their
//! keys.

/// Why a bus is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Trouble {
    /// No server answers, or it answered nothing that says more.
    Unreachable,
    /// A server does not believe who we are, or grants us too little: a wrong password, token or key, or one that has expired;
    /// a user who lacks a right.
    Login,
    /// We and a server do not agree about TLS: a certificate that one of us does not believe, or one side does not speak it.
    Tls,
}

/// What is said of a login that fails; in lower case.
const OF_LOGINS: &[&str] = &[
    "authorization violation",
    "authentication",
    "signing nonce",
    "wrongpass",
    "noauth",
    "user is disabled",
    "noperm",
    "no permissions",
];
/// What is said when the other side hung up: nothing, whatever it hung up on.
const OF_HANGING_UP: &str = "handshake eof";
/// What is said of TLS that fails.
const OF_TLS: &[&str] =
    &["certificate", "tls", "fatal alert", "corrupt message", "peer is incompatible", "unknownissuer"];

impl Trouble {
    /// Every trouble, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Unreachable, Self::Login, Self::Tls];

    /// The label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Login => "login",
            Self::Tls => "tls",
        }
    }

    /// What an error means.
    #[must_use]
    pub fn of(problem: &str) -> Self {
        let problem = problem.to_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| problem.contains(word));
        if says(OF_LOGINS) {
            Self::Login
        } else if says(OF_TLS) && !problem.contains(OF_HANGING_UP) {
            Self::Tls
        } else {
            Self::Unreachable
        }
    }
}

/// The keys of a bus by which people mend what keeps us out.
pub(crate) struct Keys {
    /// The section they are in.
    pub(crate) section: &'static str,
    /// Where the server is.
    pub(crate) server: &'static str,
    /// How an address begins that asks for TLS.
    pub(crate) scheme: &'static str,
    /// Who we are.
    pub(crate) login: &'static str,
}

impl Keys {
    /// What to do about it, with the key to look at.
    pub(crate) fn advice(&self, problem: &str) -> String {
        let Self { section, server, scheme, login } = self;
        let says = |word: &str| problem.contains(word);
        match Trouble::of(problem) {
            Trouble::Unreachable => format!("see {section}.{server}"),
            Trouble::Login => format!("see {login}, and whom the server knows"),
            Trouble::Tls if says("UnknownIssuer") => format!(
                "its certificate is signed by nobody that we believe: set {section}.ca_file to the PEM file of its authority"
            ),
            Trouble::Tls if says("not valid for") || says("NotValidForName") => format!(
                "its certificate is for another name: {section}.{server} has to name it as its certificate does"
            ),
            Trouble::Tls if says("corrupt message") => format!(
                "it does not speak TLS, which {scheme} in {section}.{server} and {section}.ca_file ask for: take those out, or \
                 give the server a certificate"
            ),
            Trouble::Tls if says("alert") => format!(
                "it wants a certificate of ours that it believes: see {section}.certificate_file and key_file"
            ),
            Trouble::Tls => format!("see {section}.ca_file, certificate_file and key_file"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libraries_and_servers_say_is_understood() {
        for (problem, trouble) in [
            ("IO error: Connection refused (os error 111)", Trouble::Unreachable),
            ("timed out", Trouble::Unreachable),
            ("authorization violation: nats: authorization violation", Trouble::Login),
            ("IO error: nats: User Authentication Expired", Trouble::Login),
            ("Password authentication failed - WRONGPASS: invalid username-password pair", Trouble::Login),
            ("IO error: invalid peer certificate: UnknownIssuer", Trouble::Tls),
            ("IO error: received corrupt message of type InvalidContentType", Trouble::Tls),
            ("IO error: received fatal alert: BadCertificate", Trouble::Tls),
            ("TLS error: could not load private key", Trouble::Tls),
            ("IO error: tls handshake eof", Trouble::Unreachable),
            ("NoPerm: this user has no permissions to run the 'publish' command", Trouble::Login),
        ] {
            assert_eq!(Trouble::of(problem), trouble, "{problem}");
        }
    }

    #[test]
    fn troubles_stand_in_the_order_of_their_numbers() {
        for (number, trouble) in Trouble::ALL.iter().enumerate() {
            assert_eq!(*trouble as usize, number);
        }
    }
}
