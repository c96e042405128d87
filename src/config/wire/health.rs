//! Active health checks, as they are written.

use std::sync::Arc;

use http::Method;
use serde_json::{Value as Json, json};

use super::{Many, Takes, Text, bounds::Within, hosts::NewHost, scalars::Int, short::Scalar, wire};
use crate::config::{
    codes::Code,
    fault::{Problem, shown},
};

wire! {
    /// Active health checks, of exactly one kind: http, tcp, tls, grpc, or send and expect. All of them go by TLS where the
    /// upstream has it, but `tcp` looks no further than the connection.
    HealthWire as "health" {
        /// A request for this path is answered with a status of `expect`.
        http: CheckPath,
        /// A connection is accepted: true.
        tcp: Yes,
        /// A TLS handshake succeeds, as the upstream's `tls` says, which must be there: true.
        tls: Yes,
        /// The gRPC health protocol (grpc.health.v1) says SERVING of this service; true = of the whole server.
        grpc: GrpcService,
        /// This text is sent (in double quotes with YAML's escapes), and answered with `expect`; empty or left out, the other
        /// side speaks first. At most 64 KiB.
        send: Exchanged,
        /// For http: the statuses that are good: 200, 2xx, 200-204, or a list of them. Default: 2xx. For send: what the
        /// first 64 KiB of the answer have to contain; needed there.
        expect: Many<Exchanged>,
        /// For http: the method. Default: GET.
        method: Method,
        /// For http: the host that is asked for. Default: the endpoint's address.
        host: NewHost,
        /// For http: what the first 64 KiB of the body have to contain. Default: anything.
        contains: Exchanged,
        /// The port that is asked. Default: the endpoint's own.
        port: Int<1, 65_535>,
        /// From one check to the next, ± 20 %.
        interval: Within<100, 3_600_000> = default(Within::secs(5)),
        /// How long one may take, the connection included; not longer than `interval`. Default: 1s, or the interval
        /// where that is shorter.
        timeout: Within<10, 3_600_000>,
        /// So many good ones in a row make an unhealthy endpoint healthy.
        rise: Int<1, 100> = default(Int(2)),
        /// So many bad ones in a row make an endpoint unhealthy.
        fall: Int<1, 100> = default(Int(3)),
    }
}

/// The path that is asked for, with its query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CheckPath(pub(crate) Arc<str>);

impl Text for CheckPath {
    const WHAT: &'static str = "a path such as `/healthz`";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Text;

    fn parse(text: &str) -> Result<Self, Problem> {
        let wrong = |help: &str| {
            Problem::new(Code::BadPath, format!("`{}` is not a path to ask for", shown(text))).help(help)
        };
        if !text.starts_with('/') {
            return Err(wrong("it begins with a slash: `/healthz`; the host stands in `host`"));
        }
        let visible = text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
        if !visible || text.parse::<http::uri::PathAndQuery>().is_err() {
            return Err(wrong("it is a path, and may have a query; other characters are percent-encoded"));
        }
        Ok(Self(Arc::from(text)))
    }

    fn describe() -> Json {
        json!({ "type": "string", "pattern": "^/[!-\"$-~]*$" })
    }
}

/// True.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Yes;

impl Text for Yes {
    const WHAT: &'static str = "`true`";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Any;

    fn parse(text: &str) -> Result<Self, Problem> {
        if Scalar::of(text) == "on" {
            return Ok(Self);
        }
        let help = match Scalar::of(text) {
            "off" => "to have no such check, take it out",
            _ => "which port is asked stands in `port`",
        };
        Err(Problem::new(Code::BadValue, format!("it is `true`, not `{}`", shown(text))).help(help))
    }

    fn describe() -> Json {
        json!({ "enum": [true, "on"] })
    }
}

/// A service of gRPC; empty = the whole server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GrpcService(pub(crate) Arc<str>);

impl Text for GrpcService {
    const WHAT: &'static str = "a gRPC service such as `shop.Inventory`, or `true` for the whole server";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Any;

    fn parse(text: &str) -> Result<Self, Problem> {
        let wrong = |help: &str| {
            Problem::new(Code::BadValue, format!("`{}` is not a gRPC service", shown(text))).help(help)
        };
        match Scalar::of(text) {
            "on" => Ok(Self(Arc::from(""))),
            "off" => Err(wrong("to have no such check, take it out")),
            _ if text.len() > 256 || !text.bytes().all(|b| b.is_ascii_graphic() && b != b'/') => {
                Err(wrong("write `package.Service`, or `true` for the whole server"))
            }
            _ => Ok(Self(Arc::from(text))),
        }
    }

    fn describe() -> Json {
        json!({ "anyOf": [{ "type": "string", "pattern": "^[!-.0-~]{0,256}$" }, { "const": true }] })
    }
}

/// A text that is sent, or looked for; also a status, or several. At most 64 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exchanged(pub(crate) Arc<str>);

impl Text for Exchanged {
    const WHAT: &'static str = "a text";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Any;

    fn parse(text: &str) -> Result<Self, Problem> {
        if text.len() > 65_536 {
            let message = format!("this text has {} bytes; at most 65536 are taken", text.len());
            return Err(Problem::new(Code::OutOfBounds, message));
        }
        Ok(Self(Arc::from(text)))
    }

    fn describe() -> Json {
        json!({ "type": ["string", "number", "boolean"], "maxLength": 65_536 })
    }
}
