"""Prepares the forms of one GGUF model that the rivals read, in a cache folder; prints their paths as JSON.

Run by the rivals' own Python. A form whose package is missing is left out, and the reason is told.
A form is made under another name and moved into place, so that a killed run leaves no half-made form.

    gguf    the file itself (OpenVINO GenAI)
    q4_0    the same re-quantised to Q4_0, llama.cpp's fastest 4-bit format on x86
    hf      a Hugging Face folder in fp32 (torch, and the source of the next)
    genai   onnxruntime-genai int4, blocks of 32, int8 activations (accuracy level 4)
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

Q4_0_FILE_TYPE = 2  # LLAMA_FTYPE_MOSTLY_Q4_0 in llama.h
GENAI_OPTIONS = ("int4_accuracy_level=4", "int4_block_size=32")


def requantise(gguf: Path, output: Path) -> None:
    """Write `gguf` as Q4_0; raises RuntimeError when llama.cpp refuses."""
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.allow_requantize = Q4_0_FILE_TYPE, True
    if llama_cpp.llama_model_quantize(bytes(gguf), bytes(output), parameters):
        raise RuntimeError(f"llama_model_quantize: {gguf} could not be written as Q4_0")


def dequantise(gguf: Path, output: Path) -> None:
    """Save `gguf` as a Hugging Face folder in fp32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # The weights are plain floats by now: with the quantiser attached saving is refused, and named in the
    # configuration it makes the next reader look for quantised tensors.
    model.hf_quantizer = None
    del model.config.quantization_config
    model.save_pretrained(output)
    AutoTokenizer.from_pretrained(**source).save_pretrained(output)


def build_genai(hf: Path, output: Path) -> None:
    """Build onnxruntime-genai's int4 model from a Hugging Face folder."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(hf)]
    command += ["-o", str(output), "-p", "int4", "-e", "cpu", "-c", f"{output}.cache"]
    subprocess.run([*command, "--extra_options", *GENAI_OPTIONS], check=True, stdout=sys.stderr)
    shutil.rmtree(f"{output}.cache", ignore_errors=True)


def ensure(form: Path, make: Callable[[Path], None]) -> Path:
    """Return `form`, made first where it does not exist."""
    if form.exists():
        return form
    draft = form.with_name(f"draft-{form.name}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.unlink(missing_ok=True)
    make(draft)
    return draft.rename(form)


def prepare(gguf: Path, cache: Path) -> dict[str, dict[str, str]]:
    """Make every form that is missing: `forms`, name → path, and `failed`, name → reason."""
    cache = cache / gguf.stem
    cache.mkdir(parents=True, exist_ok=True)
    hf = cache / "hf"
    makers: dict[str, tuple[Path, Callable[[Path], None]]] = {
        "q4_0": (cache / "q4_0.gguf", lambda output: requantise(gguf, output)),
        "hf": (hf, lambda output: dequantise(gguf, output)),
        "genai": (cache / "genai", lambda output: build_genai(hf, output)),
    }
    forms, failed = {"gguf": str(gguf)}, {}
    for name, (form, make) in makers.items():
        try:
            forms[name] = str(ensure(form, make))
        except (ImportError, OSError, RuntimeError, ValueError, subprocess.CalledProcessError) as error:
            failed[name] = f"{type(error).__name__}: {error}"
    return {"forms": forms, "failed": failed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    options = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):
        made = prepare(options.gguf.resolve(), options.cache.resolve())
    print(json.dumps(made))


if __name__ == "__main__":
    main()
