"""`nograd predict`: read a file of rows, write a file of rows with predictions, and lose no work if the run is killed (ADR
16).

    records.py   a Record of the input, its Place, and the Reader interface
    lines.py, csvs.py, images.py, arrow.py    the readers: JSONL and text, CSV, a folder, Parquet and Arrow
    opening.py   reader and output by file extension
    columns.py   column of each input, and the columns to carry through (pure)
    windows.py   the unit of work: records that are batched only with each other (pure)
    trial.py     the first rows, run twice: names, sizes, repeatability
    answers.py   a row of the model's outputs as columns
    outputs.py, arrow_out.py    the part file that grows during the run, and the output made from it at the end
    journal.py   progress of a run, in a file that may be truncated anywhere; disk.py: durable writes
    identity.py  identity of a run (pure)
    keeping.py   the files of a run; run.py: the loop
    progress.py, command.py    progress display and command

Nothing here imports torch: an ONNX or OpenVINO bundle predicts without it.
"""
