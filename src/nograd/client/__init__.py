"""A client of the Open Inference Protocol, for checks, load runs and conformance."""
