"""An HTTP/2 server (prior knowledge) for odd cases, on the h2 library. By path:

/echo          the body back when it has ended, with the trailers of the request as x-trailers
/early         answers before the body has come, then RST_STREAM NO_ERROR (RFC 9113 section 8.1)
/reset         RST_STREAM CANCEL after half of the answer
/refuse        RST_STREAM REFUSED_STREAM without an answer, once for each x-key; then 200
/trailers      an answer with trailers
/half-closed   answers first, then reads the body, and sends how many bytes it had at the end
/seen-reset    how many streams the peer has reset on any connection so far
Prints "listening HOST:PORT" when it is ready.
"""

import socket
import threading

import h2.config
import h2.connection
import h2.errors
import h2.events

resets = 0
refused = set()
lock = threading.Lock()


class Exchange:
    def __init__(self, headers):
        self.headers = dict(headers)
        self.body = b""
        self.trailers = ()


def serve(connected):
    global resets
    config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    connected.sendall(connection.data_to_send())
    exchanges = {}
    while data := connected.recv(65536):
        for event in connection.receive_data(data):
            stream = getattr(event, "stream_id", None)
            if isinstance(event, h2.events.RequestReceived):
                exchanges[stream] = Exchange(event.headers)
                on_head(connection, stream, exchanges[stream])
            elif isinstance(event, h2.events.DataReceived):
                if stream in exchanges:
                    exchanges[stream].body += event.data
                connection.acknowledge_received_data(event.flow_controlled_length, stream)
            elif isinstance(event, h2.events.TrailersReceived):
                exchanges[stream].trailers = event.headers
            elif isinstance(event, h2.events.StreamEnded):
                if stream in exchanges:
                    on_end(connection, stream, exchanges.pop(stream))
            elif isinstance(event, h2.events.StreamReset):
                with lock:
                    resets += 1
                exchanges.pop(stream, None)
        connected.sendall(connection.data_to_send())


def answer(connection, stream, body, *, status="200", end=True, headers=()):
    connection.send_headers(stream, [(":status", status), *headers])
    connection.send_data(stream, body, end_stream=end)


def on_head(connection, stream, exchange):
    path = exchange.headers[":path"]
    if path == "/early":
        answer(connection, stream, b"early", status="413")
        connection.reset_stream(stream, h2.errors.ErrorCodes.NO_ERROR)
    elif path == "/half-closed":
        connection.send_headers(stream, [(":status", "200")])


def on_end(connection, stream, exchange):
    path = exchange.headers[":path"]
    if path == "/reset":
        connection.send_headers(stream, [(":status", "200"), ("content-length", "100")])
        connection.send_data(stream, b"x" * 50)
        connection.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
    elif path == "/refuse":
        key = exchange.headers.get("x-key")
        if key not in refused:
            refused.add(key)
            connection.reset_stream(stream, h2.errors.ErrorCodes.REFUSED_STREAM)
        else:
            answer(connection, stream, b"second time")
    elif path == "/trailers":
        answer(connection, stream, b"body", end=False, headers=[("trailer", "x-sum")])
        connection.send_headers(stream, [("x-sum", "4")], end_stream=True)
    elif path == "/half-closed":
        connection.send_data(stream, b"%d" % len(exchange.body), end_stream=True)
    elif path == "/seen-reset":
        answer(connection, stream, b"%d" % resets)
    elif path != "/early":
        trailers = ",".join(f"{name}={value}" for name, value in exchange.trailers)
        answer(connection, stream, exchange.body[:16384], headers=[("x-trailers", trailers), ("x-size", str(len(exchange.body)))])


def guarded(connected):
    try:
        serve(connected)
    except OSError:
        pass
    finally:
        connected.close()


listener = socket.create_server(("127.0.0.1", 0))
print("listening 127.0.0.1:%d" % listener.getsockname()[1], flush=True)
while True:
    accepted, _ = listener.accept()
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=guarded, args=(accepted,), daemon=True).start()
