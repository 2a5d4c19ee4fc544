"""How a run has its images decoded, from the `data` section of its settings. Needs the standard library alone."""

from errors import UserError


def sides(side: int | list[int]) -> tuple[int, int]:
    """Return (height, width) as `data.resolution` gives it. Raises UserError for a list of another length."""
    if isinstance(side, int):
        return side, side
    if len(side) != 2:
        raise UserError(f"data.resolution: expected one number or [height, width], found {side}")
    return side[0], side[1]


def transform(config: dict) -> dict:
    """Return what `data.load_images` asks for of settings as dicts: resolution, fit and background."""
    data = config["data"]
    return {"resolution": sides(data["resolution"]), "fit": data["fit"], "background": data["background"]}
