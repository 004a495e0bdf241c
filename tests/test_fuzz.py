from fuzz import KINDS, fuzz

SECONDS = 6


def test_nothing_is_lost_without_a_word(tmp_path):
    """The short form of ``python tests/fuzz.py``, which is for hours and other seeds."""
    ends = fuzz(seed=0, seconds=SECONDS, folder=tmp_path)
    for kind in KINDS:
        assert ends[kind.__name__, "accounted for"] > 0
