"""The command line `xfer`: one module per group of commands, and their parts for programs of your own."""

from __future__ import annotations

from ..registry import NOTEBOOK_ORDER, TEACHING_ORDER, CourseNotebook, course_notebooks, select_notebooks
from .adapt import adapt
from .commands import list_notebooks, results, run
from .console import check_writable, echo_table, main, minutes
from .copies import atlas, learner_copy, start
from .labels import DATA, probe, prompts
from .machine import data, data_get, data_list, data_make, doctor, lab
from .merge import merge_files
from .pages import offline_html
from .readme import CHAPTER_MARKS, chapters_markdown, headline, with_chapters
from .running import OPTIONS, PATHS, NotebookFailed, Run, emitted_record, execute, finished_record, plan_run
from .search import embed, search_index

__all__ = [
    "NOTEBOOK_ORDER", "TEACHING_ORDER", "CourseNotebook", "course_notebooks", "select_notebooks",
    "adapt",
    "list_notebooks", "results", "run",
    "check_writable", "echo_table", "main", "minutes",
    "atlas", "learner_copy", "start",
    "DATA", "probe", "prompts",
    "data", "data_get", "data_list", "data_make", "doctor", "lab",
    "merge_files",
    "offline_html",
    "CHAPTER_MARKS", "chapters_markdown", "headline", "with_chapters",
    "OPTIONS", "PATHS", "NotebookFailed", "Run", "emitted_record", "execute", "finished_record", "plan_run",
    "embed", "search_index",
]
