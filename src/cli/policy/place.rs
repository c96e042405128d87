//! Where live policy is, and whose.

use std::{fmt, path::PathBuf, time::Duration};

use tokio::runtime::{Builder, Runtime};

use super::store::Store;
use crate::{
    cli::{
        ConfigArgs, ExitStatus,
        failure::{Failure, note},
        source,
    },
    config::{
        File, Name,
        bootstrap::{self, ListenAddress, StoreSource},
    },
    store::{
        client::Client,
        directory::Tree,
        etcd::{Config, Tls},
        key::{Identity, Scope},
        layers::Baseline,
    },
};

/// How long each step of a call to etcd may take when no file says it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What all keys begin with unless something else is said.
const ROOT: &str = "/weir";

/// Stands in the place of a service or instance that is not said. Nobody can have this name.
const NOBODY: &str = "_none";

/// Which store.
#[derive(Debug, Clone, clap::Args)]
pub struct StoreArgs {
    /// Where the file is.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The store, in the place of the file's: `etcd:http://host:2379[,…]` or `dir:PATH`.
    #[arg(long, value_name = "STORE", value_parser = StoreAt::parse)]
    pub store: Option<StoreAt>,
    /// What all keys begin with in the etcd of `--store` [default: /weir].
    #[arg(long, value_name = "PREFIX", requires = "store")]
    pub root: Option<String>,
    /// The user for the etcd of `--store`.
    #[arg(long, value_name = "NAME", requires = "store", requires = "password_file")]
    pub user: Option<String>,
    /// The file that holds the user's password.
    #[arg(long, value_name = "FILE", requires = "user")]
    pub password_file: Option<PathBuf>,
    /// The authorities to trust, for an etcd with TLS [default: the system's].
    #[arg(long, value_name = "FILE", requires = "store")]
    pub ca: Option<PathBuf>,
    /// The certificate to show it.
    #[arg(long, value_name = "FILE", requires = "store", requires = "key")]
    pub cert: Option<PathBuf>,
    /// The certificate's key.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Whose policy [default: the file's service].
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub service: Option<Name>,
}

/// A store as `--store` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAt {
    /// The members of an etcd.
    Etcd(Vec<String>),
    /// A directory.
    Directory(PathBuf),
}

impl StoreAt {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "a store is `etcd:http://HOST:2379[,…]` or `dir:PATH`".to_owned();
        match text.split_once(':') {
            Some(("etcd", members)) if !members.is_empty() => {
                Ok(Self::Etcd(members.split(',').map(str::to_owned).collect()))
            }
            Some(("dir", path)) if !path.is_empty() => Ok(Self::Directory(path.into())),
            _ => Err(wrong()),
        }
    }
}

/// A scope, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScopeName {
    /// `_all`.
    Fleet,
    /// `<service>`.
    Service(Name),
    /// `<service>@<instance>`.
    Instance(Name, Name),
}

impl ScopeName {
    /// Reads `_all`, `orders` or `orders@pod-1`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let read = || match text.split_once('@') {
            _ if text == "_all" => Some(Self::Fleet),
            Some((service, instance)) => Some(Self::Instance(Name::new(service)?, Name::new(instance)?)),
            None => Some(Self::Service(Name::new(text)?)),
        };
        read().ok_or_else(|| "a scope is `_all`, a service, or SERVICE@INSTANCE".to_owned())
    }

    /// The service; the fleet has none.
    pub(super) fn service(&self) -> Option<&Name> {
        match self {
            Self::Fleet => None,
            Self::Service(service) | Self::Instance(service, _) => Some(service),
        }
    }

    /// Under whose name changes are put down.
    pub(super) fn audited_as(&self) -> &str {
        self.service().map_or("_all", Name::as_str)
    }
}

impl fmt::Display for ScopeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fleet => f.write_str("_all"),
            Self::Service(service) => write!(f, "{service}"),
            Self::Instance(service, instance) => write!(f, "{service}@{instance}"),
        }
    }
}

