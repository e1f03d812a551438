"""Ask a node's /livez every few milliseconds over one connection: `loop_probe.py HOST PORT SECONDS`, a process.

Prints the seconds that each answer took, as JSON. An answer waits for the event loop, so its time bounds the loop's
delay from above; what the kernel takes to give this process a core is in it too, and is said beside it: by how much a
plain sleep was late.
"""

from __future__ import annotations

import json
import socket
import sys
import time

EVERY_S = 0.005


def main() -> None:
    host, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    request = f"GET /livez HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
    answers: list[float] = []
    overslept: list[float] = []
    with socket.create_connection((host, port), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ends = time.perf_counter() + seconds
        while (began := time.perf_counter()) < ends:
            connection.sendall(request)
            if not connection.recv(1 << 16):
                raise ConnectionError("the node closed the connection")
            answered = time.perf_counter()
            answers.append(answered - began)
            time.sleep(EVERY_S)
            overslept.append(time.perf_counter() - answered - EVERY_S)
    json.dump({"answers": answers, "overslept": overslept}, sys.stdout)


if __name__ == "__main__":
    main()
