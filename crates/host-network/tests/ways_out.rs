//! Ways out of a sandbox with a filtered network, all of which must fail but the allowed ones.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{
    DATABASE, MARK, METADATA, Server, UPLINK, WEB, on_own_host, packet, raw, sh, tcp, udp, udp_head,
};
use ostler_domain::SandboxId;
use ostler_egress::{AddressRule, Denials, Options, Policy, Proxy};
use ostler_host_network::{FilteredTraffic, Protocol};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

fn allowed(network: &str, prefix: u8, port: u16) -> AddressRule {
    AddressRule {
        network: format!("{network}/{prefix}").parse().unwrap(),
        port,
    }
}

#[test]
fn the_stage_is_real() {
    on_own_host(|world| async move {
        // From the host itself everything is reached, so that a failure within a sandbox means something.
        let host = ostler_host_network::Slot::clone(
            &world.open().await.acquire(SandboxId::new(), &[]).await.unwrap(),
        );
        let mut here = host;
        here.namespace = "/proc/thread-self/ns/net".into();
        for address in [WEB, DATABASE, METADATA] {
            assert!(
                tcp(&here, &format!("{address}:443"))
                    .unwrap()
                    .starts_with("outside sees")
            );
            assert!(
                udp(&here, &format!("{address}:53"), 20)
                    .unwrap()
                    .starts_with("outside sees")
            );
        }
        // The neighbour's link-local address takes a moment.
        let end = Instant::now() + Duration::from_secs(5);
        while !tcp(&here, "[2001:db8::2]:443").is_ok_and(|t| t.starts_with("outside sees")) {
            assert!(Instant::now() < end, "IPv6 is not staged");
        }
        assert!(
            udp(&here, &format!("{UPLINK}:8080"), 20)
                .unwrap()
                .starts_with("host sees")
        );
        assert!(tcp(&here, "127.0.0.1:8080").unwrap().starts_with("host sees"));
        assert!(world.arrived().iter().any(|p| p.contains("marked true")));
    });
}

