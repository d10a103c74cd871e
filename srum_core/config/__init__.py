"""Settings of a run: what there is, where it comes from, and how it is written. No torch."""

from srum_core.config.load import changed, component, load_settings, of_round, open_settings, settings_called
from srum_core.config.settings import Evaluate, Generate, Ground, Judge, Lora, Select, Settings, Train
from srum_core.config.toml import describe, to_toml

__all__ = [
    "Evaluate",
    "Generate",
    "Ground",
    "Judge",
    "Lora",
    "Select",
    "Settings",
    "Train",
    "changed",
    "component",
    "describe",
    "load_settings",
    "of_round",
    "open_settings",
    "settings_called",
    "to_toml",
]
