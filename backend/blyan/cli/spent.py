"""How the command line says what an answer cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blyan.cli.chat_client import Cost


def cost_line(cost: Cost, *, hint: bool) -> str:
    """One line under an answer; `hint` where somebody can type `/receipt`."""
    receipt = "" if cost.receipt is None else f", receipt {cost.receipt}"
    more = "; /receipt saves and verifies it" if hint and receipt else ""
    return f"{cost.amount} {cost.asset}{receipt}{more}"


def cost_value(cost: Cost | None) -> dict[str, Any]:
    """The same as JSON, as the node says it; nothing where the node is free."""
    if cost is None:
        return {}
    value: dict[str, Any] = {"cost": {"amount": cost.amount, "asset": cost.asset}}
    if cost.receipt is not None and cost.salt is not None:
        value["receipt"] = {"id": cost.receipt, "salt": cost.salt.hex()}
    return value
