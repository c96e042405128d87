//! Looking names up: what `/etc/hosts` says, else what the name servers of `resolv.conf` say.
//!
//! As the C library does it (resolver(5)): the search list, `ndots`, `timeout` and `attempts` are followed, and the name
//! servers are asked in order. Unlike it, the files are looked at before every look-up, nothing is kept from one look-up
//! to the next, and a name further down the search list is asked for only when those before it are known not to exist: a
//! name server that fails for a moment must not lead traffic to another service that has the same name elsewhere.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hickory_resolver::{
    Hosts, Resolver, TokioResolver,
    config::{NameServerConfig, ResolverConfig, ResolverOpts, ServerOrderingStrategy},
    lookup::Lookup,
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::{Query, ResponseCode},
        rr::{Name, RecordType},
    },
    system_conf::parse_resolv_conf,
};
use tokio::time::timeout;

/// Names another file than `/etc/resolv.conf`.
const RESOLV_CONF: &str = "WEIR_RESOLV_CONF";

/// Nothing is asked for longer than this, however many servers there are to ask, and how often.
const PATIENCE: Duration = Duration::from_secs(15);

/// An address is its own name for good.
const FOR_GOOD: Duration = Duration::from_hours(24);

/// What is read from `/etc/hosts` holds until the file changes, which is seen at the next look-up.
const UNTIL_CHANGED: Duration = Duration::ZERO;

/// The addresses of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// In order, without repetition; never empty.
    pub addresses: Vec<IpAddr>,
    /// The least time that a record lives; 0 for what `/etc/hosts` says, a day for what is an address itself.
    pub ttl: Duration,
    /// The family that could not be asked for, and why: nothing is known of its addresses.
    pub missing: Option<(Family, Arc<str>)>,
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// A.
    V4,
    /// AAAA.
    V6,
}

impl Family {
    /// Whether the address is of it.
    pub const fn has(self, address: IpAddr) -> bool {
        match self {
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }

    const fn record(self) -> RecordType {
        match self {
            Self::V4 => RecordType::A,
            Self::V6 => RecordType::AAAA,
        }
    }
}

/// Why a name has no addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookUpError {
    /// There is no such name, on the search list either.
    NoSuchName,
    /// There is, but without an address.
    NoAddress,
    /// The name servers could not say.
    Failed(String),
    /// The name servers did not say in time.
    Timeout,
    /// It is not a name.
    BadName(String),
}

impl fmt::Display for LookUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchName => f.write_str("no such name"),
            Self::NoAddress => f.write_str("the name has no address"),
            Self::Failed(error) => f.write_str(error),
            Self::Timeout => f.write_str("timed out"),
            Self::BadName(error) => write!(f, "not a name: {error}"),
        }
    }
}

impl std::error::Error for LookUpError {}

/// Looks names up.
#[derive(Debug)]
pub struct Names {
    resolv_conf: PathBuf,
    hosts: PathBuf,
    system: Mutex<Option<Arc<System>>>,
}

/// What the files said when they were read last.
struct System {
    /// Compared whole, so that no change is missed. Both are small.
    files: [Option<Vec<u8>>; 2],
    resolver: TokioResolver,
    search: Vec<Name>,
    ndots: usize,
    hosts: Hosts,
}

impl fmt::Debug for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("System")
            .field("search", &self.search)
            .field("ndots", &self.ndots)
            .finish_non_exhaustive()
    }
}

/// The addresses of one family that a name has, and the least time in seconds that a record lives.
type Found = Result<(Vec<IpAddr>, u32), LookUpError>;

impl Names {
    /// As this machine is set up: by `/etc/hosts`, and by `/etc/resolv.conf` or the file that `WEIR_RESOLV_CONF` names.
    pub fn of_system() -> Self {
        let resolv_conf =
            std::env::var_os(RESOLV_CONF).map_or_else(|| "/etc/resolv.conf".into(), PathBuf::from);
        Self::new(resolv_conf, "/etc/hosts".into())
    }

    /// By these two files. Either may be missing or change at any time.
    pub fn new(resolv_conf: PathBuf, hosts: PathBuf) -> Self {
        Self { resolv_conf, hosts, system: Mutex::new(None) }
    }

