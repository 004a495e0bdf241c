import numpy as np
import pandas as pd
import pytest

from utils import config
from utils.data.ferplus import COLUMNS, OTHER_COLUMNS, USAGES, agreed, load_votes, soften
from utils.data.prepared import load_prepared
from utils.preprocessing import EMOTIONS

COLUMN_OF = {"angry": "anger", "happy": "happiness", "sad": "sadness"} | {
    name: name for name in ("disgust", "fear", "surprise", "neutral")
}


@pytest.fixture
def votes_file(prepared_workspace):
    """Votes that say which row they belong to: ten for the class, row number in contempt."""
    prepared = load_prepared("fer2013")
    labels = prepared.labels.astype({"item": int}).set_index("item")
    table = pd.DataFrame(0, index=range(prepared.found), columns=[*COLUMNS, *OTHER_COLUMNS])
    table["Usage"] = "Training"
    for item, row in labels.iterrows():
        table.loc[item, COLUMN_OF[row["label"]]] = 10
        table.loc[item, "contempt"] = item
        table.loc[item, "Usage"] = USAGES[row["split"]]
    path = config.data_dir("fer2013") / "raw" / "ferplus_votes.csv"
    table.to_csv(path, index=False)
    return path


def test_votes_come_in_the_order_of_the_images(votes_file):
    labels = load_prepared("fer2013").labels
    for split in USAGES:
        votes = load_votes(split, all_answers=True)
        expected = []
        for name in EMOTIONS:
            files = labels[(labels["split"] == split) & (labels["label"] == name)]
            expected += [
                (int(row["item"]), name) for _, row in files.sort_values("file").iterrows()
            ]
        assert votes[:, 7].tolist() == [item for item, _ in expected]
        assert (votes[:, :7] == load_votes(split)).all()
        classes = [EMOTIONS[index] for index in votes[:, :7].argmax(axis=1)]
        assert classes == [name for _, name in expected]


def test_votes_in_another_order_are_refused(votes_file):
    table = pd.read_csv(votes_file)
    table.iloc[::-1].to_csv(votes_file, index=False)
    with pytest.raises(ValueError, match="not in the order of fer2013.csv"):
        load_votes("test")
    # In the right splits: a fer2013.csv that somebody sorted.
    columns = [*COLUMNS, *OTHER_COLUMNS]
    for _, rows in table.groupby("Usage"):
        table.loc[rows.index, columns] = rows[columns].to_numpy()[::-1]
    table.to_csv(votes_file, index=False)
    with pytest.raises(ValueError, match="their labels in .*% only: .*not in the order"):
        load_votes("train")
    table[:-1].to_csv(votes_file, index=False)
    with pytest.raises(ValueError, match=r"has 6\d rows and .* 6\d: one of the two is not whole"):
        load_votes("train")


def test_another_table_is_refused(votes_file, tmp_path):
    path = tmp_path / "votes.csv"
    pd.read_csv(votes_file).drop(columns=["fear"]).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"votes\.csv lacks fear: .*get fer2013new\.csv"):
        load_votes("test", path=path)
    path.write_bytes(votes_file.read_bytes().replace(b",0,", b",many,", 1))
    with pytest.raises(ValueError, match=r"votes\.csv has votes that are no whole numbers"):
        load_votes("test", path=path)


def test_other_forms_of_fer_have_no_rows(votes_file):
    path = load_prepared("fer2013").folder / "labels.csv"
    table = pd.read_csv(path)
    table["item"] = "train/angry/Training_123.jpg"
    table.to_csv(path, index=False)
    with pytest.raises(ValueError, match="prepare it from fer2013.csv"):
        load_votes("test")


def test_missing_votes_say_what_was_looked_for(prepared_workspace):
    (config.data_dir("fer2013") / "raw" / "ferplus_votes.csv").unlink()
    with pytest.raises(FileNotFoundError, match="fer2013new.csv, ferplus_votes.csv"):
        load_votes("test")


def test_shares_by_hand():
    votes = np.array([[6, 0, 0, 2, 0, 0, 0], [0] * 7, [0, 0, 0, 0, 0, 0, 10]])
    labels, num_without = soften(votes, np.array([3, 1, 0]))
    np.testing.assert_allclose(labels[0], [0.75, 0, 0, 0.25, 0, 0, 0])
    assert labels[1].argmax() == 1 and labels[1].sum() == 1 and num_without == 1
    assert labels[2].argmax() == 6 and labels.dtype == np.float32
    assert agreed(votes).tolist() == [False, False, True]
