"""A node behind an address translator, which nobody can connect to, is called through a relay that it connects to.

Three namespaces: a public network with a relay and a caller, a translator, and a private network with the node. The
translator lets nothing begin from outside.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from namespaces import Wires, ip, process
from services import missing

WORKER = Path(__file__).resolve().parent.parent / "relay_worker.py"
RULES = """
table inet translator {
  chain out { type nat hook postrouting priority srcnat; oifname "public0" masquerade; }
  chain through { type filter hook forward priority filter; policy drop;
    ct state established,related accept
    iifname "private0" accept
  }
}
"""


def behind_translator(made: Wires) -> tuple[str, str]:
    """A public machine at 203.0.113.1 and a private one at 10.77.0.2, whose way out is translated to 203.0.113.254."""
    if shutil.which("nft") is None:
        missing("nftables (apt: nftables)")
    public, translator, private = made.machine("pub"), made.machine("nat"), made.machine("priv")
    made.wire(public, translator, ("eth0", "public0"), ("203.0.113.1/24", "203.0.113.254/24"))
    made.wire(private, translator, ("eth0", "private0"), ("10.77.0.2/24", "10.77.0.1/24"))
    ip("route", "add", "default", "via", "10.77.0.1", within=private)
    # Even who knows of the private network and asks the translator to pass it on does not get through.
    ip("route", "add", "10.77.0.0/24", "via", "203.0.113.254", within=public)
    inside = ["ip", "netns", "exec", translator]
    forward = Path("/proc/sys/net/ipv4/ip_forward")
    subprocess.run([*inside, "tee", forward], input=b"1", stdout=subprocess.DEVNULL, check=True, timeout=10)
    subprocess.run([*inside, "nft", "-f", "-"], input=RULES.encode(), check=True, timeout=10)
    return public, private


@pytest.mark.timeout(60)
def test_a_node_behind_a_translator_is_called_through_its_relay(wires: Wires) -> None:
    """The relay sees it come from the translator's address; without the relay it cannot be reached."""
    public, private = behind_translator(wires)
    with process(public, WORKER, "relay", "203.0.113.1") as relay:
        url, relay_key = relay.stdout.readline().split()
        with process(private, WORKER, "node", "10.77.0.2", url) as node:
            key, reached = node.stdout.readline().split()
            assert f"relay:{relay_key}" == reached
            relay.stdin.write("who\n")
            relay.stdin.flush()
            assert f"203.0.113.254 | {key}" == relay.stdout.readline().strip()
            with process(public, WORKER, "caller", "127.0.0.1", url) as caller:
                assert caller.stdout.readline()

                def call(way: str) -> str:
                    caller.stdin.write(f"{way} {key}\n")
                    caller.stdin.flush()
                    return caller.stdout.readline().strip()

                assert f"reached {key} hello" == call("relay")
                assert call("wss://203.0.113.254:9650").startswith("fault PeerFault")
                assert call("wss://10.77.0.2:9650").startswith("fault PeerFault")
                node.kill()
                node.wait(10)
                assert call("relay").startswith("fault PeerFault")
