"""Our decoder behind the scheduler: chains are the same whatever the batch, the order, the refill and the resume.

Weights are random and tiny, in float64, where no batch can round a logit across a draw.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models

from harness.bench.session import Prompt, rounds
from harness.engine import backend as backend_module
from harness.engine.backend import EagerBackend
from harness.engine.clock import FakeClock
from harness.engine.sampler import LOOK_EVERY, RoundLabel, Sampler
from harness.kernels.random_words import problem_hash, row_words
from harness.kernels.sample import sample
from harness.models.config import AttentionConfig, DecoderConfig, MambaConfig
from harness.models.decoder import Decoder
from harness.models.resolve import LoadedModel
from harness.models.text import Codec
from harness.records import Budget, Problem, Progress

VOCAB, EOS = 32, 2
ATTENTION = AttentionConfig(heads=4, kv_heads=2, head_dim=8)
MAMBA = MambaConfig(heads=4, head_dim=8, state=8, groups=2, chunk=16, dt_bias=True)
LAYERS = {
    "attention": ("attention", "attention"),
    "discrete_mamba2": ("discrete_mamba2", "discrete_mamba2"),
    "hybrid": ("discrete_mamba2", "attention", "discrete_mamba2"),
}
TEXT = [f"t{i}" for i in range(VOCAB)]
PROMPTS = [[5, 6, 7], [8] * 70, [9, 10], [11, 3, 4, 5, 20, 21, 22]]
BUDGET = Budget((1000.0,), "task", 6, 90, 1.0, 1.0, 0, 11, 7)


def tiny(kind: str) -> LoadedModel:
    config = DecoderConfig(VOCAB, 16, LAYERS[kind], 24, 256, (EOS,), 1, ATTENTION, MAMBA)
    torch.manual_seed(3)
    decoder = Decoder(config).requires_grad_(False).eval().double()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(TEXT)}, []))
    tokenizer.decoder = decoders.ByteLevel()
    return LoadedModel(kind, decoder, Codec(tokenizer, VOCAB, (EOS,), 1), "-", random=True)


@pytest.fixture(scope="module", params=list(LAYERS))
def model(request):
    return tiny(request.param)


class Sink:
    def __init__(self):
        self.trajectories, self.looks = [], []

    def commit(self, finished, look):
        self.trajectories += finished
        self.looks.append(look)


def draw(model, batch, budget=BUDGET, prompts=PROMPTS, order=None, progress=None, jobs=None):
    order = list(range(len(prompts))) if order is None else order
    problems = [Prompt(Problem(f"p{i}", "?", "1"), tuple(prompts[i])) for i in order]
    backend = EagerBackend(model, budget, [p.tokens for p in problems], [p.problem.id for p in problems], batch)
    sink, lengths = Sink(), [len(p.tokens) for p in problems]
    sampler = Sampler(backend, model.codec.token_bytes, model.codec.eos, lengths, budget, FakeClock(), sink)
    sampler.run(RoundLabel("m", "t", batch, 0), jobs or rounds(budget, problems)[0], progress)
    return sink


def chains(sink):
    found = {(t.problem_id, t.sample): (t.text, t.new_tokens, t.finish, t.prompt_tokens) for t in sink.trajectories}
    assert len(found) == len(sink.trajectories)
    return found


def logprobs(sink):
    return np.array([t.logprob for t in sorted(sink.trajectories, key=lambda t: t.key)])


def reference(model, prompt, problem_id, sample_index, budget):
    """One chain by ``Decoder.forward`` over the whole of it at each step: tokens, ending, log probability."""
    tokens, total = [], 0.0
    for position in range(budget.max_new_tokens):
        logits = model.decoder(torch.tensor([prompt + tokens]))[:, -1]
        hashed = torch.tensor(np.array([problem_hash(problem_id)], dtype=np.uint64).view(np.int64))
        words = row_words(budget.seed, torch.tensor([position]), torch.tensor([sample_index]), hashed)
        token, logprob = sample(logits, words, budget.temperature, budget.top_k, budget.top_p)
        tokens.append(int(token))
        total += float(logprob)
        if tokens[-1] == EOS:
            break
    return tokens, total


def test_chains_are_those_of_the_whole_decoder(model):
    sink = draw(model, 7)
    assert len({t.finish for t in sink.trajectories}) == 2, "want both eos and length"
    for t in sorted(sink.trajectories, key=lambda t: t.new_tokens)[::5]:
        tokens, logprob = reference(model, PROMPTS[int(t.problem_id[1:])], t.problem_id, t.sample, BUDGET)
        assert len(tokens) == t.new_tokens
        assert "".join(TEXT[i] for i in tokens if i != EOS) == t.text
        assert t.finish == ("eos" if tokens[-1] == EOS else "length")
        assert t.logprob == pytest.approx(logprob, abs=1e-9)


def test_the_batch_changes_no_chain(model):
    one, seven, many = (draw(model, batch) for batch in (1, 7, 32))
    assert chains(one) == chains(seven) == chains(many) and len(chains(one)) == 24
    assert np.allclose(logprobs(one), logprobs(seven), rtol=0, atol=1e-9)
    assert np.allclose(logprobs(one), logprobs(many), rtol=0, atol=1e-9)


def test_the_order_changes_no_chain(model):
    assert chains(draw(model, 5, order=[2, 0, 3, 1])) == chains(draw(model, 5))
    from harness.engine.sampler import Job

    jobs = [Job(i, f"p{i}", j) for i in range(4) for j in (3, 0, 5, 1, 2, 4)]
    assert chains(draw(model, 4, jobs=jobs)) == chains(draw(model, 5))


def test_the_tokens_of_a_look_do_not_depend_on_the_look(model):
    long = draw(model, 7, dataclasses.replace(BUDGET, max_new_tokens=90))
    short = draw(model, 7, dataclasses.replace(BUDGET, max_new_tokens=21))
    for key, (text, tokens, _finish, _) in chains(long).items():
        other = chains(short)[key]
        assert text.startswith(other[0]) and other[1] == min(tokens, 21)


def test_another_seed_problem_or_sample_draws_another_chain(model):
    first = chains(draw(model, 7))
    assert len({v[0] for v in first.values()}) == len(first)
    assert first != chains(draw(model, 7, dataclasses.replace(BUDGET, seed=12)))


def test_temperature_zero_is_the_likeliest_token(model):
    greedy = dataclasses.replace(BUDGET, temperature=0.0, max_new_tokens=12, samples_per_problem=2)
    found = chains(draw(model, 3, greedy))
    for i, prompt in enumerate(PROMPTS):
        tokens = list(prompt)
        while len(tokens) - len(prompt) < 12 and (tokens == prompt or tokens[-1] != EOS):
            tokens.append(int(model.decoder(torch.tensor([tokens]))[0, -1].argmax()))
        text = "".join(TEXT[t] for t in tokens[len(prompt) :] if t != EOS)
        assert found[f"p{i}", 0][0] == found[f"p{i}", 1][0] == text


def test_row_words_are_those_of_the_row_whatever_the_batch(model, monkeypatch):
    """What is drawn from: words of (seed, position, sample, problem), bit for bit, in every window."""

    def words(batch):
        seen = {}

        def spy(logits, rows, *rest):
            state = spy.backend
            for row in range(len(rows)):
                if not state.ended[row]:
                    at = (int(state.hash[row]), int(state.sample_index[row]), int(state.generated[row]))
                    assert at not in seen
                    seen[at] = tuple(rows[row].tolist())
            return sample(logits, rows, *rest)

        init = EagerBackend.__init__

        def note(self, *args):
            init(self, *args)
            spy.backend = self

        with monkeypatch.context() as patch:
            patch.setattr(EagerBackend, "__init__", note)
            patch.setattr(backend_module, "sample", spy)
            draw(model, batch, dataclasses.replace(BUDGET, max_new_tokens=40))
        return seen

    one, seven, many = (words(batch) for batch in (1, 7, 32))
    assert one == seven == many
    hashes = np.array([problem_hash(f"p{i}") for i in range(4)], dtype=np.uint64).view(np.int64).tolist()
    assert {problem for problem, _, _ in one} == set(hashes)
    for (problem, index, position), found in list(one.items())[::37]:
        expected = row_words(11, torch.tensor([position]), torch.tensor([index]), torch.tensor([problem]))
        assert found == tuple(expected[0].tolist())


@pytest.mark.parametrize("look", [0, 3, 9])
def test_a_resumed_round_draws_the_same_chains(model, look):
    whole = draw(model, 5)
    seen = tuple(whole.looks[: look + 1])
    early = [t for t in whole.trajectories if t.t_finish <= seen[-1].clock_s]
    progress = Progress(seen, frozenset((t.problem_id, t.sample) for t in early), seen[-1].clock_s)
    rest = draw(model, 5, progress=progress)
    assert rest.looks == whole.looks[look + 1 :]
    strip = lambda t: dataclasses.replace(t, logprob=0.0)  # noqa: E731
    assert [strip(t) for t in early + rest.trajectories] == [strip(t) for t in whole.trajectories]
    together = Sink()
    together.trajectories = early + rest.trajectories
    assert np.allclose(logprobs(together), logprobs(whole), rtol=0, atol=1e-9)


def test_the_box_stops_a_chain(model):
    """Tokens 10 to 13 spell a box: a chain ends where they stand in a row, and nowhere else."""
    pieces = {10: b"\\boxed", 11: b"{", 12: b"}"}
    codec = model.codec
    table = [pieces.get(i, b"\\boxed{x}" if i == 13 else text) for i, text in enumerate(codec.token_bytes)]
    boxed = Codec.__new__(Codec)
    boxed.token_bytes, boxed.eos, boxed.bos = table, codec.eos, codec.bos
    stopping = dataclasses.replace(BUDGET, stop_after_boxed=True)
    plain = draw(dataclasses.replace(model, codec=boxed), 7)
    stopped = draw(dataclasses.replace(model, codec=boxed), 7, stopping)
    full = {(t.problem_id, t.sample): t for t in plain.trajectories}
    finishes = set()
    for t in stopped.trajectories:
        whole = full[t.problem_id, t.sample]
        assert whole.text.startswith(t.text)
        finishes.add(t.finish)
        if t.finish == "stop":
            assert t.text.endswith("}") and t.new_tokens <= whole.new_tokens
        else:
            assert (t.text, t.new_tokens, t.finish) == (whole.text, whole.new_tokens, whole.finish)
    assert "stop" in finishes
    assert not any("\\boxed{x}" in t.text[:-9] for t in stopped.trajectories)


@pytest.mark.parametrize(
    ("most", "passes"),
    [(1, [[3], [0], [1], [2]]), (10, [[3, 0], [1], [2]]), (72, [[3, 0], [1, 2]]), (82, [[3, 0, 1, 2]])],
)
def test_prefill_goes_by_passes_that_change_nothing(model, monkeypatch, most, passes):
    """Prompts of 7, 3, 70 and 2 tokens, in this order."""
    whole, parts = (EagerBackend(model, BUDGET, PROMPTS, list("abcd"), 1) for _ in range(2))
    whole.prefill([3, 0, 1, 2])
    seen, prefill = [], Decoder.prefill

    def watched(decoder, prompts, state, places):
        seen.append(list(places))
        return prefill(decoder, prompts, state, places)

    monkeypatch.setattr(Decoder, "prefill", watched)
    parts.pass_tokens = most
    parts.prefill([3, 0, 1, 2])
    assert seen == passes
    torch.testing.assert_close(parts.prompt_logits, whole.prompt_logits, rtol=0, atol=1e-12)
    assert parts.prompt_logits.any(dim=1).all()


def test_one_window_by_hand(model):
    """Tokens come out only for rows that run; a freed row counts nothing; a moved row goes on."""
    budget = dataclasses.replace(BUDGET, max_new_tokens=3 * LOOK_EVERY)
    ids = [f"p{i}" for i in range(4)]

    def fresh():
        backend = EagerBackend(model, budget, PROMPTS, ids, 3)
        backend.prefill(range(4))
        return backend

    alone, moved = fresh(), fresh()
    alone.fork([1], [4], [0])
    expected = [alone.window(1, LOOK_EVERY) for _ in range(3)]
    moved.fork([0, 3, 1], [0, 0, 4], [0, 1, 2])
    first = moved.window(3, LOOK_EVERY)
    moved.release(0)
    moved.move(2, 0)
    moved.release(1)
    rest = [moved.window(1, LOOK_EVERY) for _ in range(2)]
    for want, got, row in zip(expected, (first, *rest), (2, 0, 0), strict=True):
        n = int(want.count[0])
        assert got.count[row] == n and got.tokens.shape[0] == LOOK_EVERY
        assert got.tokens[:n, row].tolist() == want.tokens[:n, 0].tolist()
        assert np.allclose(got.logprobs[:n, row], want.logprobs[:n, 0], rtol=0, atol=1e-9)
    assert int(sum(w.count[0] for w in expected)) <= budget.max_new_tokens
    over = moved.window(1, LOOK_EVERY)
    assert int(over.count[0]) == 0
