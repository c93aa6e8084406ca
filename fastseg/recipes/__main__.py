"""Write the table of deviations into the README of the models: `python -m fastseg.recipes`."""

from pathlib import Path

from fastseg import models, recipes

README = Path(models.__file__).with_name("README.md")
BEGIN = "<!-- deviations: python -m fastseg.recipes writes what follows -->\n"
END = "<!-- end of deviations -->\n"


def renewed(text: str) -> str:
    """Return the text of the README with the table between its marks made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{recipes.all_deviations().markdown()}\n\n{END}{after}"


if __name__ == "__main__":
    README.write_text(renewed(README.read_text()))
