"""Moved to `xfer_course.labs`; the names of before stay importable from here."""
from ..labs import (
    README_MARKS, RECORD_TYPE, VERDICTS, Claim, Claims, Record, available_jobs, choose_profile, claim_rows, code_hash,
    count_verdicts, course_root,
    describe, device_name, finish, lab_notebook, load_records, markdown_table, partial_folder, resolve_device,
    results_markdown, run_grid,
    show_record, speed_probe, with_results,
)

__all__ = [
    "README_MARKS", "RECORD_TYPE", "VERDICTS", "Claim", "Claims", "Record", "available_jobs", "choose_profile",
    "claim_rows", "code_hash",
    "count_verdicts", "course_root", "describe", "device_name", "finish", "lab_notebook", "load_records",
    "markdown_table", "partial_folder",
    "resolve_device", "results_markdown", "run_grid", "show_record", "speed_probe", "with_results",
]
