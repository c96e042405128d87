use super::{super::fake::*, *};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn v4(address: [u8; 4]) -> IpAddr {
    address.into()
}

const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));

#[tokio::test]
async fn both_families_are_asked_for_and_the_least_ttl_counts() {
    let dns = FakeDns::start().await;
    dns.say("db.", RecordType::A, Reply::Addresses(vec![v4([10, 0, 0, 2]), v4([10, 0, 0, 1])], 60));
    dns.say("db.", RecordType::AAAA, Reply::Addresses(vec![V6], 30));
    let answer = dns.names().look_up("db").await.unwrap();
    assert_eq!(answer.addresses, [v4([10, 0, 0, 1]), v4([10, 0, 0, 2]), V6]);
    assert_eq!((answer.ttl, answer.missing), (seconds(30), None));
}

#[tokio::test]
async fn a_ttl_is_as_it_was_said_up_to_a_day() {
    let dns = FakeDns::start().await;
    let names = dns.names();
    for ttl in [0, 1, 86_400, 700_000] {
        dns.say_v4("db.", &[[10, 0, 0, 1]], ttl);
        // Longer than a day is as long as a day.
        assert_eq!(names.look_up("db.").await.unwrap().ttl, seconds(u64::from(ttl).min(86_400)));
    }
    let short_alias = Reply::Alias("elsewhere.", 3, vec![v4([10, 0, 0, 9])], 300);
    dns.say("alias.", RecordType::A, short_alias);
    dns.say("alias.", RecordType::AAAA, Reply::Code(ResponseCode::NoError));
    let answer = names.look_up("alias").await.unwrap();
    assert_eq!(answer.addresses, [v4([10, 0, 0, 9])]);
    assert_eq!(answer.ttl, seconds(3), "the alias goes first");
}

#[tokio::test]
async fn nothing_is_kept_from_one_look_up_to_the_next() {
    let dns = FakeDns::start().await;
    let names = dns.names();
    dns.say_v4("db.", &[[10, 0, 0, 1]], 3600);
    names.look_up("db").await.unwrap();
    dns.say_v4("db.", &[[10, 0, 0, 2]], 3600);
    assert_eq!(names.look_up("db").await.unwrap().addresses, [v4([10, 0, 0, 2])]);
    dns.say_both("db.", &Reply::Code(ResponseCode::NXDomain));
    assert_eq!(names.look_up("db").await, Err(LookUpError::NoSuchName));
    dns.say_v4("db.", &[[10, 0, 0, 3]], 3600);
    assert_eq!(names.look_up("db").await.unwrap().addresses, [v4([10, 0, 0, 3])]);
}

#[tokio::test]
async fn addresses_and_localhost_ask_nobody() {
    let dns = FakeDns::start().await;
    let names = dns.names();
    for (host, addresses) in [
        ("10.1.2.3", vec![v4([10, 1, 2, 3])]),
        ("::1", vec!["::1".parse().unwrap()]),
        ("[fd00::1]", vec![V6]),
        ("localhost", vec![v4([127, 0, 0, 1]), "::1".parse().unwrap()]),
        ("app.localhost", vec![v4([127, 0, 0, 1]), "::1".parse().unwrap()]),
    ] {
        assert_eq!(names.look_up(host).await.unwrap().addresses, addresses, "{host}");
    }
    assert_eq!(dns.asked(), []);
    assert!(matches!(names.look_up("a..b").await, Err(LookUpError::BadName(_))));
}

#[tokio::test]
async fn the_hosts_come_first_and_changes_of_the_files_are_seen() {
    let dns = FakeDns::start().await;
    let names = dns.names();
    dns.say_v4("db.", &[[10, 0, 0, 1]], 60);
    dns.say_v4("db.shop.", &[[10, 0, 0, 2]], 60);
    dns.write_hosts("# ours\n10.9.9.9 other DB # here\n");
    let answer = names.look_up("db").await.unwrap();
    assert_eq!((answer.addresses, answer.ttl), (vec![v4([10, 9, 9, 9])], Duration::ZERO));
    assert_eq!(dns.asked(), [], "not for AAAA either");
    dns.write_hosts("");
    assert_eq!(names.look_up("db").await.unwrap().addresses, [v4([10, 0, 0, 1])]);
    dns.write_resolv_conf("search shop");
    assert_eq!(names.look_up("db").await.unwrap().addresses, [v4([10, 0, 0, 2])]);
    std::fs::remove_file(dns.resolv_conf()).unwrap();
    dns.write_hosts("10.9.9.9 db\n");
    assert_eq!(names.look_up("db").await.unwrap().addresses, [v4([10, 9, 9, 9])], "without any resolv.conf");
}

