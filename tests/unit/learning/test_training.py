"""One optimiser step: its losses by hand, its directions, and that it learns."""

import math
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from blyan.learning.batches import DialogueEncoder, Position
from blyan.learning.genesis.dialogue import Dialogue, apart, assistant, user
from blyan.learning.genesis.settings import read_settings
from blyan.learning.greedy import experts_chosen, greedy_answers
from blyan.learning.pretrain import initial_parameters, rate_scale
from blyan.learning.training_checkpoint import read_checkpoint, write_checkpoint
from blyan.model.config import ModelConfig
from blyan.model.training import (
    Batch,
    Loss,
    OptimizerSettings,
    OptimizerState,
    Parameters,
    Workers,
    balancing_loss,
    batch_loss,
    orthogonalise,
    train_step,
    update,
    uses_muon,
)
from blyan.primitives.errors import InvalidInput
from learned import ROOT, TINY, lessons, small_encoder


@pytest.fixture(scope="module")
def encoder() -> DialogueEncoder:
    return small_encoder()


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def config() -> ModelConfig:
    return TINY


ONE: Dialogue = [user("1+2="), assistant("1 + 2 = 3")]


def first_batches(encoder: DialogueEncoder, tokens: int, count: int) -> list[Batch]:
    return [batch for _, batch in islice(encoder.batches(lessons().dialogues, 1, tokens), count)]


def _step(parameters: Parameters, config: ModelConfig, batch: Batch, state: OptimizerState, workers: int = 1) -> Loss:
    settings = OptimizerSettings()
    return train_step(
        parameters, config, batch, state, settings, rate_scale=1.0, balance_weight=0.01, workers=Workers(workers)
    )


def test_balancing_loss_equals_the_formula_on_a_hand_example():
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.1, 0.3]])
    chosen = torch.tensor([[0, 1], [0, 2]])
    # shares of the four choices 2/4, 1/4, 1/4; mean probabilities 0.55, 0.2, 0.25
    assert pytest.approx(float(balancing_loss(probabilities, chosen))) == 3 * (0.5 * 0.55 + 0.25 * 0.2 + 0.25 * 0.25)


def test_balancing_loss_is_one_when_even_and_the_number_of_experts_when_all_go_to_one():
    even = torch.full((4, 4), 0.25)
    assert float(balancing_loss(even, torch.arange(4).unsqueeze(1))) == pytest.approx(1.0)
    one = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(8, 4)
    assert float(balancing_loss(one, torch.zeros(8, 1, dtype=torch.int64))) == pytest.approx(4.0)


@pytest.mark.parametrize("shape", [(3, 24, 32), (3, 32, 24), (1, 16, 16)])
def test_newton_schulz_brings_all_singular_values_near_one(shape: tuple[int, int, int]):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert shape == orthogonalise(matrices).shape
    assert values.max() < 1.3
    assert values.quantile(0.1) > 0.6


def test_experts_are_orthogonalised_one_by_one():
    matrices = torch.randn((4, 24, 32), generator=torch.Generator().manual_seed(2))
    alone = torch.stack([orthogonalise(matrix.unsqueeze(0))[0] for matrix in matrices])
    assert torch.allclose(alone, orthogonalise(matrices), atol=1e-5)


def test_only_what_the_assistant_says_is_learned(encoder: DialogueEncoder):
    dialogue = [
        {"role": "system", "content": "Be concise."},
        {"role": "user", "content": "1+2"},
        {"role": "assistant", "content": "1 + 2 = 3"},
        {"role": "user", "content": "assistant"},
        {"role": "assistant", "content": "You are welcome!"},
    ]
    ((ids, learned),) = encoder.encode([dialogue])
    tokenizer = encoder.tokenizer
    kept = [number for number, flag in zip(ids, learned, strict=True) if flag]
    assert tokenizer.decode(kept, skip_special_tokens=False) == "1 + 2 = 3<|im_end|>You are welcome!<|im_end|>"


