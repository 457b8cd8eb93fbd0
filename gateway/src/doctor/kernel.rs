//! Rows about the kernel's own settings. Owns the values that `deploy/sysctl.d` holds, with their reasons (a test keeps
//! the two the same), and works out those that depend on how many connections there are and how much memory.

use std::net::{IpAddr, SocketAddr};

use super::machine::Machine;
use super::report::{Fix, Row, Verdict, grouped, size};
use super::{Question, cost};

/// A setting whose value does not depend on the machine.
pub(super) struct Setting {
    pub(super) name: &'static str,
    pub(super) value: u64,
    want: Want,
    /// The comment above it in the file.
    pub(super) why: &'static str,
}

enum Want {
    AtLeast,
    Exactly,
    /// As many as `listen.backlog` asks for: what is above it changes nothing.
    Backlog,
}

pub(super) const SETTINGS: [Setting; 4] = [
    Setting {
        name: "net.core.somaxconn",
        value: 16_384,
        want: Want::Backlog,
        why: "Connections that wait in a listener until the shard accepts them, and as many whose TCP handshake is not \
              finished. `backlog` in [listen] is cut to this. After an outage everybody comes at once.",
    },
    Setting {
        name: "net.core.netdev_max_backlog",
        value: 16_384,
        want: Want::AtLeast,
        why: "Packets that wait for a core between a device and TCP; what is above is dropped. The hour when everybody \
              comes is one of many small packets.",
    },
    Setting {
        name: "net.ipv4.tcp_syncookies",
        value: 1,
        want: Want::Exactly,
        why: "When the queue of unfinished handshakes overflows, answer without memory instead of dropping (the default, \
              stated because it matters).",
    },
    Setting {
        name: "net.ipv4.tcp_abort_on_overflow",
        value: 0,
        want: Want::Exactly,
        why: "A listener whose queue is full stays silent, so that the client's kernel tries again; a reset would send \
              it away.",
    },
];

/// Below so many connections the kernel's defaults will do.
const MANY: u64 = 10_000;
/// Sockets in one bucket of the kernel's table above which looking one up is felt.
const SOCKETS_PER_BUCKET: u64 = 4;
/// The largest table the kernel makes for a namespace.
const BUCKETS_MAX: u64 = 1 << 24;

/// One row each.
pub(super) fn rows(question: &Question, machine: &Machine) -> Vec<Row> {
    let mut rows: Vec<Row> = SETTINGS.iter().map(|setting| fixed(setting, question, machine)).collect();
    rows.push(tcp_mem(question, machine));
    rows.push(socket_table(question, machine));
    rows.extend(conntrack(question, machine));
    rows.extend(ports(question, machine));
    rows
}

fn fixed(setting: &Setting, question: &Question, machine: &Machine) -> Row {
    let Setting { name, value, ref want, why } = *setting;
    let Some(here) = machine.setting(name) else { return Row::unknown(name, why) };
    let backlog = u64::from(question.settings.listen.backlog.get());
    let (needed, value, short) = match want {
        Want::Backlog => (backlog, value.max(backlog), here < backlog),
        Want::AtLeast => (value, value, here < value && question.connections > MANY),
        Want::Exactly => (value, value, here != value && question.connections > MANY),
    };
    let default_will_do = question.connections <= MANY && !matches!(want, Want::Backlog);
    Row {
        subject: name,
        here: grouped(here),
        needed: if default_will_do { "default".to_owned() } else { grouped(needed) },
        fits: None,
        verdict: if short { Verdict::Tight } else { Verdict::Good },
        why,
        fixes: if short { vec![Fix::sysctl(name, value)] } else { Vec::new() },
    }
}

/// A message to everybody is a page for each connection until it is acknowledged. The kernel's bound should let that
/// happen, and must not reach what the sockets themselves need.
fn tcp_mem(question: &Question, machine: &Machine) -> Row {
    const NAME: &str = "net.ipv4.tcp_mem";
    const WHY: &str = "Pages of data in flight, of the whole machine: room for a message to everybody, as far as the \
                       memory beside the sockets goes. At the bound the kernel stalls connections.";
    let (Some(here), Some(memory)) =
        (machine.settings.get(NAME).and_then(|numbers| numbers.get(2)).copied(), machine.memory())
    else {
        return Row::unknown(NAME, WHY);
    };
    let left = cost::usable(memory).saturating_sub(question.cost.of_node(question.connections));
    let needed = question.connections.min(left / machine.page_bytes.max(1));
    let short = here < needed;
    let bytes = |pages: u64| size(pages.saturating_mul(machine.page_bytes));
    Row {
        subject: NAME,
        here: format!("{} pages ({})", grouped(here), bytes(here)),
        needed: format!("{} pages ({})", grouped(needed), bytes(needed)),
        fits: None,
        verdict: if short { Verdict::Tight } else { Verdict::Good },
        why: WHY,
        // The kernel's own proportions (`tcp_init_mem`): three quarters of the second number, and twice the first.
        fixes: if short {
            vec![Fix::sysctl(NAME, format!("\"{} {} {needed}\"", needed / 2, needed / 3 * 2))]
        } else {
            Vec::new()
        },
    }
}