#[tokio::test]
async fn the_search_list_and_ndots_say_what_is_asked_for_in_order() {
    let dns = FakeDns::start().await;
    let names = dns.names();
    let asked = |dns: &FakeDns| -> Vec<String> {
        dns.asked().into_iter().filter(|(_, family)| *family == RecordType::A).map(|(name, _)| name).collect()
    };
    dns.write_resolv_conf("search shop.svc.cluster.local svc.cluster.local\noptions ndots:5");
    assert_eq!(names.look_up("db.shop").await, Err(LookUpError::NoSuchName));
    assert_eq!(asked(&dns), ["db.shop.shop.svc.cluster.local.", "db.shop.svc.cluster.local.", "db.shop."]);
    let before = dns.asked().len();
    dns.say_v4("db.shop.svc.cluster.local.", &[[10, 0, 0, 7]], 5);
    assert_eq!(names.look_up("db.shop").await.unwrap().addresses, [v4([10, 0, 0, 7])]);
    assert_eq!(dns.asked().len(), before + 4, "what comes after it is not asked for");
    dns.write_resolv_conf("search svc\noptions ndots:1");
    let before = asked(&dns).len();
    assert_eq!(names.look_up("db.shop").await, Err(LookUpError::NoSuchName));
    assert_eq!(asked(&dns)[before..], ["db.shop.", "db.shop.svc."]);
    let before = asked(&dns).len();
    assert_eq!(names.look_up("db.shop.").await, Err(LookUpError::NoSuchName));
    assert_eq!(asked(&dns)[before..], ["db.shop."]);
}

#[tokio::test]
async fn a_server_that_fails_does_not_lead_further_down_the_search_list() {
    let dns = FakeDns::start().await;
    dns.write_resolv_conf("search shop public\noptions attempts:1 timeout:1");
    dns.say_v4("db.public.", &[[6, 6, 6, 6]], 60);
    dns.say_both("db.shop.", &Reply::Code(ResponseCode::ServFail));
    let error = dns.names().look_up("db").await.unwrap_err();
    assert!(matches!(&error, LookUpError::Failed(text) if text.contains("Fail")), "{error}");
    dns.say_both("db.shop.", &Reply::Silence);
    assert_eq!(dns.names().look_up("db").await, Err(LookUpError::Timeout));
    assert_eq!(dns.asked_for("db.public.", RecordType::A), 0);
    // That it has no address is an answer: there the search goes on.
    dns.say_both("db.shop.", &Reply::Code(ResponseCode::NoError));
    assert_eq!(dns.names().look_up("db").await.unwrap().addresses, [v4([6, 6, 6, 6])]);
    dns.say_both("db.public.", &Reply::Code(ResponseCode::NXDomain));
    assert_eq!(dns.names().look_up("db").await, Err(LookUpError::NoAddress));
}

#[tokio::test]
async fn one_family_that_cannot_be_asked_for_does_not_hide_the_other() {
    let dns = FakeDns::start().await;
    dns.write_resolv_conf("options attempts:1 timeout:1");
    dns.say_v4("db.", &[[10, 0, 0, 1]], 60);
    for reply in [Reply::Code(ResponseCode::ServFail), Reply::Silence] {
        dns.say("db.", RecordType::AAAA, reply);
        let answer = dns.names().look_up("db").await.unwrap();
        assert_eq!(answer.addresses, [v4([10, 0, 0, 1])]);
        assert!(matches!(answer.missing, Some((Family::V6, _))), "{answer:?}");
    }
    // That there is none is known only when both say so.
    dns.say("db.", RecordType::A, Reply::Code(ResponseCode::NXDomain));
    dns.say("db.", RecordType::AAAA, Reply::Code(ResponseCode::ServFail));
    assert!(matches!(dns.names().look_up("db").await, Err(LookUpError::Failed(_))));
}

#[test]
fn name_servers_may_have_ports_and_without_any_it_is_the_one_here() {
    let servers = |text: &str| -> Vec<(IpAddr, u16)> {
        let (config, _) = read_resolv_conf(text.as_bytes()).unwrap();
        config.name_servers().iter().map(|server| (server.ip, server.connections[0].port)).collect()
    };
    assert_eq!(servers(""), [(v4([127, 0, 0, 1]), 53)]);
    assert_eq!(servers("search a\n"), [(v4([127, 0, 0, 1]), 53)]);
    assert_eq!(servers("nameserver 10.0.0.1\nnameserver fd00::1\n"), [(v4([10, 0, 0, 1]), 53), (V6, 53)]);
    assert_eq!(servers("nameserver [10.0.0.1]:5353\n"), [(v4([10, 0, 0, 1]), 5353)]);
    assert_eq!(
        servers("nameserver [fd00::1]:5353\nnameserver 10.0.0.1\n"),
        [(V6, 5353), (v4([10, 0, 0, 1]), 53)]
    );
}
