"""Counting round trips where nothing can hide them: on the wire."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path


class RoundTrips:
    """How often a client spoke after the server had; requests that follow each other without a reply are one."""

    def __init__(self) -> None:
        self.count = 0
        self._server_spoke = True

    def client_spoke(self) -> None:
        """Bytes came from the client."""
        self.count += self._server_spoke
        self._server_spoke = False

    def server_spoke(self) -> None:
        """Bytes came from the server."""
        self._server_spoke = True


@asynccontextmanager
async def counting_proxy(socket_path: Path, server_path: str) -> AsyncGenerator[RoundTrips, None]:
    """Listen on the unix socket ``socket_path``, pass everything on to ``server_path`` and count the round trips.

    Meant for one call after another: with several under way the count means nothing.
    """
    trips = RoundTrips()
    pumps = asyncio.TaskGroup()

    async def serve(client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(server_path)

        async def pump_replies() -> None:
            while data := await server_reader.read(2**16):
                trips.server_spoke()
                client_writer.write(data)
            client_writer.close()

        replies = pumps.create_task(pump_replies())
        while data := await client_reader.read(2**16):
            trips.client_spoke()
            server_writer.write(data)
        server_writer.close()
        client_writer.close()
        await replies

    async with pumps:
        server = await asyncio.start_unix_server(serve, socket_path)
        try:
            yield trips
        finally:
            server.close()
