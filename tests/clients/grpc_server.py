"""A gRPC server without generated code: messages are plain bytes.

Service test.Echo: Unary, ServerStream, ClientStream, Bidi, Metadata, Slow, Fail, FailLate, Large.
Prints "listening HOST:PORT" when it is ready.
"""

import asyncio
import sys

import grpc


async def unary(request, context):
    return request


async def server_stream(request, context):
    """As many messages as the request says, each with its number."""
    for number in range(int(request)):
        yield b"%d" % number
        await asyncio.sleep(0)


async def client_stream(requests, context):
    """How many messages and bytes came."""
    count = size = 0
    async for message in requests:
        count += 1
        size += len(message)
    return b"%d messages, %d bytes" % (count, size)


async def bidi(requests, context):
    """Each message back as soon as it comes."""
    async for message in requests:
        yield message


async def metadata(request, context):
    """The call's metadata back: in the headers, in the trailers, and the names of all that came."""
    came = {key: value for key, value in context.invocation_metadata()}
    await context.send_initial_metadata((("x-initial", came.get("x-sent", "")), ("x-initial-bin", came.get("x-sent-bin", b""))))
    context.set_trailing_metadata((("x-trailing", came.get("x-sent", "")),))
    return ",".join(sorted(came)).encode()


async def slow(request, context):
    """Answers after so many seconds, and says how much of the deadline was left when the call came."""
    left = context.time_remaining()
    await asyncio.sleep(float(request))
    return b"%.3f" % left if left is not None else b"none"


async def fail(request, context):
    """Fails before any message: an answer of nothing but trailers."""
    context.set_trailing_metadata((("x-why", "on-purpose"),))
    await context.abort(grpc.StatusCode(next(c.value for c in grpc.StatusCode if c.value[0] == int(request))), "failed: on purpose, 100% ü")


async def fail_late(request, context):
    """Fails after two messages."""
    yield b"one"
    yield b"two"
    await context.abort(grpc.StatusCode.DATA_LOSS, "lost the rest")


async def large(request, context):
    """A message of so many bytes."""
    return b"x" * int(request)


def handlers():
    unary_method = grpc.unary_unary_rpc_method_handler
    methods = {
        "Unary": unary_method(unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
        "Metadata": unary_method(metadata),
        "Slow": unary_method(slow),
        "Fail": unary_method(fail),
        "FailLate": grpc.unary_stream_rpc_method_handler(fail_late),
        "Large": unary_method(large),
    }
    return grpc.method_handlers_generic_handler("test.Echo", methods)


async def main():
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((handlers(),))
    port = server.add_insecure_port(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:0")
    await server.start()
    print(f"listening 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


asyncio.run(main())
