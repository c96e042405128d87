//! A certificate that signs itself, for the scenario under TLS.

use std::{fs, path::PathBuf};

use rcgen::{CertifiedKey, generate_simple_self_signed};

/// Where to.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    folder: PathBuf,
}

/// ECDSA on P-256, the default of rcgen; haproxy wants both in one file.
pub(crate) fn run(arguments: &Arguments) {
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).expect("a certificate");
    let (cert, key) = (cert.pem(), signing_key.serialize_pem());
    for (name, content) in [("both.pem", format!("{cert}{key}")), ("cert.pem", cert), ("key.pem", key)] {
        fs::write(arguments.folder.join(name), content).expect("a folder that can be written to");
    }
}
