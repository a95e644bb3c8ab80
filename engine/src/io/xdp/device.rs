//! What a device does itself, and who else has a say in what leaves this machine. Asked at start and now and then, never
//! per packet: allocates, makes many system calls, and reads files.

use std::collections::BTreeMap;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::netlink::{Attributes, Message, Request, Socket, abi, attributes, find, text, u32_at};

/// Numbers of `ioctl(SIOCETHTOOL)`; as sure as those of netlink (headers of Linux 6.1, seen at work on 6.18).
const SIOCETHTOOL: libc::Ioctl = 0x8946;
const GSTRINGS: u32 = 0x1B;
const GSSET_INFO: u32 = 0x37;
const GFEATURES: u32 = 0x3A;
const GCHANNELS: u32 = 0x3C;
const SET_OF_FEATURES: u32 = 4;
/// ETH_GSTRING_LEN, in words.
const NAME_WORDS: usize = 8;
/// Features a kernel may have: 6.18 has 64, and there is room for as many again as often.
const FEATURES_MAX: usize = 1_024;

/// Whether the device cuts a UDP_SEGMENT send itself (tx-udp-segmentation is on): then ready-made frames lose against GSO.
pub fn cuts(device: u32) -> io::Result<bool> {
    // struct ethtool_sset_info | cmd | reserved | sset_mask u64 | data[] |
    let mut info = [GSSET_INFO, 0, 0, 0, 0];
    // The mask is one u64: its first half is the lower one on a little machine only.
    let mask = (1_u64 << SET_OF_FEATURES).to_ne_bytes();
    info[2] = u32_at(&mask, 0).unwrap_or(0);
    info[3] = u32_at(&mask, 4).unwrap_or(0);
    ethtool(device, &mut info)?;
    let count = info[4] as usize;
    if count > FEATURES_MAX {
        return Err(io::Error::from_raw_os_error(libc::EOVERFLOW));
    }
    // struct ethtool_gstrings | cmd | string_set | len | data: names of 32 bytes |
    let mut names = vec![0; 3 + count * NAME_WORDS];
    names[..3].copy_from_slice(&[GSTRINGS, SET_OF_FEATURES, count as u32]);
    ethtool(device, &mut names)?;
    let is_cut = |name: &[u32]| {
        let bytes: Vec<u8> = name.iter().flat_map(|word| word.to_ne_bytes()).collect();
        text(&bytes) == b"tx-udp-segmentation"
    };
    // A kernel before 5.6 does not know the word, and no device of it cuts.
    let Some(bit) = names[3..].chunks_exact(NAME_WORDS).position(is_cut) else { return Ok(false) };
    // struct ethtool_gfeatures | cmd | size in blocks | blocks: available, requested, active, never_changed |
    let blocks = count.div_ceil(32);
    let mut features = vec![0; 2 + blocks * 4];
    features[..2].copy_from_slice(&[GFEATURES, blocks as u32]);
    ethtool(device, &mut features)?;
    Ok(features[2 + bit / 32 * 4 + 2] & 1 << (bit % 32) != 0)
}

/// How many transmit queues the device uses now: AF_XDP sockets are bound to one each. At least 1.
pub fn queues(device: u32) -> usize {
    // struct ethtool_channels | cmd | max: rx tx other combined | count: rx tx other combined |
    let mut channels = [GCHANNELS, 0, 0, 0, 0, 0, 0, 0, 0];
    let count = match ethtool(device, &mut channels) {
        Ok(()) => channels[6].saturating_add(channels[8]) as usize,
        // A driver that has no channels to set up.
        Err(_) => queue_files(device).unwrap_or(1),
    };
    count.max(1)
}

fn queue_files(device: u32) -> Option<usize> {
    let folder = format!("/sys/class/net/{}", name(device).ok()?);
    // It may be another namespace's sysfs.
    let index = std::fs::read_to_string(format!("{folder}/ifindex")).ok()?;
    if index.trim().parse() != Ok(device) {
        return None;
    }
    let queues = std::fs::read_dir(format!("{folder}/queues")).ok()?;
    Some(queues.flatten().filter(|queue| queue.file_name().to_string_lossy().starts_with("tx-")).count())
}