def test_padding_changes_neither_loss_nor_answers(config: ModelConfig, encoder: DialogueEncoder):
    parameters = initial_parameters(config, seed=3)
    short = encoder.batch([ONE])
    filler = torch.full((1, 5), encoder.end)
    padded = Batch(
        torch.cat((short.tokens, filler), 1),
        torch.cat((short.present, filler == 0), 1),
        torch.cat((short.learned, filler == 0), 1),
    )
    first, second = (batch_loss(parameters, config, batch, 0.01) for batch in (short, padded))
    assert first.total.item() == pytest.approx(second.total.item(), rel=1e-5)


def test_a_fresh_model_is_as_unsure_as_chance(config: ModelConfig, encoder: DialogueEncoder):
    loss = batch_loss(initial_parameters(config, 1), config, encoder.batch([ONE]), 0.01)
    assert math.log(400) == pytest.approx(loss.likelihood, rel=0.35)


def test_batches_hold_their_token_budget_and_repeat_with_the_seed(encoder: DialogueEncoder):
    for batch, same in zip(first_batches(encoder, 1024, 20), first_batches(encoder, 1024, 20), strict=True):
        assert batch.tokens.numel() <= 1024
        assert batch.tokens.shape[1] % 16 == 0
        assert torch.equal(batch.tokens, same.tokens)
        assert not (batch.learned & ~batch.present).any()


def test_batches_go_on_from_any_position_as_if_they_had_come_there(encoder: DialogueEncoder):
    stream = list(islice(encoder.batches(lessons().dialogues, 1, 512), 140))
    assert stream[-1][0].pool == 1, "over the end of a pool"
    for place in (0, 7, *(index for index, (after, _) in enumerate(stream) if after == Position(1, 0))):
        after = stream[place][0]
        resumed = islice(encoder.batches(lessons().dialogues, 1, 512, after), 2)
        for (position, batch), (same, again) in zip(stream[place + 1 : place + 3], resumed, strict=True):
            assert position == same
            assert torch.equal(batch.tokens, again.tokens)


def test_letters_that_stand_apart_are_tokens_of_their_own(encoder: DialogueEncoder):
    joined, parted = (encoder.encode([[user("x"), assistant(text)]])[0][0] for text in ("banana", apart.join("banana")))
    assert encoder.tokenizer.decode(joined) == encoder.tokenizer.decode(parted)
    letters = [encoder.tokenizer.encode(letter).ids[0] for letter in "banana"]
    assert any(parted[at : at + 6] == letters for at in range(len(parted)))


def test_a_tiny_model_learns_one_batch_by_heart(config: ModelConfig, encoder: DialogueEncoder):
    dialogues = [[user(f"{a}+7="), assistant(f"{a} + 7 = {a + 7}")] for a in (1, 2, 4)]
    batch = encoder.batch(dialogues)
    parameters, state = initial_parameters(config, seed=1), OptimizerState()
    for _ in range(100):
        loss = _step(parameters, config, batch, state)
    assert loss.likelihood < 0.05
    answers = greedy_answers(parameters, config, encoder, [[each[0]] for each in dialogues], tokens_max=24)
    assert answers == [each[1]["content"] for each in dialogues]
    counts = experts_chosen(parameters, config, encoder, dialogues)
    assert counts.shape == (2, 4)
    assert (counts.sum(dim=1) == 2 * int(batch.learned.sum())).all()


