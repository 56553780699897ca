"""Runs every notebook in a fresh kernel and saves it with its outputs: `python -m tests.notebook`."""

import base64
import io
from pathlib import Path
from typing import Any

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def executed(path: Path, timeout: int = 600) -> Any:
    """The notebook with new outputs; an error in a cell raises."""
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        coalesce_streams=True,  # how many pieces a text comes in depends on the time it took
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    return notebook


def cleaned(notebook: Any) -> Any:
    """Without what differs from run to run (times, the kernel's version), and with small pictures."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", ()):
                output.data["image/png"] = _with_few_colours(output.data["image/png"])
    return notebook


def _with_few_colours(png: str) -> str:
    from PIL import Image

    small = io.BytesIO()
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    picture.quantize(64, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


if __name__ == "__main__":
    import nbformat

    for path in NOTEBOOKS:
        nbformat.write(cleaned(executed(path)), path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
