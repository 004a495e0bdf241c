import numpy as np
import pytest

from utils.preprocessing import FaceInput, crop_face, face_input_for, prepare_face

GREY = FaceInput(48, 48, "grey")
RGB = FaceInput(48, 48, "rgb")


def image(height=60, width=80):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "box",
    [
        (20, 10, 30, 30),
        (-10, -5, 30, 30),
        (70, 50, 30, 30),
        (-20, -20, 120, 120),
        (200, 90, 20, 20),
        (-90, -80, 30, 30),
    ],
)
def test_crop_at_every_border_equals_a_plain_loop(box):
    picture = image()
    left, top, side, _ = box
    expected = np.empty((side, side, 3), dtype=np.uint8)
    for row in range(side):
        for column in range(side):
            y = min(max(top + row, 0), picture.shape[0] - 1)
            x = min(max(left + column, 0), picture.shape[1] - 1)
            expected[row, column] = picture[y, x]
    np.testing.assert_array_equal(crop_face(picture, box, GREY), expected)


def test_crop_is_scaled_about_its_centre_and_moved_down():
    picture = image(200, 200)
    face_input = FaceInput(48, 48, "rgb", crop_scale=0.5, crop_shift_down=0.1)
    # side 100 * 0.5 = 50 around (100, 100), 5 pixels further down
    np.testing.assert_array_equal(
        crop_face(picture, (50, 50, 100, 100), face_input), picture[80:130, 75:125]
    )


def test_no_picture_is_refused_before_opencv_ends_the_process():
    with pytest.raises(ValueError, match="image is None"):
        crop_face(None, (0, 0, 9, 9), GREY)


def test_colours():
    blue = np.zeros((48, 48, 3), dtype=np.uint8)
    blue[..., 0] = 200  # BGR
    assert prepare_face(blue, RGB)[0, 0].tolist() == [0, 0, 200]
    assert prepare_face(blue, GREY)[0, 0].tolist() == [round(0.114 * 200)]
    grey = np.full((48, 48), 77, dtype=np.uint8)
    assert prepare_face(grey, RGB)[0, 0].tolist() == [77, 77, 77]


def test_an_image_of_the_right_size_is_not_changed():
    picture = image(48, 48)
    np.testing.assert_array_equal(prepare_face(picture, RGB), picture[..., ::-1])


def test_shrinking_averages_areas():
    picture = image(96, 96)[..., 0]
    means = picture.reshape(48, 2, 48, 2).mean(axis=(1, 3))
    assert np.abs(prepare_face(picture, GREY)[..., 0] - means).max() <= 0.75


def test_small_faces_are_enlarged_to_the_input():
    assert prepare_face(image(20, 20), RGB).shape == (48, 48, 3) == RGB.shape


def test_grey_as_rgb_repeats_the_grey_picture():
    picture = image(48, 48)
    grey = prepare_face(picture, GREY)
    three = prepare_face(picture, FaceInput(48, 48, "grey_as_rgb"))
    np.testing.assert_array_equal(three, np.repeat(grey, 3, axis=2))


def test_no_network_sees_more_detail_than_it_learned_from():
    fine = np.tile(np.array([[0, 255], [255, 0]], dtype=np.uint8), (112, 112))
    face_input = FaceInput(224, 224, "grey", detail=48)
    assert face_input.stored.shape == (48, 48, 1)
    assert prepare_face(fine, FaceInput(224, 224, "grey")).std() > 100
    assert prepare_face(fine, face_input).std() < 30
    assert FaceInput(48, 48, "rgb", detail=200).stored.shape == (48, 48, 3)


def test_unknown_colour_is_refused():
    with pytest.raises(ValueError, match="'bgr'"):
        FaceInput(48, 48, "bgr")


def test_own_pictures_are_cut_as_those_of_fer_and_keep_their_detail():
    assert face_input_for("mine", 96, 96, "rgb") == FaceInput(96, 96, "rgb", 1.03)
