"""`srum ablate`: the same method with one thing changed at a time, over training seeds, side by side.

`arms` reads which arms there are, `plan` finds out what they can share, `share` lets them, `work` runs them, `tables`
puts the numbers together, and `write` and `figures` show them. An ablation is a folder of ordinary runs.
"""
