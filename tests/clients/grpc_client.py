"""Calls every method of grpc_server.py through HOST:PORT and checks what comes back."""

import asyncio
import sys
import time

import grpc

import checks
from checks import equal


def method(channel, name, kind="unary_unary"):
    return getattr(channel, kind)(f"/test.Echo/{name}")


def channel(target):
    return grpc.aio.insecure_channel(target, options=[
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),
        ("grpc.max_receive_message_length", -1),
    ])


async def status_of(call):
    """The status, details and trailers of a call that must fail."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details(), dict(error.trailing_metadata())
    raise AssertionError("the call did not fail")


async def check_unary(target):
    async with channel(target) as to:
        equal(await method(to, "Unary")(b"hello"), b"hello")
        equal(await method(to, "Unary")(b""), b"", "the empty message")


async def check_unary_many_at_once(target):
    async with channel(target) as to:
        messages = [b"%d" % n for n in range(300)]
        equal(await asyncio.gather(*(method(to, "Unary")(m) for m in messages)), messages)


async def check_large_messages(target):
    async with channel(target) as to:
        equal(len(await method(to, "Large")(b"3000000")), 3_000_000, "size")
        body = bytes(range(256)) * 8192
        equal(await method(to, "Unary")(body), body)


async def check_server_stream(target):
    async with channel(target) as to:
        got = [m async for m in method(to, "ServerStream", "unary_stream")(b"200")]
        equal(got, [b"%d" % n for n in range(200)])
        equal([m async for m in method(to, "ServerStream", "unary_stream")(b"0")], [], "the empty stream")


async def check_client_stream(target):
    async def messages():
        for _ in range(100):
            yield b"x" * 1000

    async with channel(target) as to:
        equal(await method(to, "ClientStream", "stream_unary")(messages()), b"100 messages, 100000 bytes")


async def check_bidi_in_lockstep(target):
    """Each message is sent only when the one before has come back: nothing on the way may hold one."""
    async with channel(target) as to:
        call = method(to, "Bidi", "stream_stream")()
        for number in range(50):
            await call.write(b"%d" % number)
            equal(await call.read(), b"%d" % number)
        await call.done_writing()
        equal(await call.read(), grpc.aio.EOF)
        equal(await call.code(), grpc.StatusCode.OK)


async def check_metadata(target):
    async with channel(target) as to:
        call = method(to, "Metadata")(b"", metadata=(("x-sent", "value"), ("x-sent-bin", b"\x00\xff\x01")))
        names = (await call).decode().split(",")
        initial, trailing = dict(await call.initial_metadata()), dict(await call.trailing_metadata())
        equal(initial["x-initial"], "value")
        equal(initial["x-initial-bin"], b"\x00\xff\x01")
        equal(trailing["x-trailing"], "value")
        assert "user-agent" in names, names


async def check_deadline_passes_on(target):
    async with channel(target) as to:
        left = float(await method(to, "Slow")(b"0", timeout=5))
        assert 1 < left < 5.1, f"the server saw {left} s of a deadline of 5 s"


async def check_deadline_exceeded(target):
    async with channel(target) as to:
        started = time.monotonic()
        code, _, _ = await status_of(method(to, "Slow")(b"10", timeout=0.3))
        equal(code, grpc.StatusCode.DEADLINE_EXCEEDED)
        took = time.monotonic() - started
        assert took < 3, f"took {took:.1f} s"


async def check_trailers_only_error(target):
    async with channel(target) as to:
        code, details, trailers = await status_of(method(to, "Fail")(b"9"))
        equal(code, grpc.StatusCode.FAILED_PRECONDITION)
        equal(details, "failed: on purpose, 100% ü", "message")
        equal(trailers["x-why"], "on-purpose")


async def check_every_status(target):
    async with channel(target) as to:
        for status in grpc.StatusCode:
            if status is not grpc.StatusCode.OK:
                code, _, _ = await status_of(method(to, "Fail")(b"%d" % status.value[0]))
                equal(code, status)


async def check_error_after_messages(target):
    async with channel(target) as to:
        call = method(to, "FailLate", "unary_stream")(b"")
        got = []
        try:
            async for message in call:
                got.append(message)
            raise AssertionError("the call did not fail")
        except grpc.aio.AioRpcError as error:
            equal(error.code(), grpc.StatusCode.DATA_LOSS)
            equal(error.details(), "lost the rest")
        equal(got, [b"one", b"two"])


async def check_unknown_method(target):
    async with channel(target) as to:
        code, _, _ = await status_of(method(to, "Nothing")(b""))
        equal(code, grpc.StatusCode.UNIMPLEMENTED)


async def check_cancel_leaves_the_connection_alive(target):
    async with channel(target) as to:
        call = method(to, "Bidi", "stream_stream")()
        await call.write(b"a")
        equal(await call.read(), b"a")
        call.cancel()
        equal(await method(to, "Unary")(b"still there"), b"still there")


checks.run(checks.of(sys.modules[__name__]), sys.argv[1])
