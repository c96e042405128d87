"""Odd cases of HTTP/2 by prior knowledge against h2_server.py, through HOST:PORT.

With a second argument "proxy" it also checks what only a proxy between the two can get wrong.
"""

import socket
import sys
import time

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings

import checks
from checks import equal


class Peer:
    """One connection; events are kept by stream until they are asked for."""

    def __init__(self, target):
        host, port = target.rsplit(":", 1)
        self.authority = target
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.events = []
        self.flush()

    def flush(self):
        self.socket.sendall(self.h2.data_to_send())

    def request(self, path, *, method="GET", headers=(), end=True):
        stream = self.h2.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "http"), (":authority", self.authority), (":path", path)]
        self.h2.send_headers(stream, [*head, *headers], end_stream=end)
        self.flush()
        return stream

    def data(self, stream, data, end=False):
        """Sends data as the peer's windows allow."""
        while data:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(data))
            if room == 0:
                self.receive()
                continue
            self.h2.send_data(stream, data[:room])
            data = data[room:]
            self.flush()
        if end:
            self.h2.end_stream(stream)
            self.flush()

    def receive(self):
        data = self.socket.recv(65536)
        if not data:
            raise AssertionError("the connection was closed")
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.events.append(event)
        self.flush()

    def wait(self, stream, *kinds):
        """The next event of one of these kinds on the stream."""
        while True:
            for event in self.events:
                if isinstance(event, kinds) and event.stream_id == stream:
                    self.events.remove(event)
                    return event
            self.receive()

    def answer(self, stream):
        """(status, headers, body, trailers) of a whole answer."""
        head = dict(self.wait(stream, h2.events.ResponseReceived).headers)
        body, trailers = b"", {}
        while True:
            event = self.wait(stream, h2.events.DataReceived, h2.events.TrailersReceived, h2.events.StreamEnded, h2.events.StreamReset)
            if isinstance(event, h2.events.DataReceived):
                body += event.data
            elif isinstance(event, h2.events.TrailersReceived):
                trailers = dict(event.headers)
            elif isinstance(event, h2.events.StreamReset):
                raise AssertionError(f"reset with {event.error_code} after {len(body)} bytes")
            else:
                return head[":status"], head, body, trailers


def check_request_trailers(target):
    peer = Peer(target)
    stream = peer.request("/echo", method="POST", headers=[("te", "trailers"), ("trailer", "x-sum")], end=False)
    peer.data(stream, b"body")
    peer.h2.send_headers(stream, [("x-sum", "4")], end_stream=True)
    peer.flush()
    status, headers, body, _ = peer.answer(stream)
    equal((status, body, headers["x-trailers"]), ("200", b"body", "x-sum=4"))


def check_answer_trailers(target):
    peer = Peer(target)
    status, _, body, trailers = peer.answer(peer.request("/trailers", headers=[("te", "trailers")]))
    equal((status, body, trailers), ("200", b"body", {"x-sum": "4"}))


def check_reset_mid_answer(target):
    """Half an answer must never look like a whole one."""
    peer = Peer(target)
    stream = peer.request("/reset")
    # The reset may overtake the head. Or Weir saw nothing but the reset, and says so in an answer of its own.
    event = peer.wait(stream, h2.events.StreamReset, h2.events.StreamEnded)
    if isinstance(event, h2.events.StreamEnded):
        status = dict(peer.wait(stream, h2.events.ResponseReceived).headers)[":status"]
        equal(status, "502", "the status of a broken answer that ended as if it were complete")
    equal(peer.answer(peer.request("/echo"))[0], "200", "the next stream's status")


def check_early_answer(target):
    peer = Peer(target)
    stream = peer.request("/early", method="POST", end=False)
    peer.data(stream, b"x" * 1000)
    status, _, body, _ = peer.answer(stream)
    equal((status, body), ("413", b"early"))
    equal(peer.answer(peer.request("/echo"))[0], "200", "the next stream's status")


def check_half_closed_stream(target):
    """The answer's head comes while the request's body is still open."""
    peer = Peer(target)
    stream = peer.request("/half-closed", method="POST", end=False)
    equal(dict(peer.wait(stream, h2.events.ResponseReceived).headers)[":status"], "200")
    peer.data(stream, b"x" * 200_000, end=True)
    data = peer.wait(stream, h2.events.DataReceived).data
    equal(data, b"200000")


def check_large_upload_of_unknown_length(target):
    peer = Peer(target)
    stream = peer.request("/echo", method="POST", end=False)
    peer.data(stream, b"y" * 3_000_000, end=True)
    equal(peer.answer(stream)[1]["x-size"], "3000000")


def check_many_streams_at_once(target):
    peer = Peer(target)
    streams = [peer.request("/echo", method="POST", end=False) for _ in range(80)]
    for number, stream in enumerate(streams):
        peer.data(stream, b"%d" % number, end=True)
    for number, stream in reversed(list(enumerate(streams))):
        equal(peer.answer(stream)[2], b"%d" % number)


def check_cancelled_stream_is_cancelled_behind(target):
    """A reset by the client reaches the server."""
    peer = Peer(target)
    before = int(peer.answer(peer.request("/seen-reset"))[2])
    stream = peer.request("/half-closed", method="POST", end=False)
    peer.wait(stream, h2.events.ResponseReceived)
    peer.h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
    peer.flush()
    deadline = time.monotonic() + 10
    while int(peer.answer(peer.request("/seen-reset"))[2]) <= before:
        assert time.monotonic() < deadline, "the server never saw the reset"


def check_ping_is_answered(target):
    peer = Peer(target)
    peer.h2.ping(b"12345678")
    peer.flush()
    while not any(isinstance(event, h2.events.PingAckReceived) for event in peer.events):
        peer.receive()


def check_refused_stream_is_sent_again(target):
    """REFUSED_STREAM says that nothing was done (RFC 9113 section 8.7): a proxy replays a GET."""
    peer = Peer(target)
    key = str(time.monotonic_ns())
    equal(peer.answer(peer.request("/refuse", headers=[("x-key", key)]))[2], b"second time")


PROXY_ONLY = {check_refused_stream_is_sent_again}

through_proxy = sys.argv[2:] == ["proxy"]
chosen = [c for c in checks.of(sys.modules[__name__]) if through_proxy or c not in PROXY_ONLY]
checks.run(chosen, sys.argv[1])