#[test]
fn without_an_allowed_address_nothing_leaves() {
    on_own_host(|world| async move {
        // As on a host that routes already, for containers or virtual machines.
        sh("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
        let network = Arc::new(world.open().await);
        let (server, _stop) = Server::start(&network);
        let (id, other) = (SandboxId::new(), SandboxId::new());
        let slot = network.acquire(id, &[]).await.unwrap();
        let neighbour = network.acquire(other, &[]).await.unwrap();
        common::within(&neighbour.namespace, || {
            let listener = TcpListener::bind("0.0.0.0:7000").unwrap();
            std::thread::spawn(move || for _each in listener.incoming() {});
            let socket = std::net::UdpSocket::bind("0.0.0.0:7000").unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 100];
                while let Ok((n, peer)) = socket.recv_from(&mut buffer) {
                    let _gone = socket.send_to(&buffer[..n], peer);
                }
            });
        });
        let gateway = slot.gateway.to_string();
        common::serve(
            "host",
            &[&gateway, &neighbour.gateway.to_string()],
            &common::HOST_PORTS,
        );

        // TCP of any kind ends at the proxy, which is told where it was meant to go.
        for target in [
            format!("{WEB}:443"),
            format!("{WEB}:22"),
            format!("{DATABASE}:5432"),
            format!("{METADATA}:80"),
            format!("{}:7000", neighbour.address),
            format!("{}:8080", neighbour.gateway),
            format!("{UPLINK}:22"),
            format!("{gateway}:8080"),
            format!("{gateway}:22"),
        ] {
            let got = tcp(&slot, &target);
            assert_eq!(
                got,
                Ok(format!("proxy for {id} to {target} asked false")),
                "{target}"
            );
        }
        let proxy = format!("{gateway}:{}", network.proxy_port());
        assert_eq!(
            tcp(&slot, &proxy),
            Ok(format!("proxy for {id} to {proxy} asked true"))
        );
        assert!(tcp(&slot, "127.0.0.1:8080").is_err(), "the host's loopback");

        // DNS ends at the name server, whoever was asked.
        for target in [WEB, METADATA, &gateway, &neighbour.address.to_string()] {
            let got = udp(&slot, &format!("{target}:53"), 30);
            assert_eq!(got, Ok(format!("names for {id} 30 false")), "{target}");
        }

        // Other UDP, small and in fragments, goes nowhere.
        for target in [
            format!("{WEB}:443"),
            format!("{DATABASE}:5432"),
            format!("{METADATA}:80"),
            format!("{}:7000", neighbour.address),
            format!("{gateway}:22"),
            format!("{gateway}:{}", network.proxy_port()),
            format!("{UPLINK}:5432"),
            "255.255.255.255:67".into(),
            "224.0.0.251:5353".into(),
        ] {
            for size in [20, 6000] {
                let got = udp(&slot, &target, size);
                assert!(got.is_err(), "{target}: {got:?}");
            }
        }
        // IPv6: there is none, and where a virtual machine makes some, it is not let through.
        for made in [false, true] {
            if made {
                let (space, interface) = (slot.namespace.display(), &slot.interface);
                sh(&format!(
                    "echo 0 > /proc/sys/net/ipv6/conf/{interface}/disable_ipv6
                     ip -6 addr add fd00::1/64 dev {interface} nodad
                     nsenter --net={space} sh -ec '
                         echo 0 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6
                         ip -6 addr add fd00::2/64 dev eth0 nodad
                         ip -6 neigh add fd00::1 lladdr '$(ip -o link show {interface} | sed \"s/.*ether //; s/ .*//\")' dev eth0
                         ip -6 route add default via fd00::1'"
                ));
            }
            for target in ["[2001:db8::2]:443", "[2001:db8::1]:22"] {
                assert!(tcp(&slot, target).is_err(), "{target}");
                assert!(udp(&slot, target, 20).is_err(), "{target}");
            }
        }
        assert!(server.saw(|d| d.sandbox == id && d.destination.is_ipv6()).await);

        // Whole packets: ICMP, other protocols, false senders, fragments by hand, source routes.
        let own = slot.address.to_string();
        let echo = [8, 0, 0, 0, 0, 1, 0, 1];
        for target in [WEB, METADATA, UPLINK, &gateway, &neighbour.address.to_string()] {
            raw(&slot, &packet(1, &own, target, &echo, 0));
            raw(&slot, &packet(47, &own, target, &[0, 0, 8, 0], 0));
            raw(&slot, &packet(132, &own, target, &udp_head(443), 0));
        }
        for source in [
            &neighbour.address.to_string(),
            UPLINK,
            WEB,
            "127.0.0.1",
            "10.213.255.254",
        ] {
            for port in [53, 443] {
                raw(&slot, &packet(17, source, WEB, &udp_head(port), 0));
            }
        }
        raw(&slot, &packet(17, &own, WEB, &udp_head(443), 0x2000));
        raw(&slot, &packet(17, &own, WEB, MARK, 0x0003));
        let mut routed = packet(17, &own, &gateway, &udp_head(443), 0);
        routed[0] = 0x47;
        let web: std::net::Ipv4Addr = WEB.parse().unwrap();
        let mut option = vec![131, 7, 4];
        option.extend(web.octets());
        option.push(0);
        routed.splice(20..20, option);
        raw(&slot, &routed);

        assert_eq!(world.arrived(), Vec::<String>::new());
        assert!(
            server
                .saw(|d| d.sandbox == id && d.protocol == Protocol::Udp && d.port == Some(443))
                .await
        );
        assert!(
            server
                .saw(|d| d.sandbox == id && d.protocol == Protocol::Icmp)
                .await
        );
        let told = server.denied.lock().unwrap().len();
        assert!((2..80).contains(&told), "{told} refused packets were told");
    });
}

