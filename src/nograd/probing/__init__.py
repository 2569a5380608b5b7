"""The probe: learns a model's Signature by running it, and how its rows may be batched."""

from nograd.probing.model_probe import ProbeResult, probe
from nograd.probing.unknown import SampleWarning

__all__ = ["ProbeResult", "SampleWarning", "probe"]
