from fuzz import KINDS, fuzz

ATTEMPTS = 60


def test_nothing_is_lost_without_a_word(tmp_path):
    """The short form of ``python tests/fuzz.py``, which is for other seeds and far more."""
    ends = fuzz(seed=0, attempts=ATTEMPTS, folder=tmp_path)
    for kind in KINDS:
        assert ends[kind.__name__, "accounted for"] > 0
