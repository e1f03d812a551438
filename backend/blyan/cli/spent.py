"""How the command line says what an answer cost, and who computed it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from blyan.cli.chat_client import Computed, Cost

_named_max: Final = 4  # nodes


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


def computed_line(computed: Computed) -> str:
    """One line under an answer that the node which was asked did not compute alone."""
    count = len(computed.nodes)
    if not count:
        return f"plan {computed.plan}" + (", with experts at other nodes" if computed.plan == "dynamic" else "")
    named = ", ".join(f"{key[:12]}…" for key in computed.nodes[:_named_max])
    others = "1 other node" if count == 1 else f"{count} other nodes"
    return f"plan {computed.plan}, computed by {named}{', …' if count > _named_max else ''} ({others})"


def computed_value(computed: Computed | None) -> dict[str, Any]:
    """The same as JSON; nothing where that node did it alone."""
    return {} if computed is None else {"computed": {"plan": computed.plan, "nodes": list(computed.nodes)}}
