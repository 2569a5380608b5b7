"""The deployment checklist as code: every check reports its steps, its evidence, and a remedy."""

from typing import TYPE_CHECKING

from nograd.checks.families import FAMILIES
from nograd.report.finding import SEVERITIES, Finding, Report, Severity
from nograd.runtime.lazy import lazy_names

if TYPE_CHECKING:
    from nograd.checks.checklist import check

__all__ = ["FAMILIES", "SEVERITIES", "Finding", "Report", "Severity", "check"]

# The checks import numpy, which the help of the command line does not need
__getattr__, __dir__ = lazy_names(
    __name__, {"check": "checklist"}, others=("FAMILIES", "SEVERITIES", "Finding", "Report", "Severity")
)
