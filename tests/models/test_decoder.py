"""``forward`` over a whole chain and ``prefill`` + ``step`` give the same logits, whatever the rows go through.

Weights are random (std 0.3). Every pool is filled with large finite values before use, so that a read of
what was never written shows. Tolerances are those the decoder states: 1e-4 in fp32, 4e-2 in bf16; with
the gated norm, which magnifies small values, bf16's forward is itself up to 6e-2 off fp32's, so 8e-2.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from harness.models.config import AttentionConfig, DecoderConfig, Mamba1Config, MambaConfig, RopeScaling
from harness.models.decoder import Decoder
from harness.models.state import AttentionState, StatePlan

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 4e-2}
VOCAB, LOOK, POISON = 50, 8, 1e4
PLAIN = AttentionConfig(heads=4, kv_heads=4, head_dim=8)
GROUPED = AttentionConfig(heads=4, kv_heads=2, head_dim=8)
SCALED = AttentionConfig(heads=6, kv_heads=1, head_dim=8, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 64))
MAMBA = MambaConfig(heads=4, head_dim=8, state=16, groups=4, chunk=16)
MAMBA1 = Mamba1Config(inner=48, dt_rank=5, state=8, xb=16, dt_bias_twice=True)
UNGROUPED = Mamba1Config(inner=48, dt_rank=5, state=8)
HYBRID = ("mamba2", "attention", "discrete_mamba2")


def config(layers, attention=None, mamba=None, **changes):
    base = DecoderConfig(VOCAB, 32, layers, 48, 512, (2,), attention=attention, mamba=mamba, mamba1=MAMBA1)
    return dataclasses.replace(base, **changes)


def mamba(**changes):
    return dataclasses.replace(MAMBA, **changes)


CONFIGS = {
    "attention": config(("attention",) * 2, PLAIN),
    "attention-grouped": config(("attention",) * 2, GROUPED),
    "attention-llama3-rope": config(("attention",) * 2, SCALED),
    "mamba2": config(("mamba2",) * 2, mamba=mamba()),
    "mamba2-gated-norm": config(("mamba2",) * 2, mamba=mamba(gated_norm=True)),
    "mamba2-groups": config(("mamba2",) * 2, mamba=mamba(groups=2, conv=2)),
    "mamba2-shared-heads": config(("mamba2",) * 2, mamba=mamba(kv_heads=2, gated_norm=True, norm_groups=4)),
    "mamba1": config(("mamba1",) * 2),
    "mamba1-no-sharing": config(("mamba1",) * 2, mamba1=Mamba1Config(inner=32, dt_rank=3, xb=32, conv=2)),
    "mamba1-ungrouped-no-mlp": config(("mamba1",) * 2, mamba1=UNGROUPED, mlp=0),
    "mamba1-hybrid": config(("mamba1", "attention", "mamba1"), GROUPED),
    "mamba1-with-all": config(("mamba1", *HYBRID), GROUPED, mamba(groups=2), mamba1=UNGROUPED),
    "discrete": config(("discrete_mamba2",) * 2, mamba=mamba()),
    "discrete-dt-bias": config(("discrete_mamba2",) * 2, mamba=mamba(dt_bias=True)),
    "discrete-groups": config(("discrete_mamba2",) * 2, mamba=mamba(groups=1, chunk=64)),
    "hybrid": config(HYBRID, GROUPED, mamba(groups=2)),
    "hybrid-untied": config(HYBRID, PLAIN, mamba(dt_bias=True, gated_norm=True), tied=False),
    "hybrid-no-mlp": config(HYBRID, SCALED, mamba(), mlp=0),
}


def random_decoder(config, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    model = Decoder(config).requires_grad_(False).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.to(dtype)


@dataclasses.dataclass
class Chain:
    prompt: int
    tokens: list[int]
    logits: list[torch.Tensor]
    running: bool = True


class Decoding:
    """Forced tokens through a state, as the engine would lead it; ``check`` holds every chain against ``forward``."""

    def __init__(self, model, prompt_tokens, slots, new_tokens=200, seed=0):
        self.model, self.rng = model, np.random.default_rng(seed)
        self.prompts = [self.rng.integers(0, VOCAB, n).tolist() for n in prompt_tokens]
        self.state = model.new_state(StatePlan(slots, new_tokens, tuple(prompt_tokens)))
        for layer in self.state.layers:
            pools = ("k", "v", "prompt_k", "prompt_v") if isinstance(layer, AttentionState) else ("conv", "ssm")
            for name in pools:
                getattr(layer, name).fill_(POISON)
        self.first = model.prefill(self.prompts, self.state, range(len(self.prompts)))
        self.rows: list[Chain | None] = [None] * slots
        self.done: list[Chain] = []

    def fork(self, prompts, slots):
        self.state.fork(prompts, slots)
        for prompt, slot in zip(prompts, slots, strict=True):
            self.rows[slot] = Chain(prompt, [], [self.first[prompt]])

    def release(self, slot):
        self.state.release(slot)
        self.done.append(self.rows[slot])
        self.rows[slot] = None

    def move(self, source, target):
        self.state.move(source, target)
        self.rows[target], self.rows[source] = self.rows[source], None

    def steps(self, count, rows=None, row_0=None):
        """``count`` tokens for rows [0, rows); ``row_0`` fixes the token of the first row."""
        rows = rows or len(self.rows)
        chains = self.rows[:rows]
        running = torch.tensor([c is not None and c.running for c in chains], device=self.model.device)
        for step in range(count):
            generated = np.array([len(c.tokens) if c else 0 for c in self.rows])
            if step % LOOK == 0:
                self.state.plan_window(rows, generated, min(LOOK, count - step))
            index = self.state.step_index(torch.as_tensor(generated[:rows], device=self.model.device), running)
            tokens = self.rng.integers(0, VOCAB, rows).tolist()
            tokens[0] = tokens[0] if row_0 is None else row_0
            logits = self.model.step(torch.tensor(tokens, device=self.model.device), self.state, index)
            assert torch.isfinite(logits).all()
            for row, chain in enumerate(chains):
                if chain is not None and chain.running:
                    chain.tokens.append(tokens[row])
                    chain.logits.append(logits[row])

    def check(self):
        chains = self.done + [c for c in self.rows if c is not None]
        assert chains
        for chain in chains:
            prompt = self.prompts[chain.prompt]
            tokens = torch.tensor([prompt + chain.tokens], device=self.model.device)
            with torch.no_grad():
                whole = self.model(tokens)[0, len(prompt) - 1 :]
            stepped = torch.stack(chain.logits)
            assert stepped.shape == whole.shape
            error = ((stepped - whole).abs().max() / whole.abs().max()).item()
            mamba = self.model.config.mamba
            noisy = whole.dtype == torch.bfloat16 and mamba is not None and mamba.gated_norm
            assert error < (8e-2 if noisy else TOLERANCE[whole.dtype]), (chain.prompt, len(chain.tokens), error)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_with_everything_equals_forward(name, dtype):
    """Shared and gapped prompt pages, free and stopped rows, a refill, a move, chains over a page border."""
    run = Decoding(random_decoder(CONFIGS[name], dtype), (3, 70, 64, 130, 1), slots=7)
    run.fork([0, 1, 1, 4, 3], [0, 2, 3, 4, 6])
    run.steps(13)
    run.rows[2].running = False
    run.steps(9)
    run.release(2)
    run.release(6)
    run.steps(3)
    run.fork([2, 1], [2, 6])
    run.steps(41)
    run.release(3)
    run.move(6, 1)
    run.move(4, 3)
    run.steps(25, rows=4)
    run.check()


@pytest.mark.parametrize("name", ["attention", "mamba1", "mamba1-ungrouped-no-mlp", "mamba2", "discrete", "hybrid"])
@pytest.mark.parametrize("prompt", [1, 2, 64, 65])
def test_batch_one(name, prompt):
    run = Decoding(random_decoder(CONFIGS[name], torch.float64), (prompt,), slots=1)
    run.fork([0], [0])
    run.steps(67)
    run.check()


@pytest.mark.parametrize("name", ["attention-grouped", "hybrid", "mamba1-hybrid"])
@pytest.mark.parametrize(
    "assignment",
    [
        pytest.param([0, 1, 2], id="contiguous"),
        pytest.param([0, 2, 4], id="gaps"),
        pytest.param([4, 0, 0, 2, 6, 6, 6], id="gaps and sharing"),
        pytest.param([3, 3, 3], id="one prompt, odd batch"),
        pytest.param([5, 1, 6], id="out of order"),
    ],
)
def test_prompt_page_layouts(name, assignment):
    run = Decoding(random_decoder(CONFIGS[name], torch.float64), (5, 65, 128, 9, 200, 64, 30), slots=len(assignment))
    run.fork(assignment, list(range(len(assignment))))
    run.steps(11)
    run.check()


@pytest.mark.parametrize("name", ["attention", "mamba1", "mamba2", "hybrid"])
def test_rows_that_all_rest(name):
    run = Decoding(random_decoder(CONFIGS[name]), (5, 70), slots=3)
    run.steps(2)
    run.fork([1], [1])
    run.steps(5)
    run.release(1)
    run.steps(2)
    run.fork([0, 1], [0, 2])
    run.steps(5)
    run.check()


@pytest.mark.parametrize("name", ["attention", "discrete", "mamba1"])
def test_a_row_has_the_same_bits_whatever_its_neighbours_hold(name):
    """With the layout equal; what may differ between batch sizes is the order of sums inside a product."""
    model = random_decoder(CONFIGS[name])
    logits = []
    for seed in (1, 2):
        run = Decoding(model, (5, 70), slots=3)
        run.fork([1, 0, 1], [0, 1, 2])
        run.rng = np.random.default_rng(seed)
        run.steps(70, row_0=7)
        logits.append(torch.stack(run.rows[0].logits))
    assert torch.equal(*logits)


def test_training_after_decoding():
    """What a prefill caches must be usable where gradients are recorded."""
    model = random_decoder(CONFIGS["hybrid"]).requires_grad_(True)
    model.prefill([[1, 2, 3]], model.new_state(StatePlan(1, 8, (3,))), [0])
    model(torch.tensor([[1, 2, 3]])).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_collect_gives_the_input_and_the_output_of_each_block():
    model = random_decoder(CONFIGS["hybrid"])
    seen: list[torch.Tensor] = []
    tokens = torch.tensor([[1, 2, 3, 4]])
    logits = model(tokens, collect=seen)
    assert len(seen) == 4 and torch.equal(seen[0], model.embedding(tokens))
    assert torch.equal(model.logits(seen[-1]), logits)


def test_right_padding_changes_nothing_before_it():
    model = random_decoder(CONFIGS["hybrid"], torch.float64)
    tokens = torch.randint(0, VOCAB, (1, 40), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(tokens)[:, :23], model(tokens[:, :23]), rtol=1e-10, atol=1e-10)
