"""A folder of really written PNG and JPEG files becomes a dataset; whatever is wrong in it is named."""

import warnings

import numpy as np
import pytest
from PIL import Image

from jaxmini.data.folder import folder
from jaxmini.data.sources import few_labels

RED, BLUE = (200, 30, 20), (10, 40, 220)


def draw(path, colour=RED, size=(8, 6), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path, **options)


def classes(root, counts=(("ash", 5), ("oak", 10)), suffix="png"):
    for k, (name, count) in enumerate(counts):
        for index in range(count):
            draw(root / name / f"{index}.{suffix}", (index, 100 * k, 7))
    return root


def test_sub_folders_are_the_classes_and_a_part_of_each_is_held_out(tmp_path):
    data = folder(classes(tmp_path / "trees"), test=0.2).load()
    assert (data.name, data.labels) == ("trees", ("ash", "oak"))
    assert data.train.shape == (6, 8, 3)
    assert np.bincount(data.train.label).tolist() == [4, 8]
    assert np.bincount(data.test.label).tolist() == [1, 2]
    for split in (data.train, data.test):
        np.testing.assert_array_equal(split.image[:, 0, 0, 1], 100 * split.label)
    both = np.concatenate([data.train.image, data.test.image])[:, 0, 0, :2]
    assert len(np.unique(both, axis=0)) == 15


def test_the_held_out_part_depends_on_the_seed_alone(tmp_path):
    root = classes(tmp_path)
    prints = [folder(root, seed=seed).load().fingerprint() for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]
    everything = folder(root, test=0).load()
    assert (len(everything.train), len(everything.test)) == (15, 0)


def test_jpeg_is_read_within_its_loss_and_suffixes_in_any_case(tmp_path):
    for name in ("a/0.JPG", "a/1.jpeg", "b/0.jpg", "b/1.PNG"):
        draw(tmp_path / name, RED if name[0] == "a" else BLUE)
    data = folder(tmp_path, test=0.5).load()
    for split in (data.train, data.test):
        expected = np.array([RED, BLUE])[split.label][:, None, None]
        assert np.abs(split.image.astype(int) - expected).max() <= 3


def test_train_and_test_folders_are_the_splits_by_class_name(tmp_path):
    classes(tmp_path / "train", (("ash", 2), ("elm", 2), ("oak", 3)))
    draw(tmp_path / "test" / "oak" / "0.png")
    draw(tmp_path / "test" / "ash" / "0.png")
    data = folder(tmp_path).load()
    assert data.labels == ("ash", "elm", "oak")
    assert np.bincount(data.train.label).tolist() == [2, 2, 3]
    assert data.test.label.tolist() == [0, 2]


def test_pictures_without_sub_folders_have_no_labels(tmp_path):
    for index in range(5):
        draw(tmp_path / f"{index}.png")
    (tmp_path / "README.txt").write_text("not a picture")
    (tmp_path / ".hidden.png").write_text("not a picture")
    data = folder(tmp_path).load()
    assert (len(data.train), len(data.test), data.labels) == (4, 1, ())
    assert not data.train.any_label
    with pytest.raises(ValueError, match=r"few_labels.*4 of 4 have none.*sub-folder"):
        few_labels(folder(tmp_path), 2).load()


def test_size_keeps_the_central_square_and_channels_make_grey(tmp_path):
    picture = np.zeros((4, 8, 3), np.uint8)
    picture[:, 2:6] = 100  # the central square of a wide picture
    for name in ("a/0", "a/1", "b/0", "b/1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    data = folder(tmp_path, size=4, channels=1, test=0.5).load()
    assert data.train.shape == (4, 4, 1)
    assert set(data.train.image.ravel()) == {100}


def test_a_picture_is_decoded_once_and_again_when_its_file_changes(tmp_path):
    classes(tmp_path)
    first, again = folder(tmp_path).load(), folder(tmp_path).load()
    assert first.fingerprint() == again.fingerprint()
    draw(tmp_path / "ash" / "0.png", BLUE)
    assert folder(tmp_path).load().fingerprint() != first.fingerprint()


def corrupt(root):
    (classes(root) / "ash" / "1.png").write_bytes(b"no picture at all")


def truncate(root):
    file = classes(root, suffix="jpg") / "oak" / "2.jpg"
    file.write_bytes(file.read_bytes()[:-40])


def truncate_png(root):
    file = classes(root) / "oak" / "2.png"
    file.write_bytes(file.read_bytes()[:-30])


def deep(root):
    pixels = np.full((6, 8), 40_000, np.uint16)
    Image.fromarray(pixels).save(classes(root) / "oak" / "3.png")


def mixed(root):
    draw(classes(root) / "loose.png")


def two_sizes(root):
    draw(classes(root) / "oak" / "9.png", size=(9, 6))


def empty_class(root):
    (classes(root) / "zelkova").mkdir()


def only_train(root):
    classes(root / "train")


def stranger_in_test(root):
    classes(root / "train")
    classes(root / "test", (("oka", 1), ("ash", 1)))


def labels_in_train_only(root):
    classes(root / "train")
    draw(root / "test" / "0.png")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root.mkdir(), "no pictures found"),
        (lambda root: classes(root, (("ash", 3),)), "one class only, 'ash'"),
        (only_train, "one class only, 'train'.*both train and test"),
        (corrupt, r"ash.1\.png: cannot be read as a picture"),
        (truncate, r"oak.2\.jpg: cannot be read as a picture"),
        (truncate_png, r"oak.2\.png: cannot be read as a picture"),
        (deep, r"oak.3\.png: .*more than 8 bits"),
        (mixed, r"loose\.png, \.\.\.\) beside folders"),
        (two_sizes, r"oak.9\.png: is 9x6 pixels, but .*8x6; give folder a size="),
        (empty_class, "zelkova: no pictures of this class"),
        (
            lambda root: draw(classes(root) / "oak" / "x.gif", mode="P"),
            r"x\.gif: expected PNG or JPEG",
        ),
        (lambda root: classes(root, (("ash", 1), ("oak", 9))), "class 'ash' has 1 pictures"),
        (stranger_in_test, "oka: there is no class of this name in train; did you mean 'oak'"),
        (labels_in_train_only, "one of train and test has a folder for each class"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, make, message):
    make(tmp_path / "root")
    with pytest.raises(ValueError, match=message):
        folder(tmp_path / "root").load()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        folder(tmp_path / "nowhere").load()


@pytest.mark.parametrize("fields", [{"channels": 4}, {"size": 0}, {"test": 1.0}, {"test": -0.1}])
def test_impossible_fields_are_refused(fields):
    (name,) = fields
    with pytest.raises(ValueError, match=f"folder: {name}="):
        folder("anywhere", **fields)


def test_every_file_is_closed(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        folder(classes(tmp_path)).load()
