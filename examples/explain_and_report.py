"""Treat layers differently, ask what became of one of them, and write the report as a page.

python examples/explain_and_report.py model.gguf build/report.html
"""

from __future__ import annotations

import sys

import intaglio


def main(model: str, page: str) -> None:
    plan = intaglio.Plan.parse("keep, layers.0.mlp.down_proj=int8-g32")
    with intaglio.compile(model, plan=plan, workload=intaglio.Workload(prefill=64, decode=32)) as compiled:
        print(compiled.explain("layers.0.mlp.down_proj"))
        # q, k and v were merged: asking for one of them leads to what it became.
        print(compiled.explain("layers.0.self_attn.k_proj"))
        print(compiled.report.to_text())
        print(compiled.report.to_html(page))
        print(compiled.evaluate(tokens=256).to_json())


if __name__ == "__main__":
    main(*sys.argv[1:])
