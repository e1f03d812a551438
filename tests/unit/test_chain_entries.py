"""Entries: only well-formed ones are read, and only those that may follow are taken."""

from dataclasses import replace

import pytest

from blyan.chain.entries import (
    Entry,
    ExpertBody,
    GenesisBody,
    ModelBody,
    ParameterBody,
    PayloadReference,
    RetirementBody,
    TokenizerBody,
    TrunkBody,
    parse_entry,
    parse_plainly,
)
from blyan.chain.state import State
from blyan.chain.validity import check
from blyan.primitives.errors import EntryRefused, IntegrityFault, MalformedEntry
from blyan.primitives.ids import EntryId, PayloadId
from blyan.primitives.keys import Key

KEY = Key.from_seed(bytes(range(32)))
OTHER = Key.from_seed(bytes([7] * 32))
BLOCK = PayloadReference(PayloadId("cd" * 32), 4096, "application/vnd.blyan.tensorblock")


def entry(**changes: object) -> Entry:
    values: dict[str, object] = {
        "network": "local-1",
        "author": KEY.public,
        "nonce": 0,
        "parents": (EntryId("ee" * 32),),
        "body": ExpertBody("m", 1, 2),
        "payload": BLOCK,
        "time": 1_700_000_000,
    }
    return Entry(**(values | changes)).signed(KEY)  # pyright: ignore[reportArgumentType]


def test_entries_round_trip_and_their_ids_never_change() -> None:
    """Frozen vector of an entry's id; reading gives the value back."""
    made = entry()
    assert parse_entry(made.encode()) == made
    made.verify_signature()
    assert made.id == "e24e99875953323326633a98eb41cf3e8668648249d5c32901061b96eb3c18db"


def test_a_changed_entry_does_not_verify() -> None:
    """The signature covers every field."""
    raw = entry().encode().replace(b'"expert":2', b'"expert":3')
    with pytest.raises(IntegrityFault):
        parse_entry(raw).verify_signature()


@pytest.mark.parametrize(
    ("found", "changed"),
    [
        (b'"v":1', b'"v":2'),
        (b'"type":"expert"', b'"type":"code"'),
        (b'"chain":"parameter"', b'"chain":"meta"'),
        (b'"nonce":0', b'"nonce":-1'),
        (b'"nonce":0', b'"nonce":true'),
        (b'"expert":2', b'"expert":"2"'),
        (b'"expert":2', b'"expert":2,"more":1'),
        (b'"model":"m"', b'"model":"../m"'),
        (b'"media":"application/vnd.blyan.tensorblock"', b'"media":"a b"'),
        (b'"bytes":4096', b'"bytes":0'),
        (b'"network":"local-1"', b'"network":""'),
        (b'{"author"', b'{"another":1,"author"'),
    ],
)
def test_malformed_entries_are_refused(found: bytes, changed: bytes) -> None:
    """Each differs from a good entry in one field."""
    raw = entry().encode()
    assert found in raw
    with pytest.raises(MalformedEntry):
        parse_entry(raw.replace(found, changed))


def test_entries_above_32_kib_are_refused_unread() -> None:
    """The limit holds for writing and for reading."""
    with pytest.raises(MalformedEntry):
        parse_entry(b" " * 32_769)


def test_a_genesis_has_no_payload_and_a_weight_has_one() -> None:
    """Which types name a blob is part of the type."""
    raw = entry().encode()
    start = raw.index(b'"payload"')
    with pytest.raises(MalformedEntry, match="payload"):
        parse_entry(raw[:start] + raw[raw.index(b'"sig"') :])


PART = EntryId("dd" * 32)  # the only entry of a parameter chain: its id is that chain's root


def accepted() -> State:
    state = State()
    genesis = entry(body=GenesisBody(1), payload=None, parents=())
    check(genesis, state)
    state.apply(genesis, EntryId("ee" * 32))
    state.apply(entry(), PART)
    return state


def model(version: str, nonce: int) -> Entry:
    return entry(body=ModelBody("m", version, "qwen3_moe", 1, PART), nonce=nonce, parents=(PART,))


