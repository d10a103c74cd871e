"""T2I-CompBench: the image-by-image protocol of the SRUM authors, and the original formulas. No torch."""
