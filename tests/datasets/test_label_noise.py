"""The label noise grammar: what it accepts, what a draw is a function of, and that Q is theory's."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from datasets import noise_steps
from datasets.label_noise import (
    EMS_SPEC,
    STEPS,
    make_noisy_label,
    parse_spec,
    spec_folder_name,
    spec_transition_matrix,
    step_generator,
)
from datasets.labels import IGNORE
from datasets.transition_matrix import TransitionMatrix, count_transitions
from utils.cli import UserError

EXAMPLES = settings(max_examples=40, deadline=None)
BINARY = hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 24)] * 2), elements=st.sampled_from([0, 1, 1, IGNORE]))
SEEDS = st.integers(0, 2**40)
SPECS = [
    "clean",
    "sample:0.1",
    "flip:0.45",
    "flip:0.3,0.1",
    "random:0.3",
    "dilate:3",
    "erode:3",
    "skeleton",
    "shift:2",
    "wobble:2,5",
    "missing:0.4",
    "merge:2",
    "polygon:1.5",
    "offset:-1.5",
    "move:2,-3",
    EMS_SPEC,
    "sample:0.5+flip:0.2",
    "dilate:5+random:0.2",
]


def drawn_label(classes: int = 2, shape: tuple[int, int] = (40, 50), seed: int = 0) -> np.ndarray:
    """Blocks of classes with some ignored pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (shape[0] // 5 + 1, shape[1] // 5 + 1))
    label = np.kron(coarse, np.ones((5, 5), int))[: shape[0], : shape[1]].astype(np.uint8)
    label[rng.random(shape) < 0.03] = IGNORE
    return label


def error_of(spec: str, num_classes: int = 1) -> str:
    with pytest.raises(UserError) as caught:
        parse_spec(spec, num_classes)
    return str(caught.value)


# Grammar


def test_blanks_mean_nothing_and_values_are_numbers():
    steps = parse_spec(" skeleton + shift : 1 +sample:.1 ")
    assert [(step.name, step.values, step.text) for step in steps] == [
        ("skeleton", (), "skeleton"),
        ("shift", (1,), "shift:1"),
        ("sample", (0.1,), "sample:.1"),
    ]


@pytest.mark.parametrize("name", STEPS)
def test_every_example_of_the_registry_is_valid(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    TransitionMatrix(np.eye(2)).write(tmp_path / "matrix.json")
    assert parse_spec(STEPS[name].example)[0].name == name


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("", ["empty step"]),
        ("sample:0.5++clean", ["empty step"]),
        ("sample:0.5+", ["empty step"]),
        ("smaple:0.1", ["'smaple:0.1'", "choose from: clean, sample:p, flip:f[,b]", "sample:0.1"]),
        ("sample=0.1", ["no such step", "example, sample:0.1"]),
        ("Skeleton", ["no such step", "example, skeleton"]),
        ("sample", ["one value (sample:p), not 0"]),
        ("sample:0.1,0.2", ["one value", "not 2"]),
        ("sample:10", ["'10'", "from 0 to 1", "sample:0.1"]),
        ("sample:10%", ["'10%'", "sample:0.1"]),
        ("sample:-0.1", ["'-0.1'", "from 0 to 1"]),
        ("sample:nan", ["'nan'"]),
        ("sample:inf", ["'inf'"]),
        ("random:1e999", ["'1e999'"]),
        ("sample:1_0", ["'1_0'"]),
        ("flip:0.1,0.2,0.3", ["one or two values (flip:f[,b]), not 3"]),
        ("flip:45,20", ["f is", "flip:0.45,0.2"]),
        ("flip:0.1,", ["b is", "''"]),
        ("dilate:4", ["odd", "dilate:3 or dilate:5"]),
        ("erode:0", ["odd number from 1"]),
        ("erode:2.5", ["odd"]),
        ("shift:1.5", ["whole number"]),
        ("shift:-1", ["whole number of pixels from 0"]),
        ("shift:99999", ["32767"]),
        ("wobble:2", ["two values (wobble:A,L), not 1"]),
        ("wobble:2,0", ["correlation length"]),
        ("skeleton:3", ["no value", "not 1"]),
        ("clean:", ["no value"]),
        ("polygon:x", ["tolerance"]),
        ("flip:0.1+dilate:2", ["'dilate:2'"]),
        ("ntm", ["file"]),
        ("ntm:foo", ["does not end in .json"]),
        ("ntm:missing.json", ["missing.json does not exist"]),
    ],
)
def test_a_faulty_spec_says_what_is_wrong_and_how_it_is_written(spec, said):
    message = error_of(spec)
    assert all(part in message for part in said), message


def test_several_classes_take_one_value_of_flip():
    assert "one value" in error_of("flip:0.1,0.2", num_classes=3)
    assert parse_spec("flip:0.1", num_classes=3)[0].values == (0.1,)


