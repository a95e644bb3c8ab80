//! Who has a say in what leaves this machine and would be passed over by frames. Asked at start and now and then, never per packet:
//! allocates, makes many system calls, and reads files.

use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd;

use super::netlink::{Attributes, Message, Request, Socket, abi, attributes, find, text, u32_at};

/// Who stands in the way of what this machine sends and would be passed over by frames, in words:
///
/// - netfilter: hooks at output and postrouting of IPv4 and IPv6 (connection tracking has such hooks, too, as soon as any rule
///   wants it). A kernel that cannot list its hooks (before 5.14, or built without NETFILTER_NETLINK_HOOK) is asked for its
///   nf_tables chains, for the tables of legacy iptables and for connections that are tracked instead; then BPF programs at hooks, IPVS and
///   security modules go unseen.
/// - IPsec: outgoing policies, and a default that blocks.
/// - BPF programs at the egress of this process's cgroups (systemd's IPAddressDeny= and IPAccounting= are such).
///
/// A device's own egress hooks, traffic control and queueing disciplines see frames as they see every packet. An error says why it could
/// not be asked.
pub fn bypassed() -> Result<Vec<String>, String> {
    let mut found = netfilter()?;
    found.extend(ipsec()?);
    found.extend(cgroup_programs());
    Ok(found)
}

fn refused(what: &str, error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => format!("{what} may not be asked for: give the engine CAP_NET_ADMIN (in the systemd unit: AmbientCapabilities=)"),
        _ => format!("{what} cannot be asked for: {error}"),
    }
}

fn netfilter() -> Result<Vec<String>, String> {
    let mut socket = match Socket::open(libc::NETLINK_NETFILTER) {
        Ok(socket) => socket,
        // Without a way to ask there is none to set up nf_tables either.
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(legacy_tables()),
        Err(error) => return Err(refused("netfilter's hooks", &error)),
    };
    let mut found = Vec::new();
    for (family, hook, place) in [
        (abi::NFPROTO_IPV4, abi::LOCAL_OUT, "IPv4 output"),
        (abi::NFPROTO_IPV4, abi::POST_ROUTING, "IPv4 postrouting"),
        (abi::NFPROTO_IPV6, abi::LOCAL_OUT, "IPv6 output"),
        (abi::NFPROTO_IPV6, abi::POST_ROUTING, "IPv6 postrouting"),
    ] {
        match hooks(&mut socket, family, hook) {
            Ok(hooks) => found.extend(hooks.iter().filter(|hook| !is_idle(hook)).map(|hook| format!("netfilter {place}: {hook}"))),
            Err(error) if is_unknown(&error) => return without_hooks(&mut socket),
            Err(error) => return Err(refused("netfilter's hooks", &error)),
        }
    }
    Ok(found)
}

/// What is not part of this kernel.
fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT))
}

fn hooks(socket: &mut Socket, family: u8, hook: u32) -> io::Result<Vec<String>> {
    // nfgenmsg | family u8 | version u8 | resource u16 |
    let mut request = Request::new(abi::NFNL_HOOK_GET, libc::NLM_F_DUMP, &[family, 0, 0, 0]).attribute(abi::HOOK_HOOKNUM, &hook.to_be_bytes());
    let mut found = Vec::new();
    socket.ask(&mut request, |message| found.push(hook_words(message)))?;
    Ok(found)
}

/// AppArmor's own, which is there wherever AppArmor is (Debian, Ubuntu): it looks only at packets that a rule at output marked (SECMARK), and that rule
/// is in the way by itself.
fn is_idle(hook: &str) -> bool {
    matches!(hook, "apparmor_ip_postroute" | "apparmor_ipv4_postroute" | "apparmor_ipv6_postroute")
}

/// `chain filter/output`, or `ipv4_conntrack_local (nf_conntrack)`.
fn hook_words(message: &Message<'_>) -> String {
    let get = |kind| find(attributes(message.body, 4), kind);
    let description = get(abi::HOOK_CHAIN_INFO).and_then(|info| find(Attributes(info), abi::HOOK_INFO_DESC));
    if let Some(description) = description
        && let (Some(table), Some(chain)) = (find(Attributes(description), abi::CHAIN_TABLE), find(Attributes(description), abi::CHAIN_NAME))
    {
        return format!("chain {}/{} (nf_tables)", words(table), words(chain));
    }
    let function = get(abi::HOOK_FUNCTION).map_or("a hook without a name".to_owned(), words);
    get(abi::HOOK_MODULE).map_or(function.clone(), |module| format!("{function} ({})", words(module)))
}

