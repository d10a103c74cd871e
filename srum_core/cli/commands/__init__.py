"""The commands of `srum`, a module each: `arguments(parser)` and `run(parsed) -> exit status`. No torch at import."""
