"""Finding, checking and making what plugins offer."""

from srum_core.plugins.discovery import Found, Plugin
from srum_core.plugins.hookspecs import KINDS, Component, hookimpl, hookspec
from srum_core.plugins.registry import Registry, as_use, discover

__all__ = ["KINDS", "Component", "Found", "Plugin", "Registry", "as_use", "discover", "hookimpl", "hookspec"]
