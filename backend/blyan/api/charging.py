"""Token quotas around one generation: what it may take at most is taken before, what it did not take is given back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from blyan.api.caller import current_caller
from blyan.node.node import Node


@asynccontextmanager
async def within_quotas(node: Node, most: int, used: Callable[[], int]) -> AsyncGenerator[None]:
    """Hold `most` tokens of the caller's quotas while the context lasts; `RateLimited` before it begins.

    `used` says at the end how many were computed: the rest is given back.
    """
    accounts, caller = node.accounts, current_caller()
    if accounts is None or caller is None:
        yield
        return
    quotas = node.config.quotas
    await accounts.charge(caller.token_charges(quotas, most))
    try:
        yield
    finally:
        unused = caller.token_charges(quotas, most - used())
        if unused:
            # also when the caller has gone and this task is being cancelled
            await asyncio.shield(accounts.quotas.give_back(unused))
