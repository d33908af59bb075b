"""A llama of 1.0e9 random bfloat16 weights, written shard by shard, and what compiling it takes.

As a program, `python large_llama.py FOLDER` compiles FOLDER/model, generates and prints JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HIDDEN, LAYERS, FEED_FORWARD, VOCABULARY, KEYS = 2048, 16, 8192, 16032, 512
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "intermediate_size": FEED_FORWARD,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LAYER = {
    "input_layernorm.weight": (HIDDEN,),
    "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
    "self_attn.k_proj.weight": (KEYS, HIDDEN),
    "self_attn.v_proj.weight": (KEYS, HIDDEN),
    "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
    "post_attention_layernorm.weight": (HIDDEN,),
    "mlp.gate_proj.weight": (FEED_FORWARD, HIDDEN),
    "mlp.up_proj.weight": (FEED_FORWARD, HIDDEN),
    "mlp.down_proj.weight": (HIDDEN, FEED_FORWARD),
}
EDGES = {
    "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
    "model.norm.weight": (HIDDEN,),
    "lm_head.weight": (VOCABULARY, HIDDEN),
}


def shards() -> Iterator[dict[str, tuple[int, ...]]]:
    """Names and shapes of each shard's tensors: one per layer, and one for the rest."""
    for index in range(LAYERS):
        yield {f"model.layers.{index}.{name}": shape for name, shape in LAYER.items()}
    yield EDGES


def write_folder(folder: Path) -> int:
    """Write config, index and shards into `folder`, a shard at a time; the number of weights."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    generator, homes, count = torch.Generator().manual_seed(0), {}, 0
    for index, shapes in enumerate(shards()):
        file = f"model-{index:05}.safetensors"
        tensors = {name: _random(shape, generator) for name, shape in shapes.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        homes |= dict.fromkeys(shapes, file)
        count += sum(one.numel() for one in tensors.values())
    (folder / "config.json").write_text(json.dumps(CONFIG))
    data = {"metadata": {"total_size": 2 * count}, "weight_map": homes}
    (folder / "model.safetensors.index.json").write_text(json.dumps(data))
    return count


def compile_folder(folder: Path) -> dict[str, Any]:
    """Compile `folder/model` and generate; seconds, and the peak of anonymous memory in bytes.

    The peak is that of this process and its children together, everything imported included.
    """
    import intaglio

    peaks, done = [0], threading.Event()
    watch = threading.Thread(target=_watch, args=(peaks, done), daemon=True)
    watch.start()
    start = time.perf_counter()
    workload = intaglio.Workload(prefill=32, decode=16)
    with intaglio.compile(folder / "model", plan="int4-g32", workload=workload, context=64) as compiled:
        seconds = time.perf_counter() - start
        tokens = compiled.generate([5, 6, 7, 8, 9], max_new_tokens=6).tokens
        spread = float(compiled([5, 6, 7]).std())  # not a number if any logit is none
        size = compiled.artifact_bytes
    done.set()
    watch.join()
    return {"seconds": seconds, "peak": peaks[0], "tokens": list(tokens), "spread": spread, "artifact": size}


def _watch(peaks: list[int], done: threading.Event) -> None:
    from intaglio.compiler.memory import anonymous_bytes

    while not done.wait(0.02):
        peaks[0] = max(peaks[0], anonymous_bytes())


def _random(shape: tuple[int, ...], generator: Any) -> Any:
    import torch

    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)


if __name__ == "__main__":
    print(json.dumps(compile_folder(Path(sys.argv[1]))))
