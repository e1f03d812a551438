"""Setting the price of a model: an entry of the meta chain, which its writer alone can append."""

from __future__ import annotations

from blyan.chain.entries import ParameterBody
from blyan.chain.parameters import Price, price_name
from blyan.chain.sequencer import Draft
from blyan.node.model_changes import named_model, want_writer
from blyan.node.writer import WritableGround
from blyan.payments.prices import Tariff, tariff
from blyan.primitives.amount import USD
from blyan.primitives.errors import InvalidInput


def set_price(ground: WritableGround, model: str, price: Price) -> Tariff:
    """Let a model cost this from now on; the same price again writes nothing. Quotes that were given keep theirs."""
    want_writer(ground)
    if price.asset != USD.code:
        raise InvalidInput(f"price: expected one in {USD.code}, which accounts have here, found {price.asset}")
    version, _ = named_model(ground, model)
    before = tariff(ground.chains.state.parameters, version.name)
    if before is None or before.price != price:
        draft = Draft(ParameterBody(price_name, version.name, price.encode()), (version.entry,))
        ground.sequencer.submit([draft]).result()
    now = tariff(ground.chains.state.parameters, version.name)
    assert now is not None, "just set"
    return now
