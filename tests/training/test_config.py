"""Settings: every mistake is one line that names the key, what was found and what is expected."""

from pathlib import Path

import pytest

from errors import UserError
from imle.epsilon import RANKED
from imle.settings import Config
from methods import from_dict, load_config
from training.settings import describe, facts, resolution, to_dict, to_yaml

RECIPES = sorted(path.stem for path in (Path(__file__).parents[2] / "configs").glob("*.yaml"))


def refused(words=(), path=None):
    with pytest.raises(UserError) as caught:
        load_config(path, list(words))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    return str(caught.value)


def written(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# --- a recipe is read and written back


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_being_written_down(name, tmp_path):
    config = load_config(f"configs/{name}.yaml")
    assert load_config(written(tmp_path, to_yaml(config))) == config == from_dict(to_dict(config))


@pytest.mark.parametrize("text", ["no", "on", "~", "null", "1e3", "010", "2024-01-01", "[x]", "#1: a", " a ", "", "é 😀", "a\nb", "'\""])
def test_texts_survive_being_written_down(text, tmp_path):
    config = load_config(None, [f"data.path={text}"])
    assert config.data.path == text
    assert load_config(written(tmp_path, to_yaml(config))) == config


def test_words_outrank_the_file_and_the_file_the_defaults(tmp_path):
    path = written(tmp_path, "train: {epochs: 7, batch_size: 3}\n")
    config = load_config(path, ["train.epochs=9", "train.epochs=11", "seed=4"])
    assert (config.train.epochs, config.train.batch_size, config.train.learning_rate, config.seed) == (11, 3, 2e-3, 4)


@pytest.mark.parametrize("text", ["", "# nothing\n", "train:\n", "---\n", "\ufeff"])
def test_an_empty_file_is_all_defaults(text, tmp_path):
    assert load_config(written(tmp_path, text)) == Config()


def test_a_byte_order_mark_and_windows_line_ends_are_read_over(tmp_path):
    assert load_config(written(tmp_path, "\ufefftrain:\r\n  epochs: 3\r\n")).train.epochs == 3


# --- what YAML makes of values


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-3", 1e-3),
        ("1E-3", 1e-3),
        (".5", 0.5),
        ("1", 1.0),
        ("0.002", 0.002),
        ("'0.002'", 0.002),
        ("+1e-3", 1e-3),
    ],
)
def test_numbers(text, value, tmp_path):
    read = load_config(written(tmp_path, f"train:\n  learning_rate: {text}\n")).train.learning_rate
    assert read == value and type(read) is float


@pytest.mark.parametrize("text, value", [("1e3", 1000), ("010", 10), ("4.0", 4), ("9007199254740993", 9007199254740993)])
def test_whole_numbers(text, value, tmp_path):
    for config in (load_config(written(tmp_path, f"train:\n  epochs: {text}\n")), load_config(None, [f"train.epochs={text}"])):
        assert config.train.epochs == value and type(config.train.epochs) is int


@pytest.mark.parametrize("text", ["no", "off", "on", "yes", "true", "null", "1:30", "2024-01-01", "5"])
def test_a_text_stays_what_was_typed(text, tmp_path):
    assert load_config(written(tmp_path, f"data:\n  path: {text}\n")).data.path == text


@pytest.mark.parametrize("text, value", [("true", True), ("True", True), ("FALSE", False), ("false", False)])
def test_truth(text, value, tmp_path):
    assert load_config(written(tmp_path, f"data:\n  flips: {text}\n")).data.flips is value


def test_a_size_is_a_number_or_the_word_auto(tmp_path):
    for text, value in (("auto", "auto"), ("4.0", 4.0), ("0", 0.0)):
        config = load_config(None, [f"loss.cache_gb={text}"])
        assert config.loss.cache_gb == value and load_config(written(tmp_path, to_yaml(config))) == config
    assert Config().loss.cache_gb == "auto"


def test_lists_and_alternatives():
    config = load_config(None, ["data.holdout=[a.png, 7, no]", "data.resolution=[32, 64]", "train.betas=[0, 1e-1]"])
    assert config.data.holdout == ["a.png", "7", "no"] and resolution(config) == (32, 64) and config.train.betas == [0.0, 0.1]
    assert load_config(None, ["data.holdout=0.25"]).data.holdout == 0.25


# --- what is refused


