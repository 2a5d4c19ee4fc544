"""How a run has its images decoded, from its settings. Needs the standard library alone."""


def sides(side: int | list[int]) -> tuple[int, int]:
    """Return (height, width) as `data.resolution` gives it."""
    height, width = (side, side) if isinstance(side, int) else side
    return height, width


def transform(config: dict) -> dict:
    """Return what `data.load_images` asks for of settings as dicts: resolution, fit and background."""
    data = config["data"]
    return {"resolution": sides(data["resolution"]), "fit": data["fit"], "background": data["background"]}
