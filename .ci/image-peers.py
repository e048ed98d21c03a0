"""What the container asks by name in `.ci/image`: a DNS server that knows one name, and TLS before the simulated ERP
and before a directory with the issuer's keys. Arguments: certificate, key, directory, the name in DNS."""

import asyncio
import functools
import http.server
import ssl
import struct
import sys
import threading

CERTIFICATE, KEY, DIRECTORY, NAME = sys.argv[1:]
A, NO_ERROR, NO_SUCH_NAME = 1, 0, 3


class Dns(asyncio.DatagramProtocol):
    """127.0.0.1 for the one name (RFC 1035 section 4.1); other names don't exist."""

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, query, peer):
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode().lower())
            at += 1 + query[at]
        question = query[12 : at + 5]
        known = ".".join(labels) == NAME
        answers = known and struct.unpack("!H", query[at + 1 : at + 3])[0] == A
        flags = 0x8580 | (NO_ERROR if known else NO_SUCH_NAME)
        reply = query[:2] + struct.pack("!5H", flags, 1, answers, 0, 0) + question
        if answers:
            reply += b"\xc0\x0c" + struct.pack("!2HIH", A, 1, 60, 4) + bytes([127, 0, 0, 1])
        print(*labels, "asked", sep=".", flush=True)
        self.transport.sendto(reply, peer)


async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


def before(port):
    """Hands on what arrives to that port."""

    async def serve(reader, writer):
        there = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))

    return serve


async def main():
    files = functools.partial(http.server.SimpleHTTPRequestHandler, directory=DIRECTORY)
    keys = http.server.ThreadingHTTPServer(("127.0.0.1", 0), files)
    threading.Thread(target=keys.serve_forever, daemon=True).start()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(CERTIFICATE, KEY)
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(Dns, local_addr=("127.0.0.1", 53))
    await asyncio.start_server(before(8081), "127.0.0.1", 8443, ssl=tls)
    await asyncio.start_server(before(keys.server_port), "127.0.0.1", 9443, ssl=tls)
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
