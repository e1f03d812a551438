"""`blyan price show|set`: what models cost, as the meta chain says it."""

from __future__ import annotations

import argparse
from typing import Any

from blyan.cli.node_client import asked
from blyan.cli.output import Output, table
from blyan.cli.passphrase import passphrase_of
from blyan.node.config import read_config
from blyan.node.data_directory import lock_holder, open_ground
from blyan.node.writer import opened
from blyan.payments.prices import Tariff, price_of_texts, shown_price, tariff, tariffs
from blyan.primitives.amount import USD
from blyan.primitives.clock import system_entropy, system_seconds
from blyan.primitives.errors import Unavailable
from blyan.primitives.model_name import canonical_name


def add_commands(verbs: Any, common: argparse.ArgumentParser, readable: argparse.ArgumentParser) -> None:
    """Register the group."""
    group = verbs.add_parser("price", parents=[common, readable], help="what models cost: show, set")
    commands = group.add_subparsers(metavar="VERB", required=True)
    shown = commands.add_parser("show", parents=[common, readable], help="the price of each model")
    shown.set_defaults(run=_show)
    set_ = commands.add_parser("set", parents=[common, readable], help="a new price, from now on")
    set_.add_argument("model", metavar="MODEL", type=canonical_name)
    set_.add_argument("--prompt", metavar="USD", required=True, help="for a million tokens that are read, such as 0.15")
    set_.add_argument("--completion", metavar="USD", required=True, help="for a million tokens that are written")
    set_.add_argument("--key-file", metavar="FILE", help="with an operator's API key, for a running node with accounts")
    set_.set_defaults(run=_set)


def _show(options: argparse.Namespace, output: Output) -> int:
    state = open_ground(options.data_dir).chains.state
    found = {each.model: each for each in tariffs(state.parameters)}
    rows = [["MODEL", "PROMPT", "COMPLETION", "", "SINCE ENTRY"]]
    for name in sorted({*found, *state.models}):
        each = found.get(name)
        if each is None or each.price.free:
            rows.append([name, "-", "-", "free", each.entry if each else "-"])
        else:
            amounts = list(shown_price(each.price).values())
            rows.append([name, *amounts, f"{each.price.asset} per million tokens", each.entry])
    free = [name for name in sorted(state.models) if name not in found]
    output.data({"prices": [_value(each) for each in found.values()], "without_price": free}, table(rows))
    return 0


def _set(options: argparse.Namespace, output: Output) -> int:
    price = price_of_texts(USD.code, options.prompt, options.completion)  # what is wrong with it is said at once
    holder = lock_holder(options.data_dir)
    if holder is not None and holder.get("url"):
        body = {"model": options.model, **shown_price(price)}
        asked(str(holder["url"]), "/prices", body=body, key_file=options.key_file)
    else:
        from blyan.node.pricing import set_price  # with what models need

        config = read_config(options.data_dir)
        with opened(config, now=system_seconds, entropy=system_entropy, passphrase=passphrase_of(config)) as ground:
            set_price(ground, options.model, price)
    found = tariff(open_ground(options.data_dir).chains.state.parameters, options.model)
    if found is None or found.price != price:
        raise Unavailable(f"price of {options.model}: expected {price.encode()} on the chain, found another since")
    amounts = shown_price(price)
    output.data(
        _value(found),
        f"{found.model}: {amounts['prompt_per_million']} USD for a million tokens read, "
        f"{amounts['completion_per_million']} USD for a million written",
    )
    return 0


def _value(found: Tariff) -> dict[str, Any]:
    return {"model": found.model, "asset": found.price.asset, **shown_price(found.price), "entry": found.entry}
