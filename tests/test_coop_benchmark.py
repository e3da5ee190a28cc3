"""What cutting, the shared prefix and chunks save in CoOp's text tower, held to bounds;
measured by `benchmarks/coop.py`. Run alone: `-m benchmark`."""

import pytest

from benchmarks import coop

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]
PLAIN = "all classes, positions and layers"


@pytest.mark.parametrize("class_specific", [False, True], ids=["unified", "class-specific"])
@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_text_tower_of_b32(position, class_specific, capsys):
    measured = coop.text_tower(position, class_specific)
    with capsys.disabled():
        print(f"\n{measured}")
    assert measured.times(PLAIN) >= (8 if (position, class_specific) == ("end", False) else 3)


def test_image_features_are_encoded_once(capsys):
    measured = coop.image_tower(rounds=2)
    with capsys.disabled():
        print(f"\n{measured}")
    assert measured.times("images encoded in every step") >= 1.05


def test_tiny_clip_at_its_own_length(capsys):
    try:
        measured = coop.tiny_clip_step()
    except FileNotFoundError:
        pytest.skip("the checkpoint of the tiny CLIP is not there")
    with capsys.disabled():
        print(f"\n{measured}")
    assert measured.times(PLAIN) >= 2


def test_a_thousand_classes_train_in_bounded_memory(capsys):
    measured = coop.thousand_classes()
    _, whole, plain = measured.values
    with capsys.disabled():
        print(f"\n{measured}")
    assert measured.times(whole) >= 4 and measured.times(plain) >= 50
    assert 0.6 <= measured.notes["the model's own estimate without chunks"] / measured.median(whole) <= 1.6