@pytest.mark.parametrize(
    "word, told",
    [
        ("train.epochs=yes", "train.epochs: expected a whole number, found 'yes'"),
        ("train.epochs=1.5", "expected a whole number"),
        ("train.epochs=0x10", "expected a whole number"),
        ("train.epochs=1:30", "expected a whole number"),
        ("train.epochs=1_000", "expected a whole number"),
        ("train.epochs=[3]", "expected a whole number, found '[3]'"),
        ("train.epochs=", "expected a whole number, found ''"),
        ("train.epochs=" + "9" * 5000, "expected a whole number"),
        ("train.epochs=٣", "expected a whole number"),
        ("train.epochs=0", "train.epochs: 0 is out of range; it must be at least 1"),
        ("train.epochs=-3", "out of range"),
        ("train.learning_rate=nan", "expected a number, found 'nan'"),
        ("train.learning_rate=inf", "expected a number, found 'inf'"),
        ("train.learning_rate=.inf", "expected a number"),
        ("train.learning_rate=1e999", "out of range"),
        ("train.learning_rate=-1e-3", "train.learning_rate: -0.001 is out of range"),
        ("train.learning_rate=true", "expected a number"),
        ("train.betas=0.9", "expected a list of numbers, found '0.9'"),
        ("train.betas=[0.9]", "expected two numbers, found [0.9]"),
        ("train.betas=[0.9, 1]", "out of range"),
        ("train.betas=[0.9, x]", "expected a list of numbers"),
        ("train.betas=[", "expected a list"),
        ("data.flips=on", "data.flips: expected true or false, found 'on'"),
        ("data.flips=1", "expected true or false"),
        ("data.holdout=[[a]]", "expected a number or a list of texts"),
        ("data.holdout=a.png", "expected a number or a list of texts"),
        ("data.resolution=63", "use a multiple of 16 from 32"),
        ("data.resolution=[64]", "expected one number or [height, width]"),
        ("data.resolution=16", "use a multiple of 16 from 32"),
        ("model.blocks=[1]", "has 1 entries and model.channels 5"),
        ("model.channels=[]", "entries"),
        ("imle.staleness=31", "must not be larger than imle.force_resample"),
        ("train.schedule=cosin", "did you mean cosine?"),
        ("train.schedule=no", "'no' is not one of constant, cosine, step"),
        ("loss.perceptual=lpips", "did you mean lpips-vgg?"),
        ("train.optimizer=adam", "did you mean adamw?"),
        ("train.clip=1", "train.clip: at 1.0 times the usual norm"),
        ("train.clip=-1", "train.clip: -1.0 is out of range"),
        ("loss.cache_gb=automatic", "loss.cache_gb: expected a number or auto, found 'automatic'"),
        ("loss.cache_gb=-1", "loss.cache_gb: -1.0 is out of range"),
    ],
)
def test_wrong_values(word, told):
    message = refused([word])
    assert message.startswith(word.split("=")[0].split(".")[0]) and told in message


def test_ranks_are_counted_by_an_exact_search_alone():
    for mode in RANKED:
        assert refused([f"imle.reject={mode}", "imle.search=dci"]).endswith(
            "needs imle.search=exact, which counts every candidate; dci does not"
        )
    load_config(None, ["imle.reject=quantile", "imle.search=dci"])


@pytest.mark.parametrize(
    "word, told",
    [
        ("imle.epsilom=1", "imle.epsilom: no such setting; did you mean imle.epsilon?"),
        ("epochs=1", "epochs: no such setting; did you mean train.epochs?"),
        ("trian.epochs=1", "trian: no such setting; did you mean train?"),
        ("train.Epochs=1", "did you mean train.epochs?"),
        ("train.epochs.x=1", "did you mean train.epochs?"),
        ("zzz=1", "`python train.py --help` lists them"),
        ("train=1", "train: expected a section of settings, found '1'"),
        ("seed.x=1", "seed: expected a whole number, found {'x': '1'}"),
        ("train.epochs", "'train.epochs' is not a setting; write section.key=value"),
        ("=1", "'=1' is not a setting"),
        ("", "'' is not a setting"),
        (".=1", "no such setting"),
    ],
)
def test_wrong_keys(word, told):
    assert told in refused([word])


@pytest.mark.parametrize(
    "text, told",
    [
        ("- a\n- b\n", "expected sections of settings, found ['a', 'b']"),
        ("hello", "expected sections of settings, found 'hello'"),
        ("train: [1, 2]\n", "train: expected a section of settings, found ['1', '2']"),
        ("train: 3\n", "expected a section"),
        ("trian:\n  epochs: 3\n", "did you mean train?"),
        ("train:\n\tepochs: 3\n", "not readable as YAML"),
        ("train: {epochs: 3\n", "not readable as YAML"),
        (b"data:\n  path: \xff\xfe\n", "not readable as YAML"),
        ("\x00", "not readable as YAML"),
        ("[" * 5000, "not readable as YAML"),
        ("train:\n  epochs: 3\ntrain:\n  batch_size: 4\n", "train is given twice"),
        ("train:\n  epochs: 3\n  epochs: 4\n", "epochs is given twice"),
        ("? [a]\n: 3\n", "not readable as YAML"),
        ("train:\n  epochs: {a: 1}\n", "expected a whole number, found {'a': '1'}"),
        ("1: 2\n", "1: no such setting"),
        ("a: &a [*a]\n", "recursive"),
        ("[]: 3\n", "not readable as YAML"),
        ("<<: {seed: 3}\n", "<<: no such setting"),
        ("seed: !!python/object/apply:os.getcwd []\n", "seed: expected a whole number, found []"),
    ],
)
def test_wrong_files(text, told, tmp_path):
    assert told in refused(path=written(tmp_path, text))


def test_aliases_that_grow_without_bound_are_one_line(tmp_path):
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    refused(path=written(tmp_path, "\n".join(lines) + "\ntrain: *a29\n"))
    refused(path=written(tmp_path, "train:\n  epochs:\n" + "\n".join(f"    {line}" for line in lines)))


def test_missing_files_and_folders_are_told(tmp_path):
    assert "No such file or directory; the project's recipes are in configs/" in refused(path=tmp_path / "x.yaml")
    assert "Is a directory" in refused(path=tmp_path)


# --- what is known of every setting


def test_defaults_are_within_their_own_bounds_and_every_number_has_a_bound():
    assert from_dict(to_dict(Config())) == Config()
    for key, default, known in facts(Config):
        number = default == "auto" or (isinstance(default, (int, float, list)) and not isinstance(default, bool))
        assert (known.least is not None or known.most is not None) == (number and key != "seed"), key
        assert not known.choices or default in known.choices
        assert not (known.fixed and known.silent) and not (known.fixed and known.effect), key


def test_every_setting_is_described():
    lines = describe(Config).splitlines()
    assert len(lines) == len(list(facts(Config)))
    for line, (key, default, known) in zip(lines, facts(Config)):
        assert line.startswith(f"  {key}={default} ") and known.meaning in line
        assert all(choice in line for choice in known.choices)
