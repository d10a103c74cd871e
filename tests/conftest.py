"""What several files of tests share."""

from __future__ import annotations

import pytest
from clean_environment import CleanEnvironment


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> CleanEnvironment:
    """One clean environment with srum's wheel, for all packages that are installed to be tested."""
    return CleanEnvironment.create(tmp_path_factory.mktemp("clean"))
