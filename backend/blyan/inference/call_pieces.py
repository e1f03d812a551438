"""Expert calls cut into what fits into messages, and their outputs put together again. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from blyan.inference.expert_message import CallsAsked
from blyan.model.experts import ExpertCall
from blyan.primitives import limits
from blyan.primitives.errors import Fault


def pieces_of(call: ExpertCall) -> list[ExpertCall]:
    """A call in as many as it takes for each to fit into a message."""
    rows = int(1 / _share(call.hidden, 1))
    if call.hidden.shape[0] <= rows:
        return [call]
    return [ExpertCall(call.layer, call.expert, piece) for piece in torch.split(call.hidden, rows)]


def joined(outputs: Sequence[Tensor | Fault]) -> Tensor | Fault:
    """The output of a call of those of its pieces."""
    given = [each for each in outputs if not isinstance(each, Fault)]
    if len(given) < len(outputs):
        return next(each for each in outputs if isinstance(each, Fault))
    return given[0] if len(given) == 1 else torch.cat(given)


def messages_of(asked: CallsAsked, indices: Sequence[int]) -> list[list[int]]:
    """Calls of one node in as many messages as their rows take: mostly one.

    A long prompt's go in several that are not too large: the node begins with the first while others are on their way,
    and hears something meanwhile.
    """
    messages: list[list[int]] = []
    size = max(limits.expert_message_bytes, bytes_moved(asked, indices) // limits.expert_messages_together)
    full = 1.0
    for index in indices:
        hidden = asked.calls[index].hidden
        share = max(_share(hidden, hidden.shape[0]), hidden.nbytes / size)
        full += share
        if full > 1 or len(messages[-1]) >= limits.expert_calls_max:
            messages.append([])
            full = share
        messages[-1].append(index)
    return messages


def bytes_moved(asked: CallsAsked, indices: Iterable[int]) -> int:
    """Of the hidden states of some of the calls."""
    return sum(asked.calls[index].hidden.nbytes for index in indices)


def _share(hidden: Tensor, rows: int) -> float:
    """Of so many of its rows in what fits into one message; half of a frame is for its header."""
    row_bytes = hidden.shape[1] * hidden.element_size()
    return rows * max(1 / limits.expert_rows_max, row_bytes / (limits.link_frame_bytes_max // 2))
