//! Redis, as it is written.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::{Takes, Text, wire};
use crate::config::{bootstrap::RedisUrl, codes::Code, fault::Problem, policy::EndpointAddress};

wire! {
    /// The Redis that limits with `share: redis` count in.
    RedisWire as "redis" {
        /// Where it is: redis://[user:password@]host[:port][/database], or rediss:// for TLS.
        url: RedisUrl = required,
    }
}

impl Text for RedisUrl {
    const WHAT: &'static str = "a URL such as `redis://127.0.0.1:6379`";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Text;

    fn parse(text: &str) -> Result<Self, Problem> {
        // What is wrong is not shown: it may hold a password.
        let wrong = |why: &str| {
            Problem::new(Code::BadAddress, format!("this is not the URL of a Redis: {why}")).help(
                "write `redis://host:6379`, `redis://user:password@host:6379/0` or `rediss://host:6379`",
            )
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("it has no scheme"))?;
        let tls = match scheme {
            "redis" => false,
            "rediss" => true,
            _ => return Err(wrong("its scheme is neither `redis` nor `rediss`")),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let database = if path.is_empty() { Ok(0) } else { path.parse::<u16>() };
        let database = database.map_err(|_| wrong("a database is a number"))?;
        let (login, host) = match authority.rsplit_once('@') {
            Some((login, host)) => (Some(login), host),
            None => (None, authority),
        };
        let decode = |text: &str| {
            let text = percent_encoding::percent_decode_str(text).decode_utf8();
            text.map(|text| Arc::from(&*text)).map_err(|_| wrong("user or password is not UTF-8"))
        };
        let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            None => (None, None),
            Some((user, password)) => (
                if user.is_empty() { None } else { Some(decode(user)?) },
                if password.is_empty() { None } else { Some(decode(password)?) },
            ),
        };
        let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
        let host = if has_port { host.to_owned() } else { format!("{host}:6379") };
        match EndpointAddress::parse(&host) {
            Ok(address @ (EndpointAddress::Socket(_) | EndpointAddress::Host(..))) => {
                Ok(Self { tls, address, user, password, database })
            }
            _ => Err(wrong("it has no host and port")),
        }
    }

    fn describe() -> Json {
        json!({ "type": "string", "pattern": "^rediss?://[^/]+(/[0-9]*)?$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let url = RedisUrl::parse("rediss://we%40ir:s%3Aecret@redis.shop.svc/3").unwrap();
        assert_eq!(
            (url.tls, url.database, url.address.to_string().as_str()),
            (true, 3, "redis.shop.svc:6379")
        );
        assert_eq!((url.user.as_deref(), url.password.as_deref()), (Some("we@ir"), Some("s:ecret")));
        assert!(!format!("{url:?}").contains("ecret"));
        assert_eq!(RedisUrl::parse("redis://[::1]").unwrap().address.to_string(), "[::1]:6379");
        for text in ["", "redis:", "http://a", "redis://", "redis://a:0", "redis://a/x", "redis://u:secret@"]
        {
            let problem = RedisUrl::parse(text).unwrap_err();
            assert!(!problem.message.contains("secret"), "{text}");
        }
    }
}