/// For kernels that cannot list their hooks.
fn without_hooks(socket: &mut Socket) -> Result<Vec<String>, String> {
    let mut found = legacy_tables();
    found.extend(tracked_connections());
    let mut request = Request::new(abi::NFTABLES_GETCHAIN, libc::NLM_F_DUMP, &[0; 4]);
    match socket.ask(&mut request, |message| found.extend(chain_words(message))) {
        Err(error) if !is_unknown(&error) => Err(refused("nf_tables' chains", &error)),
        _ => Ok(found),
    }
}

fn chain_words(message: &Message<'_>) -> Option<String> {
    let get = |kind| find(attributes(message.body, 4), kind);
    let hook = Attributes(get(abi::CHAIN_HOOK)?);
    let number = u32::from_be(u32_at(find(hook, abi::CHAIN_HOOKNUM)?, 0)?);
    if !matches!(*message.body.first()?, abi::NFPROTO_INET | abi::NFPROTO_IPV4 | abi::NFPROTO_IPV6) {
        return None;
    }
    let place = match number {
        abi::LOCAL_OUT => "output",
        abi::POST_ROUTING => "postrouting",
        // Wherever it stands: answers get the address and the port back that were asked, on the way out.
        _ if text(get(abi::CHAIN_TYPE)?) == b"nat" => "NAT",
        _ => return None,
    };
    let name = |kind| get(kind).map(words).unwrap_or_default();
    Some(format!("netfilter {place}: chain {}/{} (nf_tables)", name(abi::CHAIN_TABLE), name(abi::CHAIN_NAME)))
}

/// Tables of legacy iptables: each of them has hooks at output.
fn legacy_tables() -> Vec<String> {
    let mut found = Vec::new();
    for (file, family) in [("ip_tables_names", "iptables"), ("ip6_tables_names", "ip6tables")] {
        let tables = std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        found.extend(tables.lines().map(|table| format!("netfilter output: table {table} ({family})")));
    }
    found
}

/// As soon as one is, a rule wants it: it sees answers on the way out. The file: a line of titles, then one for each core that begins with how many
/// there are in this network, in hexadecimal.
fn tracked_connections() -> Option<String> {
    let counts = std::fs::read_to_string("/proc/thread-self/net/stat/nf_conntrack").ok()?;
    tracked(&counts).map(|count| format!("netfilter output: {count} tracked connections"))
}

fn tracked(counts: &str) -> Option<u32> {
    let count = counts.lines().nth(1)?.split_whitespace().next()?;
    u32::from_str_radix(count, 16).ok().filter(|count| *count > 0)
}

fn ipsec() -> Result<Vec<String>, String> {
    let mut socket = match Socket::open(libc::NETLINK_XFRM) {
        Ok(socket) => socket,
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(Vec::new()),
        Err(error) => return Err(refused("IPsec's policies", &error)),
    };
    let mut found = Vec::new();
    // A word of flags, then attributes. struct xfrmu_spdinfo | in | out | ... counts of policies |
    let outgoing = |message: &Message<'_>| u32_at(find(attributes(message.body, 4), abi::XFRMA_SPD_INFO)?, 4);
    let mut request = Request::new(abi::XFRM_GETSPDINFO, 0, &[0; 4]);
    let asked = socket.ask(&mut request, |message| match outgoing(message) {
        Some(0) => {}
        Some(count) => found.push(format!("IPsec: {count} outgoing policies (ip xfrm policy)")),
        None => found.push("IPsec: policies that cannot be counted (ip xfrm policy)".to_owned()),
    });
    asked.map_err(|error| refused("IPsec's policies", &error))?;
    // struct xfrm_userpolicy_default | in u8 | forward u8 | out u8 |. Kernels before 5.15 have none.
    let mut request = Request::new(abi::XFRM_GETDEFAULT, 0, &[0; 4]);
    let asked = socket.ask(&mut request, |message| {
        if message.body.get(2) == Some(&abi::XFRM_BLOCK) {
            found.push("IPsec: what has no policy is blocked (ip xfrm policy getdefault)".to_owned());
        }
    });
    match asked {
        Err(error) if !is_unknown(&error) => Err(refused("IPsec's default", &error)),
        _ => Ok(found),
    }
}

