"""The waterfall's text, written out by hand."""

import io
from dataclasses import replace

import pytest
import torch
from report_helpers import measured
from torch import nn

from ridgeline.backends.result import Optimized
from ridgeline.frontends.torch_export import capture
from ridgeline.report.waterfall import is_noisy, print_waterfall, verdict


def optimized() -> Optimized:
    graph = capture(nn.Linear(2, 2), (torch.randn(1, 2),), name="tiny", is_trusted=True)
    return measured(graph)


def text_of(result: Optimized) -> str:
    stream = io.StringIO()
    print_waterfall(stream, result)
    return stream.getvalue()


def test_the_verdict_says_it_in_one_line() -> None:
    assert verdict(optimized()) == (
        "tiny runs in 2.00 ms with aoti bf16: 4.00x eager, 50% of the achievable roofline; "
        "outputs within 0.003 of the reference."
    )


def test_a_best_that_loses_to_eager_is_called_slower() -> None:
    won = optimized()
    lost = replace(won, best=replace(won.best, time_s=0.008 / 0.718))
    assert "with aoti bf16: 1.39 times slower than eager, " in verdict(lost)


def test_each_step_has_its_bar_and_its_ratio() -> None:
    rows = [line.split() for line in text_of(optimized()).splitlines()]
    assert ["eager", "8.00", "ms", "4.00", "ms", "1.00×", "#" * 28] in rows
    assert ["bf16", "2.00", "ms", "3.00", "ms", "4.00×", "#" * 7 + "·" * 3] in rows
    assert ["roofline", "–", "1.00", "ms", "8.00×", "·" * 4] in rows


def test_a_file_gets_no_colour_and_every_reason() -> None:
    text = text_of(optimized())
    assert "\x1b" not in text
    assert "inductor fp32 skipped: crashed: SIGSEGV" in text
    assert "Other programs" not in text


def test_a_file_is_as_wide_as_columns_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = text_of(optimized()).splitlines()
    assert max(map(len, lines)) <= 60
    assert "No room in 60 columns for: of the longest." in lines


def test_noise_is_told() -> None:
    quiet = optimized()
    noisy = replace(quiet, baseline=replace(quiet.baseline, clean_samples=1))
    assert not is_noisy(quiet)
    assert is_noisy(noisy)
    assert "Other programs use this machine" in text_of(noisy)
