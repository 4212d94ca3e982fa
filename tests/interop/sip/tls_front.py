"""A TLS front, as operators have before the service: what comes by TLS goes on in clear."""

import asyncio
import ssl
from pathlib import Path

from certificates import Authority


class TlsFront:
    """Its certificate is from an authority made for the run."""

    def __init__(self, folder: Path) -> None:
        certificate, key = Authority(folder).sign("front", "127.0.0.1")
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(certificate, key)

    async def start(self, service_port: int) -> int:
        """Gives the port."""
        self._service_port = service_port
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0, ssl=self._tls)
        return self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_service, to_service = await asyncio.open_connection("127.0.0.1", self._service_port)
        await asyncio.gather(_copy(reader, to_service), _copy(from_service, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    except (ConnectionError, ssl.SSLError):
        # Either end may go without a farewell.
        pass
    finally:
        writer.close()
