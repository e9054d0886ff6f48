"""The options that several commands share, as the command line spells and explains them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="zoo:NAME, FILE.py:FUNCTION, FILE.pt2, FILE.onnx, a Hugging Face folder or id.",
    ),
]
# The phases that run without an optimizer.
RunPhase = Annotated[Literal["forward", "prefill", "decode"], typer.Option()]
Batch = Annotated[int | None, typer.Option(help="Samples at once.")]
Seq = Annotated[int | None, typer.Option(help="Tokens, or pixels per side.")]
Cache = Annotated[int | None, typer.Option(help="Tokens already in the KV cache.")]
Dtype = Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Default: all cores.")]
Top = Annotated[int, typer.Option(min=1, help="Rows per table.")]
AllowUncounted = Annotated[
    bool, typer.Option("--allow-uncounted", help="List ops without a cost rule, do not fail.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]
HtmlFile = Annotated[Path | None, typer.Option(help="Also write one offline HTML page.")]
