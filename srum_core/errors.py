"""Errors for people: a full sentence that says what, where and what to do. `assert` is for ourselves."""


class SrumError(Exception):
    """Base of everything srum raises on purpose; the command line prints it without a traceback."""


class PluginError(SrumError):
    """A plugin is broken, misspelt, incomplete or clashes with another."""


class ConfigError(SrumError):
    """Settings that cannot be used. Collects every problem before it is raised."""


class RecordError(SrumError):
    """A run's folder holds something that cannot be read, or was made with other settings."""


class CheckpointError(SrumError):
    """A model directory is incomplete, does not match its configuration, or does not fit this machine."""


class TrainingError(SrumError):
    """Training cannot start or must not go on."""


class AnswerError(SrumError):
    """Whoever is asked about pictures cannot be reached, or does not answer."""


def refuse(condition: bool, component: object, sentence: str) -> None:
    """Raise PluginError naming the component's class if the condition holds."""
    if condition:
        raise PluginError(f"{type(component).__module__}:{type(component).__qualname__} {sentence}")