    /// Looks `host` up, A and AAAA. An address is its own name. Dropping the future gives the look-up up.
    pub async fn look_up(&self, host: &str) -> Result<Answer, LookUpError> {
        let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = literal.parse() {
            return Ok(Answer::of(vec![address], FOR_GOOD));
        }
        let name = Name::from_str_relaxed(host).map_err(|e| LookUpError::BadName(e.to_string()))?;
        let system = self.system()?;
        system.look_up(&name).await
    }

    /// What the files say now.
    fn system(&self) -> Result<Arc<System>, LookUpError> {
        let files = [&self.resolv_conf, &self.hosts].map(|path| contents(path));
        let mut known = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.as_ref().filter(|known| known.files == files) {
            return Ok(known.clone());
        }
        let system = Arc::new(System::build(files)?);
        *known = Some(system.clone());
        Ok(system)
    }
}

fn contents(path: &Path) -> Option<Vec<u8>> {
    // A file that is not there says nothing; one that cannot be read now may be readable the next time.
    std::fs::read(path).ok()
}

impl System {
    fn build(files: [Option<Vec<u8>>; 2]) -> Result<Self, LookUpError> {
        let failed = |error: &dyn fmt::Display| LookUpError::Failed(format!("resolv.conf: {error}"));
        let [resolv_conf, hosts_file] = &files;
        let (config, mut options) =
            read_resolv_conf(resolv_conf.as_deref().unwrap_or_default()).map_err(|e| failed(&e))?;
        // Ours is the only cache, and the only one to read the hosts.
        options.cache_size = 0;
        options.use_hosts_file = hickory_resolver::config::ResolveHosts::Never;
        options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
        options.num_concurrent_reqs = 1;
        // It counts what comes after the first attempt.
        options.attempts = options.attempts.saturating_sub(1);
        let mut hosts = Hosts::default();
        let hosts_file = String::from_utf8_lossy(hosts_file.as_deref().unwrap_or_default());
        hosts.read_hosts_conf(hosts_file.as_bytes()).map_err(|e| failed(&e))?;
        let search = match config.search() {
            [] => config.domain().cloned().into_iter().collect(),
            search => search.to_vec(),
        };
        let ndots = options.ndots;
        let resolver = Resolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()
            .map_err(|e| failed(&e))?;
        Ok(Self { files, resolver, search, ndots, hosts })
    }

    async fn look_up(&self, name: &Name) -> Result<Answer, LookUpError> {
        if let Some(answer) = self.in_hosts(name) {
            return Ok(answer);
        }
        let mut exists = false;
        for candidate in self.candidates(name) {
            let ask = |family| self.family(candidate.clone(), family);
            let (v4, v6) = tokio::join!(ask(Family::V4), ask(Family::V6));
            match both(v4, v6) {
                Err(LookUpError::NoSuchName) => {}
                // The name next on the list may have what this one has not.
                Err(LookUpError::NoAddress) => exists = true,
                decided => return decided,
            }
        }
        Err(if exists { LookUpError::NoAddress } else { LookUpError::NoSuchName })
    }

    /// What the hosts file says of the name as it was written. What is there at all is not asked for elsewhere.
    fn in_hosts(&self, name: &Name) -> Option<Answer> {
        let family = |family| self.hosts.lookup_static_host(&Query::query(name.clone(), family));
        let found = [family(RecordType::A), family(RecordType::AAAA)];
        let records = found.iter().flatten().flat_map(Lookup::answers);
        let addresses: Vec<_> = records.filter_map(|record| record.data.ip_addr()).collect();
        (!addresses.is_empty()).then(|| Answer::of(addresses, UNTIL_CHANGED))
    }

    /// The names to ask for, in order.
    fn candidates(&self, name: &Name) -> Vec<Name> {
        let mut itself = name.clone();
        itself.set_fqdn(true);
        if name.is_fqdn() || name.is_localhost() {
            return vec![itself];
        }
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        let searched = self.search.iter().filter_map(|domain| name.clone().append_domain(domain).ok());
        let mut names = Vec::with_capacity(self.search.len() + 1);
        let first = (dots >= self.ndots).then(|| itself.clone());
        for candidate in first.into_iter().chain(searched).chain([itself]) {
            if !names.contains(&candidate) {
                names.push(candidate);
            }
        }
        names
    }

