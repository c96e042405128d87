"""Holds one WebSocket conversation after the other through HOST:PORT until standard input ends, and prints how many.

A conversation is forty messages over about a second, each answered before the next; then the client closes. It fails
when it cannot begin, when an answer does not come, or when it ends before the client ends it.
"""

import asyncio
import sys

from websockets.asyncio.client import connect


async def conversation(target, number):
    async with connect(f"ws://{target}/echo", proxy=None, ping_interval=None, open_timeout=10) as socket:
        for turn in range(40):
            said = f"{number}/{turn}"
            await socket.send(said)
            heard = await asyncio.wait_for(socket.recv(), 10)
            assert heard == said, f"{heard!r} is not {said!r}"
            await asyncio.sleep(0.025)
    assert socket.close_code == 1000, socket.close_code


async def one_after_the_other(target, ended, which):
    count = 0
    while not ended.is_set():
        await conversation(target, f"{which}.{count}")
        count += 1
    return count


async def main():
    ended = asyncio.Event()
    reading = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    reading.add_done_callback(lambda _: ended.set())
    counts = await asyncio.gather(*(one_after_the_other(sys.argv[1], ended, which) for which in range(4)))
    print(f"conversations {sum(counts)}", flush=True)


asyncio.run(main())