/// Who stands in the way of what this machine sends and would be passed over by frames that go straight to a device, in words:
///
/// - netfilter: hooks at output and postrouting of IPv4 and IPv6, and at the egress of each device (connection tracking has such
///   hooks, too, as soon as any rule wants it). A kernel that cannot list its hooks (before 5.14, or built without
///   NETFILTER_NETLINK_HOOK) is asked for its nf_tables chains and for the tables of legacy iptables instead; then BPF
///   programs at hooks, IPVS and security modules go unseen.
/// - IPsec: outgoing policies, and a default that blocks.
/// - Traffic control of each device but loopback: filters at clsact's egress, and queueing disciplines that shape, delay or
///   choose; not those that are somebody's default and only queue.
/// - BPF programs at the egress of this process's cgroups (systemd's IPAddressDeny= and IPAccounting= are such).
///
/// Not looked at: tcx programs (BPF links at a device's egress, Linux 6.6). An error says why it could not be asked.
pub fn bypassed() -> Result<Vec<String>, String> {
    let names = device_names().map_err(|error| format!("this machine's devices cannot be listed: {error}"))?;
    let mut found = netfilter(&names)?;
    found.extend(ipsec()?);
    found.extend(traffic_control(&names)?);
    found.extend(cgroup_programs());
    Ok(found)
}

fn device_names() -> io::Result<BTreeMap<u32, String>> {
    let mut names = BTreeMap::new();
    let mut request = Request::new(abi::GETLINK, libc::NLM_F_DUMP, &[0; 16]);
    Socket::open(libc::NETLINK_ROUTE)?.ask(&mut request, |message| {
        let flags = u32_at(message.body, 8).unwrap_or(0);
        let (index, name) = (u32_at(message.body, 4), find(attributes(message.body, 16), abi::IFLA_IFNAME));
        if let (Some(index), Some(name)) = (index, name)
            && flags & libc::IFF_LOOPBACK as u32 == 0
        {
            names.insert(index, words(name));
        }
    })?;
    Ok(names)
}

fn refused(what: &str, error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => format!("{what} may not be asked for: give the engine CAP_NET_ADMIN (in the systemd unit: AmbientCapabilities=)"),
        _ => format!("{what} cannot be asked for: {error}"),
    }
}

fn netfilter(devices: &BTreeMap<u32, String>) -> Result<Vec<String>, String> {
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
        match hooks(&mut socket, family, hook, None) {
            Ok(hooks) => found.extend(hooks.iter().map(|hook| format!("netfilter {place}: {hook}"))),
            Err(error) if is_unknown(&error) => return without_hooks(&mut socket),
            Err(error) => return Err(refused("netfilter's hooks", &error)),
        }
    }
    for name in devices.values() {
        match hooks(&mut socket, abi::NFPROTO_NETDEV, abi::NETDEV_EGRESS, Some(name)) {
            Ok(hooks) => found.extend(hooks.iter().map(|hook| format!("netfilter egress of {name}: {hook}"))),
            // A kernel without hooks there (5.16 has them), or a device that has just gone.
            Err(error) if is_unknown(&error) || error.raw_os_error() == Some(libc::ENODEV) => {}
            Err(error) => return Err(refused("netfilter's hooks", &error)),
        }
    }
    Ok(found)
}

/// What is not part of this kernel.
fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT))
}

