"""Addresses and ports that are free."""

import socket


def own_ip() -> str:
    """The address of the first real interface: baresip refuses loopback. Connecting a UDP socket sends nothing."""
    with socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.connect(("192.0.2.1", 9))
        return udp.getsockname()[0]


def udp_port(ip: str = "127.0.0.1") -> int:
    return _free_port(ip, socket.SOCK_DGRAM)


def tcp_port(ip: str = "127.0.0.1") -> int:
    return _free_port(ip, socket.SOCK_STREAM)


def _free_port(ip: str, kind: int) -> int:
    with socket.socket(type=kind) as one:
        one.bind((ip, 0))
        return one.getsockname()[1]
