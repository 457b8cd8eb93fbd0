//! Why a bus is away, as far as its client can tell: a closed set for metrics and readiness, found in what libraries and
//! servers say in words, because that is all they give while they try again and again. Refuses to be exact: what is not
//! known counts as unreachable, which is what people look into first.

/// Why a bus is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Trouble {
    /// No server answers, or it answered nothing that says more.
    Unreachable,
    /// A server does not believe who we are: a wrong password, token or key, or one that has expired.
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
];
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
        } else if says(OF_TLS) {
            Self::Tls
        } else {
            Self::Unreachable
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