REFUSED = {
    "second genesis": entry(body=GenesisBody(1), payload=None, parents=(), nonce=1),
    "another network": entry(network="local-2", nonce=1),
    "another author": Entry("local-1", OTHER.public, 1, (EntryId("ee" * 32),), ExpertBody("m", 1, 2), BLOCK, 1),
    "no parent": entry(parents=(), nonce=1),
    "unknown parent": entry(parents=(EntryId("aa" * 32),), nonce=1),
    "nonce used before": model("1.0.0", nonce=0),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_may_not_follow_is_refused(case: str) -> None:
    """Validity denies by default."""
    with pytest.raises(EntryRefused):
        check(REFUSED[case], accepted())


def test_nothing_may_precede_the_genesis() -> None:
    """An empty network accepts a genesis and nothing else."""
    with pytest.raises(EntryRefused, match="genesis"):
        check(entry(), State())


def test_versions_of_a_model_only_rise() -> None:
    """SemVer order, not text order."""
    state = accepted()
    first = model("1.9.0", nonce=1)
    check(first, state)
    state.apply(first, first.id)
    check(model("1.10.0", nonce=2), state)
    with pytest.raises(EntryRefused, match=r"above 1\.9\.0, found 1\.2\.0"):
        check(model("1.2.0", nonce=2), state)


def retirement(version: str, nonce: int, name: str = "m") -> Entry:
    return entry(body=RetirementBody(name, version), payload=None, nonce=nonce, parents=(PART,))


def test_a_retired_model_is_gone_and_its_name_may_come_back_with_a_higher_version() -> None:
    """Only the newest version of a model that is offered can be named."""
    state = accepted()
    with pytest.raises(EntryRefused, match="found none named m"):
        check(retirement("1.0.0", 1), state)
    for made in (model("1.0.0", 1), model("1.1.0", 2)):
        check(made, state)
        state.apply(made, made.id)
    with pytest.raises(EntryRefused, match=r"expected version 1\.1\.0, found 1\.0\.0"):
        check(retirement("1.0.0", 3), state)
    gone = retirement("1.1.0", 3)
    assert parse_entry(gone.encode()) == parse_plainly(gone.encode()) == gone
    check(gone, state)
    state.apply(gone, gone.id)
    assert (state.models, state.retired, state.current("m")) == ({}, {"m": "1.1.0"}, None)
    with pytest.raises(EntryRefused, match="found none named m"):
        check(retirement("1.1.0", 4), state)
    with pytest.raises(EntryRefused, match=r"above 1\.1\.0"):
        check(model("1.1.0", 4), state)
    again = model("1.2.0", 4)
    check(again, state)
    state.apply(again, again.id)
    assert [version.version for version in state.models["m"]] == ["1.2.0"]


def priced(value: str, nonce: int, name: str = "price", subject: str = "m") -> Entry:
    return entry(body=ParameterBody(name, subject, value), payload=None, nonce=nonce, parents=(PART,))


def test_the_last_price_of_a_model_counts_and_stays_when_the_model_is_retired() -> None:
    """One for each model; what it was before is in the chain alone."""
    state = accepted()
    for made in (model("1.0.0", 1), priced("USD 1 2", 2), priced("BLY 30000000 0", 3)):
        assert parse_entry(made.encode()) == parse_plainly(made.encode()) == made
        check(made, state)
        state.apply(made, made.id)
    found = state.parameters["price", "m"]
    assert (found.value, found.entry, found.time) == ("BLY 30000000 0", made.id, made.time)
    gone = retirement("1.0.0", 4)
    state.apply(gone, gone.id)
    assert state.parameters == {("price", "m"): found}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"name": "gift"}, "parameter: expected price, found gift"),
        ({"subject": "other"}, "found none named other"),
        ({"value": "USD 1"}, "expected ASSET PROMPT COMPLETION"),
        ({"value": "USD 01 2"}, "expected ASSET PROMPT COMPLETION"),
        ({"value": "USD -1 2"}, "expected ASSET PROMPT COMPLETION"),
        ({"value": "USD 1.5 2"}, "expected ASSET PROMPT COMPLETION"),
        ({"value": "USD 1 2 "}, "expected ASSET PROMPT COMPLETION"),
        ({"value": "EUR 1 2"}, "expected one of BLY, USD, found 'EUR'"),
        ({"value": "USD 1 1000000000000001"}, "found 1000000000000001"),
    ],
)
def test_a_price_that_nobody_could_charge_is_no_entry(changes: dict[str, str], why: str) -> None:
    """Names without a meaning, models that are not offered, and amounts that are none or too large."""
    state = accepted()
    made = model("1.0.0", 1)
    state.apply(made, made.id)
    check(priced("USD 1 1000000000000000", 2), state)
    with pytest.raises(EntryRefused, match=why):
        check(priced(**({"value": "USD 1 2", "nonce": 2} | changes)), state)  # pyright: ignore[reportArgumentType]


