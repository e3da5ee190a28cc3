"""Values of the right type and the wrong meaning, in tables and folders of one's own: right, refused, or said."""
from __future__ import annotations

import re
import warnings

import numpy as np
import pytest

from xfer_course.practice import read_examples

LABELS = {
    "class": ("a,class\n1,cat\n2,dog\n", ["cat", "dog"]),
    "labels": ("a,Labels\n1,7\n2,3\n", ["7", "3"]),
    "leading zeros": ("a,label\n1,007\n2,07\n", ["007", "07"]),
    "too long for a number": (f"a,label\n1,{10**20}\n2,1\n", [str(10**20), "1"]),
    "two lines in quotes": ('a,label\n1,"big\ncat"\n2,dog\n', ["big\ncat", "dog"]),
    "a line for Excel": ("sep=;\na;label\n1;cat\n2;dog\n", ["cat", "dog"]),
    "a separator inside a name": ("a,label\n1,caf\u2028e\n2,dog\n", ["caf\u2028e", "dog"]),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_a_table_are_those_that_stand_there(tmp_path, kind):
    text, labels = LABELS[kind]
    (tmp_path / "a.csv").write_text(text, "utf-8", newline="")
    found = read_examples(tmp_path / "a.csv")
    assert [found.classes[label] for label in found.labels] == labels
    assert found.columns == ("a",) and found.inputs.tolist() == [[1], [2]]


REFUSED = {
    "two labels": ("a,label,Class\n1,0,1\n", ValueError, "must have one column of labels, got 'label' and 'Class'"),
    "an index of pandas": ("Unnamed: 0,a\n0,1\n", ValueError, "got Unnamed: 0 for column 1: an index that pandas"),
    "measured numbers": ("a,label\n1,0.37\n2,1.5\n", TypeError, "must be names or whole numbers, got 0.37"),
    "measured with commas": ("a;label\n1;0,37\n2;1,5\n", TypeError, "must be names or whole numbers, got 0,37"),
    "NA": ("a,label\n1,cat\n2,NA\n", ValueError, "must not be empty, got 'NA' for row 1"),
    "a question mark": ("a,label\n1,cat\n2,?\n", ValueError, "must not be empty, got '?' for row 1"),
    "null": ("a,label\n1,1\n2,null\n", ValueError, "must not be empty, got 'null' for row 1"),
    "points and commas": ("a;b\n1,5;1.5\n", ValueError, "must have one kind of decimal sign, got 1.5 and 1,5"),
    "after a line for Excel": ("sep=;\na;b\n1;x\n", ValueError, "got 'x' in column 'b', line 3"),
    "after an empty line": ("a,b\n\n1,x\n", ValueError, "got 'x' in column 'b', line 3"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_table_that_says_two_things_is_refused(tmp_path, kind):
    text, error, sentence = REFUSED[kind]
    (tmp_path / "a.csv").write_text(text, "utf-8")
    with pytest.raises(error, match=re.escape(sentence)):
        read_examples(tmp_path / "a.csv")


SAID = {
    "capitals": ("a,label\n1,Cat\n2,cat\n", "two classes 'Cat' and 'cat'"),
    "blanks": ("a,label\n1,big cat\n2,bigcat\n", "two classes 'big cat' and 'bigcat'"),
    "minus one": ("a,label\n1,-1\n2,0\n3,1\n", "-1 is taken for a class like 0 and 1"),
    "counted rows": ("id,label\n5,0\n6,1\n7,0\n", "the column 'id' counts the rows"),
    "the label again": ("a,target,label\n" + "".join(f"{i},{3 * (i % 2)},{'xy'[i % 2]}\n" for i in range(6)),
                        "the column 'target' has one value for each class"),
    "thousands": ("a\tb\n1,200\t2\n3,400\t4\n", "commas are taken for decimal ones, 1,200 for 1.200"),
}


@pytest.mark.parametrize("kind", SAID)
def test_what_is_seldom_meant_is_said(tmp_path, kind):
    text, sentence = SAID[kind]
    (tmp_path / "a.csv").write_text(text, "utf-8")
    with pytest.warns(UserWarning, match=re.escape(sentence)):
        read_examples(tmp_path / "a.csv")


def test_ordinary_tables_raise_no_eyebrow(tmp_path):
    (tmp_path / "a.csv").write_text("time,b;c,label\n" + "".join(f"{i},{i % 3},{'xy'[i % 2]}\n" for i in range(9)))
    (tmp_path / "b.csv").write_text("a;label\n1,5;-1\n0,250;1\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_examples(tmp_path / "a.csv")
        assert read_examples(tmp_path / "b.csv").classes == ("-1", "1"), "two classes may be called so"


def test_arrays_of_a_file_have_the_meaning_of_their_names(tmp_path):
    np.savez(tmp_path / "a.npz", features=np.eye(3), labels=[1, 0, 1], classes=["cat", "dog", "cow"])
    found = read_examples(tmp_path / "a.npz")
    assert [found.classes[label] for label in found.labels] == ["dog", "cat", "dog"]
    np.savez(tmp_path / "b.npz", features=np.eye(3), labels=[1, 0, 3], classes=["cat", "dog", "cow"])
    with pytest.raises(ValueError, match="classes of b.npz must be a list of at least 4 texts, got 3"):
        read_examples(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", features=np.eye(3), y=[1, 0, 1])
    with pytest.warns(UserWarning, match="c.npz: y left out"):
        read_examples(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", features=np.eye(3), names=[["a"], ["b"], ["c"]])
    with pytest.raises(ValueError, match=r"names of d.npz must be of shape \(N\)"):
        read_examples(tmp_path / "d.npz")