@pytest.mark.parametrize("text", ["flip:0.3+clean", "a+b:c, d.json", "ntm", "m.json.d/m"])
def test_the_path_of_a_matrix_may_hold_what_separates_elsewhere(text, tmp_path):
    path = tmp_path / f"{text}.json"
    TransitionMatrix(np.array([[0.9, 0.1], [0.3, 0.7]])).write(path)
    steps = parse_spec(f"sample:0.5+ntm:{path}+dilate:3")
    assert [step.name for step in steps] == ["sample", "ntm", "dilate"]
    assert steps[1].text == f"ntm:{path}" and steps[1].values == (((0.9, 0.1), (0.3, 0.7)),)


def test_folder_names(tmp_path):
    assert spec_folder_name("flip:0.45, 0.2") == "flip-0.45,0.2"
    assert spec_folder_name(EMS_SPEC) == "skeleton+shift-1+sample-0.1"
    path = tmp_path / "a:b*c.json"
    TransitionMatrix(np.eye(2)).write(path)
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    assert spec_folder_name(f"ntm:{path}+dilate:3") == f"ntm-a-bxc-{digits}+dilate-3"


# Random streams


def test_the_stream_is_the_documented_function_of_seed_step_image_and_epoch():
    def whole(text: str) -> int:
        return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")

    entropy = [7, whole("flip:0.3"), whole("datasets/er/train/images/ü.tif")]
    for epoch, added in ((None, []), (3, [3])):
        expected = np.random.default_rng(np.random.SeedSequence(entropy + added)).random(4)
        assert np.array_equal(
            step_generator(7, "flip:0.3", "datasets/er/train/images/ü.tif", epoch).random(4), expected
        )


@pytest.mark.parametrize("spec", SPECS)
@given(label=BINARY, seed=SEEDS)
@settings(max_examples=8, deadline=None)
def test_the_same_seed_and_image_give_the_same_label_in_any_order(spec, label, seed):
    images = ["a", "b", "c"]
    forward = {image: make_noisy_label(label, spec, seed, image) for image in images}
    backward = {image: make_noisy_label(label, spec, seed, image) for image in reversed(images)}
    assert all(np.array_equal(forward[image], backward[image]) for image in images)
    assert np.array_equal(forward["a"], make_noisy_label(label, parse_spec(spec), seed, "a"))


@pytest.mark.parametrize("spec", ["sample:0.5", "flip:0.3", "random:0.3", "shift:2", "wobble:2,5", "missing:0.5"])
def test_seed_image_epoch_and_writing_each_change_the_draw(spec):
    label = np.zeros((40, 50), np.uint8)
    label[1::4, 1::4] = 1
    labels = [
        make_noisy_label(label, spec, 0, "a"),
        make_noisy_label(label, spec, 1, "a"),
        make_noisy_label(label, spec, 0, "b"),
        make_noisy_label(label, spec, 0, "a", epoch=0),
        make_noisy_label(label, spec, 0, "a", epoch=1),
        make_noisy_label(label, f"{spec}.0" if "shift" in spec else f"{spec}0", 0, "a"),
    ]
    assert len({each.tobytes() for each in labels}) == len(labels)


@given(label=BINARY, seed=SEEDS, first=st.sampled_from(SPECS), second=st.sampled_from(SPECS))
@EXAMPLES
def test_a_spec_is_its_steps_one_after_the_other(label, seed, first, second):
    steps = parse_spec(f"{first}+{second}")
    if len({step.text for step in steps}) < len(steps):
        return  # equal steps have streams of their own, see below
    apart = make_noisy_label(make_noisy_label(label, first, seed, "a"), second, seed, "a")
    assert np.array_equal(make_noisy_label(label, f"{first}+{second}", seed, "a"), apart)


def test_equal_steps_draw_independently():
    label = np.ones((40, 40), np.uint8)
    twice = make_noisy_label(label, "flip:0.5+flip:0.5", 0, "a")
    assert 0.4 < twice.mean() < 0.6  # the same draw twice would restore the label
    assert make_noisy_label(label, "sample:0.5+sample:0.5", 0, "a").sum() == 400


def test_clean_gives_a_new_equal_label():
    label = drawn_label()
    noisy = make_noisy_label(label, "clean", 0, "a")
    assert np.array_equal(noisy, label) and not np.shares_memory(noisy, label)


def test_a_view_gives_the_same_as_its_copy():
    label = drawn_label().T
    for spec in SPECS:
        assert np.array_equal(make_noisy_label(label, spec, 0, "a"), make_noisy_label(label.copy(), spec, 0, "a"))


@pytest.mark.parametrize("label", [np.zeros((4, 4)), np.zeros((1, 4, 4), np.uint8)])
def test_what_is_no_label_is_refused(label):
    with pytest.raises(ValueError, match="uint8"):
        make_noisy_label(label, "clean", 0, "a")


# Theory


def shuffled_halves(classes: int) -> np.ndarray:
    """A large label with all classes and no ignored pixel."""
    return np.random.default_rng(3).integers(0, classes, (300, 300)).astype(np.uint8)


