"""What every adapter must keep to, whatever model is behind it."""

from __future__ import annotations

import pytest

from srum_core.loading import check_instance
from srum_core.protocols import UnifiedModel
from srum_core.testing.checks import not_given


class AdapterConformance:
    """Subclass it as `Test…` with a fixture `adapter`."""

    @pytest.fixture
    def adapter(self) -> UnifiedModel:
        not_given(self, "adapter", "the adapter to test")

    def test_it_is_a_unified_model(self, adapter: UnifiedModel) -> None:
        check_instance(adapter, UnifiedModel, type(adapter).__name__)
