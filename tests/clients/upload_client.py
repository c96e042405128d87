"""Uploads of unknown length over HTTP/1.1 to an origin that sends bodies back, through HOST:PORT."""

import hashlib
import http.client
import random
import socket
import sys
import time

import checks
from checks import equal


def connection(target):
    return http.client.HTTPConnection(target, timeout=20)


def pieces(count, size):
    generator = random.Random(count)
    return [generator.randbytes(size) for _ in range(count)]


def check_chunked_upload(target):
    sent = pieces(200, 5000)
    to = connection(target)
    to.request("POST", "/", body=iter(sent), encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
    answer = to.getresponse()
    equal(answer.status, 200)
    equal(hashlib.sha256(answer.read()).hexdigest(), hashlib.sha256(b"".join(sent)).hexdigest(), "digest")


def check_tiny_and_empty_chunks_in_many_packets(target):
    host, port = target.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=20) as to:
        to.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = f"POST / HTTP/1.1\r\nHost: {target}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        for byte in (head + "1;ext=1\r\na\r\n0003\r\nbcd\r\n0\r\n\r\n").encode():
            to.sendall(bytes([byte]))
        answer = http.client.HTTPResponse(to)
        answer.begin()
        equal((answer.status, answer.read()), (200, b"abcd"))


def check_pieces_come_back_before_the_end(target):
    """What was sent comes back while the upload still runs."""
    host, port = target.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=20) as to:
        to.sendall(f"POST / HTTP/1.1\r\nHost: {target}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n".encode())
        answer = http.client.HTTPResponse(to)
        answer.begin()
        equal(answer.read(5), b"first")
        to.sendall(b"6\r\nsecond\r\n0\r\n\r\n")
        equal(answer.read(), b"second")


def check_keep_alive_after_uploads(target):
    to = connection(target)
    for number in range(20):
        to.request("POST", "/", body=iter([b"%d" % number, b"!"]), encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
        equal(to.getresponse().read(), b"%d!" % number)


def check_slow_upload(target):
    def slowly():
        for number in range(5):
            yield b"%d" % number
            time.sleep(0.1)

    to = connection(target)
    to.request("POST", "/", body=slowly(), encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
    equal(to.getresponse().read(), b"01234")


checks.run(checks.of(sys.modules[__name__]), sys.argv[1])
