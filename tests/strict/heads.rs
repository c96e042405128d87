//! The first line, the fields, the lengths that they announce.

use crate::cases::{
    Outcome::{self, Passed, Refused, Status},
    Stage, run,
};

type Case = (&'static str, &'static str, Outcome);

#[test]
fn ends_of_lines() {
    let cases: &[Case] = &[
        ("LF after the request line", "GET / HTTP/1.1\nhost: a.test\r\n\r\n", Refused),
        ("LF after a field", "GET / HTTP/1.1\r\nhost: a.test\n\r\n", Refused),
        ("LF ends the head", "GET / HTTP/1.1\r\nhost: a.test\r\n\n", Refused),
        ("LF everywhere", "GET / HTTP/1.1\nhost: a.test\n\n", Refused),
        ("LF hides a length", "POST / HTTP/1.1\r\nhost: a.test\r\nx: y\ncontent-length: 40\r\n\r\n", Refused),
        (
            "LF hides a coding",
            "POST / HTTP/1.1\r\nhost: a.test\r\nx: y\ntransfer-encoding: chunked\r\n\r\n",
            Refused,
        ),
        ("CR in a value", "GET / HTTP/1.1\r\nhost: a.test\r\nx: a\rb\r\n\r\n", Refused),
        ("CR as the end of a line", "GET / HTTP/1.1\rhost: a.test\r\r", Refused),
        ("CR before a field", "GET / HTTP/1.1\r\nhost: a.test\r\n\rx: y\r\n\r\n", Refused),
        ("CR hides a length", "POST / HTTP/1.1\r\nhost: a.test\r\nx: y\rcontent-length: 40\r\n\r\n", Refused),
        ("CR twice", "GET / HTTP/1.1\r\r\nhost: a.test\r\n\r\n", Refused),
        ("CR twice after a field", "GET / HTTP/1.1\r\nhost: a.test\r\r\n\r\n", Refused),
        ("CR in the target", "GET /\r HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("LF and CR exchanged", "GET / HTTP/1.1\n\rhost: a.test\n\r\n\r", Refused),
    ];
    run("ends of lines", &mut Stage::start(), cases);
}

#[test]
fn empty_lines_before() {
    let cases: &[Case] = &[
        ("one, an old habit", "\r\nGET / HTTP/1.1\r\nhost: a.test\r\n\r\n", Passed("")),
        ("two", "\r\n\r\nGET / HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("an LF", "\nGET / HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("a CR", "\rGET / HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("a space", " \r\nGET / HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
    ];
    run("empty lines", &mut Stage::start(), cases);
}

#[test]
fn folded_lines() {
    let cases: &[Case] = &[
        ("by a space", "GET / HTTP/1.1\r\nhost: a.test\r\nx: y\r\n z\r\n\r\n", Refused),
        ("by a tab", "GET / HTTP/1.1\r\nhost: a.test\r\nx: y\r\n\tz\r\n\r\n", Refused),
        ("into nothing", "GET / HTTP/1.1\r\nhost: a.test\r\nx: y\r\n \r\n\r\n", Refused),
        (
            "a folded coding",
            "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding:\r\n chunked\r\n\r\n",
            Refused,
        ),
        ("a folded length", "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 4\r\n 0\r\n\r\n", Refused),
        ("before the first field", "GET / HTTP/1.1\r\n host: a.test\r\n\r\n", Refused),
        ("a tab before the first field", "GET / HTTP/1.1\r\n\thost: a.test\r\nhost: a.test\r\n\r\n", Refused),
        (
            "a hidden coding",
            "POST / HTTP/1.1\r\nhost: a.test\r\n transfer-encoding: chunked\r\n\r\n",
            Refused,
        ),
    ];
    run("folded lines", &mut Stage::start(), cases);
}

#[test]
fn names_of_fields() {
    let cases: &[Case] = &[
        ("space before the colon", "GET / HTTP/1.1\r\nhost: a.test\r\nx : y\r\n\r\n", Refused),
        ("tab before the colon", "GET / HTTP/1.1\r\nhost: a.test\r\nx\t: y\r\n\r\n", Refused),
        (
            "space before a length's",
            "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length : 40\r\n\r\n",
            Refused,
        ),
        (
            "space before a coding's",
            "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding : chunked\r\n\r\n",
            Refused,
        ),
        ("no name", "GET / HTTP/1.1\r\nhost: a.test\r\n: y\r\n\r\n", Refused),
        ("no colon", "GET / HTTP/1.1\r\nhost: a.test\r\nx\r\n\r\n", Refused),
        ("no colon in the first", "GET / HTTP/1.1\r\nhost\r\n\r\n", Refused),
        ("a space within", "GET / HTTP/1.1\r\nhost: a.test\r\nx y: z\r\n\r\n", Refused),
        ("a bracket", "GET / HTTP/1.1\r\nhost: a.test\r\nx[0]: z\r\n\r\n", Refused),
        ("beyond ASCII", "GET / HTTP/1.1\r\nhost: a.test\r\n\u{fc}: z\r\n\r\n", Refused),
        ("a quote", "GET / HTTP/1.1\r\nhost: a.test\r\n\"x\": z\r\n\r\n", Refused),
        (
            "a look-alike of a length",
            "POST / HTTP/1.1\r\nhost: a.test\r\ncontent_length: 40\r\n\r\n",
            Refused,
        ),
        (
            "a look-alike of a coding",
            "POST / HTTP/1.1\r\nhost: a.test\r\nTransfer_Encoding: chunked\r\n\r\n",
            Refused,
        ),
    ];
    run("names", &mut Stage::start(), cases);
}

#[test]
fn control_characters() {
    let cases: &[Case] = &[
        ("NUL in a value", "GET / HTTP/1.1\r\nhost: a.test\r\nx: a\0b\r\n\r\n", Refused),
        ("NUL in a name", "GET / HTTP/1.1\r\nhost: a.test\r\nx\0: a\r\n\r\n", Refused),
        ("NUL in the target", "GET /\0 HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("NUL in the method", "GE\0T / HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("NUL before all", "\0GET / HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("NUL after the version", "GET / HTTP/1.1\0\r\nhost: a.test\r\n\r\n", Refused),
        (
            "NUL in a coding",
            "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: \0chunked\r\n\r\n",
            Refused,
        ),
        (
            "vertical tab in a coding",
            "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding:\x0bchunked\r\n\r\n",
            Refused,
        ),
        (
            "form feed in a length",
            "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: \x0c40\r\n\r\n",
            Refused,
        ),
        ("DEL in a value", "GET / HTTP/1.1\r\nhost: a.test\r\nx: a\x7fb\r\n\r\n", Refused),
        ("BEL in a value", "GET / HTTP/1.1\r\nhost: a.test\r\nx: a\x07b\r\n\r\n", Refused),
        ("a tab in a value is text", "GET / HTTP/1.1\r\nhost: a.test\r\nx: a\tb\r\n\r\n", Passed("")),
    ];
    run("control characters", &mut Stage::start(), cases);
}

#[test]
fn request_lines() {
    let cases: &[Case] = &[
        ("two spaces before the target", "GET  / HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("two spaces after the target", "GET /  HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("a tab before the target", "GET\t/ HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("a space after the version", "GET / HTTP/1.1 \r\nhost: a.test\r\n\r\n", Refused),
        ("a space before the method", " GET / HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("a space in the target", "GET /a b HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("two versions", "GET / HTTP/1.1 HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("a method that is no token", "G@T / HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("no method", "/ HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("no target", "GET HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("an empty target", "GET  HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("no version", "GET /\r\nhost: a.test\r\n\r\n", Refused),
        ("nothing but a method", "GET\r\nhost: a.test\r\n\r\n", Refused),
        ("a field first", "host: a.test\r\n\r\n", Refused),
        ("an answer", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Refused),
    ];
    run("request lines", &mut Stage::start(), cases);
}

#[test]
fn versions() {
    let cases: &[Case] = &[
        ("0.9", "GET / HTTP/0.9\r\nhost: a.test\r\n\r\n", Refused),
        ("1.2", "GET / HTTP/1.2\r\nhost: a.test\r\n\r\n", Refused),
        ("1.10", "GET / HTTP/1.10\r\nhost: a.test\r\n\r\n", Refused),
        ("01.1", "GET / HTTP/01.1\r\nhost: a.test\r\n\r\n", Refused),
        ("1,1", "GET / HTTP/1,1\r\nhost: a.test\r\n\r\n", Refused),
        ("2.0", "GET / HTTP/2.0\r\nhost: a.test\r\n\r\n", Refused),
        ("in lower case", "GET / http/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("of another protocol", "GET / ICAP/1.0\r\nhost: a.test\r\n\r\n", Refused),
    ];
    run("versions", &mut Stage::start(), cases);
}

#[test]
fn targets() {
    let cases: &[Case] = &[
        ("no slash", "GET x HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("an authority", "GET a.test:80 HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("a query alone", "GET ?x HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("a fragment", "GET /a#b HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("an asterisk for GET", "GET * HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("above the root", "GET /../x HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("above the root, escaped", "GET /%2e%2e/x HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("half an escape", "GET /%4 HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("no escape", "GET /%zz HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("an escaped NUL", "GET /%00 HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        (
            "an escaped end of line stays escaped",
            "GET /%0d%0ax:%20y HTTP/1.1\r\nhost: a.test\r\n\r\n",
            Passed(""),
        ),
        ("beyond ASCII", "GET /\u{e4} HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("another scheme", "GET ftp://a.test/ HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("a scheme and no host", "GET http:///x HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("credentials", "GET http://u:p@a.test/ HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
        ("a tunnel that nobody offers", "CONNECT a.test:80 HTTP/1.1\r\nhost: a.test\r\n\r\n", Status(404)),
        ("a tunnel to a path", "CONNECT /x HTTP/1.1\r\nhost: a.test\r\n\r\n", Refused),
    ];
    run("targets", &mut Stage::start(), cases);
}

#[test]
fn lengths() {
    let cases: &[Case] = &[
        (
            "repeated",
            "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nab",
            Refused,
        ),
        (
            "contradicting",
            "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 2\r\ncontent-length: 42\r\n\r\nab",
            Refused,
        ),
        (
            "zero first",
            "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 0\r\ncontent-length: 40\r\n\r\n",
            Refused,
        ),
        ("a list", "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 2, 2\r\n\r\nab", Refused),
        (
            "a list with a comma only",
            "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 2,\r\n\r\nab",
            Refused,
        ),
        ("plus", "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: +2\r\n\r\nab", Refused),
        ("minus", "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: -2\r\n\r\nab", Refused),
        ("hexadecimal", "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 0x2\r\n\r\nab", Refused),
        ("octal, perhaps", "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 052\r\n\r\nab", Refused),
        ("empty", "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length:\r\n\r\nab", Refused),
        ("a fraction", "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 2.0\r\n\r\nab", Refused),
        ("an exponent", "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 2e0\r\n\r\nab", Refused),
        ("two numbers", "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 2 40\r\n\r\nab", Refused),
        ("quoted", "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: \"2\"\r\n\r\nab", Refused),
        (
            "too large",
            "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 18446744073709551618\r\n\r\nab",
            Refused,
        ),
        (
            "of nothing but one digit too many",
            "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 9223372036854775808\r\n\r\nab",
            Refused,
        ),
        (
            "spaces around are fine",
            "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: \t 2 \t\r\n\r\nab",
            Passed("ab"),
        ),
        ("in any case", "POST / HTTP/1.1\r\nhost: a.test\r\nCONTENT-LENGTH: 2\r\n\r\nab", Passed("ab")),
        ("of a GET", "GET / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 2\r\n\r\nab", Passed("ab")),
    ];
    run("lengths", &mut Stage::start(), cases);
}

#[test]
fn codings() {
    let cases: &[Case] = &[
        (
            "a list",
            "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "repeated",
            "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "one before",
            "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "one after",
            "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "identity",
            "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "identity, then chunked",
            "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: identity\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "unknown",
            "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "cut short",
            "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunke\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "quoted",
            "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "with a parameter",
            "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "with a comma",
            "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: ,chunked\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        ("empty", "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding:\r\n\r\n0\r\n\r\n", Refused),
        (
            "in HTTP/1.0",
            "POST / HTTP/1.0\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "in HTTP/1.0, kept alive",
            "POST / HTTP/1.0\r\nhost: a.test\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "in any case",
            "POST / HTTP/1.1\r\nhost: a.test\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
            Passed("ab"),
        ),
        (
            "named by Connection",
            "POST / HTTP/1.1\r\nhost: a.test\r\nconnection: transfer-encoding\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
            Passed("ab"),
        ),
    ];
    run("codings", &mut Stage::start(), cases);
}

#[test]
fn both_lengths() {
    let cases: &[Case] = &[
        (
            "CL first",
            "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "TE first",
            "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "CL is zero",
            "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "CL is bad too",
            "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\ncontent-length: x\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "TE is bad too",
            "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 5\r\ntransfer-encoding: x\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "in HTTP/1.0",
            "POST / HTTP/1.0\r\nhost: a.test\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "of a GET",
            "GET / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        (
            "CL is hidden by Connection",
            "POST / HTTP/1.1\r\nhost: a.test\r\nconnection: content-length\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            Refused,
        ),
    ];
    run("both lengths", &mut Stage::start(), cases);
}
