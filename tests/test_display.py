import numpy as np
import pytest
from scenes import noise

from utils.realtime import display
from utils.realtime.display import annotate, place_labels
from utils.realtime.faces import Face


def face_at(box, track=0, emotion="happy"):
    return Face(box, {emotion: 0.9, "other": 0.1}, {"female": 0.8, "male": 0.2}, track=track)


def crowd(height, width, number=30, seed=0):
    """Faces of four sizes, some of them half outside, that do not cover each other."""
    rng = np.random.default_rng(seed)
    free, faces = np.ones((height, width), bool), []
    while len(faces) < number:
        side = height * (8, 10, 13, 17)[len(faces) % 4] // 100
        left, top = (int(rng.integers(-side // 2, x - side // 2)) for x in (width, height))
        if free[covered((left, top, side, side))].all():
            free[covered((left - 3, top - 3, side + 6, side + 6))] = False
            emotion = ("happy", "surprise", "disgust")[len(faces) % 3]
            faces.append(face_at((left, top, side, side), len(faces), emotion))
    return faces


def covered(box):
    left, top, width, height = box
    return slice(max(top, 0), max(top + height, 0)), slice(max(left, 0), max(left + width, 0))


def contrast(first, second):
    """Contrast of two BGR colours by WCAG 2.2."""

    def luminance(colour):
        blue, green, red = (
            x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4
            for x in (value / 255 for value in colour)
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    darker, lighter = sorted((luminance(first), luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def test_words_and_the_dot_stand_out_from_their_plates():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast(display.TEXT_COLOUR, display.BOX_COLOUR) >= 4.5
    word, plate = display.MARK_COLOURS
    assert contrast(word, plate) >= 4.5
    assert contrast(display.DOT_COLOUR, plate) >= 3  # what is no text


@pytest.mark.parametrize("height, width", [(480, 640), (1080, 1920)])
@pytest.mark.parametrize("seed", range(5))
def test_labels_of_a_crowd_cover_neither_each_other_nor_a_face(height, width, seed):
    faces = crowd(height, width, seed=seed)
    labels = place_labels(faces, height, width)
    assert len(labels) >= 25, "where it is this narrow, some find no room"
    times_covered = np.zeros((height, width), int)
    for label in labels:
        assert label.left >= 0 and label.top >= 0
        assert label.left + label.width <= width and label.top + label.height <= height
        times_covered[covered(label[1:])] += 1
    assert times_covered.max() == 1
    for face in faces:
        left, top, side, _ = face.box
        if left > 0 and top > 0 and left + side < width and top + side < height:
            middle = left + side // 5, top + side * 3 // 10, side * 3 // 5, side // 2
            assert not times_covered[covered(middle)].any()


def test_a_label_touches_its_own_box():
    faces = crowd(480, 640, number=12)
    labels = place_labels(faces, 480, 640)
    assert len(labels) == 12
    for face, (text, left, top, width, height) in zip(faces, labels):
        assert text in (face.caption, face.label)
        box_left, box_top, side, _ = face.box
        assert left <= box_left + side and left + width >= box_left
        assert top <= box_top + side and top + height >= box_top


def test_a_narrow_place_gets_the_label_alone_and_a_tiny_one_the_box_alone():
    first, middle, last = (face_at((left, 200, 100, 100), left) for left in (190, 300, 410))
    assert [x.text for x in place_labels([middle], 480, 640)] == ["Happy, F  90% 80%"]
    labels = place_labels([first, middle, last], 480, 640)
    assert [x.text for x in labels] == ["Happy, F  90% 80%", "Happy, F", "Happy, F  90% 80%"]
    assert len({label.top for label in labels}) == 1
    assert [x.text for x in place_labels([face_at((0, 0, 48, 48))], 48, 48)] == ["Happy, F"]
    tiny = np.zeros((20, 20, 3), np.uint8)
    faces = [face_at((2, 2, 15, 15))]
    assert place_labels(faces, 20, 20) == []
    assert (annotate(tiny, faces)[2, 2:17] == display.BOX_COLOUR).all()


@pytest.mark.parametrize(
    "side, face, least_letter, least_line",
    [(480, 40, 10, 2), (480, 300, 18, 2), (3000, 200, 50, 10), (3000, 1500, 110, 10)],
)
def test_letters_and_lines_grow_with_face_and_picture(side, face, least_letter, least_line):
    picture = annotate(
        np.full((side, side, 3), 255, np.uint8), [face_at((side // 3,) * 2 + (face,) * 2)]
    )
    dark = (picture < 100).all(axis=-1)
    columns = np.flatnonzero(dark.any(axis=0))
    first_letter = dark[:, columns[0] : columns[0] + max(2, least_letter // 10)]
    assert np.ptp(np.flatnonzero(first_letter.any(axis=1))) + 1 >= least_letter
    through_the_box = (picture[side // 3 + face // 2] == display.BOX_COLOUR).all(axis=-1)
    assert through_the_box.sum() / 2 >= least_line


def test_letters_have_few_sizes():
    """A box that grows and shrinks by a pixel seldom changes them."""
    labels = [
        place_labels([face_at((200, 200, side, side))], 480, 640)[0] for side in range(40, 250)
    ]
    heights = [label.height for label in labels]
    assert heights == sorted(heights) and 3 <= len(set(heights)) <= 5


@pytest.mark.parametrize("box", [(-100, -100, 900, 800), (-300, 50, 900, 900), (0, 0, 640, 480)])
def test_a_face_larger_than_the_picture_has_a_label(box):
    (label,) = place_labels([face_at(box)], 480, 640)
    assert label.top <= 60 and label.left + label.width <= 640


@pytest.mark.parametrize("others, most_jumps", [([], 0), ([face_at((300, 100, 60, 60), 2)], 2)])
def test_a_label_follows_its_face_and_seldom_jumps(others, most_jumps):
    """Pixel by pixel along all borders of the picture, and across it past a neighbour."""
    right, down = 640 - 90, 480 - 90
    way = [(x, 0) for x in range(right)] + [(right, y) for y in range(down)]
    way += [(x, down) for x in range(right, 0, -1)]
    way += [(x, down - x * down // right) for x in range(right)]
    places = [place_labels([face_at((*x, 90, 90), 1), *others], 480, 640)[0] for x in way]
    moves = [
        max(abs(after.left - before.left), abs(after.top - before.top))
        for before, after in zip(places, places[1:])
    ]
    assert sum(move > 2 for move in moves) <= most_jumps


def test_the_order_of_the_faces_changes_nothing():
    frame, faces = noise(480, 640), crowd(480, 640)
    np.testing.assert_array_equal(annotate(frame, faces), annotate(frame, faces[::-1]))


@pytest.mark.parametrize("box", [(40, 40, 60, 60), (-30, -30, 80, 80), (130, 90, 90, 90)])
def test_boxes_are_drawn_on_a_copy_also_at_the_border(box):
    frame = noise()
    before = frame.copy()
    picture = annotate(frame, [face_at(box)], note="30 frames/s", recording=True)
    np.testing.assert_array_equal(frame, before)
    assert picture.shape == frame.shape and picture.dtype == np.uint8
    drawn = (picture == display.BOX_COLOUR).all(axis=-1)
    assert drawn[:110].sum() > 200


def test_no_face_changes_nothing():
    frame = noise()
    np.testing.assert_array_equal(annotate(frame, []), frame)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), display.DOT_COLOUR, (24, 24, 24)])
def test_a_recording_shows_a_red_dot_and_a_word_in_the_upper_left_corner(colour):
    frame = np.full((480, 640, 3), colour, np.uint8)
    picture = annotate(frame, [], recording=True)
    corner, rest = picture[:30, :120], np.delete(picture, slice(0, 30), axis=0)
    word, plate = display.MARK_COLOURS
    for drawn, least in ((word, 100), (plate, 500), (display.DOT_COLOUR, 60)):
        assert (np.abs(corner - np.float32(drawn)) < 25).all(axis=-1).sum() > least
    np.testing.assert_array_equal(rest, frame[30:])
    with_a_face = annotate(frame, [face_at((2, 2, 60, 60))], recording=True)
    np.testing.assert_array_equal(with_a_face[:15, :90], picture[:15, :90])


@pytest.mark.parametrize("shape", [(1, 1), (12, 640), (640, 12), (16, 4000), (30, 30), (48, 48)])
def test_pictures_of_odd_shapes_keep_them(shape):
    frame = np.zeros((*shape, 3), np.uint8)
    faces = [face_at((0, 0, 30, 30)), face_at((-50, -50, 20, 20)), face_at((0, 0, 0, 0))]
    picture = annotate(frame, faces, note="30 frames/s", recording=True)
    assert picture.shape == frame.shape
