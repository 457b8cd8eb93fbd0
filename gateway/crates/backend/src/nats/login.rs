//! Who we are to a NATS server: what the files of the configuration say, read again for each connection, so that a password
//! that was changed or a credential that was renewed counts without a restart. Never printed.

use std::path::{Path, PathBuf};

use async_nats::Auth;
use nkeys::KeyPair;

/// The way to say it, each in a file.
#[derive(Clone, Debug, Default)]
pub enum Login {
    /// Not at all.
    #[default]
    Nobody,
    /// Credentials as `nsc` makes them: a token of an account and the key that goes with it.
    Credentials(PathBuf),
    /// A token.
    Token(PathBuf),
    /// User and password, joined by a colon.
    User(PathBuf),
}

impl Login {
    /// What is said to a server that has sent this nonce.
    ///
    /// # Errors
    /// In words, with the key to look at and the file.
    pub(super) fn answer(&self, nonce: &[u8]) -> Result<Auth, String> {
        let mut auth = Auth::new();
        match self {
            Self::Nobody => {}
            Self::Credentials(file) => {
                let key = "bus.nats.credentials_file";
                let text = read(key, file)?;
                let wrong = |what: &str| format!("{key}: {}: {what}", file.display());
                let jwt = section(&text, "NATS USER JWT").ok_or_else(|| wrong("no user JWT is in it"))?;
                let seed = section(&text, "USER NKEY SEED").ok_or_else(|| wrong("no nkey seed is in it"))?;
                let pair = KeyPair::from_seed(seed).map_err(|error| wrong(&error.to_string()))?;
                auth.signature = Some(pair.sign(nonce).map_err(|error| wrong(&error.to_string()))?);
                auth.jwt = Some(jwt.to_owned());
            }
            Self::Token(file) => auth.token = Some(read("bus.nats.token_file", file)?),
            Self::User(file) => {
                let key = "bus.nats.user_file";
                let text = read(key, file)?;
                let (user, password) = text.split_once(':').ok_or_else(|| {
                    format!("{key}: {}: expected user and password, joined by a colon", file.display())
                })?;
                (auth.username, auth.password) = (Some(user.to_owned()), Some(password.to_owned()));
            }
        }
        Ok(auth)
    }
}

/// What a file holds, without the white space around it.
fn read(key: &str, file: &Path) -> Result<String, String> {
    let text =
        std::fs::read_to_string(file).map_err(|error| format!("{key}: {}: {error}", file.display()))?;
    match text.trim() {
        "" => Err(format!("{key}: {} is empty", file.display())),
        text => Ok(text.to_owned()),
    }
}

/// The line behind the one that begins a section.
fn section<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let begin = format!("BEGIN {name}---");
    let mut lines = text.lines().skip_while(|line| !line.contains(&begin)).skip(1);
    lines.next().map(str::trim).filter(|line| !line.is_empty() && !line.contains("---"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("words");
        std::fs::write(&file, text).unwrap();
        (folder, file)
    }

    #[test]
    fn each_file_says_what_it_is_for() {
        let (_folder, token) = file("s3cret\n");
        assert_eq!(Login::Token(token).answer(b"").unwrap().token.as_deref(), Some("s3cret"));
        let (_folder, user) = file("edge:pass:word\n");
        let auth = Login::User(user).answer(b"").unwrap();
        assert_eq!((auth.username.as_deref(), auth.password.as_deref()), (Some("edge"), Some("pass:word")));
        let pair = KeyPair::new_user();
        let seed = pair.seed().unwrap();
        let text = format!(
            "-----BEGIN NATS USER JWT-----\r\na.b.c\r\n------END NATS USER JWT------\r\n\r\nimportant\r\n\
             -----BEGIN USER NKEY SEED-----\r\n{seed}\r\n------END USER NKEY SEED------\r\n"
        );
        let (_folder, credentials) = file(&text);
        let auth = Login::Credentials(credentials).answer(b"nonce").unwrap();
        assert_eq!(auth.jwt.as_deref(), Some("a.b.c"));
        pair.verify(b"nonce", &auth.signature.unwrap()).unwrap();
        assert!(Login::Nobody.answer(b"").unwrap().token.is_none());
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_key_and_without_what_is_in_it() {
        let half = "-----BEGIN NATS USER JWT-----\nsecret\n------END NATS USER JWT------\n";
        let bad_seed =
            format!("{half}-----BEGIN USER NKEY SEED-----\nsecret\n------END USER NKEY SEED------\n");
        let none = "-----BEGIN NATS USER JWT-----\n------END NATS USER JWT------\n";
        for text in ["", " \n", "secret", half, &bad_seed, none] {
            let (_folder, file) = file(text);
            let wrong = Login::Credentials(file).answer(b"").err().unwrap();
            assert!(wrong.contains("bus.nats.credentials_file") && !wrong.contains("secret"), "{wrong}");
        }
        let (_folder, alone) = file("secret");
        let wrong = Login::User(alone).answer(b"").err().unwrap();
        assert!(wrong.contains("bus.nats.user_file") && wrong.contains("colon"), "{wrong}");
        let missing = Login::Token("/no/such/token".into()).answer(b"").err().unwrap();
        assert!(missing.contains("bus.nats.token_file") && missing.contains("/no/such/token"), "{missing}");
    }
}
