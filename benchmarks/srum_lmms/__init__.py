"""Any adapter as a model of lmms-eval: `lmms-eval --model srum_umm --model_args adapter=…`.

lmms-eval finds `manifest` through the entry point `lmms_eval.models`; srum itself gets nothing from this package.
"""

from __future__ import annotations

from typing import Any

MODEL = "srum_umm"


def manifest() -> Any:
    """What lmms-eval's registry wants to know; the model is imported when it is asked for."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(MODEL, simple_class_path="srum_lmms.model.SrumUmm")
