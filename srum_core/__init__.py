"""The framework. A plugin needs `Component` and `hookimpl` from here; this imports neither torch nor plugins."""

from srum_core.plugins.hookspecs import Component, hookimpl

__all__ = ["Component", "hookimpl"]
