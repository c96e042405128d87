//! The store that the file names, and what it tells.

use tokio::sync::mpsc;

use crate::{
    config::bootstrap::{self, StoreSource},
    store::{
        Event,
        directory::Directory,
        etcd::{self, Etcd},
        key::Identity,
        watch::Settings,
    },
};

/// Where events come from; dropped, it is left alone.
pub(in crate::control) struct Source {
    events: mpsc::Receiver<Event>,
    _directory: Option<Directory>,
}

impl Source {
    /// Begins to follow the store. The error is one of the file that could not be seen before, or the system's.
    pub(super) fn start(source: &StoreSource, identity: &Identity) -> Result<Self, String> {
        match source {
            StoreSource::Directory(directory) => {
                let (directory, events) =
                    Directory::start(directory, identity).map_err(|error| error.to_string())?;
                Ok(Self { events, _directory: Some(directory) })
            }
            StoreSource::Etcd(config) => {
                let settings = Settings {
                    connect_timeout: config.connect_timeout,
                    call_timeout: config.request_timeout,
                    page_timeout: config.request_timeout,
                    ..Settings::default()
                };
                let (_, task, events) =
                    Etcd::new(etcd_config(config), identity, settings).map_err(|error| error.to_string())?;
                tokio::spawn(task);
                Ok(Self { events, _directory: None })
            }
        }
    }

    /// What it tells next. Cancel-safe. Never ends: a store whose task has ended says nothing any more.
    pub(in crate::control) async fn next(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }
}

/// What the file says of an etcd, as the client wants it.
pub(crate) fn etcd_config(config: &bootstrap::Etcd) -> etcd::Config {
    etcd::Config {
        endpoints: config.endpoints.iter().map(ToString::to_string).collect(),
        root: config.root.to_string(),
        user: config.credentials.as_ref().map(|credentials| credentials.user.to_string()),
        password_file: config.credentials.as_ref().map(|credentials| credentials.password_file.clone()),
        tls: config.tls.as_ref().map(|tls| {
            let (cert, key) = tls.identity.clone().unzip();
            let server_name = tls.server_name.as_ref().map(ToString::to_string);
            etcd::Tls { ca: tls.ca.clone(), cert, key, server_name }
        }),
    }
}
