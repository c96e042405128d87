"""Talks to ws_server.py through HOST:PORT and checks what comes back."""

import asyncio
import random
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

import checks
from checks import equal


def to(target, path, **options):
    return connect(f"ws://{target}{path}", max_size=None, proxy=None, ping_interval=None, **options)


async def check_text_and_binary(target):
    async with to(target, "/echo") as socket:
        for message in ("hello", "ünï ✓", "", b"\x00\xff", b""):
            await socket.send(message)
            equal(await socket.recv(), message)


async def check_fragments_to_the_server(target):
    async with to(target, "/echo") as socket:
        await socket.send(["one ", "two ", "three"])
        equal(await socket.recv(), "one two three")


async def check_fragments_from_the_server(target):
    async with to(target, "/fragments/5") as socket:
        equal([part async for part in socket.recv_streaming()], [f"part {n};" for n in range(5)] + [""])


async def check_ping_from_the_client(target):
    async with to(target, "/echo") as socket:
        latency = await asyncio.wait_for(await socket.ping(b"x"), 5)
        assert latency >= 0


async def check_ping_from_the_server(target):
    async with to(target, "/ping") as socket:
        equal(await socket.recv(), "pong came")


async def check_close_codes_of_the_server(target):
    for code in (1000, 1001, 1011, 1013, 3000, 4999):
        async with to(target, f"/close/{code}") as socket:
            try:
                await socket.recv()
                raise AssertionError("not closed")
            except ConnectionClosed as closed:
                equal((closed.rcvd.code, closed.rcvd.reason), (code, "as asked"))


async def check_close_code_of_the_client(target):
    async with to(target, "/echo") as socket:
        await socket.close(4001, "enough")
        equal((socket.close_code, socket.close_reason), (4001, "enough"))


async def check_a_mebibyte_both_ways(target):
    body = random.Random(1).randbytes(1 << 20)
    async with to(target, "/echo", compression=None) as socket:
        await socket.send(body)
        assert await socket.recv() == body, "other bytes came back"


async def check_subprotocol(target):
    async with to(target, "/shout", subprotocols=["whisper", "shout"]) as socket:
        equal(socket.subprotocol, "shout")
        await socket.send("hey")
        equal(await socket.recv(), "shout: HEY")


async def check_compression_is_agreed(target):
    async with to(target, "/echo") as socket:
        assert socket.response.headers.get("Sec-WebSocket-Extensions"), "permessage-deflate was lost on the way"
        await socket.send("a" * 100_000)
        equal(await socket.recv(), "a" * 100_000)


async def check_many_at_once(target):
    async def one(number):
        async with to(target, "/echo") as socket:
            for turn in range(20):
                await socket.send(f"{number}/{turn}")
                equal(await socket.recv(), f"{number}/{turn}")

    await asyncio.gather(*(one(number) for number in range(100)))


async def check_both_directions_at_once(target):
    """Neither side waits for the other."""
    async with to(target, "/echo", compression=None) as socket:
        async def send():
            for number in range(500):
                await socket.send(b"%06d" % number * 100)

        sending = asyncio.create_task(send())
        for number in range(500):
            equal(await socket.recv(), b"%06d" % number * 100)
        await sending


checks.run(checks.of(sys.modules[__name__]), sys.argv[1])
