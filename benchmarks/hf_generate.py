"""How long transformers needs to continue prompts greedily; the one to compare with.

    .venv-torch/bin/python benchmarks/hf_generate.py < request.json

It runs where torch and transformers are, apart from this project's own packages:
another benchmark starts it, writes a request as JSON to its input and reads one line of
JSON.

It is used as its documents recommend: scaled dot-product attention, a key/value cache,
batches padded on the left to their longest prompt. Every answer has exactly
`max_new_tokens`. Loading is not timed, and one short batch runs before the clock does.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to run.

    Attributes:
      checkpoint: Folder in Hugging Face layout.
      prompts: Token ids of each prompt; none is empty.
      max_new_tokens: Of every answer, neither fewer nor more.
      batch: Prompts that run together; the last batch may be smaller.
      order: "arrival", or "sorted" from the longest prompt to the shortest.
      dtype: Of weights and arithmetic, a key of `DTYPES`.
      device: "cpu" or "cuda".
      threads: Of the processor, for one operation.
      repeat: How often all prompts run; the quickest run counts.
      prefill: Time the forward passes on prompts by themselves, too.
      random_weights: Draw them on the device; the checkpoint is a config alone.
    """

    checkpoint: str
    prompts: list[list[int]]
    max_new_tokens: int
    batch: int
    order: str
    dtype: str
    device: str
    threads: int
    repeat: int
    prefill: bool
    random_weights: bool = False

    def __post_init__(self) -> None:
        if not self.prompts or not all(self.prompts):
            raise ValueError("Request needs prompts, and a token in each of them.")
        for name in ("max_new_tokens", "batch", "threads", "repeat"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"Request needs 1 <= {name}, got {name}={getattr(self, name)}."
                )
        for name, known in (
            ("order", ("arrival", "sorted")),
            ("dtype", tuple(DTYPES)),
            ("device", ("cpu", "cuda")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"Request needs {name} from {known}, "
                    f"got {name}={getattr(self, name)!r}."
                )


def main() -> None:
    logging.disable_progress_bar()
    request = Request(**json.load(sys.stdin))
    torch.set_num_threads(request.threads)
    how = {"dtype": DTYPES[request.dtype], "attn_implementation": "sdpa"}
    if request.random_weights:
        config = AutoConfig.from_pretrained(request.checkpoint, local_files_only=True)
        with torch.device(request.device):
            model = AutoModelForCausalLM.from_config(config, **how)
    else:
        model = AutoModelForCausalLM.from_pretrained(
            request.checkpoint, local_files_only=True, **how
        ).to(request.device)
    model.eval()
    # Without an end token there is nothing to stop at, and none to be held back.
    model.generation_config.eos_token_id = None
    batches = list(padded_batches(request))

    def prefill_all() -> None:
        for ids, mask in batches:
            prefill(model, ids, mask)

    def generate_all() -> None:
        for ids, mask in batches:
            generate(model, ids, mask, request.max_new_tokens)

    with torch.inference_mode():
        short = [each[:, -64:] for each in batches[0]]
        generate(model, *short, request.max_new_tokens)
        prefill_seconds = None
        if request.prefill:
            prefill_seconds = best_of(request.repeat, prefill_all, request.device)
        seconds = best_of(request.repeat, generate_all, request.device)
    print(
        json.dumps(
            {
                "seconds": seconds,
                "prefill_seconds": prefill_seconds,
                "tokens": sum(map(len, request.prompts)),
                "generated": len(request.prompts) * request.max_new_tokens,
            }
        )
    )


def padded_batches(request: Request) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Ids and mask, both int64 [B, T], on the device; zeros are before each prompt."""
    prompts = request.prompts
    if request.order == "sorted":
        prompts = sorted(prompts, key=len, reverse=True)
    for start in range(0, len(prompts), request.batch):
        rows = prompts[start : start + request.batch]
        longest = max(map(len, rows))
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor(
            [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        )
        yield ids.to(request.device), mask.to(request.device)


def prefill(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor) -> None:
    """One forward pass that fills a cache and has logits for the next token alone."""
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        use_cache=True,
        logits_to_keep=1,
    )


def generate(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, max_new_tokens: int
) -> torch.Tensor:
    """Int64 [B, max_new_tokens], the answers.

    Raises:
      RuntimeError: transformers stopped early.
    """
    texts = model.generate(
        ids,
        attention_mask=mask,
        do_sample=False,
        min_new_tokens=max_new_tokens,
        max_new_tokens=max_new_tokens,
        pad_token_id=0,
        use_cache=True,
    )
    answers = texts[:, ids.shape[1] :]
    if answers.shape[1] != max_new_tokens:
        raise RuntimeError(
            f"Asked transformers for {max_new_tokens} tokens, got {answers.shape[1]}."
        )
    return answers


def best_of(repeat: int, work: Callable[[], None], device: str) -> float:
    """Seconds of the quickest of so many runs."""
    best = float("inf")
    for _ in range(repeat):
        wait_for(device)
        start = time.perf_counter()
        work()
        wait_for(device)
        best = min(best, time.perf_counter() - start)
    return best


def wait_for(device: str) -> None:
    """Until all that was begun on the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
