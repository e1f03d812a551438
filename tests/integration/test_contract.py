"""Schemathesis reads a real node's /openapi.json, asks every route what fits and what does not, and compares."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from checkpoints import save_byte_tokenizer, save_random_checkpoint
from nodes import import_into, install_builtin, running
from running_node import RunningNode
from wallets import new_key, sign

SECONDS = 50
SIGN_IN_SECONDS = 12
CHARGING_SECONDS = 10
LONG_SECONDS = int(os.environ.get("BLYAN_TEST_CONTRACT_SECONDS", "3600"))  # shorter to see that it works
# Left out: what a schema cannot say. `positive_data_acceptance`: models exist or not, prompts fit their context or not,
# ranges lie in a blob or not. `missing_required_header` and those about sign-in: there is none.
# One worker: in CPython 3.11 two threads that parse Python at once (hypothesis does) may end with a SystemError.
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "response_headers_conformance,negative_data_rejection,unsupported_method"
)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A context of 64 tokens, so that whatever is asked ends soon."""
    folder = tmp_path_factory.mktemp("contract")
    save_random_checkpoint(folder / "hf", vocab_size=260, max_position_embeddings=64)
    save_byte_tokenizer(folder / "hf")
    import_into(folder / "data", folder / "hf", "random")
    with running(folder / "data") as node:
        yield node


def fetched(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as response:
        return json.load(response)


def with_names(node: RunningNode) -> dict[str, Any]:
    """The node's own document, with names that exist here where it says any text: what is inside is asked too."""
    document = fetched(f"{node.url}/openapi.json")
    blocks = fetched(f"{node.url}/network/experts?model=random")["blocks"]
    entry = fetched(f"{node.url}/chain/parameter/find")["entries"][0]["id"]
    models = {"enum": ["random", "nobody"]}
    for path, item in document["paths"].items():
        for operation in item.values():
            body = operation.get("requestBody")
            if body is not None and "model" in body["content"]["application/json"]["schema"].get("properties", {}):
                body["content"]["application/json"]["schema"]["properties"]["model"] = models
            for parameter in operation["parameters"]:
                # /find takes any text: of a name that nobody has it finds nothing
                if parameter["name"] in ("model", "payload_id", "id") and not path.endswith("/find"):
                    known = {"payload_id": [blocks[0]["payload"], "0" * 64], "model": models["enum"]}
                    known["id"] = [entry, "0" * 64] if path == "/entries/{id}" else models["enum"]
                    parameter["schema"] = {"enum": known[parameter["name"]]}
    return document


def asked(node: RunningNode, folder: Path, seconds: int, *arguments: str, names: bool = True) -> str:
    """What schemathesis says; the test fails with it where node and document differ."""
    (folder / "openapi.json").write_text(json.dumps(with_names(node) if names else fetched(f"{node.url}/openapi.json")))
    command = [sys.executable, "-m", "schemathesis.cli", "run", "openapi.json", "--url", node.url, "--no-color"]
    command += ["--checks", CHECKS, "--max-time", str(seconds), "--workers", "1", "--request-timeout", "30", *arguments]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=seconds + 300, env=os.environ.copy()
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-20_000:]
    assert fetched(f"{node.url}/readyz?verbose")["ready"]
    return said


@pytest.mark.slow
def test_every_route_does_what_the_document_says(node: RunningNode, tmp_path: Path) -> None:
    """50 seconds of requests that fit and that do not, from a seed that does not change."""
    said = asked(node, tmp_path, SECONDS, "--seed", "20251121", "--phases", "examples,coverage,fuzzing")
    assert re.search(r"Operations:\s+Tested: [1-9]|[1-9]\d* passed", said), said


@pytest.mark.long
def test_every_route_does_what_the_document_says_for_an_hour(
    node: RunningNode, tmp_path: Path, long_result: Callable[[str, str], None]
) -> None:
    """Another seed each time, and requests that follow from each other."""
    said = asked(node, tmp_path, LONG_SECONDS, "--max-examples", "100000", "--continue-on-failure")
    summary = re.search(r"(\d+) generated", said)
    found = f"{summary[1] if summary else '?'} requests, no difference"
    long_result(f"schemathesis on /openapi.json, {LONG_SECONDS:,} s", found)


