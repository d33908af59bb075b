"""The rivals behind one interface, so that one loop times them all.

`time(prompt, count)` gives the seconds for a prompt and for `count` tokens more; `complete(prompt, count)`
gives the greedy continuation; `encode` and `decode` are the rival's own tokenizer. Packages load on use, so
that an `ImportError` of a constructor says that the rival is not installed.

Constructors take `forms` (what `peer_models.py` made: form name → path), `threads`, and the `capacity` in
tokens that their caches are to have; `form` names the one of the forms that they read.
"""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

BATCH = 512  # most tokens of one llama_decode
COMPILED_LENGTHS = 64  # that torch.compile may make code for


class Stepping:
    """A contestant that runs one step at a time.

    `begin` appends a prompt to an empty sequence and `advance` one token; each returns the greedy next token.
    """

    form: str

    def begin(self, tokens: Sequence[int]) -> int:
        raise NotImplementedError

    def advance(self, token: int) -> int:
        raise NotImplementedError

    def time(self, prompt: Sequence[int], count: int) -> tuple[float, float]:
        """Seconds for the prompt, and for `count` tokens after it."""
        start = time.perf_counter()
        token = self.begin(prompt)
        middle = time.perf_counter()
        for _ in range(count):
            token = self.advance(token)
        return middle - start, time.perf_counter() - middle

    def complete(self, prompt: Sequence[int], count: int) -> list[int]:
        """The greedy continuation."""
        tokens = [self.begin(prompt)]
        while len(tokens) < count:
            tokens.append(self.advance(tokens[-1]))
        return tokens


class Llama(Stepping):
    """llama.cpp through its C API: the Python wrapper copies the logits of each step."""

    form = "q4_0"

    def __init__(self, forms: dict[str, str], threads: int, capacity: int) -> None:
        import llama_cpp

        self.api = llama_cpp
        path, parameters = forms[self.form].encode(), llama_cpp.llama_context_default_params()
        self.model = llama_cpp.llama_model_load_from_file(path, llama_cpp.llama_model_default_params())
        parameters.n_ctx, parameters.n_batch, parameters.n_ubatch = capacity, BATCH, BATCH
        parameters.n_threads = parameters.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, parameters)
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.size = llama_cpp.llama_vocab_n_tokens(self.vocabulary)

    def encode(self, text: str) -> list[int]:
        data, room = text.encode(), (self.api.llama_token * (len(text) + 8))()
        return list(
            room[: self.api.llama_tokenize(self.vocabulary, data, len(data), room, len(room), False, True)]
        )

    def decode(self, tokens: Sequence[int]) -> str:
        ids, room = (self.api.llama_token * len(tokens))(*tokens), ctypes.create_string_buffer(4096)
        count = self.api.llama_detokenize(self.vocabulary, ids, len(tokens), room, 4096, False, False)
        return room.raw[:count].decode(errors="replace")

    def begin(self, tokens: Sequence[int]) -> int:
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)
        for start in range(0, len(tokens), BATCH):
            self.feed(tokens[start : start + BATCH])
        return self.choice()

    def advance(self, token: int) -> int:
        self.feed([token])
        return self.choice()

    def feed(self, tokens: Sequence[int]) -> None:
        ids = (self.api.llama_token * len(tokens))(*tokens)
        if self.api.llama_decode(self.context, self.api.llama_batch_get_one(ids, len(tokens))):
            raise RuntimeError(f"llama_decode: failed on {len(tokens)} tokens")

    def choice(self) -> int:
        # Asking for the logits waits for the computation.
        logits = self.api.llama_get_logits_ith(self.context, -1)
        return int(np.ctypeslib.as_array(logits, (self.size,)).argmax())


class LlamaExact(Llama):
    """The same on the file as it is: slower on Q4_1, but without the loss of a second quantisation."""

    form = "gguf"


class GenAI(Stepping):
    """onnxruntime-genai, with its own greedy search."""

    form = "genai"

    def __init__(self, forms: dict[str, str], threads: int, capacity: int) -> None:
        import onnxruntime_genai

        self.api = onnxruntime_genai
        config = onnxruntime_genai.Config(forms["genai"])
        session = {"session_options": {"intra_op_num_threads": threads}}
        config.overlay(json.dumps({"model": {"decoder": session}}))
        self.capacity = capacity
        self.model = onnxruntime_genai.Model(config)
        self.tokenizer = onnxruntime_genai.Tokenizer(self.model)

    def encode(self, text: str) -> list[int]:
        return [int(token) for token in self.tokenizer.encode(text)]

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(np.asarray(tokens, np.int32)))

    def begin(self, tokens: Sequence[int]) -> int:
        self.generator.append_tokens(list(tokens))
        return self.advance(0)

    def advance(self, token: int) -> int:  # noqa: ARG002 the generator remembers the token it chose
        self.generator.generate_next_token()
        return int(self.generator.get_next_tokens()[0])

    def time(self, prompt: Sequence[int], count: int) -> tuple[float, float]:
        self.renew()
        return super().time(prompt, count)

    def complete(self, prompt: Sequence[int], count: int) -> list[int]:
        self.renew()
        return super().complete(prompt, count)

    def renew(self) -> None:
        """Start an empty sequence, outside the timed part; `min_length` keeps an end token from ending it."""
        parameters = self.api.GeneratorParams(self.model)
        parameters.set_search_options(max_length=self.capacity, min_length=self.capacity, do_sample=False)
        self.generator = self.api.Generator(self.model, parameters)


