"""The model card: what a model hub shows of an export, from recorded facts alone."""

import hashlib
import json
import re
import shlex

from models.pixels import CHANNELS
from training.checkpoint import FORMAT
from training.drawing import Sampler

SHEET = "samples.png"
CARD = """\
---
# license: fill in before you share this model, for example: cc-by-4.0
library_name: rs-imle
pipeline_tag: unconditional-image-generation
tags:
- rs-imle
- {method}
---

# {name}

![samples of seeds 0 to 63]({sheet})

These are the samples of seeds 0 to 63; none was selected. The model draws {kind}images of {width} x {height} pixels (width x height). It
takes no text and knows no classes. A seed always gives the same image.

## Use

With a checkout of the code that trained it (RS-IMLE, format {format}):

```
pip install -r sampling/requirements.txt
python sample.py {command} --out samples --num 64 --grid
```

```python
from methods import open_sampler
sampler = open_sampler({file})
images = sampler.images(range(16))  # uint8 (16, {count}, {height}, {width}), one image per seed
```

## Training

- Images: {num_images} from "{folder}"{heldout}; {width} x {height} pixels{flips}. Fingerprint of all of them: {fingerprint}.
- Method: {method}, {step} steps{selected}. config.json has every setting.
- Pretrained model behind it: {prior}.

## Scores

{scores}

## Limits

- Its samples derive from the images above. This card does not know who made these images or who is shown on them: say whether they, and
  what is drawn from them, may be shared.
- Another kind of device or processor, or another number of threads, can change the last bits of an image.
"""
UNSCORED = """\
This checkpoint has not been scored. With its training images, this command scores it and says whether it copies them:

```
python evaluate.py {command} --data path/to/images
```"""
SCORED = """\
### {features}, protocol {protocol}

{num_samples} samples (from seed {seeds} on{truncated}) were compared with {num_real} {reals}, and with {num_heldout} held-out images.
Compare these numbers only with numbers of the same features, protocol, images and number of samples. The last two columns are of as
many images as there are, and a Frechet distance (fd, fid) falls as their number grows.

| number | value | uncertainty | better | of exact copies of the images | of new real images |
|---|---|---|---|---|---|
{rows}
{taught}
In words:

{verdict}"""
TAUGHT = "\n(trained on): the model was trained to be good in this network, so the number partly measures what was trained.\n"


def card(sampler: Sampler, file: str) -> str:
    """Return the card, Markdown with a YAML header, for an export whose file beside it is called `file`.

    It names no path of this machine. The licence is left to the user.
    """
    config, data, (height, width) = sampler.config, sampler.data, sampler.resolution
    prior, _, sha256 = sampler.drawing.prior.rpartition(" ")
    command = shlex.quote(_printable(file))
    return CARD.format(
        method=_plain(config["method"]),
        name=_plain(sampler.name),
        sheet=SHEET,
        kind={"rgba": "transparent ", "grey": "grey "}.get(sampler.channels, ""),
        count=CHANNELS[sampler.channels],
        width=width,
        height=height,
        format=FORMAT,
        command=command,
        file=json.dumps(_printable(file)),
        num_images=len(data.names),
        folder=_plain(last_part(config["data"]["path"])),
        heldout=f", {len(data.heldout)} more were held out" if data.heldout else "",
        flips=", and their mirror images" if config["data"]["flips"] else "",
        fingerprint=_plain(data.fingerprint),
        step=_plain(sampler.step),
        selected=f"; chosen among the checkpoints by {_plain(sampler.selected_by)}" if sampler.selected_by else "",
        prior=f"{_plain(last_part(prior))}, sha256 {_plain(sha256)}" if prior else "none",
        scores="\n\n".join(_evaluations(sampler)) or UNSCORED.format(command=command),
    )


def last_part(path: str) -> str:
    """Return what of a path can be shared: its last part."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def _evaluations(sampler: Sampler) -> list[str]:
    """Return a section for every evaluation of exactly this checkpoint in its run, or beside an export."""
    checkpoint = sampler.checkpoint_path.absolute()
    with open(checkpoint, "rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    run, found = checkpoint.parent.parent, []
    for folder in (run / "evaluation", run / "evaluation" / checkpoint.stem, checkpoint.with_name(f"{checkpoint.stem}-evaluation")):
        for path in sorted(folder.glob("*/metrics.json")):
            try:
                document = json.loads(path.read_text(encoding="utf-8"))
                if document["input"]["sha256"] == sha256:
                    found.append(_section(document, sampler.data.fingerprint))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue  # not a report of this version
    return found


def _section(document: dict, fingerprint: str) -> str:
    """Return the section of one evaluation, the contents of its metrics.json."""
    conditions, metrics, calibration = document["conditions"], document["metrics"], document["calibration"]
    data, protocol, truncation = conditions["data"], conditions["protocol"], float(document["sampling"].get("truncation", 1))
    beside = [(calibration.get(key) or {}).get("values", {}) for key in ("copy", "held_out")]
    rows = [
        (
            number["printed_as"] + " (trained on)" * bool(number["also_training_loss"]),
            _number(number["value"]),
            _uncertainty(number),
            number["better"],
            *(_number(values.get(name)) for values in beside),
        )
        for name, number in metrics.items()
    ]
    return SCORED.format(
        features=_plain(protocol["distance"]),
        protocol=_plain(protocol["name"]),
        num_samples=int(conditions["num_samples"]),
        seeds=" and ".join(str(int(seed)) for seed in document["sampling"]["first_seeds"]),
        truncated=f", truncation {truncation:g}" if truncation != 1 else "",
        num_real=int(data["num_real"]),
        reals="training images" if data["fingerprint"] == fingerprint else f"other images, fingerprint {_plain(data['fingerprint'])}",
        num_heldout=int(data["num_heldout"]),
        rows="\n".join(f"| {' | '.join(map(_plain, row))} |" for row in rows),
        taught=TAUGHT * any(number["also_training_loss"] for number in metrics.values()),
        verdict="\n".join(f"- {_plain(sentence['text'])}" for sentence in document["verdict"]),
    )


def _uncertainty(number: dict) -> str:
    if number["interval"] is not None:
        return " to ".join(map(_number, number["interval"]))
    return "-" if number["error"] is None else f"+- {_number(number['error'])}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _plain(text: object) -> str:
    """Return a text on one line in which no character means anything to Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>|#$~&!])", r"\\\1", _printable(text))


def _printable(text: object) -> str:
    return "".join(character if character.isprintable() else " " for character in str(text))
