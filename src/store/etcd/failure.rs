//! What etcd's errors mean.

use etcd_client::Error;
use tonic::{Code, Status};

use crate::store::{
    Lost,
    watch::{Failure, FailureKind},
};

/// What an error of the client means, and how to say it.
pub(crate) fn of(endpoint: &str, error: &Error) -> Failure {
    match error {
        Error::GRpcStatus(status) => of_status(endpoint, status),
        other => Failure { kind: FailureKind::Lost(Lost::Broken), text: format!("{endpoint}: {other}") },
    }
}

/// The same, where it is known which prefixes the user may not read.
pub(super) fn of_call(endpoint: &str, error: &Error, missing: &[String]) -> Failure {
    let failure = of(endpoint, error);
    if missing.is_empty() {
        return failure;
    }
    let missing = missing.join(", ");
    let text =
        format!("{endpoint}: permission denied: the user has no role that may read the prefix {missing}");
    Failure { text, ..failure }
}

/// Whether the user is known, and may not do this.
pub(super) fn is_denied(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status) if status.message().contains("permission denied"))
}

fn of_status(endpoint: &str, status: &Status) -> Failure {
    let kind = kind(status.code(), status.message());
    let message = shortened(status.message());
    Failure { kind, text: format!("{endpoint}: {message}{}", hint(status.message())) }
}

/// What the reason of a canceled watch means. Servers before 3.5 call an expired token "permission denied" here.
pub(crate) fn of_canceled(endpoint: &str, reason: &str) -> Failure {
    let kind =
        if reason.contains("permission denied") { FailureKind::Token } else { kind(Code::Unknown, reason) };
    Failure {
        kind,
        text: format!("{endpoint}: the watch was refused: {}{}", shortened(reason), hint(reason)),
    }
}

fn hint(message: &str) -> &'static str {
    if message.contains("permission denied") {
        " (the user needs a role that may read the three ranges of its policy)"
    } else if message.contains("invalid user ID or password") {
        " (see `user` and `password_file`)"
    } else if message.contains("user name is empty") {
        " (this etcd wants a user: set `user` and `password_file`)"
    } else {
        ""
    }
}

fn kind(code: Code, message: &str) -> FailureKind {
    let says = |text: &str| message.contains(text);
    if says("invalid auth token") || says("revision of auth store is old") || says("user name is empty") {
        FailureKind::Token
    } else if says("has been compacted") {
        FailureKind::Compacted
    } else if says("message length too large") || says("message larger than max") {
        FailureKind::TooLarge
    } else if says("no leader") || says("leader changed") || says("not a member") || says("raft: stopped") {
        FailureKind::Lost(Lost::Leader)
    } else if says("request timed out") || code == Code::DeadlineExceeded {
        FailureKind::Lost(Lost::Stalled)
    } else if says("permission denied") || says("invalid user ID or password") {
        FailureKind::Lost(Lost::Auth)
    } else {
        FailureKind::Lost(match code {
            Code::PermissionDenied | Code::Unauthenticated => Lost::Auth,
            Code::Unavailable | Code::Cancelled | Code::Unknown | Code::Aborted => Lost::Broken,
            Code::ResourceExhausted => Lost::Stalled,
            _ => Lost::Protocol,
        })
    }
}

/// A text from the wire, short and printable.
fn shortened(text: &str) -> String {
    let short: String = text.chars().take(300).collect();
    short.escape_debug().to_string()
}

/// Whether an authentication failed because there is no need for one.
pub(crate) fn is_auth_off(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status) if status.message().contains("authentication is not enabled"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etcds_own_words_are_known() {
        let lost = FailureKind::Lost;
        for (code, message, expected) in [
            (Code::Unauthenticated, "etcdserver: invalid auth token", FailureKind::Token),
            (Code::InvalidArgument, "etcdserver: revision of auth store is old", FailureKind::Token),
            (Code::InvalidArgument, "etcdserver: user name is empty", FailureKind::Token),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                lost(Lost::Auth),
            ),
            (Code::PermissionDenied, "etcdserver: permission denied", lost(Lost::Auth)),
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
                FailureKind::Compacted,
            ),
            (
                Code::OutOfRange,
                "Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes",
                FailureKind::TooLarge,
            ),
            (Code::Unavailable, "etcdserver: no leader", lost(Lost::Leader)),
            (Code::Unavailable, "etcdserver: request timed out", lost(Lost::Stalled)),
            (Code::Unavailable, "transport is closing", lost(Lost::Broken)),
            (Code::Unimplemented, "unknown service", lost(Lost::Protocol)),
        ] {
            let failure = of("http://a:1", &Error::GRpcStatus(Status::new(code, message)));
            assert_eq!(failure.kind, expected, "{message}");
            assert!(failure.text.starts_with("http://a:1: "), "{}", failure.text);
        }
        let denied = Error::GRpcStatus(Status::new(Code::PermissionDenied, "etcdserver: permission denied"));
        assert!(is_denied(&denied));
        let failure = of_call("a", &denied, &["/weir/policy/_all/".into(), "/weir/policy/orders@".into()]);
        assert_eq!(failure.kind, lost(Lost::Auth));
        assert!(failure.text.ends_with("may read the prefix /weir/policy/_all/, /weir/policy/orders@"));
        assert!(of_call("a", &denied, &[]).text.contains("three ranges"), "a write, or gone by now");
        assert_eq!(of_canceled("a", "etcdserver: permission denied").kind, FailureKind::Token);
        assert_eq!(of_canceled("a", "rpc error: no leader").kind, lost(Lost::Leader));
    }

    #[test]
    fn what_comes_from_the_wire_is_short_and_printable() {
        let failure = of_canceled("a", &format!("x\u{1b}[31m\n{}", "y".repeat(5000)));
        assert!(failure.text.len() < 400 && !failure.text.contains('\n') && !failure.text.contains('\u{1b}'));
    }
}
