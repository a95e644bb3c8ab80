"""A WHIP and WHEP server that shares nothing with ours: aiortc behind 60 lines of HTTP. What tests/e2e/bench.rs measures.

    foreign_server.py

Prints one line, {"http": "127.0.0.1:PORT"}, and serves until SIGTERM. POST /whip takes a stream and forgets it; POST
/whep gives a moving picture (VP8 or H264, as offered) and a tone. DELETE ends a session. No tokens.
"""

import asyncio
import json
import uuid

from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.contrib.media import MediaBlackhole
from aiortc.mediastreams import AudioStreamTrack, VideoStreamTrack

sessions = {}


async def gathered(connection):
    await connection.setLocalDescription(await connection.createAnswer())
    while connection.iceGatheringState != "complete":
        await asyncio.sleep(0.01)
    return connection.localDescription.sdp


async def whip(offer):
    connection, sink = RTCPeerConnection(), MediaBlackhole()
    connection.on("track", sink.addTrack)
    await connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
    answer = await gathered(connection)
    await sink.start()
    return connection, answer


async def whep(offer):
    connection = RTCPeerConnection()
    await connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
    for transceiver in connection.getTransceivers():
        track = VideoStreamTrack() if transceiver.kind == "video" else AudioStreamTrack()
        transceiver.sender.replaceTrack(track)
        transceiver.direction = "sendonly"
    return connection, await gathered(connection)


async def handle(reader, writer):
    while head := await reader.readuntil(b"\r\n\r\n"):
        method, path, _ = head.split(b"\r\n")[0].decode().split()
        fields = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:] if ": " in line)
        body = (await reader.readexactly(int(fields.get("content-length", 0)))).decode()
        status, extra, text = "404 Not Found", "", ""
        if method == "GET":
            status = "200 OK"
        elif method == "POST" and path.split("/")[1] in ("whip", "whep"):
            connection, text = await (whip if path.startswith("/whip") else whep)(body)
            name = uuid.uuid4().hex
            sessions[name] = connection
            status, extra = "201 Created", f"location: /session/{name}\r\ncontent-type: application/sdp\r\n"
        elif method == "DELETE" and (connection := sessions.pop(path.split("/")[-1], None)):
            await connection.close()
            status = "200 OK"
        writer.write(f"HTTP/1.1 {status}\r\n{extra}content-length: {len(text)}\r\n\r\n{text}".encode())
        await writer.drain()


async def serve():
    async def client(reader, writer):
        try:
            await handle(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(client, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    print(json.dumps({"http": f"{host}:{port}"}), flush=True)
    async with server:
        await server.serve_forever()


asyncio.run(serve())
