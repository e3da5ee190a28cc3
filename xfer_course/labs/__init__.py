"""The kit of every lab: profiles and grids, claims, records with their provenance, and the tables made of them."""
from ..intervals import interval_text
from ..registry import PROFILE_NAMES, course_root
from .claims import (
    NOT_JUDGED, VERDICTS, Claim, Claims, agreement_limit, agrees, measured_text, number_text, verdict_html, verdict_text,
)
from .engine import (ATTEMPTS, Task, available_jobs, check_reachable, chosen_cluster, chosen_devices, connected,
                     on_cluster, on_cores,
                     on_devices, on_one_thread, results_of, runs_at_a_time, see_only)
from .environment import (blas_kernels, cpu_model, device_name, measuring_environment, minor, resolve_device,
                          same_environment, speed_probe)
from .fingerprint import (FINGERPRINT_SEEDS, LOSS_TOLERANCE, fingerprint_differences, fingerprint_of,
                          setting_differences, vouch, with_fingerprint)
from .grid import (FIRST_LOSSES, Runs, choose_profile, load_point, offered_settings, plain_value, run_grid, run_point,
                   run_points, save_point)
from .normal_form import called_name, normal_form, plain_tree
from .provenance import (
    REPORTING, Experiment, Reader, code_hash, experiment_of, head_commit, measuring_commit,
    read_commit, read_tree,
)
from .record import (
    Record, best_records, check_values_per_seed, committed_record, disagreements, is_comparable, load_records,
    on_the_border, read_record, record_from_json, record_to_json, uncompared, verdicts_of,
    with_repeat,
)
from .report import RECORD_TYPE, finish, is_current, lab_notebook, partial_folder, record_display, show_record
from .tables import (
    README_MARKS, chosen_text, claim_rows, count_verdicts, describe, html_table, markdown_table, results_markdown,
    show_table, with_results,
)

__all__ = [
    "interval_text", "course_root", "NOT_JUDGED", "VERDICTS", "Claim", "Claims", "agreement_limit", "agrees",
    "measured_text", "number_text", "verdict_html", "verdict_text",
    "blas_kernels", "cpu_model", "device_name", "measuring_environment", "minor", "resolve_device", "same_environment",
    "speed_probe",
    "FINGERPRINT_SEEDS", "LOSS_TOLERANCE", "fingerprint_differences", "fingerprint_of", "setting_differences", "vouch",
    "with_fingerprint",
    "ATTEMPTS", "Task", "available_jobs", "check_reachable", "chosen_cluster", "chosen_devices", "connected",
    "on_cluster", "on_cores",
    "on_devices", "on_one_thread", "results_of", "runs_at_a_time", "see_only",
    "FIRST_LOSSES", "Runs", "choose_profile", "load_point", "offered_settings", "plain_value", "run_grid", "run_point",
    "run_points", "save_point",
    "called_name", "normal_form", "plain_tree",
    "REPORTING", "Experiment", "Reader", "code_hash", "experiment_of", "head_commit",
    "measuring_commit", "read_commit", "read_tree",
    "PROFILE_NAMES", "Record", "best_records", "check_values_per_seed", "committed_record", "disagreements",
    "is_comparable", "load_records", "on_the_border", "read_record", "record_from_json", "record_to_json", "uncompared",
    "verdicts_of", "with_repeat",
    "RECORD_TYPE", "finish", "is_current", "lab_notebook", "partial_folder", "record_display", "show_record",
    "README_MARKS", "chosen_text", "claim_rows", "count_verdicts", "describe", "html_table", "markdown_table",
    "results_markdown", "show_table", "with_results",
]