def test_only_the_writer_of_the_chains_sets_a_price() -> None:
    """Whoever else signs one is refused by its author."""
    state = accepted()
    made = model("1.0.0", 1)
    state.apply(made, made.id)
    stranger = replace(priced("USD 1 2", 2), author=OTHER.public, signature=b"").signed(OTHER)
    with pytest.raises(EntryRefused, match=f"author: expected {KEY.public}"):
        check(stranger, state)


@pytest.mark.parametrize(
    ("found", "changed"),
    [
        (b'"license":"MIT"', b'"license":""'),
        (b'"license":"MIT"', b'"license":"M\\"T"'),
        (b'"license":"MIT"', b'"licence":"MIT"'),
        (b'"license":"MIT"', b'"license":1'),
        (b'"source":"x y"', b'"source":""'),
        (b'"source":"x y"', b'"source":"x\\\\y"'),
        (b'"source":"x y"', b'"source":"' + b"x" * 257 + b'"'),
    ],
)
def test_a_model_entry_says_licence_and_source_in_one_way(found: bytes, changed: bytes) -> None:
    """In plain characters, and not at all rather than empty."""
    body = ModelBody("m", "1.0.0", "qwen3_moe", 1, PART, "MIT", "x y")
    raw = entry(body=body, nonce=1, parents=(PART,)).encode()
    assert parse_entry(raw) == parse_plainly(raw)
    assert parse_entry(raw).body == body
    assert found in raw
    with pytest.raises(MalformedEntry):
        parse_entry(raw.replace(found, changed))


def test_state_knows_the_newest_block_of_each_part() -> None:
    """Trunk, expert and tokenizer entries fold into (model, part)."""
    state = accepted()
    for body in (TrunkBody("m", "layer.3"), ExpertBody("m", 3, 4), TokenizerBody("m")):
        made = entry(body=body)
        state.apply(made, made.id)
    for part in ("layer.1.expert.2", "layer.3", "layer.3.expert.4", "tokenizer"):
        payload = state.newest_block("m", part)
        assert payload is not None
        assert state.first_named("m", part, payload) is not None
    assert state.newest_block("m", "layer.4") is None
    assert state.newest_block("other", "layer.3") is None


@pytest.mark.parametrize(
    ("body", "payload"),
    [
        (ModelBody("brief:v1", "1.0.0", "f", 3, "ab" * 32), BLOCK),
        (RetirementBody("brief:v1", "1.0.0"), None),
        (ParameterBody("price", "brief:v1", "USD 1 2"), None),
        (TrunkBody("brief:v1", "head"), BLOCK),
        (ExpertBody("brief:v1", 1, 2), BLOCK),
        (TokenizerBody("brief:v1"), BLOCK),
    ],
)
def test_entries_may_speak_of_a_tag_and_never_of_latest(body: object, payload: object) -> None:
    """A chain that held both spellings would have two models of one name."""
    made = entry(body=body, payload=payload)
    assert parse_entry(made.encode()) == made
    for wrong in (b"brief:latest", b"brief:", b"a:b:c"):
        with pytest.raises(MalformedEntry):
            parse_entry(made.encode().replace(b"brief:v1", wrong))
