//! Which results count against whom.

use http::StatusCode;

/// What a result says of the endpoint and the upstream that it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// They do their work. Refusals for load (429, `RESOURCE_EXHAUSTED`) are work too.
    Success,
    /// They do not.
    Failure,
    /// Nothing: the client went away, or set a deadline that was too short, or the answer says that it was refused on
    /// purpose.
    Neither,
}

/// What a status says: every 5xx but 501 is a failure.
pub fn of_status(status: StatusCode) -> Verdict {
    if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED {
        Verdict::Failure
    } else {
        Verdict::Success
    }
}

/// What a `grpc-status` says: UNKNOWN (2), `DEADLINE_EXCEEDED` (4), INTERNAL (13), UNAVAILABLE (14) and `DATA_LOSS` (15) are
/// failures.
pub fn of_grpc(status: u16) -> Verdict {
    match status {
        2 | 4 | 13 | 14 | 15 => Verdict::Failure,
        _ => Verdict::Success,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_errors_are_failures_except_what_says_nothing_of_health() {
        for (status, verdict) in [
            (200, Verdict::Success),
            (404, Verdict::Success),
            (429, Verdict::Success),
            (500, Verdict::Failure),
            (501, Verdict::Success),
            (502, Verdict::Failure),
            (503, Verdict::Failure),
            (504, Verdict::Failure),
            (507, Verdict::Failure),
        ] {
            assert_eq!(of_status(StatusCode::from_u16(status).unwrap()), verdict, "{status}");
        }
    }

    #[test]
    fn grpc_statuses_count_as_the_field_has_it() {
        let failures: Vec<u16> = (0..=17).filter(|status| of_grpc(*status) == Verdict::Failure).collect();
        assert_eq!(failures, [2, 4, 13, 14, 15], "RESOURCE_EXHAUSTED (8) is load, not failure");
    }
}