def test_a_step_in_bfloat16_is_near_one_in_float32(config: ModelConfig, encoder: DialogueEncoder):
    [batch] = first_batches(encoder, 1024, 1)
    losses = [
        batch_loss(initial_parameters(config, 1), config, batch, 0.0, precision).likelihood
        for precision in ("float32", "bfloat16")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert losses[0] != losses[1]


def test_adamw_alone_moves_everything_where_it_is_asked_to(config: ModelConfig, encoder: DialogueEncoder):
    [batch] = first_batches(encoder, 512, 1)
    parameters, state = initial_parameters(config, seed=1), OptimizerState()
    settings = OptimizerSettings(muon=False)
    train_step(parameters, config, batch, state, settings, rate_scale=1.0, balance_weight=0.01, workers=Workers(1))
    assert set(state.second) == set(parameters)


def test_training_repeats_bit_for_bit_with_the_seed(config: ModelConfig, encoder: DialogueEncoder):
    def trained() -> dict[str, torch.Tensor]:
        parameters, state = initial_parameters(config, seed=1), OptimizerState()
        for batch in first_batches(encoder, 512, 3):
            train_step(
                parameters,
                config,
                batch,
                state,
                OptimizerSettings(),
                rate_scale=1.0,
                balance_weight=0.01,
                workers=Workers(1),
            )
        return parameters

    first, second = trained(), trained()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_workers_compute_what_one_does(config: ModelConfig, encoder: DialogueEncoder):
    """Except for the balancing loss, which is a product of means over each worker's share."""
    [batch] = first_batches(encoder, 1024, 1)
    trained = []
    for workers in (1, 2):
        parameters, state = initial_parameters(config, seed=1), OptimizerState()
        settings = OptimizerSettings()
        train_step(
            parameters, config, batch, state, settings, rate_scale=1.0, balance_weight=0.0, workers=Workers(workers)
        )
        trained.append(parameters)
    # Adam's first step has the size of the rate wherever the gradient is not nought: compare what Muon moved.
    for name in filter(uses_muon, trained[0]):
        assert torch.allclose(trained[0][name], trained[1][name], atol=2e-3), name


def test_a_resumed_training_equals_an_uninterrupted_one(config: ModelConfig, encoder: DialogueEncoder, tmp_path: Path):
    batches = first_batches(encoder, 512, 4)
    whole, state = initial_parameters(config, seed=1), OptimizerState()
    for batch in batches[:2]:
        _step(whole, config, batch, state)
    write_checkpoint(tmp_path / "training.safetensors", whole, state, {"made": "a"})
    resumed, later = initial_parameters(config, seed=2), OptimizerState()
    read_checkpoint(tmp_path / "training.safetensors", resumed, later, "a")
    for batch in batches[2:]:
        _step(whole, config, batch, state)
        _step(resumed, config, batch, later)
    assert later.step == 4
    with pytest.raises(InvalidInput, match="expected a checkpoint of b"):
        read_checkpoint(tmp_path / "training.safetensors", resumed, later, "b")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_an_adam_step_equals_the_library_s(config: ModelConfig):
    settings = OptimizerSettings()
    ours = {"model.embed_tokens.weight": torch.randn(5, 4, generator=torch.Generator().manual_seed(1))}
    theirs = ours["model.embed_tokens.weight"].clone().requires_grad_()
    adam = torch.optim.AdamW(
        [theirs],
        lr=settings.adam_rate,
        betas=settings.adam_betas,
        eps=settings.adam_eps,
        weight_decay=settings.weight_decay,
    )
    state = OptimizerState()
    for seed in range(4):
        gradient = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
        theirs.grad = gradient.clone()
        adam.step()
        update(ours, {"model.embed_tokens.weight": gradient}, state, settings, rate_scale=1.0, workers=Workers(1))
    assert torch.allclose(theirs.detach(), ours["model.embed_tokens.weight"], atol=1e-6)


def test_muon_takes_the_hidden_matrices_only():
    assert uses_muon("model.layers.0.self_attn.q_proj.weight")
    assert uses_muon("model.layers.0.mlp.experts.3.down_proj.weight")
    assert not any(
        uses_muon(name)
        for name in (
            "model.embed_tokens.weight",
            "model.layers.0.mlp.gate.weight",
            "model.norm.weight",
            "lm_head.weight",
        )
    )


def test_the_learning_rate_rises_stays_and_falls():
    plan = replace(read_settings(ROOT / "scripts/genesis.toml").training, cooldown_share=0.5)
    scales = [rate_scale(step / 200, plan) for step in range(201)]
    assert scales[0] < 0.1
    assert scales[50] == 1.0
    assert scales[200] == pytest.approx(0.0, abs=1e-9)
    assert scales[100:] == sorted(scales[100:], reverse=True)