/// bpf(BPF_PROG_QUERY): how many programs are in effect at the egress of this process's cgroup. Where it cannot be asked
/// (no cgroup v2, no bpf(), not allowed) nothing is said: that is a container's normal state, and no firewall of a host.
fn cgroup_programs() -> Option<String> {
    /// The first 32 bytes of the kernel's union for this command.
    #[repr(C)]
    struct Query {
        target_fd: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        prog_cnt: u32,
        padding: u32,
    }
    const PROG_QUERY: libc::c_int = 16;
    const CGROUP_INET_EGRESS: u32 = 1;
    const EFFECTIVE: u32 = 1;
    let groups = std::fs::read_to_string("/proc/thread-self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let folder = std::fs::File::open(format!("/sys/fs/cgroup{own}")).ok()?;
    let target_fd = u32::try_from(folder.as_raw_fd()).ok()?;
    let mut query = Query { target_fd, attach_type: CGROUP_INET_EGRESS, query_flags: EFFECTIVE, attach_flags: 0, prog_ids: 0, prog_cnt: 0, padding: 0 };
    // JUSTIFICATION: std and libc have no call of their own for bpf().
    // SAFETY: `query` is live and as long as said; without a place for identifiers only counts are written.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut query, size_of::<Query>()) };
    let count = query.prog_cnt;
    (result == 0 && count > 0).then(|| format!("cgroup {own}: {count} BPF programs at egress (bpftool cgroup show)"))
}

/// A name of the kernel's, for a person.
fn words(name: &[u8]) -> String {
    String::from_utf8_lossy(text(name)).into_owned()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::netlink::network::{run, within};
    use super::*;

    /// NFPROTO_NETDEV
    const NETDEV: u8 = 5;
    const CABLE: &str = "link set lo up
        link add v0 type veth peer name v1
        link set v1 up
        link set v0 up";

    fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = [((4 + value.len()) as u16).to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn zero_ended(name: &str) -> Vec<u8> {
        [name.as_bytes(), &[0]].concat()
    }

    /// All that leaves by whatever device gets an address of the machine's: `masquerade` without an interface.
    pub(crate) fn masquerade() {
        chain_of("nat", abi::NFPROTO_IPV4, "house", abi::POST_ROUTING, None, true);
        const APPEND: libc::c_int = 0x800;
        let expression = nested(1 | 0x8000, &nested(1, &zero_ended("masq")));
        let requests = [
            Request::new(16, 0, &[0, 0, 0, 10]),
            Request::new(10 << 8 | 6, libc::NLM_F_CREATE | APPEND, &[abi::NFPROTO_IPV4, 0, 0, 0])
                .attribute(1, &zero_ended("house"))
                .attribute(2, &zero_ended("leaving"))
                .attribute(4 | 0x8000, &expression),
            Request::new(17, 0, &[0, 0, 0, 10]),
        ];
        let mut socket = Socket::open(libc::NETLINK_NETFILTER).unwrap();
        socket.tell_all(&requests).unwrap();
    }

    /// A base chain of nf_tables at a hook, as `nft` would make it: a batch of three in one datagram. It lets all pass, or none.
    pub(crate) fn chain(family: u8, table: &str, hook: u32, device: Option<&str>, passes: bool) {
        chain_of("filter", family, table, hook, device, passes);
    }

    fn chain_of(kind: &str, family: u8, table: &str, hook: u32, device: Option<&str>, passes: bool) {
        let mut hooked = [nested(1, &hook.to_be_bytes()), nested(2, &0_u32.to_be_bytes())].concat();
        if let Some(device) = device {
            hooked.extend(nested(3, &zero_ended(device)));
        }
        let create = libc::NLM_F_CREATE;
        let requests = [
            Request::new(16, 0, &[0, 0, 0, 10]),
            Request::new(10 << 8, create, &[family, 0, 0, 0]).attribute(1, &zero_ended(table)),
            Request::new(10 << 8 | 3, create, &[family, 0, 0, 0])
                .attribute(1, &zero_ended(table))
                .attribute(3, &zero_ended("leaving"))
                .attribute(4 | 0x8000, &hooked)
                .attribute(5, &u32::from(passes).to_be_bytes())
                .attribute(7, &zero_ended(kind)),
            Request::new(17, 0, &[0, 0, 0, 10]),
        ];
        let mut socket = Socket::open(libc::NETLINK_NETFILTER).unwrap();
        socket.tell_all(&requests).unwrap();
    }

    #[test]
    fn an_empty_machine_has_nobody_in_the_way() {
        within(CABLE, || {
            // But what the whole machine has: programs of cgroups.
            let found: Vec<String> = bypassed().unwrap().into_iter().filter(|words| !words.starts_with("cgroup")).collect();
            assert_eq!(found, Vec::<String>::new());
        });
    }

    #[test]
    fn whoever_is_in_the_way_is_named() {
        let found_with = |setup: &(dyn Fn() + Sync)| {
            within(CABLE, || {
                setup();
                bypassed().unwrap().into_iter().filter(|words| !words.starts_with("cgroup")).collect::<Vec<_>>()
            })
        };
        let policy = found_with(&|| drop(run("xfrm policy add src 10.0.0.0/24 dst 10.1.0.0/24 dir out action block")));
        assert_eq!(policy, ["IPsec: 1 outgoing policies (ip xfrm policy)"]);
        let incoming = found_with(&|| drop(run("xfrm policy add src 10.0.0.0/24 dst 10.1.0.0/24 dir in action block")));
        assert_eq!(incoming, Vec::<String>::new());
        let blocked = found_with(&|| drop(run("xfrm policy setdefault out block")));
        assert_eq!(blocked.len(), 1, "{blocked:?}");
    }

    #[test]
    fn netfilters_chains_at_the_way_out_are_named() {
        for (family, hook, device, expected) in [
            (abi::NFPROTO_IPV4, abi::LOCAL_OUT, None, "output"),
            (abi::NFPROTO_IPV6, abi::POST_ROUTING, None, "postrouting"),
            (abi::NFPROTO_INET, abi::LOCAL_OUT, None, "output"),
            // Input, and a device's own way out, which frames take as well: nobody's here.
            (abi::NFPROTO_IPV4, 1, None, ""),
            (NETDEV, 0, Some("v0"), ""),
            (NETDEV, 1, Some("v0"), ""),
        ] {
            let found = within(CABLE, || {
                chain(family, "house", hook, device, true);
                let all = netfilter().unwrap();
                // However the kernel was asked.
                let mut socket = Socket::open(libc::NETLINK_NETFILTER).unwrap();
                assert_eq!(without_hooks(&mut socket).unwrap().is_empty(), all.is_empty());
                all
            });
            let is_named = |words: &String| words.contains(expected) && words.contains("chain house/leaving (nf_tables)");
            assert!(if expected.is_empty() { found.is_empty() } else { !found.is_empty() && found.iter().all(is_named) }, "{family} {hook}: {found:?}");
        }
    }

    /// Goal: where hooks cannot be listed, what turns answers back to the address that was asked is seen, too. Method: NAT at prerouting.
    #[test]
    fn nat_of_what_comes_in_is_in_the_way_of_answers() {
        const PRE_ROUTING: u32 = 0;
        within(CABLE, || {
            chain_of("nat", abi::NFPROTO_IPV4, "house", PRE_ROUTING, None, true);
            let mut socket = Socket::open(libc::NETLINK_NETFILTER).unwrap();
            assert_eq!(without_hooks(&mut socket).unwrap(), ["netfilter NAT: chain house/leaving (nf_tables)"]);
        });
        assert_eq!(tracked("entries  clashres found\n0000001b  00000000 00000000\n0000001b  00000000 00000000\n"), Some(27));
        assert_eq!(tracked("entries  clashres found\n00000000  00000000 00000000\n"), None);
        assert_eq!(tracked(""), None);
    }

    #[test]
    fn hooks_are_named_by_chain_or_function() {
        let inner = |kind: u16, value: &[u8]| Request::new(0, 0, &[]).attribute(kind, value).bytes()[16..].to_vec();
        let described = [inner(abi::CHAIN_TABLE, b"house\0"), inner(abi::CHAIN_NAME, b"leaving\0")].concat();
        let described = inner(abi::HOOK_INFO_DESC, &described);
        let request = Request::new(0, 0, &[0; 4]).attribute(abi::HOOK_FUNCTION, b"nft_do_chain_ipv4\0").attribute(abi::HOOK_CHAIN_INFO, &described);
        let words = |request: &Request| super::super::netlink::Messages(request.bytes()).map(|message| hook_words(&message)).collect::<Vec<_>>();
        assert_eq!(words(&request), ["chain house/leaving (nf_tables)"]);
        let request = Request::new(0, 0, &[0; 4]).attribute(abi::HOOK_FUNCTION, b"ipv4_conntrack_local\0").attribute(abi::HOOK_MODULE, b"nf_conntrack\0");
        assert_eq!(words(&request), ["ipv4_conntrack_local (nf_conntrack)"]);
        assert_eq!(words(&Request::new(0, 0, &[0; 4])), ["a hook without a name"]);
        let request = Request::new(0, 0, &[0; 4]).attribute(abi::HOOK_FUNCTION, b"apparmor_ip_postroute\0");
        assert!(is_idle(&words(&request)[0]) && !is_idle("selinux_ip_postroute") && !is_idle("chain house/leaving (nf_tables)"));
    }

    #[test]
    fn who_may_not_ask_is_told_what_is_missing() {
        let words = refused("netfilter's hooks", &io::Error::from_raw_os_error(libc::EPERM));
        assert!(words.contains("CAP_NET_ADMIN"), "{words}");
        assert!(is_unknown(&io::Error::from_raw_os_error(libc::EINVAL)));
    }
}
