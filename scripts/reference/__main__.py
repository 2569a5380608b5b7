"""`python -m scripts.reference` writes the pages, and removes those that the code has no more."""

from __future__ import annotations

from itertools import chain

from scripts.reference import FOLDER, pages

if __name__ == "__main__":
    written = pages()
    for old in chain(FOLDER.rglob("*.md"), FOLDER.rglob("*.json")):
        if old.relative_to(FOLDER).as_posix() not in written:
            old.unlink()
    for name, text in written.items():
        (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / name).write_text(text, "utf-8")
