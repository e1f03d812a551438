"""Answers that are paid for: hold, answer, settle, what it cost, and a receipt that checks."""

import json

from accounts import Nodes
from blyan.inference.receipt import Choice, output_bytes
from blyan.inference.receipt_check import Known, check_receipt
from payers import PRICE, charging, own, payer, sealed, settled, units

ASKED = {"model": "random", "prompt": "abc", "max_tokens": 5, "ignore_eos": True, "temperature": 0}


def cost_of(prompt: int, completion: int) -> int:
    return -(-(prompt * PRICE.prompt + completion * PRICE.completion) // 1_000_000)


async def test_an_answer_is_held_settled_and_has_a_receipt_that_checks(nodes: Nodes) -> None:
    """The whole path: what it cost, the books after it, and the file from public data alone."""
    client = await charging(nodes)
    buyer = await payer(client)
    raw = json.dumps(ASKED).encode()
    response = await client.post(
        "/v1/completions", data=raw, headers={**buyer.headers, "Content-Type": "application/json"}
    )
    assert response.status == 200, await response.text()
    answer = await response.json()
    usage = answer["usage"]
    cost = cost_of(usage["prompt_tokens"], usage["completion_tokens"])
    assert (units(usage["cost"]["amount"]), usage["cost"]["asset"]) == (cost, "USD")
    await settled(client)
    has = await buyer.has()
    assert (has.balance, has.held_out) == (100_000 - cost, 0)
    assert sum(await own(client)) == cost
    identity, salt = usage["receipt"]["id"], bytes.fromhex(usage["receipt"]["salt"])
    file = await sealed(buyer, identity)
    output = output_bytes([Choice(answer["choices"][0]["text"])])
    report = check_receipt(file, Known(request=raw, output=output, salt=salt))
    assert report.failed == []
    assert {check.name for check in report.not_made} <= {"origin", "known", "price"}
    said = json.loads(file)["receipt"]
    assert (said["charged"], said["account"]) == (str(cost), f"user:{buyer.account}")
