"""What may be said about accounts, quotas and proxies; and that a node off loopback has accounts."""

import sys
from pathlib import Path
from typing import Any

import pytest

from blyan.node.accounts import open_accounts
from blyan.node.config import read_config
from blyan.node.config_survey import survey, survey_file
from blyan.primitives.errors import Denied, Fault, InvalidInput, Unavailable
from nodes import fixed_entropy, fixed_seconds
from wallets import new_key

ORIGIN = "https://chat.example.org"


def config(tmp_path: Path, **sections: dict[str, Any]):
    return read_config(tmp_path, sections, {})


def test_without_an_origin_there_are_no_accounts(tmp_path: Path) -> None:
    made = open_accounts(config(tmp_path), now=fixed_seconds, monotonic=lambda: 0.0, entropy=fixed_entropy)
    assert (made, list(tmp_path.iterdir())) == (None, [])


def test_what_is_said_is_read(tmp_path: Path) -> None:
    accounts = {"origin": ORIGIN, "chain_ids": ["1", "10"], "rpc_urls": ["10=https://rpc.example.org/key"]}
    found = config(tmp_path, accounts={**accounts, "operators": [new_key().address]}).accounts
    assert found.where is not None
    assert (found.where.text, found.chains, dict(found.rpc)) == (ORIGIN, (1, 10), {10: "https://rpc.example.org/key"})
    assert frozenset({new_key().address.lower()}) == found.operator_accounts
    assert config(tmp_path).accounts.chains == (1,)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("accounts", "origin", "chat.example.org"),
        ("accounts", "origin", "http://chat.example.org"),
        ("accounts", "chain_ids", ["0"]),
        ("accounts", "chain_ids", ["01"]),
        ("accounts", "chain_ids", ["mainnet"]),
        ("accounts", "chain_ids", ["9" * 17]),
        ("accounts", "chain_ids", [str(number + 1) for number in range(33)]),
        ("accounts", "rpc_urls", ["https://rpc.example.org"]),
        ("accounts", "rpc_urls", ["5=https://rpc.example.org"]),
        ("accounts", "rpc_urls", ["1=file:///etc/passwd"]),
        ("accounts", "rpc_urls", ["1=https://a.org", "1=https://b.org"]),
        ("accounts", "operators", ["0x5"]),
        ("accounts", "operators", ["eip155:0:" + new_key().address]),
        ("accounts", "redis_url", "http://redis"),
        ("accounts", "session_idle_minutes", 1),
        ("accounts", "session_hours", 1),
        ("quotas", "account_tokens", 1_000_000_001),
        ("http", "trusted_proxies", ["everybody"]),
        ("http", "trusted_proxies", ["10.0.0.1"] * 65),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(tmp_path: Path, section: str, key: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        config(tmp_path, **{section: {key: value}})
    assert caught.value.message.startswith((f"{section}.{key}: expected", "sessions: expected"))


def test_a_node_with_accounts_may_listen_where_others_reach_it(tmp_path: Path) -> None:
    listen = {"listen": "0.0.0.0:8645"}
    assert config(tmp_path, http=listen, accounts={"origin": ORIGIN}).address == ("0.0.0.0", 8645)
    with pytest.raises(Denied, match="no accounts") as caught:
        _ = config(tmp_path, http=listen).address
    assert "accounts.origin" in (caught.value.hint or "")


def test_a_survey_says_so_too(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text('[http]\nlisten = "0.0.0.0:1"\n')
    assert ["no accounts" in each.message for each in survey(tmp_path, {}).mistakes] == [True]
    (tmp_path / "node.toml").write_text(f'[http]\nlisten = "0.0.0.0:1"\n[accounts]\norigin = "{ORIGIN}"\n')
    assert survey(tmp_path, {}).mistakes == ()


@pytest.mark.parametrize(("package", "extra", "redis"), [("siwe", "accounts", ""), ("redis", "redis", "redis://x")])
def test_a_missing_package_is_named_with_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, extra: str, redis: str
) -> None:
    from blyan.auth import siwe

    siwe._siwe.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    made = config(tmp_path, accounts={"origin": ORIGIN, "redis_url": redis})
    with pytest.raises(Unavailable) as caught:
        open_accounts(made, now=fixed_seconds, monotonic=lambda: 0.0, entropy=fixed_entropy)
    assert f"blyan[{extra}]" in (caught.value.hint or "")


def test_a_password_in_a_url_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text('[accounts]\nredis_url = "redis://me:hunter2@redis:6379"\n')
    shown = {each.key: each.value for each in survey(tmp_path, {}).settings}
    assert "hunter2" not in str(shown)


def test_a_fault_of_the_database_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "accounts.db").mkdir()
    with pytest.raises(Fault, match=r"accounts\.db"):
        open_accounts(
            config(tmp_path, accounts={"origin": ORIGIN}),
            now=fixed_seconds,
            monotonic=lambda: 0.0,
            entropy=fixed_entropy,
        )


def test_check_looks_at_settings_together(tmp_path: Path) -> None:
    """An allowance is held against that of a day in the file, not against the default; only what is wrong is named."""
    file = tmp_path / "node.toml"
    file.write_text(f'[accounts]\norigin = "{ORIGIN}"\nallowance = "0.5"\nallowance_per_day = "20"\n')
    assert survey_file(file).mistakes == ()
    file.write_text('[accounts]\norigin = "x"\nallowance = "0.5"\nallowance_per_day = "20"\n')
    assert [each.where for each in survey_file(file).mistakes] == [f"{file}:2"]
    file.write_text('[accounts]\nallowance = "21"\nallowance_per_day = "20"\n')
    assert [each.where for each in survey_file(file).mistakes] == [f"{file}:2"]
    file.write_text("[accounts]\nallowance = 0.5\n")
    (found,) = survey_file(file).mistakes
    assert found.hint == 'in quotes: allowance = "0.5"'
