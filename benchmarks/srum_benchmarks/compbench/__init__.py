"""T2I-CompBench: the picture-by-picture protocol of the SRUM authors, and the original formulas. No torch."""
