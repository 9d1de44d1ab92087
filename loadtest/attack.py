"""Attacks on a TLS server, for loadtest/scenarios/attacks.sh. Only against addresses of this machine.

attack.py chain HOST:PORT CHAIN KEY RATE SECONDS
    Handshakes with this client certificate and what stands above it, RATE a second. Prints how many
    were refused.
attack.py burst HOST:PORT COUNT CA [CHAIN KEY]
    COUNT clients send a hello at once, do not wait for an answer, and are gone after a second.
    Prints in how many milliseconds after that new clients (with this certificate) were served again,
    each within 250 ms."""

import selectors
import socket
import ssl
import sys
import time

SERVED_WITHIN_S = 0.25
SERVED_IN_A_ROW = 10
GIVEN_UP_AFTER_S = 60


def address(text):
    host, port = text.rsplit(":", 1)
    if not host.startswith("127."):
        sys.exit("only against 127.0.0.0/8")
    return host, int(port)


def context(ca=None, certificate=None):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    if ca:
        made.load_verify_locations(ca)
    else:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    if certificate:
        made.load_cert_chain(*certificate)
    return made


def served(where, tls, patience):
    """Whether a new client gets an HTTP answer by then."""
    end = time.monotonic() + patience
    try:
        with socket.create_connection(where, timeout=patience) as plain:
            plain.settimeout(max(end - time.monotonic(), 0.001))
            with tls.wrap_socket(plain, server_hostname="localhost") as stream:
                stream.settimeout(max(end - time.monotonic(), 0.001))
                stream.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                stream.settimeout(max(end - time.monotonic(), 0.001))
                return stream.recv(16).startswith(b"HTTP/1.")
    except OSError:
        return False


def chain(where, certificate, rate, seconds):
    tls = context(certificate=certificate)
    begun, refused = time.monotonic(), 0
    for number in range(int(rate * seconds)):
        time.sleep(max(0, begun + number / rate - time.monotonic()))
        # TLS 1.3: the client learns behind its handshake that it is refused.
        refused += not served(where, tls, 2)
    print(refused)


def hello():
    """The first flight of a client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        context().wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def burst(where, count, ca, certificate):
    tls, first_flight = context(ca, certificate), hello()
    waiting, clients = selectors.DefaultSelector(), []
    for _ in range(count):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(where)
        waiting.register(client, selectors.EVENT_WRITE)
        clients.append(client)
    end = time.monotonic() + 1
    while waiting.get_map() and time.monotonic() < end:
        for ready, _ in waiting.select(timeout=0.1):
            waiting.unregister(ready.fileobj)
            try:
                ready.fileobj.send(first_flight)
            except OSError:
                pass
    time.sleep(max(0, end - time.monotonic()))
    gone = time.monotonic()
    for client in clients:
        client.close()
    since, in_a_row = None, 0
    while in_a_row < SERVED_IN_A_ROW:
        begun = time.monotonic()
        if begun - gone > GIVEN_UP_AFTER_S:
            break
        if served(where, tls, SERVED_WITHIN_S):
            since, in_a_row = since or begun, in_a_row + 1
        else:
            since, in_a_row = None, 0
    print(int(((since or time.monotonic()) - gone) * 1000))


def main(words):
    if words[:1] == ["chain"] and len(words) == 6:
        chain(address(words[1]), words[2:4], float(words[4]), float(words[5]))
    elif words[:1] == ["burst"] and len(words) in (4, 6):
        burst(address(words[1]), int(words[2]), words[3], words[4:6])
    else:
        sys.exit(__doc__)


main(sys.argv[1:])