    async fn family(&self, name: Name, family: Family) -> Found {
        let found = timeout(PATIENCE, self.resolver.lookup(name, family.record()));
        match found.await.unwrap_or(Err(NetError::Timeout)) {
            Ok(found) => {
                let addresses: Vec<_> =
                    found.answers().iter().filter_map(|record| record.data.ip_addr()).collect();
                // A chain of aliases ends when the first of its records does.
                let ttl = found.answers().iter().map(|record| record.ttl).min().unwrap_or(0);
                if addresses.is_empty() { Err(LookUpError::NoAddress) } else { Ok((addresses, ttl)) }
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => Err(match none.response_code {
                ResponseCode::NXDomain => LookUpError::NoSuchName,
                ResponseCode::NoError => LookUpError::NoAddress,
                other => LookUpError::Failed(other.to_string()),
            }),
            Err(NetError::Timeout) => Err(LookUpError::Timeout),
            Err(error) => Err(LookUpError::Failed(error.to_string())),
        }
    }
}

/// What two families make together. There are name servers that never answer for AAAA: what one family has is taken
/// though the other cannot be asked for. But that a name has nothing is known only when both say so.
fn both(v4: Found, v6: Found) -> Result<Answer, LookUpError> {
    use LookUpError::{NoAddress, NoSuchName};
    let unknown = |error: &LookUpError| !matches!(error, NoAddress | NoSuchName);
    match (v4, v6) {
        (Ok((mut addresses, ttl)), Ok((more, other))) => {
            addresses.extend(more);
            Ok(Answer::of(addresses, Duration::from_secs(ttl.min(other).into())))
        }
        (Ok((addresses, ttl)), Err(error)) | (Err(error), Ok((addresses, ttl))) => {
            let family = if addresses.iter().any(IpAddr::is_ipv4) { Family::V6 } else { Family::V4 };
            let missing = unknown(&error).then(|| (family, error.to_string().into()));
            Ok(Answer { missing, ..Answer::of(addresses, Duration::from_secs(ttl.into())) })
        }
        (Err(error), _) | (_, Err(error)) if unknown(&error) => Err(error),
        (Err(NoSuchName), Err(NoSuchName)) => Err(NoSuchName),
        (Err(_), Err(_)) => Err(NoAddress),
    }
}

impl Answer {
    fn of(mut addresses: Vec<IpAddr>, ttl: Duration) -> Self {
        // Name servers turn their answers round; the same set is the same answer.
        addresses.sort_unstable();
        addresses.dedup();
        Self { addresses, ttl, missing: None }
    }
}

/// Reads a `resolv.conf`. Beside plain addresses a name server may be `[ADDRESS]:PORT`, as OpenBSD has it.
fn read_resolv_conf(text: &[u8]) -> Result<(ResolverConfig, ResolverOpts), NetError> {
    let text = String::from_utf8_lossy(text);
    let (with_port, mut rest): (Vec<_>, Vec<_>) =
        text.lines().partition(|line| server_with_port(line).is_some());
    let servers = with_port.into_iter().filter_map(server_with_port).map(|address| {
        let mut server = NameServerConfig::udp_and_tcp(address.ip());
        for connection in &mut server.connections {
            connection.port = address.port();
        }
        server
    });
    let mut servers: Vec<_> = servers.collect();
    // Without any, the one on this machine (resolver(5)). It is also put in where all have a port, and taken out again:
    // a file without a name server would not be read.
    let none = !rest.iter().any(|line| line.split_whitespace().next() == Some("nameserver"));
    if none {
        rest.push("nameserver 127.0.0.1");
    }
    let (config, options) = parse_resolv_conf(rest.join("\n"))?;
    if !none || servers.is_empty() {
        servers.extend(config.name_servers().iter().cloned());
    }
    let config = ResolverConfig::from_parts(config.domain().cloned(), config.search().to_vec(), servers);
    Ok((config, options))
}

fn server_with_port(line: &str) -> Option<SocketAddr> {
    let mut words = line.split_whitespace();
    let address = words.next().filter(|word| *word == "nameserver").and(words.next())?;
    let (ip, port) = address.strip_prefix('[')?.split_once("]:")?;
    Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?))
}

#[cfg(test)]
mod tests;
