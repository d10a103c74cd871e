"""Formulas behind the paper's figures: what is measured inside a model is measured elsewhere. No torch."""
