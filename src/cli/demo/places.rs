//! Where everything is, and what to try there.

use std::{net::SocketAddr, path::PathBuf};

/// The addresses of the demo.
#[derive(Debug, Clone)]
pub(super) struct Places {
    /// Weir's listener.
    pub(super) traffic: SocketAddr,
    /// Weir's admin interface.
    pub(super) admin: SocketAddr,
    /// Weir's metrics and probes.
    pub(super) telemetry: SocketAddr,
    /// The control listener of the toys.
    pub(super) toys: SocketAddr,
    /// The folder with `weir.yaml` and the logs.
    pub(super) folder: PathBuf,
}

/// Something to do while the demo runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Thing {
    /// In two words.
    pub(super) what: &'static str,
    /// What to type.
    pub(super) command: String,
    /// What to watch then, in a few words.
    pub(super) then: &'static str,
    /// The same in a sentence.
    pub(super) more: &'static str,
}

impl Places {
    /// Weir's file.
    pub(super) fn file(&self) -> PathBuf {
        self.folder.join("weir.yaml")
    }

    /// Weir's log.
    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("weir.log")
    }

    /// The addresses to try.
    pub(super) fn addresses(&self) -> [(&'static str, String); 4] {
        [
            ("shop", format!("http://{}/", self.traffic)),
            ("status", format!("http://{}/status", self.admin)),
            ("metrics", format!("http://{}/metrics", self.telemetry)),
            ("toys", format!("http://{}/toys", self.toys)),
        ]
    }

    /// Five things to do; `pid` is Weir's.
    pub(super) fn things(&self, pid: Option<u32>) -> [Thing; 5] {
        let toys = self.toys;
        [
            Thing {
                what: "buy tea",
                command: format!("curl -i http://{}/", self.traffic),
                then: "x-instance changes",
                more: "again and again: x-instance changes, and follows how fast each one answers",
            },
            Thing {
                what: "stop b",
                command: format!("curl -X POST http://{toys}/toys/b/stop"),
                then: "watch the errors",
                more: "callers are refused, Weir says why; `/start` instead of `/stop` brings it back",
            },
            Thing {
                what: "slow a",
                command: format!("curl -X POST '{toys}/toys/a/slow?ms=500'"),
                then: "its share shrinks",
                more: "its share of the requests shrinks; ms=0 brings it back",
            },
            Thing {
                what: "edit",
                command: format!("sed -i '/# c/d' {}", self.file().display()),
                then: "c is taken out",
                more: "c is out, and no request was dropped; an editor puts it back; a fault is refused",
            },
            Thing {
                what: "end Weir",
                command: pid
                    .map_or_else(|| "(it is not running)".to_owned(), |pid| format!("kill -TERM {pid}")),
                then: "drains, comes back",
                more: "it drains and leaves; the demo starts it again",
            },
        ]
    }
}

/// Weir's file for the demo.
pub(super) fn weir_yaml(places: &Places, shop: &[(&str, SocketAddr)]) -> String {
    use std::fmt::Write as _;
    let mut endpoints = String::new();
    for (name, address) in shop {
        // Writing to a String cannot fail.
        let _infallible = writeln!(endpoints, "        - {address}   # {name}");
    }
    format!(
        "\
# The demo's file. Change it while the demo runs: a good change is loaded without dropping a request, a bad
# one is refused, and weir.log beside this file says why.
service: shop
instance: demo
admin: {{ listen: {admin} }}
telemetry: {{ listen: {telemetry} }}
log: {{ level: info, format: text, access: errors }}
drain: {{ delay: 1s, grace: 5s }}

listeners:
  inbound: {{ listen: {traffic} }}

policy:
  upstreams:
    shop:
      endpoints:
{endpoints}      balancer: {{ policy: least_request }}
      connect_timeout: 500ms

  routes:
    page:
      listener: inbound
      match: {{ path: / }}
      upstream: shop
      timeout: 2s
    recommendations:
      listener: inbound
      match: {{ path: /api/recommendations/* }}
      upstream: shop
      rewrite: {{ path_prefix: /recommendations }}
    checkout:
      listener: inbound
      match: {{ path: /checkout, methods: [POST] }}
      upstream: shop
      priority: critical
      request_headers:
        set: {{ x-shop-channel: web }}
      response_headers:
        set: {{ cache-control: no-store }}
    everything-else:
      listener: inbound
      upstream: shop
      max_body: 1MiB
",
        admin = places.admin,
        telemetry = places.telemetry,
        traffic = places.traffic,
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn places() -> Places {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Places {
            traffic: at(8080),
            admin: at(9901),
            telemetry: at(9902),
            toys: at(9900),
            folder: PathBuf::from("/tmp/weir-demo-123456"),
        }
    }

    #[test]
    fn the_file_is_yaml_with_all_three_instances() {
        let shop: Vec<_> =
            ["a", "b", "c"].into_iter().zip((3001..).map(|p| ([127, 0, 0, 1], p).into())).collect();
        let text = weir_yaml(&places(), &shop);
        let file: serde_json::Value = serde_yaml::from_str(&text).unwrap();
        let endpoints = &file["policy"]["upstreams"]["shop"]["endpoints"];
        assert_eq!(endpoints, &serde_json::json!(["127.0.0.1:3001", "127.0.0.1:3002", "127.0.0.1:3003"]));
        assert_eq!(file["listeners"]["inbound"]["listen"], "127.0.0.1:8080");
        assert_eq!(file["policy"]["routes"].as_object().unwrap().len(), 4);
        assert_eq!(file["policy"]["routes"]["recommendations"]["rewrite"]["path_prefix"], "/recommendations");
    }

    #[test]
    fn the_edit_takes_out_one_line() {
        let shop: Vec<_> =
            ["a", "b", "c"].into_iter().zip((3001..).map(|p| ([127, 0, 0, 1], p).into())).collect();
        let text = weir_yaml(&places(), &shop);
        let hit: Vec<_> = text.lines().filter(|line| line.contains("# c")).collect();
        assert_eq!(hit, ["        - 127.0.0.1:3003   # c"]);
    }

    #[test]
    fn commands_fit_a_narrow_terminal() {
        let mut places = places();
        places.folder = PathBuf::from("/tmp/weir-demo-1234567");
        for thing in places.things(Some(1_234_567)) {
            assert!(thing.command.chars().count() <= 48, "{}", thing.command);
            assert!(thing.what.chars().count() <= 8);
            assert!(thing.then.chars().count() <= 18, "{} does not fit 80 columns", thing.then);
        }
    }
}
