"""The testing kit: conformance suites to subclass, fixtures, and stand-ins for a model."""
