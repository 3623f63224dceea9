"""Files of torch.save for tests, made without PyTorch, and where the reference values lie."""

from pathlib import Path

import pytest
from measuring import torch_files

SHARED = Path(__file__).resolve().parents[3] / "shared" / "fixtures" / "reference"


@pytest.fixture(scope="session")
def torch_writer():
    """The writer: write, View, Call."""
    return torch_files


@pytest.fixture(scope="session")
def reference():
    """Folder of the whole set of reference values, where it lies beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not here")
    return SHARED
