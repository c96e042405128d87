//! A lane over real sockets, against origins on the same runtime.

mod harness;
mod http1;
mod http2;
mod laws;