@pytest.mark.parametrize(
    ("spec", "theory"),
    [
        ("clean", [[1, 0], [0, 1]]),
        ("sample:0.1", [[1, 0], [0.9, 0.1]]),
        ("flip:0.45,0.2", [[0.8, 0.2], [0.45, 0.55]]),
        ("flip:0.9", [[0.1, 0.9], [0.9, 0.1]]),
        ("random:0.3", [[0.7, 0.3], [0.7, 0.3]]),
        ("sample:0.5+flip:0.2,0.1", [[0.9, 0.1], [0.55, 0.45]]),
        ("flip:0.2,0.1+sample:0.5", [[0.95, 0.05], [0.6, 0.4]]),
    ],
)
def test_known_transition_matrices(spec, theory):
    assert np.allclose(spec_transition_matrix(spec).rows, theory, atol=1e-12)


@pytest.mark.parametrize("classes", [1, 2, 3, 5])
@pytest.mark.parametrize("spec", ["clean", "sample:0.3", "flip:0.37", "ntm"])
def test_one_exact_step_has_the_matrix_of_theory_up_to_rounding(spec, classes, tmp_path):
    size = max(classes, 2)
    if spec == "ntm":
        weights = np.random.default_rng(1).random((size, size))
        TransitionMatrix(weights / weights.sum(axis=1, keepdims=True)).write(tmp_path / "q.json")
        spec = f"ntm:{tmp_path}/q.json"
    label = shuffled_halves(size)
    counts = count_transitions(label, make_noisy_label(label, spec, 0, "a", classes), classes)
    expected = spec_transition_matrix(spec, classes).rows * counts.sum(axis=1, keepdims=True)
    assert np.abs(counts - expected).max() <= 1


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize(
    "spec", ["random:0.3", "sample:0.5+flip:0.2", "flip:0.2+sample:0.5", "flip:0.3+flip:0.3", "flip:0.2+random:0.6"]
)
def test_products_of_steps_have_the_matrix_of_theory(spec, classes):
    size = max(classes, 2)
    label = shuffled_halves(size)
    counts = count_transitions(label, make_noisy_label(label, spec, 0, "a", classes), classes)
    total = counts.sum(axis=1, keepdims=True)
    theory = spec_transition_matrix(spec, classes).rows
    assert np.allclose(theory.sum(axis=1), 1)
    assert (np.abs(counts / total - theory) <= 5 * np.sqrt(theory * (1 - theory) / total) + 1 / total).all()


@pytest.mark.parametrize("name", [name for name in STEPS if STEPS[name].matrix is None])
def test_steps_that_depend_on_space_have_no_matrix(name):
    assert spec_transition_matrix(f"flip:0.1+{STEPS[name].example}") is None


@pytest.mark.parametrize("classes", [1, 3])
def test_sampling_with_the_rest_ignored_keeps_labels_right(classes):
    label = drawn_label(max(classes, 2))
    noisy = make_noisy_label(label, "sample:0.2", 0, "a", classes, unlabelled="ignore")
    counts = count_transitions(label, noisy, classes)
    assert np.array_equal(counts, np.diag(np.diag(counts)))
    assert np.array_equal(spec_transition_matrix("sample:0.2", classes, "ignore").rows, np.eye(max(classes, 2)))
    with pytest.raises(UserError, match="background, ignore"):
        make_noisy_label(label, "sample:0.2", 0, "a", classes, unlabelled="both")


def test_transitions_are_counted_and_ignored_pixels_left_out():
    truth = np.array([[0, 0, 1, 1, 1, IGNORE]], np.uint8)
    noisy = np.array([[0, 1, 1, 0, IGNORE, 1]], np.uint8)
    assert count_transitions(truth, noisy).tolist() == [[1, 1], [1, 1]]
    assert count_transitions(truth, noisy, 3).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    with pytest.raises(ValueError, match="2"):
        count_transitions(truth, np.full_like(truth, 2))
    with pytest.raises(ValueError, match="equal shape"):
        count_transitions(truth, noisy[:, 1:])


@given(label=hnp.arrays(np.uint8, (9, 11), elements=st.integers(0, 4)), seed=SEEDS)
@EXAMPLES
def test_transition_counts_add_up_to_the_pixels(label, seed):
    noisy = make_noisy_label(label, "flip:0.4", seed, "a", 5)
    counts = count_transitions(label, noisy, 5)
    assert counts.sum() == label.size
    assert np.array_equal(counts.sum(axis=0), np.bincount(noisy.ravel(), minlength=5))


def test_a_wrong_matrix_file_is_named_with_its_fault(tmp_path):
    path = tmp_path / "q.json"
    path.write_text('{"classes": 3, "matrix": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}')
    message = error_of(f"ntm:{path}")
    assert "3×3, but --num_classes 1 means 2" in message and "q.json" in message


def test_ems_is_skeleton_shift_and_sample():
    label = drawn_label()
    noisy = make_noisy_label(label, EMS_SPEC, 5, "a")
    expected = noise_steps.skeleton(label)
    expected = noise_steps.shift(expected, 1, rng=step_generator(5, "shift:1", "a"))
    expected = noise_steps.sample(expected, 0.1, rng=step_generator(5, "sample:0.1", "a"))
    assert np.array_equal(noisy, expected)
