"""Properties that a poor sample leaves unknown."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from nograd.probing.pad_values import Padding
from nograd.probing.values import InputValues

__all__ = ["SampleWarning", "what_is_unknown"]


class SampleWarning(UserWarning):
    """The sample leaves a property unknown: it is constant or a single row, and the model ran no other values."""


def what_is_unknown(inputs: Sequence[InputValues], varied: Collection[str], rows: int, stated: Padding) -> str:
    """Describe what could not be learned, in one sentence; empty if there is nothing.

    Args:
        inputs: values of the samples.
        varied: inputs that the model ran with other values than the samples'.
        rows: total rows of all samples.
        stated: padding values stated by the user.
    """
    fixed = [each for each in inputs if each.spec.name not in varied and each.kind in ("number", "id", "count")]
    poor = [each for each in fixed if rows == 1 or each.is_constant]
    sentences = []
    if poor:
        names = " and ".join(repr(each.spec.name) for each in poor)
        held = "one row only" if rows == 1 else "one value only"
        sentences.append(
            f"the sample has {held} for input {names}, and the model ran no other: whether other rows or padding change an "
            "answer is known for this value only; give two or more different rows as the sample"
        )
    unused = [each.spec.name for each in inputs if each.spec.name in stated and not each.spec.varying]
    if unused:
        sentences.append(
            f"padding is stated for input {' and '.join(map(repr, unused))}, whose shape does not vary; give two samples of "
            "different lengths if it does"
        )
    return "; ".join(sentences)
