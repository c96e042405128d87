//! The file and its surroundings, as loading wants them: here is the input and output that `config` does without.

use std::{
    fs::File,
    io::{ErrorKind, Read, stdin},
    path::Path,
    thread::available_parallelism,
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::config::{Env, HostFacts, Loaded, MAX_BYTES, PemKind, load};

/// What to do without a file. The five lines are the README's.
const NO_FILE: &str = "name your file with `-c FILE`; a whole one is as short as this:

    service: orders
    listeners: { inbound: { listen: 0.0.0.0:8080 } }
    policy:
      upstreams: { app: { endpoints: [127.0.0.1:3000] } }
      routes: { all: { upstream: app } }

to see Weir at work without a file, run `weir demo`";

/// Says what is wrong with a file that the configuration names.
type Probe<'a> = dyn Fn(&Path, PemKind) -> Result<(), String> + 'a;

/// Reads and loads a file; `-` is standard input.
pub fn load_file(path: &Path) -> Loaded {
    load_file_with(path, &probe)
}

/// The same for a file that is in force elsewhere, such as on an operator's machine: the files that it names (keys,
/// certificates) are there, not here.
pub fn load_file_of_another_host(path: &Path) -> Loaded {
    load_file_with(path, &|_, _| Ok(()))
}

fn load_file_with(path: &Path, probe: &Probe<'_>) -> Loaded {
    let name = name(path);
    match read(path) {
        Err(error) => {
            let help = (error.kind() == ErrorKind::NotFound).then_some(NO_FILE);
            Loaded::unreadable(&name, &error.to_string(), help)
        }
        Ok(text) => load_text_with(&name, &text, probe),
    }
}

/// What people know a file by.
pub fn name(path: &Path) -> String {
    if path == Path::new("-") { "stdin".to_owned() } else { path.display().to_string() }
}

/// Loads a text with this process's environment and host.
pub fn load_text(name: &str, text: &[u8]) -> Loaded {
    load_text_with(name, text, &probe)
}

fn load_text_with(name: &str, text: &[u8], probe: &Probe<'_>) -> Loaded {
    let host = host_facts();
    let vars = |variable: &str| std::env::var(variable).ok();
    load(name, text, &Env { vars: &vars, host: &host, probe })
}

/// One byte more than is taken, so that loading sees that there is too much.
pub(super) fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let most = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let mut text = Vec::new();
    if path == Path::new("-") {
        stdin().lock().take(most).read_to_end(&mut text)?;
    } else {
        File::open(path)?.take(most).read_to_end(&mut text)?;
    }
    Ok(text)
}

/// What is known of this host.
pub fn host_facts() -> HostFacts {
    HostFacts {
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        cpus: available_parallelism().map_or(1, std::num::NonZero::get),
    }
}

/// What is wrong with a file that the configuration names.
pub fn probe(path: &Path, kind: PemKind) -> Result<(), String> {
    let wrong = |error: rustls_pki_types::pem::Error| match error {
        rustls_pki_types::pem::Error::Io(error) => error.to_string(),
        rustls_pki_types::pem::Error::NoItemsFound => nothing(kind).to_owned(),
        error => error.to_string(),
    };
    match kind {
        PemKind::Password => password(path),
        PemKind::Key => PrivateKeyDer::from_pem_file(path).map(|_| ()).map_err(wrong),
        PemKind::Certificates => {
            let mut count = 0_usize;
            for certificate in CertificateDer::pem_file_iter(path).map_err(wrong)? {
                certificate.map_err(wrong)?;
                count += 1;
            }
            if count == 0 { Err(nothing(kind).to_owned()) } else { Ok(()) }
        }
    }
}

/// What is wrong with the file of a password.
fn password(path: &Path) -> Result<(), String> {
    const MOST: u64 = 4096;
    let mut text = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(MOST + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > MOST {
        return Err(format!("the file has more than {MOST} bytes: that is no password"));
    }
    match std::str::from_utf8(&text) {
        Ok(text) if text.trim_end().is_empty() => Err(nothing(PemKind::Password).to_owned()),
        Ok(_) => Ok(()),
        Err(_) => Err("the file is not UTF-8".to_owned()),
    }
}

fn nothing(kind: PemKind) -> &'static str {
    match kind {
        PemKind::Certificates => "the file holds no certificate in PEM form",
        PemKind::Key => "the file holds no private key in PEM form",
        PemKind::Password => "the file holds no password",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_tell_keys_from_certificates() {
        let folder = tempfile::tempdir().unwrap();
        let signed = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        std::fs::write(&cert, signed.cert.pem()).unwrap();
        std::fs::write(&key, signed.signing_key.serialize_pem()).unwrap();
        assert_eq!(probe(&cert, PemKind::Certificates), Ok(()));
        assert_eq!(probe(&key, PemKind::Key), Ok(()));
        assert!(probe(&key, PemKind::Certificates).unwrap_err().contains("no certificate"));
        assert!(probe(&cert, PemKind::Key).unwrap_err().contains("no private key"));
        assert_eq!(probe(&key, PemKind::Password), Ok(()));
        let empty = folder.path().join("empty");
        std::fs::write(&empty, "\n").unwrap();
        assert!(probe(&empty, PemKind::Password).unwrap_err().contains("no password"));
        assert!(probe(&folder.path().join("none"), PemKind::Key).unwrap_err().contains("No such file"));
    }

    #[test]
    fn a_file_that_is_not_there_is_a_fault() {
        let loaded = load_file(Path::new("no/such/weir.yaml"));
        assert!(loaded.file.is_none());
        assert_eq!(loaded.faults.iter().next().unwrap().code.as_str(), "WEIR-0001");
    }
}
