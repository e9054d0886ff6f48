"""What every test gets: fixed seeds, a home of its own, no network; and what may be absent here."""

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parent.parent
SEED = 0
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")

# The same examples on every run; no limit on time, because a first call into torch may take seconds
# and the machine may be busy.
settings.register_profile(
    "ridgeline", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ridgeline")


def pytest_configure(config: pytest.Config) -> None:
    """Forbids model-hub access, before any test imports a library that reads this at import."""
    os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` skip where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)


@pytest.fixture(scope="session")
def compiler_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One Inductor cache per session: the tests share compiled kernels, never with the user."""
    return tmp_path_factory.mktemp("inductor")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, compiler_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder that belongs to this test; caches go there too. No COLUMNS."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / ".cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / ".config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(folder / ".local" / "share"))
    monkeypatch.setenv("HF_HOME", str(folder / ".cache" / "huggingface"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(compiler_cache))
    return folder


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The published measurements: RIDGELINE_SHARED/data, else ../shared/data; or skips."""
    shared = os.environ.get("RIDGELINE_SHARED")
    folder = (Path(shared) if shared else REPOSITORY.parent / "shared") / "data"
    if not (folder / "chips.csv").is_file():
        pytest.skip(f"needs {folder}/chips.csv; RIDGELINE_SHARED names another folder with data/")
    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium that can take a headless screenshot; skips without one."""
    for name in CHROMIUM_NAMES:
        if path := shutil.which(name):
            return path
    pytest.skip(f"needs a browser: none of {', '.join(CHROMIUM_NAMES)} is on the PATH")
