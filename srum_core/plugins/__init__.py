"""Finding, checking and making what plugins offer."""

from srum_core.plugins.registry import Registry, as_use, discover

__all__ = ["Registry", "as_use", "discover"]
