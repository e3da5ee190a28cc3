"""The command line `xfer`: one module per group of commands, and their parts for programs of your own."""

from __future__ import annotations

from ..registry import CourseNotebook, select_notebooks
from ..registry import notebooks as course_notebooks
from .commands import list_notebooks, results, run
from .console import main
from .copies import atlas, learner_copy, start
from .machine import data, data_get, data_list, data_make, doctor, lab
from .pages import offline_html
from .running import NotebookFailed, Run, emitted_record, execute, finished_record, plan_run

__all__ = ['TEACHING_ORDER', 'NOTEBOOK_ORDER', 'CourseNotebook', 'course_notebooks', 'select_notebooks', 'Run', 'plan_run',
           'finished_record', 'execute', 'NotebookFailed', 'emitted_record', 'offline_html', 'main', 'list_notebooks', 'run',
           'results', 'data', 'data_list', 'data_get', 'data_make', 'doctor', 'lab', 'learner_copy', 'start', 'atlas']


def __getattr__(name: str):
    "The orders that were once constants are read from the notebooks when they are asked for."
    from ..registry import chapters

    if name == "TEACHING_ORDER":
        return tuple(chapter.name for chapter in chapters())
    if name == "NOTEBOOK_ORDER":
        return {chapter.name: tuple(n.path.stem for n in chapter.notebooks) for chapter in chapters()}
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