class Torch(Stepping):
    """transformers' own model, eager, in bf16."""

    form = "hf"

    def __init__(self, forms: dict[str, str], threads: int, capacity: int) -> None:
        del capacity  # its cache grows
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.api = torch
        self.tokenizer = AutoTokenizer.from_pretrained(forms["hf"])
        self.model = AutoModelForCausalLM.from_pretrained(forms["hf"], dtype=torch.bfloat16)
        self.cache: Any = None

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(tokens))

    def begin(self, tokens: Sequence[int]) -> int:
        self.cache = None
        return self.feed(tokens)

    def advance(self, token: int) -> int:
        return self.feed([token])

    def feed(self, tokens: Sequence[int]) -> int:
        ids = self.api.tensor([list(tokens)])
        output = self.model(ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.cache = output.past_key_values
        return int(output.logits[0, -1].argmax())


class TorchCompiled(Torch):
    """The same with a static cache, compiled by inductor: prompts and steps apart, each length by itself.

    A cache has room for one prompt and its continuation, since every step attends to all of it.
    """

    def __init__(self, forms: dict[str, str], threads: int, capacity: int) -> None:
        super().__init__(forms, threads, capacity)
        import torch._dynamo

        torch._dynamo.config.recompile_limit = COMPILED_LENGTHS
        self.forward = self.api.compile(self.model.forward, dynamic=False)
        self.caches: dict[int, Any] = {}
        self.room = self.position = 0

    def begin(self, tokens: Sequence[int]) -> int:
        from transformers import StaticCache

        if self.room not in self.caches:
            self.caches[self.room] = StaticCache(config=self.model.config, max_cache_len=self.room)
        self.cache, self.position = self.caches[self.room], 0
        self.cache.reset()
        return self.feed(tokens)

    def feed(self, tokens: Sequence[int]) -> int:
        positions = self.api.arange(self.position, self.position + len(tokens))[None]
        self.position += len(tokens)
        output = self.forward(
            self.api.tensor([list(tokens)]),
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return int(output.logits[0, -1].argmax())

    def time(self, prompt: Sequence[int], count: int) -> tuple[float, float]:
        self.room = len(prompt) + count
        return super().time(prompt, count)

    def complete(self, prompt: Sequence[int], count: int) -> list[int]:
        self.room = len(prompt) + count
        return super().complete(prompt, count)


class OpenVINO:
    """OpenVINO GenAI, which reads the GGUF itself."""

    form = "gguf"

    def __init__(self, forms: dict[str, str], threads: int, capacity: int) -> None:
        del capacity  # its cache grows
        import openvino
        import openvino_genai

        self.api, self.tensor = openvino_genai, openvino.Tensor
        self.pipeline = openvino_genai.LLMPipeline(forms["gguf"], "CPU", INFERENCE_NUM_THREADS=threads)
        self.tokenizer = self.pipeline.get_tokenizer()

    def encode(self, text: str) -> list[int]:
        return [
            int(token) for token in self.tokenizer.encode(text, add_special_tokens=False).input_ids.data[0]
        ]

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens)))

    def generate(self, prompt: Sequence[int], count: int) -> Any:
        config = self.api.GenerationConfig()
        config.max_new_tokens, config.ignore_eos = count, True
        config.do_sample, config.apply_chat_template = False, False
        ids = np.array([prompt], np.int64)
        inputs = self.api.TokenizedInputs(self.tensor(ids), self.tensor(np.ones_like(ids)))
        return self.pipeline.generate(inputs, config)

    def time(self, prompt: Sequence[int], count: int) -> tuple[float, float]:
        metrics = self.generate(prompt, count + 1).perf_metrics
        return metrics.get_ttft().mean / 1e3, metrics.get_tpot().mean * count / 1e3

    def complete(self, prompt: Sequence[int], count: int) -> list[int]:
        return list(self.generate(prompt, count).tokens[0])


RIVALS = {
    "llama_q4_0": Llama,
    "llama_file": LlamaExact,
    "genai": GenAI,
    "openvino": OpenVINO,
    "torch": Torch,
    "torch_compile": TorchCompiled,
}
