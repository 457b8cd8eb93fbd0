//! Owns what is said to whom on the way to a backend: the URLs of its servers and the static metadata of each call.
//! Refuses paths, queries, names that gRPC keeps for itself, and looking into files. Read by `backends`.

use std::fmt;
use std::path::PathBuf;

use toml::de::DeValue;

use crate::forms::{Form, quoted};
use crate::names::{is_host, split_port};
use crate::reader::{Reader, Spot};

/// Most entries of metadata.
pub const METADATA_MAX: usize = 32;
/// Longest name of an entry, in bytes.
pub const METADATA_NAME_BYTES_MAX: usize = 64;
/// Longest value of an entry, in bytes.
pub const METADATA_VALUE_BYTES_MAX: usize = 4096;

/// Where a server of a backend is reached: `http://host:port`, or `https://host:port` for TLS.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// A name to be resolved, an IPv4 address, or an IPv6 one without its brackets.
    pub host: String,
    /// The port, never 0.
    pub port: u16,
}

impl Endpoint {
    /// The endpoint, when the text is a scheme, a host and a port, and nothing else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > crate::names::ORIGIN_BYTES_MAX {
            return None;
        }
        let text = text.to_ascii_lowercase();
        let (scheme, authority) = text.split_once("://")?;
        let tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let (host, port) = split_port(authority)?;
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        is_host(host).then(|| Some(Self { tls, host: bare.to_owned(), port: port? }))?
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// One entry of the metadata that goes with every call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// In lower case.
    pub name: String,
    /// What it says.
    pub value: MetadataValue,
}

/// What an entry of metadata says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataValue {
    /// This: printable ASCII.
    Text(String),
    /// What is in this file when the program starts, without white space around it. For secrets.
    File(PathBuf),
}

pub(crate) fn expected_metadata() -> String {
    format!(
        "a table such as {{ x-team = \"chat\", authorization = {{ file = \"/etc/gateway/token\" }} }}, at most \
         {METADATA_MAX} names of [a-z0-9_.-], none that begins with \"grpc-\" or ends with \"-bin\""
    )
}

const VALUE: &str = "printable ASCII of at most 4096 bytes, or { file = \"/etc/gateway/token\" }";

struct Value;

impl Form<MetadataValue> for Value {
    fn expected(&self) -> String {
        VALUE.to_owned()
    }

    fn read(&self, value: &DeValue<'_>) -> Result<MetadataValue, String> {
        let fits = |text: &str| {
            text.len() <= METADATA_VALUE_BYTES_MAX
                && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
        };
        if let Some(text) = value.as_str().filter(|text| fits(text)) {
            return Ok(MetadataValue::Text(text.to_owned()));
        }
        let table = value.as_table().filter(|table| table.len() == 1);
        let file = table.and_then(|table| table.get("file")).and_then(|file| file.get_ref().as_str());
        let file = file.filter(|file| !file.is_empty() && !file.contains('\0'));
        file.map(|file| MetadataValue::File(PathBuf::from(file))).ok_or_else(|| self.expected())
    }

    fn write(&self, value: &MetadataValue) -> Option<String> {
        Some(match value {
            MetadataValue::Text(text) => quoted(text),
            MetadataValue::File(file) => format!("{{ file = {} }}", quoted(&file.to_string_lossy())),
        })
    }
}

/// Names that gRPC and HTTP/2 set themselves.
const RESERVED: &[&str] = &["te", "host", "connection", "content-type", "content-length", "user-agent"];

fn is_name(name: &str) -> bool {
    (1..=METADATA_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.-".contains(&b))
        && !name.starts_with("grpc-")
        && !name.ends_with("-bin")
        && !RESERVED.contains(&name)
}

/// The metadata of a backend.
pub(crate) fn read_metadata<'t>(reader: &mut Reader<'t>, spot: &Spot<'t>) -> Vec<Metadata> {
    let Some(value) = reader.value(spot, "metadata") else { return Vec::new() };
    let path = spot.path("metadata");
    let fits = |table: &&toml::de::DeTable<'_>| {
        table.len() <= METADATA_MAX && table.keys().all(|name| is_name(name.get_ref()))
    };
    let Some(table) = value.get_ref().as_table().filter(fits) else {
        reader.refuse::<()>(&path, value, expected_metadata());
        return Vec::new();
    };
    let mut entries = Vec::with_capacity(table.len());
    for (name, value) in table {
        let name = name.get_ref().to_string();
        let value = reader.read_value(&format!("{path}.{name}"), value, &Value).read();
        entries.extend(value.map(|value| Metadata { name, value }));
    }
    entries
}

/// As TOML, unless there is none.
pub(crate) fn write_metadata(entries: &[Metadata]) -> Option<String> {
    let pair = |entry: &Metadata| Some(format!("{} = {}", quoted(&entry.name), Value.write(&entry.value)?));
    let pairs: Vec<String> = entries.iter().filter_map(pair).collect();
    (!pairs.is_empty()).then(|| format!("{{ {} }}", pairs.join(", ")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_endpoint_prints_as_it_was_written() {
        for text in
            ["http://chat:50051", "https://a.example.org:443", "http://[::1]:1", "http://10.0.0.1:65535"]
        {
            assert_eq!(Endpoint::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Endpoint::parse("HTTP://Chat:1").unwrap().host, "chat");
    }

    #[test]
    fn what_names_no_server_is_no_endpoint() {
        for text in [
            "",
            "chat:50051",
            "http://chat",
            "http://chat:0",
            "http://chat:50051/",
            "http://a b:1",
            "grpc://a:1",
            "http://:1",
            "http://u@h:1",
            "http://[::1:1",
            "http://::1:1",
        ] {
            assert_eq!(Endpoint::parse(text), None, "{text}");
        }
    }

    #[test]
    fn names_that_grpc_keeps_for_itself_are_none() {
        for name in ["", "Upper", "grpc-timeout", "key-bin", "te", "a b", "content-type", &"x".repeat(65)] {
            assert!(!is_name(name), "{name}");
        }
        assert!(is_name("authorization") && is_name("x-api_key.1"));
    }
}
