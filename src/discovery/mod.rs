//! Endpoints that DNS knows.
//!
//! The addresses of a name, A and AAAA, are looked up on the control thread, without the blocking resolver of the C
//! library: a name server that is slow costs nobody else anything. What was found last stays for as long as nothing else
//! is found, whatever the name server says or does not say, and everybody can see how old it is.

#[cfg(test)]
mod fake;
mod names;
mod pace;
mod table;
mod watch;

pub use names::{Answer, Family, LookUpError, Names};
pub use pace::Pace;
pub use table::{Discoveries, Shown, Target};
pub use watch::Watch;
