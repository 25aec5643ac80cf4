"""The backend over a vLLM that is a script: what is asked of it, and what the scheduler makes of what it says."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from harness.engine.clock import FakeClock
from harness.engine.sampler import Job, RoundLabel, Sampler
from harness.engine.vllm import VllmBackend, request_seed

PROMPT_STEPS = 2  # steps before a request's first token: its prompt comes in chunks


class ScriptedEngine:
    """Each request says the next byte of ``script(prompt)`` a step; ``$`` ends it, as EOS does."""

    batch = 8

    def __init__(self, script) -> None:
        self.script, self.calls, self.live = script, [], {}

    def add(self, request, prompt, params) -> None:
        assert request not in self.live
        self.calls.append(("add", request, tuple(prompt), params))
        self.live[request] = [self.script(prompt[0]), -PROMPT_STEPS]

    def step(self):
        outputs = []
        for request, state in list(self.live.items()):
            state[1] += 1
            if state[1] <= 0:
                continue
            token = state[0][state[1] - 1]
            ended = token == "$"
            if ended:
                del self.live[request]
            ids = [256 if ended else ord(token)]
            output = SimpleNamespace(token_ids=ids)
            outputs.append(SimpleNamespace(request_id=request, outputs=[output], finished=ended, num_cached_tokens=1))
        return outputs

    def abort(self, requests) -> None:
        for request in requests:
            self.calls.append(("abort", request))
            del self.live[request]

    def forget(self) -> None:
        assert not self.live
        self.calls.append(("forget",))


@pytest.fixture
def backend_of(fake, monkeypatch):
    monkeypatch.setattr(VllmBackend, "_params", lambda self, prompt, sample: (prompt, sample))

    def make(script, prompts, slots, budget):
        model = SimpleNamespace(codec=SimpleNamespace(eos=(256,)))
        ids = [f"p{i}" for i in range(len(prompts))]
        return VllmBackend(ScriptedEngine(script), model, budget, prompts, ids, slots)  # type: ignore[arg-type]

    return make


def play(fake, backend, budget, jobs):
    sink = Sink()
    clock = FakeClock({"prefill": 0.0, "step": 1.0})
    lengths = [len(p) for p in backend.prompts]
    sampler = Sampler(backend, fake.TOKEN_BYTES, (256,), lengths, budget, clock, sink, 1)
    backend.begin_round()
    sampler.run(RoundLabel("m", "t", backend.slots, 0), jobs)
    return sink


class Sink:
    def __init__(self) -> None:
        self.trajectories, self.looks = [], []

    def commit(self, finished, look) -> None:
        self.trajectories += finished
        self.looks.append(look)


def test_times_are_those_of_each_token(fake, backend_of) -> None:
    budget = fake.budget(samples_per_problem=1)
    backend = backend_of(lambda first: {0: "ab$", 1: "abcde$"}[first], [[0, 7], [1, 7, 7]], 2, budget)
    sink = play(fake, backend, budget, [Job(0, "p0", 0), Job(1, "p1", 0)])
    # The prompt takes two steps, the third brings the first token.
    found = [(t.problem_id, t.t_submit, t.t_first_token, t.t_finish, t.new_tokens) for t in sink.trajectories]
    assert found == [("p0", 0, 3, 5, 3), ("p1", 0, 3, 8, 6)]
    assert [(t.text, t.finish, t.logprob) for t in sink.trajectories] == [("ab", "eos", None), ("abcde", "eos", None)]
    assert backend.prefills == {"requests": 2, "prompt_tokens": 5, "cached_tokens": 2}
    assert [call for call in backend.engine.calls if call[0] != "add"] == [("forget",)]  # nothing to abort


def test_the_deadline_aborts_what_runs_and_a_box_what_closed_it(fake, backend_of) -> None:
    budget = fake.budget(samples_per_problem=1, seconds=(20.5,), stop_after_boxed=True)
    endless = {0: "x" * 100, 1: r"\boxed{1}" + "y" * 100}
    backend = backend_of(lambda first: endless[first], [[0], [1]], 2, budget)
    sink = play(fake, backend, budget, [Job(0, "p0", 0), Job(1, "p1", 0)])
    found = {t.problem_id: (t.finish, t.t_finish, t.new_tokens, t.text) for t in sink.trajectories}
    assert found["p1"] == ("stop", 11, 9, r"\boxed{1}")
    assert found["p0"] == ("deadline", 21, 19, "x" * 19)
    assert [call for call in backend.engine.calls if call[0] == "abort"] == [("abort", "1"), ("abort", "0")]
    assert not backend.engine.live and sink.looks[-1].ended


def test_a_row_cut_before_its_first_token(fake, backend_of) -> None:
    budget = fake.budget(samples_per_problem=1, seconds=(1.5,))
    backend = backend_of(lambda first: "abc$", [[0]], 1, budget)
    (row,) = play(fake, backend, budget, [Job(0, "p0", 0)]).trajectories
    assert (row.finish, row.new_tokens, row.t_first_token, row.t_finish) == ("deadline", 0, 2, 2)
    assert backend.prefills["requests"] == 0 and not backend.engine.live


def test_slots_are_refilled_and_moved(fake, backend_of) -> None:
    budget = fake.budget(samples_per_problem=3)
    lengths = {0: "a$", 1: "bbbbbb$"}
    backend = backend_of(lambda first: lengths[first], [[0], [1]], 2, budget)
    jobs = [Job(p, f"p{p}", j) for j in range(3) for p in range(2)]
    sink = play(fake, backend, budget, jobs)
    assert sorted((t.problem_id, t.sample, t.text) for t in sink.trajectories) == [
        (f"p{p}", j, lengths[p][:-1]) for p in range(2) for j in range(3)
    ]
    assert backend.prefills["requests"] == 6 and not backend.requests and not backend.running


def test_a_seed_names_its_row() -> None:
    seeds = {request_seed(s, p, j) for s in (0, 1) for p in ("a", "b") for j in (0, 1)}
    assert len(seeds) == 8 and all(0 <= seed < 2**63 for seed in seeds)
    assert request_seed(0, "a", 1) == request_seed(0, "a", 1)


def test_warm_up_counts_no_prefill(fake, backend_of) -> None:
    budget = dataclasses.replace(fake.budget(), max_new_tokens=4)
    backend = backend_of(lambda first: "abcdefgh", [[0, 0]], 2, budget)
    backend.prefill([0])
    backend.fork([0, 0], [0, 1], [0, 1])
    window = backend.window(2, 4)
    assert window.count.tolist() == [2, 2] and window.tokens.shape == (2, 2)
    for slot in (0, 1):
        backend.release(slot)
    backend.begin_round()
    assert backend.prefills == {"requests": 0, "prompt_tokens": 0, "cached_tokens": 0}