/// Everything that a command on live policy works with.
pub(in crate::cli) struct Place {
    /// What runs the calls.
    pub(in crate::cli) runtime: Runtime,
    /// The store.
    pub(in crate::cli) store: Store,
    /// How the store is named, for the next command.
    pub(in crate::cli) option: String,
    /// The scope that is written.
    pub(in crate::cli) scope: ScopeName,
    /// The service, if one is said.
    pub(in crate::cli) service: Option<Name>,
    /// Whose scopes are read.
    pub(in crate::cli) identity: Identity,
    /// Where the file's instance can be asked.
    pub(in crate::cli) admin: Option<String>,
    /// What lies below live policy, if a file says it.
    pub(in crate::cli) baseline: Option<Baseline>,
}

impl Place {
    /// Finds the store, whose policy it is, and what the file says of both.
    pub(in crate::cli) fn find(args: &StoreArgs, scope: Option<&ScopeName>) -> Result<Self, Failure> {
        let file = file(args)?;
        let own = file.as_ref().map(|file| &file.bootstrap.service);
        let of_scope = scope.and_then(ScopeName::service);
        if let (Some(service), Some(other)) = (&args.service, of_scope)
            && service != other
        {
            return Err(Failure::Usage(format!(
                "--service {service} and --scope of {other} contradict each other"
            )));
        }
        let service = args.service.as_ref().or(of_scope).or(own).cloned();
        let scope = scope.cloned().or_else(|| service.clone().map(ScopeName::Service)).ok_or_else(|| {
            Failure::Usage(
                "whose policy? Without a file, say `--service NAME`, or `--scope _all|SERVICE|SERVICE@INSTANCE`".to_owned(),
            )
        })?;
        let file_applies = own.is_some() && own == service.as_ref();
        let baseline = file.as_ref().filter(|_| file_applies).map(Baseline::new);
        if let (Some(own), Some(service), false) = (own, &service, file_applies) {
            note(&format!("the file is {own}'s: what is written for {service} is checked by itself"));
        }
        let instance = match (&scope, &file) {
            (ScopeName::Instance(_, instance), _) => instance.clone(),
            (_, Some(file)) if file_applies => file.bootstrap.instance.clone(),
            _ => Name::reserved(NOBODY),
        };
        let identity =
            Identity { service: service.clone().unwrap_or_else(|| Name::reserved(NOBODY)), instance };
        let (store, option) = store(args, file.as_ref())?;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::Unavailable(format!("no runtime: {error}")))?;
        let admin = file.as_ref().and_then(|file| Some(url(&file.bootstrap.admin.as_ref()?.listen)));
        Ok(Self { runtime, store, option, scope, service, identity, admin, baseline })
    }

    /// The key of something in the scope that is written.
    pub(in crate::cli) fn key(&self, subject: &impl fmt::Display) -> String {
        format!("{}/{subject}", self.scope)
    }

    /// What the keys of the three scopes begin with.
    pub(in crate::cli) fn prefixes(&self) -> [String; 3] {
        Scope::ALL.map(|scope| self.identity.prefix(scope))
    }
}

/// An admin interface, as `--admin` names it.
fn url(listen: &ListenAddress) -> String {
    match listen {
        ListenAddress::Socket(address) => format!("http://{address}"),
        ListenAddress::Unix(_) => listen.to_string(),
    }
}

/// Whether a file or a store was named, or a file lies where one is looked for.
pub(in crate::cli) fn given(args: &StoreArgs) -> bool {
    args.store.is_some() || !args.config.is_default() || args.config.config.exists()
}

/// The file, where there is one.
pub(in crate::cli) fn file(args: &StoreArgs) -> Result<Option<File>, Failure> {
    if args.config.is_default() && !args.config.config.exists() {
        if args.store.is_none() {
            return Err(Failure::Usage(
                "which store? Name a file that has a `store:` block with `-c FILE` (or WEIR_CONFIG), or the store itself \
                 with `--store etcd:http://HOST:2379` or `--store dir:PATH`"
                    .to_owned(),
            ));
        }
        return Ok(None);
    }
    let loaded = source::load_file_of_another_host(&args.config.config);
    if loaded.file.is_none() {
        let text = loaded.render(crate::cli::check::wants_colour(&std::io::stderr()));
        let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
        return Err(Failure::Told(ExitStatus::BadConfig));
    }
    Ok(loaded.file)
}