fn hooks(socket: &mut Socket, family: u8, hook: u32, device: Option<&str>) -> io::Result<Vec<String>> {
    // nfgenmsg | family u8 | version u8 | resource u16 |
    let mut request = Request::new(abi::NFNL_HOOK_GET, libc::NLM_F_DUMP, &[family, 0, 0, 0]).attribute(abi::HOOK_HOOKNUM, &hook.to_be_bytes());
    if let Some(device) = device {
        request = request.attribute(abi::HOOK_DEV, &[device.as_bytes(), &[0]].concat());
    }
    let mut found = Vec::new();
    socket.ask(&mut request, |message| found.push(hook_words(message)))?;
    Ok(found)
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
    let place = match (*message.body.first()?, number) {
        (abi::NFPROTO_INET | abi::NFPROTO_IPV4 | abi::NFPROTO_IPV6, abi::LOCAL_OUT) => "output",
        (abi::NFPROTO_INET | abi::NFPROTO_IPV4 | abi::NFPROTO_IPV6, abi::POST_ROUTING) => "postrouting",
        (abi::NFPROTO_NETDEV, abi::NETDEV_EGRESS) => "egress",
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

/// What a machine has without anybody wanting anything of it, or what only takes in.
const PLAIN_QDISCS: [&str; 10] = ["noqueue", "noop", "pfifo_fast", "pfifo", "bfifo", "fq_codel", "fq", "mq", "ingress", "clsact"];

fn traffic_control(devices: &BTreeMap<u32, String>) -> Result<Vec<String>, String> {
    let mut socket = Socket::open(libc::NETLINK_ROUTE).map_err(|error| refused("traffic control", &error))?;
    let (mut found, mut classifying) = (Vec::new(), Vec::new());
    // tcmsg | family u8 | pad u8 | pad u16 | ifindex i32 | handle u32 | parent u32 | info u32 |
    let asked = socket.ask(&mut Request::new(abi::GETQDISC, libc::NLM_F_DUMP, &[0; 20]), |message| {
        let (Some(index), Some(kind)) = (u32_at(message.body, 4), find(attributes(message.body, 20), abi::TCA_KIND)) else { return };
        let (Some(name), kind) = (devices.get(&index), words(kind)) else { return };
        if kind == "clsact" {
            classifying.push(index);
        }
        if !PLAIN_QDISCS.contains(&kind.as_str()) {
            found.push(format!("traffic control of {name}: {kind}"));
        }
    });
    match asked {
        // A kernel without any.
        Err(error) if is_unknown(&error) => return Ok(found),
        asked => asked.map_err(|error| refused("traffic control", &error))?,
    }
    for index in classifying {
        let mut header = [0; 20];
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        header[12..16].copy_from_slice(&abi::CLSACT_EGRESS.to_ne_bytes());
        let mut filters = 0_usize;
        let asked = socket.ask(&mut Request::new(abi::GETTFILTER, libc::NLM_F_DUMP, &header), |_| filters += 1);
        asked.map_err(|error| refused("traffic control's filters", &error))?;
        if let Some(name) = devices.get(&index).filter(|_| filters > 0) {
            found.push(format!("traffic control of {name}: a filter at egress (tc filter show dev {name} egress)"));
        }
    }
    Ok(found)
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

fn name(device: u32) -> io::Result<String> {
    let mut name = [0_u8; libc::IF_NAMESIZE];
    // JUSTIFICATION: std has no names of devices.
    // SAFETY: `name` has the IF_NAMESIZE bytes that are written at most.
    let found = unsafe { libc::if_indextoname(device, name.as_mut_ptr().cast()) };
    if found.is_null() { Err(io::Error::last_os_error()) } else { Ok(words(&name)) }
}

/// One call of ioctl(SIOCETHTOOL). `data` begins with its command and has room for all that the command may write.
fn ethtool(device: u32, data: &mut [u32]) -> io::Result<()> {
    // JUSTIFICATION: all zeros is the beginning of an ifreq, which is a union.
    // SAFETY: ifreq is made of integers, arrays of them and a pointer that may be null.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = name(device)?;
    for (place, byte) in request.ifr_name.iter_mut().take(libc::IF_NAMESIZE - 1).zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_data = data.as_mut_ptr().cast();
    // JUSTIFICATION: std makes no socket without an address, and has no ioctl.
    // SAFETY: the socket is fresh. `request` and `data` are live; each caller gives a buffer of the layout and the size that its
    // command says it has (counts of entries stand in it), so the kernel writes within it. No command used here sets anything.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(fd);
        match libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::netlink::network::{run, within};
    use super::*;

    const CABLE: &str = "link set lo up
        link add v0 numtxqueues 3 type veth peer name v1 numtxqueues 1
        link set v1 up
        link set v0 up";

    fn index(name: &str) -> u32 {
        device_names().unwrap().into_iter().find(|(_, each)| each == name).unwrap().0
    }

    #[test]
    fn whether_a_device_cuts_is_what_ethtool_says() {
        within(CABLE, || {
            for device in ["v0", "lo"] {
                let device = if device == "lo" { 1 } else { index(device) };
                let before = cuts(device);
                assert!(before.is_ok(), "{before:?}");
            }
            let v0 = index("v0");
            for (word, is_on) in [("off", false), ("on", true), ("off", false)] {
                run(&format!("[ethtool] -K v0 tx-udp-segmentation {word}"));
                assert_eq!(cuts(v0).unwrap(), is_on);
            }
            assert!(cuts(9_999).is_err());
        });
    }

    #[test]
    fn queues_are_those_in_use() {
        within(CABLE, || {
            run("link add i0 type ifb");
            assert_eq!(queues(index("v0")), 3);
            assert_eq!(queues(index("v1")), 1);
            assert!(queues(index("i0")) >= 1);
            assert_eq!(queues(9_999), 1);
            run("[ethtool] -L v0 tx 2");
            assert_eq!(queues(index("v0")), 2);
        });
    }

    /// A base chain of nf_tables at a hook, as `nft` would make it: a batch of three in one datagram.
    fn chain(family: u8, table: &str, hook: u32, device: Option<&str>) {
        fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
            let mut bytes = [((4 + value.len()) as u16).to_ne_bytes(), kind.to_ne_bytes()].concat();
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        }
        let zero_ended = |name: &str| [name.as_bytes(), &[0]].concat();
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
                .attribute(7, &zero_ended("filter")),
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
        let shaped = found_with(&|| drop(run("[tc] qdisc replace dev v0 root tbf rate 1mbit burst 16kb latency 300ms")));
        assert_eq!(shaped, ["traffic control of v0: tbf"]);
        let filtered = found_with(&|| {
            run("[tc] qdisc add dev v0 clsact");
            run("[tc] filter add dev v0 egress protocol ip u32 match ip dst 10.0.0.2 flowid 1:1");
        });
        assert_eq!(filtered.len(), 1, "{filtered:?}");
        assert!(filtered[0].starts_with("traffic control of v0: a filter at egress"), "{filtered:?}");
        let classified = found_with(&|| drop(run("[tc] qdisc add dev v0 clsact\n[tc] filter add dev v0 ingress protocol ip u32 match ip dst 10.0.0.2 flowid 1:1")));
        assert_eq!(classified, Vec::<String>::new(), "what comes in is nobody's here");
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
            (abi::NFPROTO_NETDEV, abi::NETDEV_EGRESS, Some("v0"), "egress"),
            // Input: nobody's here.
            (abi::NFPROTO_IPV4, 1, None, ""),
            (abi::NFPROTO_NETDEV, 0, Some("v0"), ""),
        ] {
            let found = within(CABLE, || {
                chain(family, "house", hook, device);
                let all = netfilter(&device_names().unwrap()).unwrap();
                // However the kernel was asked.
                let mut socket = Socket::open(libc::NETLINK_NETFILTER).unwrap();
                assert_eq!(without_hooks(&mut socket).unwrap().is_empty(), all.is_empty());
                all
            });
            let is_named = |words: &String| words.contains(expected) && words.contains("chain house/leaving (nf_tables)");
            assert!(if expected.is_empty() { found.is_empty() } else { !found.is_empty() && found.iter().all(is_named) }, "{family} {hook}: {found:?}");
        }
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
    }

    #[test]
    fn who_may_not_ask_is_told_what_is_missing() {
        let words = refused("netfilter's hooks", &io::Error::from_raw_os_error(libc::EPERM));
        assert!(words.contains("CAP_NET_ADMIN"), "{words}");
        assert!(is_unknown(&io::Error::from_raw_os_error(libc::EINVAL)));
    }
}
