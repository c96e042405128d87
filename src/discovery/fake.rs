//! A name server to play with.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::CNAME},
};
use tokio::net::UdpSocket;

use super::Names;

/// What it says when it is asked.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    /// These addresses, that live so many seconds.
    Addresses(Vec<IpAddr>, u32),
    /// It is another name for this one, for so many seconds, which has these addresses.
    Alias(&'static str, u32, Vec<IpAddr>, u32),
    /// This code, and nothing.
    Code(ResponseCode),
    /// Nothing at all.
    Silence,
}

/// Listens on a port of its own, and says that there is no such name unless it was told otherwise.
#[derive(Debug)]
pub(super) struct FakeDns {
    address: SocketAddr,
    folder: tempfile::TempDir,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    replies: HashMap<(String, RecordType), Reply>,
    asked: Vec<(String, RecordType)>,
}

impl FakeDns {
    pub(super) async fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        tokio::spawn(serve(socket, state.clone()));
        let fake = Self { address, folder: tempfile::tempdir().unwrap(), state };
        fake.write_resolv_conf("");
        fake.write_hosts("");
        fake
    }

    pub(super) fn resolv_conf(&self) -> PathBuf {
        self.folder.path().join("resolv.conf")
    }

    /// `more` beside the line that names this server.
    pub(super) fn write_resolv_conf(&self, more: &str) {
        let text = format!("nameserver [{}]:{}\n{more}\n", self.address.ip(), self.address.port());
        std::fs::write(self.resolv_conf(), text).unwrap();
    }

    pub(super) fn write_hosts(&self, text: &str) {
        std::fs::write(self.folder.path().join("hosts"), text).unwrap();
    }

    /// Asks this server.
    pub(super) fn names(&self) -> Names {
        Names::new(self.resolv_conf(), self.folder.path().join("hosts"))
    }

    /// `name` with its closing dot.
    pub(super) fn say(&self, name: &str, family: RecordType, reply: Reply) {
        self.state.lock().unwrap().replies.insert((name.to_owned(), family), reply);
    }

    /// These A records, and no AAAA.
    pub(super) fn say_v4(&self, name: &str, addresses: &[[u8; 4]], ttl: u32) {
        let addresses = addresses.iter().map(|address| IpAddr::from(*address)).collect();
        self.say(name, RecordType::A, Reply::Addresses(addresses, ttl));
        self.say(name, RecordType::AAAA, Reply::Code(ResponseCode::NoError));
    }

    pub(super) fn say_both(&self, name: &str, reply: &Reply) {
        self.say(name, RecordType::A, reply.clone());
        self.say(name, RecordType::AAAA, reply.clone());
    }

    /// What was asked for so far, in order.
    pub(super) fn asked(&self) -> Vec<(String, RecordType)> {
        self.state.lock().unwrap().asked.clone()
    }

    pub(super) fn asked_for(&self, name: &str, family: RecordType) -> usize {
        self.asked().iter().filter(|(asked, of)| asked == name && *of == family).count()
    }
}

async fn serve(socket: UdpSocket, state: Arc<Mutex<State>>) {
    let mut buffer = [0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let Ok(question) = Message::from_vec(&buffer[..length]) else { continue };
        let query = question.queries[0].clone();
        let key = (query.name().to_ascii().to_lowercase(), query.query_type());
        let reply = {
            let mut state = state.lock().unwrap();
            state.asked.push(key.clone());
            state.replies.get(&key).cloned().unwrap_or(Reply::Code(ResponseCode::NXDomain))
        };
        let mut answer = Message::response(question.id, question.op_code);
        answer.add_query(query.clone());
        let mut add = |name: &Name, addresses: &[IpAddr], ttl| {
            for address in addresses.iter().filter(|a| a.is_ipv4() == (key.1 == RecordType::A)) {
                answer.add_answer(Record::from_rdata(name.clone(), ttl, RData::from(*address)));
            }
        };
        match &reply {
            Reply::Addresses(addresses, ttl) => add(query.name(), addresses, *ttl),
            Reply::Alias(target, ttl, addresses, target_ttl) => {
                let target = Name::from_ascii(target).unwrap();
                add(&target, addresses, *target_ttl);
                let alias = RData::CNAME(CNAME(target));
                answer.answers.insert(0, Record::from_rdata(query.name().clone(), *ttl, alias));
            }
            Reply::Code(code) => answer.metadata.response_code = *code,
            Reply::Silence => continue,
        }
        socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
    }
}

/// Waits for a condition, with a deadline.
#[track_caller]
pub(super) fn until(what: &str, condition: impl Fn() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(std::time::Instant::now() < deadline, "{caller}: waited in vain for {what}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