fn store(args: &StoreArgs, file: Option<&File>) -> Result<(Store, String), Failure> {
    let given = args.root.is_some() || args.user.is_some() || args.ca.is_some() || args.cert.is_some();
    match (&args.store, file.and_then(|file| file.bootstrap.store.as_ref())) {
        (Some(StoreAt::Directory(_)), _) if given => Err(Failure::Usage(
            "--root, --user, --ca and --cert are for an etcd, not for a directory".to_owned(),
        )),
        (Some(StoreAt::Directory(path)), _) => {
            Ok((Store::directory(Tree::new(path), path), format!("--store dir:{}", path.display())))
        }
        (Some(StoreAt::Etcd(members)), _) => {
            let option = format!("--store etcd:{}", members.join(","));
            let tls = (args.ca.is_some() || args.cert.is_some()).then(|| Tls {
                ca: args.ca.clone(),
                cert: args.cert.clone(),
                key: args.key.clone(),
                server_name: None,
            });
            let config = Config {
                endpoints: members.clone(),
                root: args.root.as_deref().unwrap_or(ROOT).trim_end_matches('/').to_owned(),
                user: args.user.clone(),
                password_file: args.password_file.clone(),
                tls,
            };
            let client =
                Client::new(config.clone(), TIMEOUT).map_err(|error| Failure::Usage(error.to_string()))?;
            Ok((Store::etcd(client, config), option))
        }
        (None, Some(store)) => {
            let option = format!("-c {}", args.config.config.display());
            match &store.source {
                StoreSource::Directory(directory) => {
                    Ok((Store::directory(Tree::new(&directory.path), &directory.path), option))
                }
                StoreSource::Etcd(etcd) => {
                    let config = config_of(etcd);
                    let client = Client::new(config.clone(), etcd.request_timeout)
                        .map_err(|error| Failure::Bad(error.to_string()))?;
                    Ok((Store::etcd(client, config), option))
                }
            }
        }
        (None, None) => Err(Failure::Usage(format!(
            "{} has no `store:` block: add one, or name the store with `--store`",
            args.config.config.display()
        ))),
    }
}

/// An etcd as the file has it.
fn config_of(etcd: &bootstrap::Etcd) -> Config {
    let tls = etcd.tls.as_ref().map(|tls| Tls {
        ca: tls.ca.clone(),
        cert: tls.identity.as_ref().map(|(cert, _)| cert.clone()),
        key: tls.identity.as_ref().map(|(_, key)| key.clone()),
        server_name: tls.server_name.as_deref().map(str::to_owned),
    });
    Config {
        endpoints: etcd.endpoints.iter().map(ToString::to_string).collect(),
        root: etcd.root.to_string(),
        user: etcd.credentials.as_ref().map(|credentials| credentials.user.to_string()),
        password_file: etcd.credentials.as_ref().map(|credentials| credentials.password_file.clone()),
        tls,
    }
}

/// Reads a name.
pub(in crate::cli) fn name(text: &str) -> Result<Name, String> {
    Name::new(text)
        .ok_or_else(|| "a name has 1 to 128 of a-z A-Z 0-9 . _ -, a letter or digit first".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_and_scopes() {
        let etcd = StoreAt::parse("etcd:http://a:2379,http://b:2379").unwrap();
        assert_eq!(etcd, StoreAt::Etcd(vec!["http://a:2379".into(), "http://b:2379".into()]));
        assert_eq!(StoreAt::parse("dir:a:b"), Ok(StoreAt::Directory("a:b".into())));
        for wrong in ["", "etcd", "etcd:", "dir:", "redis:x", "./live"] {
            assert!(StoreAt::parse(wrong).is_err(), "{wrong}");
        }
        for scope in ["_all", "orders", "orders@pod-1"] {
            assert_eq!(ScopeName::parse(scope).unwrap().to_string(), scope);
        }
        for wrong in ["", "_any", "a/b", "a@", "@b", "a@b@c"] {
            assert!(ScopeName::parse(wrong).is_err(), "{wrong}");
        }
    }
}
