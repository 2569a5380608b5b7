"""`nograd predict`: a file of rows in, a file of rows with predictions out, and no work lost when it is killed (ADR 16).

    records.py   what is read: a Record, its Place in the input, the Reader interface
    lines.py, csvs.py, images.py, arrow.py    the readers: JSONL and text, CSV, a folder, Parquet and Arrow
    opening.py   which reader, which output: by the ends of names
    columns.py   which column goes into which input, which are carried through (pure)
    windows.py   the unit of work: records that are batched together, and never with others (pure)
    trial.py     the first rows, run twice: names, sizes, whether answers repeat
    answers.py   a row of the model's outputs as columns
    outputs.py, arrow_out.py    what is appended while it runs, and what is made of that at the end
    journal.py   how far a run is, in a file that may be cut off anywhere; disk.py: writing so that it stays
    identity.py  what makes a run the same run (pure)
    keeping.py   the files of a run; run.py: the loop
    progress.py, command.py    what the user sees

Nothing here imports torch: an ONNX or OpenVINO bundle predicts without it.
"""
