"""A WebSocket server. Paths: /echo (messages back), /close/CODE (closes so), /fragments/N (a message in N parts),
/ping (pings the client and says when the pong came), /shout (echo in upper case, subprotocol "shout").
Prints "listening HOST:PORT" when it is ready.
"""

import asyncio

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def handle(socket):
    try:
        await talk(socket)
    except ConnectionClosed:
        pass  # with whatever code: that is the client's choice


async def talk(socket):
    path = socket.request.path.split("?")[0]
    if path.startswith("/close/"):
        await socket.close(int(path.removeprefix("/close/")), "as asked")
    elif path.startswith("/fragments/"):
        await socket.send([f"part {n};" for n in range(int(path.removeprefix("/fragments/")))])
    elif path == "/ping":
        waiter = await socket.ping(b"are you there")
        await waiter
        await socket.send("pong came")
    elif path == "/shout":
        async for message in socket:
            await socket.send(f"{socket.subprotocol}: {message.upper()}")
    else:
        async for message in socket:
            await socket.send(message)


def choose(connection, offered):
    """A client need not offer one."""
    return "shout" if "shout" in offered else None


async def main():
    async with serve(handle, "127.0.0.1", 0, max_size=None, select_subprotocol=choose, ping_interval=None) as server:
        port = server.sockets[0].getsockname()[1]
        print(f"listening 127.0.0.1:{port}", flush=True)
        await server.serve_forever()


asyncio.run(main())
