"""A TCP proxy whose network can be made bad: cut, refused, frozen, delayed, each way by itself.

In front of a node: `node_behind_proxy`. The node listens on 127.0.0.2 and registers 127.0.0.3,
where the proxy listens on the same port, so that whoever reads the registry comes this way. Loopback
has all these addresses on Linux only (`needs.many_loopback_addresses`). In front of any other server:
`Proxy(port)`, on 127.0.0.1.

One thread with an event loop carries all connections of a proxy.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Literal, TypeVar

from tests.support.cluster import Cluster, Server

NODE_LISTENS = "127.0.0.2"
NODE_REGISTERS = "127.0.0.3"

Way = Literal["up", "down"]
"""`up`: from who connects to the server behind the proxy."""

BOTH: tuple[Way, ...] = ("up", "down")
_PIECE = 64 * 1024
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing answers with RST

T = TypeVar("T")


class _Condition:
    """What the network does to connections of one kind."""

    def __init__(self) -> None:
        self.refusing = False
        self.delay: dict[Way, float] = {"up": 0.0, "down": 0.0}
        self.flowing: dict[Way, asyncio.Event] = {way: asyncio.Event() for way in BOTH}
        for event in self.flowing.values():
            event.set()


class Proxy:
    """Listens on `host` (and `port`, 0: any free one) and passes on to `target`. Thread-safe."""

    def __init__(self, target: tuple[str, int], *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.target = target
        self._listener = socket.create_server((host, port), backlog=256)
        self.host, self.port = self._listener.getsockname()[:2]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._general = _Condition()
        self._special = _Condition()
        self._chosen: Callable[[int], bool] = lambda port: False
        self._open: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._do(self._listen())

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def close(self) -> None:
        """End everything."""
        if self._loop.is_closed():
            return
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # --- the weather ---

    def heal(self) -> None:
        """All is well again; what was frozen arrives now."""

        async def work() -> None:
            self._chosen = lambda port: False
            for condition in (self._general, self._special):
                condition.refusing = False
                for way in BOTH:
                    condition.delay[way] = 0.0
                    condition.flowing[way].set()
            if self._server is None:
                await self._listen()

        self._do(work())

    def refuse(self) -> None:
        """Connections are refused, and those there are reset: the machine is up, the process gone."""

        async def work() -> None:
            if self._server is not None:
                self._server.close()
                self._server = None
            self._abort()

        self._do(work())

    def cut(self) -> None:
        """Reset the connections there are; new ones are taken."""

        async def work() -> None:
            self._abort()

        self._do(work())

    def freeze(self, *ways: Way) -> None:
        """Nothing passes that way (both, when none is named); connections are taken and stay open.

        That is what a partition looks like: nobody says no.
        """

        async def work() -> None:
            for way in ways or BOTH:
                self._general.flowing[way].clear()

        self._do(work())

    def delay(self, seconds: float, *ways: Way) -> None:
        """Every piece takes so long that way; those behind it are not held up by more."""

        async def work() -> None:
            for way in ways or BOTH:
                self._general.delay[way] = seconds

        self._do(work())

    def refuse_only(self, pids: Collection[int]) -> None:
        """Reset all connections, and from now on those that these processes make, at once."""

        async def work() -> None:
            self._chosen = lambda port: _made_by(pids, port)
            self._special.refusing = True
            self._abort()

        self._do(work())

    # --- in the event loop ---

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self) -> None:
        if self._listener.fileno() < 0:
            self._listener = socket.create_server((self.host, self.port), backlog=256)
        self._server = await asyncio.start_server(self._connected, sock=self._listener, limit=_PIECE)

    async def _end(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        self._abort()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _abort(self) -> None:
        for writer in list(self._open):
            _reset(writer)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self._open.add(writer)
        writer.transport.set_write_buffer_limits(high=0)  # what `drain` has waited for is sent
        try:
            peer = writer.get_extra_info("peername")
            chosen = peer is not None and self._chosen(peer[1])
            condition = self._special if chosen else self._general
            if not condition.refusing:
                await self._carry(reader, writer, condition)
        except (OSError, asyncio.CancelledError):
            pass  # the server behind is not there, or the proxy ends: the reset below says so
        finally:
            _reset(writer)
            self._open.discard(writer)
            self._connections.discard(task)

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, condition: _Condition
    ) -> None:
        await condition.flowing["up"].wait()  # a frozen network passes no SYN on either
        there, back = await asyncio.open_connection(*self.target, limit=_PIECE)
        self._open.add(back)
        back.transport.set_write_buffer_limits(high=0)
        try:
            ways = [
                asyncio.ensure_future(_pump(reader, back, condition, "up")),
                asyncio.ensure_future(_pump(there, writer, condition, "down")),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                if ways[0].done() and not ways[1].done() and ways[0].exception() is None:
                    await ways[1]  # who asked has said all; the answer is still on its way
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
            with contextlib.suppress(OSError):
                if writer.can_write_eof() and not writer.is_closing():
                    writer.write_eof()
        finally:
            _reset(back)
            self._open.discard(back)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, condition: _Condition, way: Way) -> None:
    """Pass everything on; pieces wait for their time, and behind a frozen way for its thaw."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(16)

    async def take() -> None:
        while True:
            data = await reader.read(_PIECE)
            await pieces.put((loop.time() + condition.delay[way], data))
            if not data:
                return

    taking = asyncio.ensure_future(take())
    waiting: asyncio.Future[tuple[float, bytes]] | None = None
    try:
        while True:
            waiting = asyncio.ensure_future(pieces.get())
            await asyncio.wait([waiting, taking], return_when=asyncio.FIRST_COMPLETED)
            if taking.done() and taking.exception() is not None:
                return
            due, data = await waiting
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            await condition.flowing[way].wait()
            if not data:
                if writer.can_write_eof() and not writer.is_closing():
                    writer.write_eof()
                return
            writer.write(data)
            await writer.drain()
    finally:
        tasks: list[asyncio.Future[Any]] = [taking] if waiting is None else [taking, waiting]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST when something is left unsent, so that a cut never looks like an end."""
    sock = writer.get_extra_info("socket")
    if writer.transport.is_closing() or sock is None:
        return
    if writer.transport.get_write_buffer_size():
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


def _made_by(pids: Collection[int], port: int) -> bool:
    """Whether one of these processes holds the local end `port` of a connection. Linux."""
    inodes = set()
    with open("/proc/net/tcp", encoding="ascii") as table:
        for line in table:
            columns = line.split()
            if columns[1].rpartition(":")[2] == f"{port:04X}":
                inodes.add(f"socket:[{columns[9]}]")
    for pid in pids:
        with contextlib.suppress(OSError):
            for entry in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(entry.path) in inodes:
                        return True
    return False


def nodes_behind_proxies(cluster: Cluster) -> dict[str, Proxy]:
    """Give each node of a cluster that has not been started a proxy of its own, by node id.

    Close them after the cluster (`contextlib.ExitStack`). Call `needs.many_loopback_addresses` before.
    """
    return {node.name: node_behind_proxy(node) for node in cluster.nodes}


def node_behind_proxy(node: Server) -> Proxy:
    """A proxy in front of a node that has not been started yet."""
    # The proxy's port comes first: nobody else listens on the node's own address.
    proxy = Proxy((NODE_LISTENS, 0), host=NODE_REGISTERS)
    proxy.target = (NODE_LISTENS, proxy.port)
    node.environ.update(DFS_NODE_BIND=NODE_LISTENS, NODE_PRIVATE_IP=NODE_REGISTERS, NODE_PORT=str(proxy.port))
    return proxy
