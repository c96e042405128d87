//! A connection to Redis.

use std::{sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Cmd, Pipeline, RedisConnectionInfo, RedisError, Value, aio::MultiplexedConnection,
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;

use super::call::{Call, Reply, Script};
use crate::config::{bootstrap::RedisUrl, policy::EndpointAddress};

/// Whether this Weir was built with it.
pub(super) const BUILT: bool = true;

/// An open connection, whose user is known, whose database is chosen and whose scripts are loaded. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Link {
    connection: MultiplexedConnection,
    /// Reads and writes; ends when the connection does.
    driver: JoinHandle<()>,
    digests: Vec<(Script, String)>,
}

impl Link {
    /// Opens one.
    pub(super) async fn open(url: &RedisUrl, tls: Option<&Arc<ClientConfig>>) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("connect to {}: {error}", url.address);
        match &url.address {
            EndpointAddress::Unix(path) => {
                Self::over(url, UnixStream::connect(path).await.map_err(failed)?).await
            }
            EndpointAddress::Socket(address) => {
                let name = ServerName::IpAddress(address.ip().into());
                Self::secure(url, TcpStream::connect(address).await.map_err(failed)?, tls, name).await
            }
            EndpointAddress::Host(host, port) => {
                let name = ServerName::try_from(host.to_string())
                    .map_err(|error| format!("{host} cannot be the name in a certificate: {error}"))?;
                let stream = TcpStream::connect((&**host, *port)).await.map_err(failed)?;
                Self::secure(url, stream, tls, name).await
            }
        }
    }

    async fn secure(
        url: &RedisUrl,
        stream: TcpStream,
        tls: Option<&Arc<ClientConfig>>,
        name: ServerName<'static>,
    ) -> Result<Self, String> {
        // Small packets, each of which somebody waits for.
        let _ = stream.set_nodelay(true);
        let Some(tls) = tls else { return Self::over(url, stream).await };
        let connect = TlsConnector::from(Arc::clone(tls)).connect(name, stream);
        Self::over(url, connect.await.map_err(|error| format!("TLS with {}: {error}", url.address))?).await
    }

    async fn over<S>(url: &RedisUrl, stream: S) -> Result<Self, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut login = RedisConnectionInfo::default().set_db(url.database.into()).set_skip_set_lib_name();
        if let Some(user) = &url.user {
            login = login.set_username(user);
        }
        if let Some(password) = &url.password {
            login = login.set_password(password);
        }
        // Whoever calls sets the time limits.
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let opened = MultiplexedConnection::new_with_config(&login, stream, config).await;
        let (connection, driver) = opened.map_err(|error| told(&error))?;
        let digests = Script::ALL.into_iter().map(|script| (script, script.digest())).collect();
        let mut link = Self { connection, driver: tokio::spawn(driver), digests };
        link.load().await?;
        Ok(link)
    }

    /// Gives Redis the scripts.
    async fn load(&mut self) -> Result<(), String> {
        let mut pipeline = Pipeline::new();
        for script in Script::ALL {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(script.text());
        }
        let answers = self.send(&pipeline, Script::ALL.len()).await?;
        answers
            .into_iter()
            .try_for_each(|answer| answer.extract_error().map(drop))
            .map_err(|error| told(&error))
    }

    /// Asks all at once. One wrong answer, and there is none.
    pub(super) async fn ask(&mut self, calls: &[Call]) -> Result<Vec<Reply>, String> {
        let mut pipeline = Pipeline::with_capacity(calls.len());
        for call in calls {
            pipeline.add_command(self.by_digest(call));
        }
        let answers = self.send(&pipeline, calls.len()).await?;
        let mut replies = Vec::with_capacity(calls.len());
        let mut unknown = Vec::new();
        for (place, answer) in answers.into_iter().enumerate() {
            match answer {
                // Somebody has flushed the scripts, or Redis was started again behind the same address.
                Value::ServerError(error) if error.code() == "NOSCRIPT" => {
                    unknown.push(place);
                    replies.push(None);
                }
                answer => replies.push(Some(reply(answer)?)),
            }
        }
        if !unknown.is_empty() {
            self.ask_with_text(calls, &unknown, &mut replies).await?;
        }
        Ok(replies.into_iter().flatten().collect())
    }

    async fn ask_with_text(
        &mut self,
        calls: &[Call],
        places: &[usize],
        replies: &mut [Option<Reply>],
    ) -> Result<(), String> {
        self.load().await?;
        let mut pipeline = Pipeline::with_capacity(places.len());
        for call in places.iter().filter_map(|place| calls.get(*place)) {
            pipeline.add_command(self.by_digest(call));
        }
        let answers = self.send(&pipeline, places.len()).await?;
        for (place, answer) in places.iter().zip(answers) {
            if let Some(slot) = replies.get_mut(*place) {
                *slot = Some(reply(answer)?);
            }
        }
        Ok(())
    }

    fn by_digest(&self, call: &Call) -> Cmd {
        let digest = self.digests.iter().find(|(script, _)| *script == call.script);
        let mut command = redis::cmd("EVALSHA");
        command
            .arg(digest.map_or("", |(_, digest)| digest.as_str()))
            .arg(1)
            .arg(&call.key)
            .arg(&call.arguments);
        command
    }

    async fn send(&mut self, pipeline: &Pipeline, count: usize) -> Result<Vec<Value>, String> {
        let answers =
            self.connection.send_packed_commands(pipeline, 0, count).await.map_err(|error| told(&error))?;
        if answers.len() == count {
            Ok(answers)
        } else {
            Err(format!("{} answers to {count} questions", answers.len()))
        }
    }

    /// Whether the other side has closed it.
    pub(super) fn is_closed(&self) -> bool {
        self.driver.is_finished()
    }

    /// How long [`Self::open`] may take.
    pub(super) const OPENING: Duration = Duration::from_secs(1);
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn reply(answer: Value) -> Result<Reply, String> {
    let answer = answer.extract_error().map_err(|error| told(&error))?;
    let numbers: Option<Vec<i64>> = match &answer {
        Value::Array(items) => items
            .iter()
            .map(|item| if let Value::Int(number) = item { Some(*number) } else { None })
            .collect(),
        _ => None,
    };
    numbers.as_deref().and_then(Reply::parse).ok_or_else(|| "an answer that is not the script's".to_owned())
}

/// What went wrong. Neither names nor passwords are in what the crate says.
fn told(error: &RedisError) -> String {
    error.to_string()
}
