"""Ways to answer an expert call wrongly, each of which changes one thing of the right answer."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import torch

from blyan.network.link import Link
from blyan.primitives.errors import Busy, Fault, NotHeld
from blyan.wire.expert_call import answer_of, parse_batch
from blyan.wire.framing import Message, WireTensor
from crooked_node import CrookedNode, Twist, send_raw


def wrong_digest() -> Twist:
    async def twist(_node: CrookedNode, _link: Link, _call: Message, answer: Message) -> Message:
        return Message({"digest": "00" * 32}, answer.tensors)

    return twist


def no_digest() -> Twist:
    async def twist(_node: CrookedNode, _link: Link, _call: Message, answer: Message) -> Message:
        return Message({}, answer.tensors)

    return twist


def other_bytes() -> Twist:
    """The digest of the right ones."""

    async def twist(_node: CrookedNode, _link: Link, _call: Message, answer: Message) -> Message:
        tensor = answer.tensors[0]
        return Message(answer.fields, (replace(tensor, data=bytes(len(tensor.data))),))

    return twist


def replayed() -> Twist:
    """The right answer to an older call of the same form, or of any."""

    async def twist(node: CrookedNode, _link: Link, call: Message, answer: Message) -> Message:
        alike = [old for asked, old in node.answers[:-1] if asked.tensors[0].shape == call.tensors[0].shape]
        return alike[0] if alike else node.answers[0][1] if len(node.answers) > 1 else Message({}, ())

    return twist


def misdirected() -> Twist:
    """Right answers under the number of another call."""

    async def twist(node: CrookedNode, link: Link, call: Message, answer: Message) -> Message:
        tensor = answer.tensors[0]
        described = {"name": tensor.name, "dtype": tensor.dtype, "shape": tensor.shape, "codec": "raw"}
        for number in range(max(0, call.fields["id"] - 3), call.fields["id"] + 1):
            if number != call.fields["id"]:
                length = len(tensor.data)
                said = {**answer.fields, "re": number}
                await send_raw(link, said, tensors=[{**described, "bytes": length}], after=bytes(tensor.data))
        old = node.answers[-2][1] if len(node.answers) > 1 else Message({}, ())
        return Message(old.fields, old.tensors)

    return twist


def not_numbers() -> Twist:
    """Well sealed."""

    async def twist(_node: CrookedNode, _link: Link, call: Message, _answer: Message) -> Message:
        batch = parse_batch(call.fields)
        rows = torch.full((batch.count, batch.width), float("nan"))
        return answer_of(batch, call.tensors[0], rows.view(torch.uint8).numpy().tobytes())

    return twist


def other_shape() -> Twist:
    """One row more, and the digest of that."""

    async def twist(_node: CrookedNode, _link: Link, call: Message, answer: Message) -> Message:
        tensor = answer.tensors[0]
        rows, width = tensor.shape
        grown = WireTensor(tensor.name, tensor.dtype, (rows + 1, width), bytes(tensor.data) + bytes(4 * width))
        return Message(answer.fields, (grown,))

    return twist


def extra_tensors() -> Twist:
    async def twist(_node: CrookedNode, _link: Link, _call: Message, answer: Message) -> Message:
        return Message(answer.fields, (*answer.tensors, WireTensor("more", "U8", (1,), b"x")))

    return twist


def huge_header() -> Twist:
    async def twist(_node: CrookedNode, link: Link, call: Message, answer: Message) -> Message:
        await send_raw(link, {"re": call.fields["id"], "pad": "x" * (3 << 20)})
        return answer

    return twist


def unknown_number() -> Twist:
    async def twist(_node: CrookedNode, link: Link, call: Message, answer: Message) -> Message:
        await send_raw(link, {"re": call.fields["id"] + 1_000_000})
        return answer

    return twist


def no_frame() -> Twist:
    async def twist(_node: CrookedNode, link: Link, _call: Message, answer: Message) -> Message:
        await link._socket.send_bytes(b"\xff\xff\xff\xffnonsense")
        return answer

    return twist


def refusing(fault: Fault) -> Twist:
    async def twist(_node: CrookedNode, _link: Link, _call: Message, _answer: Message) -> Message:
        raise fault

    return twist


def closing() -> Twist:
    async def twist(_node: CrookedNode, link: Link, _call: Message, answer: Message) -> Message:
        await link.close()
        return answer

    return twist


def silent() -> Twist:
    async def twist(_node: CrookedNode, _link: Link, _call: Message, answer: Message) -> Message:
        await asyncio.sleep(3600)
        return answer

    return twist


def strange_fault() -> Twist:
    """A refusal that is none."""

    async def twist(_node: CrookedNode, link: Link, call: Message, answer: Message) -> Message:
        await send_raw(link, {"re": call.fields["id"], "fault": {"code": ["x"], "message": {"a": 1}, "detail": 7}})
        return answer

    return twist


NEVER_RIGHT: dict[str, Twist] = {
    "wrong digest": wrong_digest(),
    "no digest": no_digest(),
    "other bytes": other_bytes(),
    "replayed": replayed(),
    "misdirected": misdirected(),
    "not numbers": not_numbers(),
    "other shape": other_shape(),
    "extra tensors": extra_tensors(),
    "huge header": huge_header(),
    "unknown number": unknown_number(),
    "no frame": no_frame(),
    "not held": refusing(NotHeld("nothing", detail={"experts": "all"})),
    "busy": refusing(Busy("always")),
    "closing": closing(),
    "silent": silent(),
    "strange fault": strange_fault(),
}
