//! Owns `[[limits.network]]`, which gives networks limits of their own: a factor, an exemption or a block.
//! Refuses two entries for one network, and one that says several things. Read by the program, for the shards' rules.

use toml::de::DeValue;

use crate::forms::{Flag, Form, Pattern};
use crate::networks::{EXPECTED, Network};
use crate::reader::{Reader, Spot};
use crate::schema::write_key;

/// Most entries of `[[limits.network]]`: a class of peers is a byte.
pub const NETWORK_LIMITS_MAX: usize = 250;

/// A multiple of the limits of a peer, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factor(u32);

impl Factor {
    /// So many thousandths of this, at least one.
    #[must_use]
    pub fn of(self, number: u32) -> u32 {
        let product = u64::from(number) * u64::from(self.0) / 1000;
        u32::try_from(product).unwrap_or(u32::MAX).max(1)
    }
}

/// What applies to the peers of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkRule {
    /// The limits of `[limits.peer]` times this.
    Factor(Factor),
    /// None of them.
    Exempt,
    /// They may not come in.
    Block,
}

/// One entry of `[[limits.network]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkLimits {
    /// Whom it is about. Of several that a peer is in, the one with the longest prefix counts.
    pub cidr: Network,
    /// What applies to them.
    pub rule: NetworkRule,
}

pub(crate) const KEYS: &[&str] = &["cidr", "factor", "exempt", "block"];

const CIDR: Pattern<Network> = Pattern { expected: EXPECTED, parse: Network::parse };

const RULE: &str = "one of factor, exempt = true and block = true";

struct Multiple;

impl Form<Factor> for Multiple {
    fn expected(&self) -> String {
        "a number from 0.001 to 1000000 with at most three decimals, such as 10 or 0.5".to_owned()
    }

    fn read(&self, value: &DeValue<'_>) -> Result<Factor, String> {
        let text = match value {
            DeValue::Integer(digits) if digits.radix() == 10 => digits.as_str(),
            DeValue::Float(float) => float.as_str(),
            _ => return Err(self.expected()),
        };
        let thousandths = text.parse::<f64>().map(|number| number * 1000.0).unwrap_or_default();
        let is_whole = (thousandths - thousandths.round()).abs() < 1e-6;
        let fits = (1.0..=1e9).contains(&thousandths) && is_whole;
        if fits { Ok(Factor(thousandths.round() as u32)) } else { Err(self.expected()) }
    }

    fn write(&self, value: &Factor) -> Option<String> {
        let Factor(thousandths) = value;
        Some(format!("{}.{:03}", thousandths / 1000, thousandths % 1000))
    }
}

/// The entries of the text.
pub(crate) fn read(reader: &mut Reader<'_>) -> Vec<NetworkLimits> {
    let Some(value) = reader.nested_value("limits", "network") else { return Vec::new() };
    let tables = match value.get_ref().as_array() {
        Some(tables) if tables.len() <= NETWORK_LIMITS_MAX => tables,
        _ => {
            let expected = format!("at most {NETWORK_LIMITS_MAX} tables, each written [[limits.network]]");
            reader.refuse::<()>("limits.network", value, expected);
            return Vec::new();
        }
    };
    let mut networks: Vec<NetworkLimits> = Vec::with_capacity(tables.len());
    for (position, value) in tables.iter().enumerate() {
        let prefix = format!("limits.network[{position}]");
        let Some(spot) = reader.table(prefix.clone(), value, KEYS) else {
            reader.refuse::<()>(&prefix, value, "a table, written [[limits.network]]".to_owned());
            continue;
        };
        let cidr = reader.required(&spot, "cidr", &CIDR);
        let rule = read_rule(reader, &spot);
        let Some(cidr) = cidr else { continue };
        if networks.iter().any(|other| other.cidr == cidr) {
            if let Some(value) = reader.value(&spot, "cidr") {
                let expected = "each network once".to_owned();
                reader.refuse::<()>(&spot.path("cidr"), value, expected);
            }
        } else if let Some(rule) = rule {
            networks.push(NetworkLimits { cidr, rule });
        }
    }
    networks
}

fn read_rule<'t>(reader: &mut Reader<'t>, spot: &Spot<'t>) -> Option<NetworkRule> {
    let factor = reader.field(spot, "factor", &Multiple).read().map(NetworkRule::Factor);
    let exempt = reader.field(spot, "exempt", &Flag).read().filter(|is| *is).map(|_| NetworkRule::Exempt);
    let block = reader.field(spot, "block", &Flag).read().filter(|is| *is).map(|_| NetworkRule::Block);
    let mut rules = [factor, exempt, block].into_iter().flatten();
    match (rules.next(), rules.next()) {
        (Some(rule), None) => Some(rule),
        (None, _) => {
            reader.missing(spot, "factor", RULE.to_owned());
            None
        }
        (Some(_), Some(_)) => {
            if let Some(value) = reader.value(spot, "cidr") {
                reader.refuse::<()>(&spot.path("factor"), value, format!("only {RULE}"));
            }
            None
        }
    }
}

/// Appends one entry as TOML.
pub(crate) fn write(network: &NetworkLimits, out: &mut String) {
    out.push_str("\n[[limits.network]]\n");
    write_key(out, "cidr", CIDR.write(&network.cidr));
    match &network.rule {
        NetworkRule::Factor(factor) => write_key(out, "factor", Multiple.write(factor)),
        NetworkRule::Exempt => write_key(out, "exempt", Some("true".to_owned())),
        NetworkRule::Block => write_key(out, "block", Some("true".to_owned())),
    }
}

/// What each key expects.
#[cfg(test)]
pub(crate) fn expectations() -> Vec<(&'static str, String)> {
    vec![
        ("cidr", CIDR.expected()),
        ("factor", Multiple.expected()),
        ("exempt", Flag.expected()),
        ("block", Flag.expected()),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_factor_is_exact_to_a_thousandth() {
        let read = |text: &str| {
            let table: toml::de::DeTable<'_> = toml::de::DeTable::parse(text).unwrap().into_inner();
            Multiple.read(table["f"].get_ref())
        };
        assert_eq!(read("f = 10").unwrap().of(7), 70);
        assert_eq!(read("f = 0.5").unwrap().of(7), 3);
        assert_eq!(read("f = 0.001").unwrap().of(7), 1);
        for text in ["f = 0", "f = -1", "f = 0.0001", "f = 1e7", "f = nan", "f = 'x'"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
