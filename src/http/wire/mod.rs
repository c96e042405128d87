//! HTTP/1 on the wire: where each message ends, and what two parsers could read differently.
//!
//! hyper's parser is lenient where RFC 9112 allows it to be, and does not say where it was: it ends lines at a bare LF,
//! forgets a `Content-Length` beside `Transfer-Encoding`, takes any number of interim answers. So a [`Framer`] reads
//! along, one for each direction of a connection, before hyper sees a byte: it follows where messages begin and end
//! and refuses what is ambiguous ([`Fault`]). `Strict` puts it between a socket and hyper. What is wrong
//! with a field that has no say in that (a control character, a name that is none) hyper refuses by itself. What a field
//! *means* is not its business: that is checked after hyper ([`super::framing`], [`super::uri`], [`super::hygiene`]).
//!
//! Every ambiguity is refused, also where the RFC would let one reading pass. Of those, a bare LF in the head is the
//! one that could meet an honest sender: a script with `printf '…\n\n' | nc`. It is refused all the same, as Node's
//! llhttp and Apache do: no client library sends it, and to take it is what makes a proxy useful to smugglers
//! (RFC 9112 §2.2, §11.2). The one thing that passes with a reservation is an answer that may have no body and says
//! that it has one (204, 304 chunked): it passes without, and its connection is not used again.

mod answers;
mod fault;
mod framer;
mod lines;
mod scan;
mod strict;

pub(crate) use answers::{Answers, Bounds, Head, Refusal};
pub use fault::Fault;
pub use framer::{Asked, Fed, Framer, Stop};
pub(crate) use strict::Strict;

#[cfg(test)]
mod tests;
