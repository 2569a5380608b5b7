"""`nograd predict`: a file of rows in, a file of rows with predictions out, and no work lost when it is killed (ADR 16).

    records.py   what is read: a Record, its Place in the input, the Reader interface
    lines.py     JSONL and text lines; csvs.py: CSV; images.py: a folder; arrow.py: all that needs pyarrow
    opening.py   which reader, which output: by the ends of names
    columns.py   which column goes into which input, which are carried through (pure)
    windows.py   the unit of work: records that are batched together, and never with others (pure)
    answers.py   a row of the model's outputs as columns
    outputs.py   what is appended while it runs, and what is made of that at the end
    journal.py   how far a run is, in a file that may be cut off anywhere
    identity.py  what makes a run the same run (pure)
    run.py       the loop; keeping.py: the files that it keeps; progress.py, command.py: what the user sees

Nothing here imports torch: an ONNX or OpenVINO bundle predicts without it.
"""
