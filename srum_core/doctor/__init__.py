"""Checks of an adapter on its real weights: what `srum doctor` runs. Each gives findings, sentences for people.

The conformance suite of `srum_core.testing` holds what any weights can show. What only trained weights can (a flipped
sign, time the wrong way round, a missing scale) is found out here, by asking which convention explains the model best.
"""