#[test]
fn allowed_addresses_are_reached_and_nothing_beside_them() {
    on_own_host(|world| async move {
        let network = Arc::new(world.open().await);
        let (_server, _stop) = Server::start(&network);
        let (id, other) = (SandboxId::new(), SandboxId::new());
        let list = [
            allowed(DATABASE, 32, 5432),
            allowed("0.0.0.0", 0, 443),
            allowed("11.0.0.0", 8, 443),
        ];
        let slot = network.acquire(id, &list).await.unwrap();
        let neighbour = network
            .acquire(other, &[allowed("10.0.0.0", 8, 7000)])
            .await
            .unwrap();
        let outside = format!("outside sees {UPLINK}:");
        for target in [format!("{DATABASE}:5432"), format!("{WEB}:443")] {
            assert!(tcp(&slot, &target).unwrap().starts_with(&outside), "{target}");
            assert!(udp(&slot, &target, 20).unwrap().starts_with(&outside), "{target}");
            assert!(
                udp(&slot, &target, 4000).unwrap().starts_with(&outside),
                "{target}"
            );
            let got = tcp(&neighbour, &target).unwrap();
            assert!(got.starts_with("proxy for"), "another's list: {got}");
        }
        world.forget();
        // Everything on port 443 does not mean the metadata service, a private network or the host.
        for target in [
            format!("{METADATA}:443"),
            format!("{DATABASE}:443"),
            format!("{UPLINK}:443"),
            format!("{WEB}:22"),
        ] {
            assert!(tcp(&slot, &target).unwrap().starts_with("proxy for"), "{target}");
            assert!(udp(&slot, &target, 20).is_err(), "{target}");
        }
        // Nor is another sandbox to be had by listing its network.
        let sandbox = format!("{}:7000", slot.address);
        common::within(&slot.namespace, || {
            let listener = TcpListener::bind("0.0.0.0:7000").unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let _gone = std::io::Write::write_all(&mut stream.unwrap(), b"another sandbox");
                }
            });
        });
        let heard = common::within(&slot.namespace, || {
            std::net::UdpSocket::bind("0.0.0.0:7000").unwrap()
        });
        heard.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        assert!(tcp(&neighbour, &sandbox).is_err());
        assert!(udp(&neighbour, &sandbox, 20).is_err());
        assert!(heard.recv(&mut [0; 100]).is_err(), "one way is one too many");
        // A false sender does not get out even where it sends to is allowed, and the kernel's own check is off.
        sh(&format!(
            "for f in all {}; do echo 0 > /proc/sys/net/ipv4/conf/$f/rp_filter; done",
            slot.interface
        ));
        for source in [WEB, UPLINK, &neighbour.address.to_string(), "192.0.2.77"] {
            raw(&slot, &packet(17, source, DATABASE, &udp_head(5432), 0));
        }
        assert_eq!(world.arrived(), Vec::<String>::new());

        let counters = network.counters(id).unwrap();
        assert!(counters.sent > 8000 && counters.received > 100, "{counters:?}");

        // Released, nothing of it is left; the next holder does not inherit anything.
        network.release(id).await.unwrap();
        network.release(id).await.unwrap();
        assert!(!slot.namespace.exists());
        let table = sh("nft list ruleset");
        assert!(!table.contains(&format!("\"{}\" . ", slot.interface)), "{table}");
        network.release(other).await.unwrap();
        network.acquire(id, &[]).await.unwrap();
        assert!(matches!(
            network.acquire(id, &[]).await,
            Err(ostler_host_network::NetworkError::Held(_))
        ));
    });
}

#[test]
fn a_flushed_filter_is_put_back() {
    on_own_host(|world| async move {
        let network = world.open().await;
        let slot = network
            .acquire(SandboxId::new(), &[allowed(DATABASE, 32, 5432)])
            .await
            .unwrap();
        sh("nft flush ruleset");
        let end = Instant::now() + Duration::from_secs(20);
        while !sh("nft list ruleset").contains(&format!("\"{}\" . {DATABASE}", slot.interface)) {
            assert!(Instant::now() < end, "the filter stays away");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}

#[test]
fn the_egress_filter_serves_and_hears_of_what_was_refused() {
    on_own_host(|world| async move {
        let network = Arc::new(world.open().await);
        let (denials, mut told) = Denials::channel(100);
        let proxy = Proxy::new(Options::default(), denials).unwrap();
        let id = SandboxId::new();
        let egress = ostler_domain::Egress {
            domains: Vec::new(),
            addresses: vec![format!("{DATABASE}:5432")],
        };
        let policy = Policy::compile(&egress).unwrap();
        let slot = network.acquire(id, policy.addresses()).await.unwrap();
        let session = proxy.session(id, policy, CancellationToken::new());
        let traffic = FilteredTraffic::new(move |asked| (asked == id).then(|| session.clone()));
        let (serving, stop) = (network.clone(), CancellationToken::new());
        let token = stop.clone();
        tokio::spawn(async move { serving.listen(Arc::new(traffic), token).await.unwrap() });

        assert!(
            tcp(&slot, &format!("{DATABASE}:5432"))
                .unwrap()
                .starts_with("outside sees")
        );
        // Over the proxy, asked as a program does that knows of it.
        let through = common::within(&slot.namespace, || {
            use std::io::{Read, Write};
            let mut stream = std::net::TcpStream::connect((slot.gateway, network.proxy_port())).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            stream
                .write_all(format!("CONNECT {DATABASE}:5432 HTTP/1.1\r\n\r\n").as_bytes())
                .unwrap();
            let mut text = String::new();
            let _reset = stream.read_to_string(&mut text);
            text
        });
        assert!(
            through.contains("200") && through.contains("outside sees"),
            "{through}"
        );
        assert!(!tcp(&slot, &format!("{DATABASE}:443")).is_ok_and(|t| t.contains("outside")));
        assert!(udp(&slot, &format!("{DATABASE}:443"), 20).is_err());
        let mut targets = Vec::new();
        while targets.len() < 2 {
            let denial = tokio::time::timeout(Duration::from_secs(5), told.recv())
                .await
                .unwrap()
                .unwrap();
            assert_eq!(denial.sandbox, id);
            targets.push((denial.target, denial.reason.contains("UDP to this address")));
        }
        targets.sort();
        let target = format!("{DATABASE}:443");
        assert_eq!(targets, [(target.clone(), false), (target, true)]);
        stop.cancel();
    });
}
