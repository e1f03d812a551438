"""One end of `bench_experts`' calls: answers expert calls of a model, over links as nodes have them, or bare.

The experts are computed by jitted code, as by a node. Bare: the same frames over a WebSocket without TLS, no handshake,
and a digest that is a constant. Prints its port.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from aiohttp import web

from blyan.inference.expert_host import ExpertHost, HostedModel
from blyan.inference.steppers import PreparedMixture, SteppersInTurn
from blyan.model.loading import LoadedModel, load_model
from blyan.network.door import PeerDoor, taken_over
from blyan.network.handshake import Swarm
from blyan.network.identity import make_identity
from blyan.network.link import Link
from blyan.node.config import cache_dir_from_environment
from blyan.primitives.clock import system_entropy, system_monotonic, system_seconds
from blyan.primitives.ids import payload_id
from blyan.primitives.keys import Key
from blyan.storage import tensor_block
from blyan.storage.blob_store import BlobStore
from blyan.wire import expert_call
from blyan.wire.expert_call import kind
from blyan.wire.peer import Summary
from swarm_nodes import SECRET


class End:
    """A key, a certificate and a summary: what a link needs of a node."""

    def __init__(self) -> None:
        self.identity = make_identity(Key.from_seed(system_entropy(32)), system_seconds, system_entropy)
        self.swarm = Swarm(SECRET)

    def summary(self) -> Summary:
        """Of this process."""
        ours = self.identity
        made = Summary(ours.key.public, ours.boot, ours.started, 1, ours.certificate_hash, self.swarm.tag)
        return made.sign(ours.key)


def leave_out_verification() -> None:
    """From now on this process neither hashes nor compares what it says and hears."""

    def constant(*_: object) -> str:
        return "-"

    expert_call.digest_of = constant  # type: ignore[assignment]


def prepared(model: LoadedModel) -> PreparedMixture:
    """Jitted code for its experts, when it is ready: as a node that serves for a while computes."""
    config = model.manifest.config
    steppers = SteppersInTurn(1, system_monotonic, cache_dir_from_environment())
    mixture = PreparedMixture(steppers, config, tensor_block.dtypes[model.manifest.dtype], model.weights)
    while mixture.get(config.moe_layers[0], 0) is None:
        time.sleep(0.1)
    return mixture


async def serve(data_dir: Path, manifest: str, *, bare: bool) -> None:
    model = load_model(BlobStore(data_dir / "blobs"), payload_id(manifest))
    mixture = await asyncio.to_thread(prepared, model)
    hosted = HostedModel(model.manifest.config, model.weights, lambda _layer, _expert: True, mixture)
    host = ExpertHost(lambda _manifest: hosted, system_monotonic)
    end = End()
    handlers: dict[str, Any] = {kind: host.answer}
    if not bare:
        joined = [].append
        with tempfile.TemporaryDirectory() as folder:
            store = BlobStore(Path(folder))
            chance = {"monotonic": system_monotonic, "entropy": system_entropy}
            door = PeerDoor(end.identity, end.swarm, end.summary, handlers, joined, store=store, **chance)
            print(await door.listen("127.0.0.1", 0), flush=True)
            await asyncio.Event().wait()
    leave_out_verification()

    async def answered(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        await Link(taken_over(request), end.summary(), handlers, system_monotonic, dialled=False).run()
        return socket

    app = web.Application()
    app.router.add_get("/", answered)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    torch.set_num_threads(1)
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2], bare=sys.argv[3] == "bare"))