fn socket_table(question: &Question, machine: &Machine) -> Row {
    const NAME: &str = "net.ipv4.tcp_ehash_entries";
    const WHY: &str = "Buckets of the table in which the kernel looks up each packet's socket. It is made at boot, or \
                       with a network namespace.";
    let Some(here) = machine.setting(NAME) else { return Row::unknown(NAME, WHY) };
    let needed = (question.connections / SOCKETS_PER_BUCKET).clamp(1, BUCKETS_MAX);
    let short = here < needed;
    let wanted = question.connections.next_power_of_two().min(BUCKETS_MAX);
    let mut fixes = Vec::new();
    if short {
        fixes.push(Fix::new("kernel's command line", format!("thash_entries={wanted}")));
        if machine.setting("net.ipv4.tcp_child_ehash_entries").is_some() {
            fixes.push(Fix::new(
                "as root, before making its network namespace",
                format!("sysctl -w net.ipv4.tcp_child_ehash_entries={wanted}"),
            ));
        }
    }
    Row {
        subject: NAME,
        here: grouped(here),
        needed: grouped(needed),
        fits: None,
        verdict: if short { Verdict::Tight } else { Verdict::Good },
        why: WHY,
        fixes,
    }
}

/// Nothing where connections are not tracked at all.
fn conntrack(question: &Question, machine: &Machine) -> Option<Row> {
    const NAME: &str = "net.netfilter.nf_conntrack_max";
    let most = machine.setting(NAME)?;
    // The module may be there without a rule that uses it, and then tracks nobody.
    let tracking = machine.setting("net.netfilter.nf_conntrack_count").unwrap_or(0) > 0;
    let short = most < question.connections;
    let fixes = if short {
        vec![
            Fix::new("as root", more_tracked(question.connections.saturating_mul(5) / 4, machine)),
            Fix::new("as root", untracked(question.settings.listen.address)),
        ]
    } else {
        Vec::new()
    };
    Some(Row {
        subject: NAME,
        here: format!("{}{}", grouped(most), if tracking { "" } else { " (tracks nobody)" }),
        needed: grouped(question.connections),
        fits: tracking.then_some(most),
        verdict: match (short, tracking) {
            (true, true) => Verdict::Lacks,
            (true, false) => Verdict::Tight,
            _ => Verdict::Good,
        },
        why: "A firewall remembers each connection, and drops the packets of those it has no room for; better not tracked.",
        fixes,
    })
}

/// Room for so many, and for as many chains as the kernel itself would make for them: with those of a table that is a
/// fraction of it, each packet walks a long one.
fn more_tracked(most: u64, machine: &Machine) -> String {
    const BUCKETS: &str = "net.netfilter.nf_conntrack_buckets";
    let chains = machine.setting(BUCKETS).filter(|here| *here < most);
    let chains = chains.map(|_| format!("sysctl -w {BUCKETS}={most}\n")).unwrap_or_default();
    format!("{chains}sysctl -w net.netfilter.nf_conntrack_max={most}")
}

/// The rules that leave the listener's connections alone, of each version of IP that reaches it.
fn untracked(listener: SocketAddr) -> String {
    let programs: &[&str] = match listener.ip() {
        IpAddr::V4(_) => &["iptables"],
        IpAddr::V6(ip) if ip.is_unspecified() => &["iptables", "ip6tables"],
        IpAddr::V6(_) => &["ip6tables"],
    };
    let port = listener.port();
    let rules = programs.iter().map(|program| {
        format!(
            "{program} -t raw -A PREROUTING -p tcp --dport {port} -j CT --notrack\n\
             {program} -t raw -A OUTPUT -p tcp --sport {port} -j CT --notrack"
        )
    });
    rules.collect::<Vec<String>>().join("\n")
}

/// Nothing unless the listener's port is one that the kernel gives to outgoing connections.
fn ports(question: &Question, machine: &Machine) -> Option<Row> {
    let port = u64::from(question.settings.listen.address.port());
    let (first, last) = match machine.settings.get("net.ipv4.ip_local_port_range")?.as_slice() {
        [first, last] => (*first, *last),
        _ => return None,
    };
    let reserved = machine.reserved_ports.as_deref().unwrap_or_default();
    let kept = reserved.iter().any(|(first, last)| (u64::from(*first)..=u64::from(*last)).contains(&port));
    ((first..=last).contains(&port) && !kept).then(|| Row {
        subject: "net.ipv4.ip_local_port_range",
        here: format!("{first} to {last}"),
        needed: format!("without {port}"),
        fits: None,
        verdict: Verdict::Tight,
        why: "The kernel may give the port of listen.address to an outgoing connection, and then the start fails.",
        fixes: vec![Fix::sysctl("net.ipv4.ip_local_reserved_ports", with_port(reserved, port))],
    })
}

/// The list with one more: what is written takes the place of what was there.
fn with_port(reserved: &[(u32, u32)], port: u64) -> String {
    let range = |(first, last): &(u32, u32)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    let all: Vec<String> = reserved.iter().map(range).chain([port.to_string()]).collect();
    all.join(",")
}