@pytest.mark.slow
def test_the_routes_of_sign_in_do_what_the_document_says(tmp_path: Path) -> None:
    """With accounts, by somebody who has signed in and may make keys; a wrong sign-in changes nothing of that."""
    install_builtin(tmp_path / "data")
    origin = "http://127.0.0.1:8645"
    (tmp_path / "data/node.toml").write_text(
        f'[accounts]\norigin = "{origin}"\n[quotas]\naddress_sign_ins = 0\naddress_requests = 0\naccount_requests = 0\n'
    )
    with running(tmp_path / "data") as node:
        message, cookies = posted(node, "/auth/nonce", {"address": new_key().address, "chain_id": 1})
        body = {"message": message["message"], "signature": sign(new_key(), message["message"])}
        _, cookies = posted(node, "/auth/verify", body, Cookie="; ".join(cookies))
        session = next(cookie for cookie in cookies if "session" in cookie)
        shown = ("--header", f"Cookie: {session}", "--header", f"Origin: {origin}")
        only = ("--include-path-regex", "^/auth/(nonce|verify|session|keys)", "--seed", "20251121")
        asked(node, tmp_path, SIGN_IN_SECONDS, *shown, *only, names=False)


@pytest.mark.slow
@pytest.mark.parametrize("shown_by", ["session", "key"])
def test_every_route_of_a_node_that_charges_does_what_the_document_says(tmp_path: Path, shown_by: str) -> None:
    """By an operator who has some dollars, in the browser and by a program; prices are set and change meanwhile."""
    save_random_checkpoint(tmp_path / "hf", vocab_size=260, max_position_embeddings=64)
    save_byte_tokenizer(tmp_path / "hf")
    import_into(tmp_path / "data", tmp_path / "hf", "random")
    origin, operator = "http://127.0.0.1:8645", new_key()
    (tmp_path / "data/node.toml").write_text(
        f'[accounts]\norigin = "{origin}"\noperators = ["{operator.address}"]\n'
        'allowance = "1"\nallowance_per_day = "10"\n[ledger]\nseal_seconds = 1\n'
        "[quotas]\naddress_sign_ins = 0\naddress_requests = 0\naccount_requests = 0\nkey_requests = 0\n"
        "account_tokens = 0\nkey_tokens = 0\n"
    )
    with running(tmp_path / "data") as node:
        message, cookies = posted(node, "/auth/nonce", {"address": operator.address, "chain_id": 1})
        body = {"message": message["message"], "signature": sign(operator, message["message"])}
        _, cookies = posted(node, "/auth/verify", body, Cookie="; ".join(cookies))
        shown = {"Cookie": next(cookie for cookie in cookies if "session" in cookie), "Origin": origin}
        if shown_by == "key":
            wish = {"name": "contract", "scopes": ["inference", "account", "models"]}
            made, _ = posted(node, "/auth/keys", wish, **shown)
            shown = {"Authorization": f"Bearer {made['key']}"}
        price = {"model": "random", "prompt_per_million": "0.15", "completion_per_million": "0.6"}
        posted(node, "/prices", price, **shown)
        headers = [word for name, value in shown.items() for word in ("--header", f"{name}: {value}")]
        # a session that signs itself out shows nothing more; routes that change models have tests of their own
        left_out = ("--exclude-path-regex", "^/(auth/logout|api/(delete|create|copy|pull|push))")
        asked(node, tmp_path, CHARGING_SECONDS, *headers, *left_out, "--seed", "20251121")


def posted(node: RunningNode, path: str, body: object, **headers: str) -> tuple[Any, list[str]]:
    """The answer, and its cookies as a browser sends them back."""
    request = urllib.request.Request(node.url + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response), [line.partition(";")[0] for line in response.headers.get_all("Set-Cookie", [])]
