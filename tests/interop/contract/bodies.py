"""How made-up bodies that are no JSON are sent: as the bytes that they are."""

import schemathesis


@schemathesis.serializer("audio/wav", "audio/flac", "audio/opus", "audio/ogg", "audio/mpeg")
def sound(_context, value) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.serializer("application/sdp", "application/trickle-ice-sdpfrag")
def sdp(_context, value) -> bytes:
    """What the document calls a string is sent as it is."""
    return value.encode() if isinstance(value, str) else str(value).encode()
