"""What befalls expert nodes of a swarm of processes, and how all is well again."""

from __future__ import annotations

import signal

from swarm_nodes import Swarm


def kill(swarm: Swarm, number: int) -> None:
    swarm.experts[number].kill()


def stop(swarm: Swarm, number: int) -> None:
    swarm.experts[number].send(signal.SIGSTOP)


def swallow(swarm: Swarm, number: int) -> None:
    swarm.proxies[number].black_hole()


def reset(swarm: Swarm, number: int) -> None:
    swarm.proxies[number].reset()


def half_close(swarm: Swarm, number: int) -> None:
    swarm.proxies[number].half_close()


def corrupt(swarm: Swarm, number: int) -> None:
    swarm.proxies[number].down.corrupt = 1


def slow(swarm: Swarm, number: int) -> None:
    swarm.proxies[number].delay(0.04, jitter_s=0.04)


def throttle(swarm: Swarm, number: int) -> None:
    for way in swarm.proxies[number].both:
        way.bytes_per_s = 20_000


FAULTS = [kill, stop, swallow, reset, half_close, corrupt]


def restored(swarm: Swarm) -> None:
    """Every node runs, every link passes everything, and the gateway is linked to all."""
    for proxy in swarm.proxies:
        proxy.heal()
    for node in (*swarm.experts, swarm.gateway):
        if node.running:
            node.send(signal.SIGCONT)
        else:
            node.start()
    swarm.gateway.wait_linked(swarm.experts)
