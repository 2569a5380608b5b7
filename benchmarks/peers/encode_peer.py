"""sentence-transformers' own loop over a file: `python encode_peer.py MODEL INPUT OUTPUT`.

`encode` sorts all texts by their letters, and runs them in batches of 32, its default.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from sentence_transformers import SentenceTransformer

if __name__ == "__main__":
    model = SentenceTransformer(sys.argv[1], device="cpu")
    texts = [json.loads(line)["text"] for line in Path(sys.argv[2]).read_text().splitlines()]
    found = model.encode(texts, batch_size=32, show_progress_bar=False)
    column = pa.FixedSizeListArray.from_arrays(pa.array(found.reshape(-1)), found.shape[1])
    pq.write_table(pa.table({"text": texts, "embedding": column}), sys.argv[3])
